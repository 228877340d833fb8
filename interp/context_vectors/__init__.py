"""Contextual vectors of a CoVFT tower: what they cluster by, and what they share with the decoder's task vectors."""

from interp.context_vectors.cluster_work import ClusterWork
from interp.context_vectors.clusters import agreements, cluster, random_routers, similarity_correlation
from interp.context_vectors.reading import context_strategy, read_contexts, read_features, read_items
from interp.context_vectors.settings import ClusterSettings

__all__ = [
    "ClusterSettings",
    "ClusterWork",
    "agreements",
    "cluster",
    "context_strategy",
    "random_routers",
    "read_contexts",
    "read_features",
    "read_items",
    "similarity_correlation",
]
