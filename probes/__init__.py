"""Probes of saved states: linear probes, clusters, projections and similarities, as functions of plain arrays.

    shuffles     labels permuted over contexts, which every baseline here is made with
    linear       linear probes across modalities, with selectivity controls
    clusters     silhouette, nearest-neighbour purity, cosines within and between tasks
    projection   PCA, t-SNE and UMAP
    similarity   cosine matrices, and centred kernel alignment (CKA) with its debiased estimator

`N` is the number of states (contexts) and `D` the width. Most functions take, beside the states, what they are states
of: `labels` (tasks, modalities), `types` (which context; several states may be of one) and `groups` (which items a
context shows; states of one group are never compared with, or trained for, each other).

`task_clusters` and `similarities` are the protocols behind the experiments of these names.
"""
