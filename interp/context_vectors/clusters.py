"""Do contextual vectors cluster by what is asked? k-means, chance-corrected, against what the vectors are made of.

The paper (Zhou et al. 2026, figure B) shows ten clusters of the penultimate layer's vectors and names them by looking
at their samples. Here clusters are held against labels that are known:

    AMI(clusters, labels) = (MI - E[MI]) / (mean of both entropies - E[MI])       (Vinh, Epps and Bailey 2010)

which is 1 for the same partition and 0 on average for labels that have nothing to do with it, whatever the sizes and
number of clusters. Its interval is a jackknife over tenths of the items, clusters made anew without each (a bootstrap
would draw items twice, and copies fall into one cluster); beside it stands the 95th percentile over shuffled labels.

Routing is softmax(W c + b), a function of c, so that items with like contexts are routed alike by construction. How
much of that any router would give is the null: random W', scaled so that the logits spread as they do.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.errors import CrosstaskError
from interp.statistics import Interval

TENTHS = 10
"""Parts of the items, each of which a jackknife leaves out once."""
ROUTERS = 50
"""Random routers behind the null of the routing."""


@dataclass(frozen=True)
class Clustered:
    """k-means clusters of N vectors.

    Attributes:
        labels: cluster of each.
        centres: of the clusters.
        distances: of each vector to the centre of its own cluster.
        inertia: share of the vectors' variance that is left within clusters.
    """

    labels: Int[np.ndarray, " N"]
    centres: Float[np.ndarray, "k D"]
    distances: Float[np.ndarray, " N"]
    inertia: float

    def nearest(self, cluster: int, n: int) -> list[int]:
        """The vectors nearest to a cluster's centre, by index, nearest first."""
        own = np.flatnonzero(self.labels == cluster)
        return own[np.argsort(self.distances[own], kind="stable")][:n].tolist()


@dataclass(frozen=True)
class Agreement:
    """How far clusters agree with labels.

    Attributes:
        ami: adjusted mutual information, with its jackknife interval.
        shuffled: mean over shuffled labels.
        shuffled_high: their 95th percentile.
    """

    ami: Interval
    shuffled: float
    shuffled_high: float


def cluster(vectors: Float[np.ndarray, "N D"], k: int, *, seed: int = 0) -> Clustered:
    """k-means by Lloyd's algorithm, the best of ten starts; vectors of which fewer than k differ have fewer clusters.

    Args:
        vectors: as they are; no scaling.
        k: clusters.
        seed: of the starts.

    Raises:
        CrosstaskError: there are not more vectors than clusters, or they are not finite, or all alike.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    given = np.asarray(vectors, dtype=np.float64)
    if not 2 <= k < len(given):
        raise CrosstaskError(f"{k} clusters of {len(given)} items; expected 2 or more, and fewer than items")
    total = float(np.square(given - given.mean(0)).sum())
    if not np.isfinite(given).all() or total <= 1e-12 * max(1.0, float(np.square(given).sum())):
        raise CrosstaskError("the vectors are all alike, or not finite, so they have no clusters")
    with threadpool_limits(1), warnings.catch_warnings():
        # Where fewer vectors differ there are fewer clusters, as the labels say.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(k, n_init=10, random_state=seed).fit(given)
    apart = np.linalg.norm(given - fitted.cluster_centers_[fitted.labels_], axis=1)
    return Clustered(fitted.labels_, fitted.cluster_centers_, apart, float(fitted.inertia_) / total)


def agreements(
    vectors: Float[np.ndarray, "N D"],
    labels: dict[str, Sequence[str]],
    k: int,
    *,
    groups: Sequence[str] | None = None,
    shuffles: int = 200,
    seed: int = 0,
) -> tuple[Clustered, dict[str, Agreement]]:
    """Clusters of vectors, and how far they agree with several kinds of labels.

    Args:
        vectors: N of them.
        labels: kind -> the label of each.
        k: clusters.
        groups: the item of each vector, where items are there more than once; the jackknife leaves out whole items.
        shuffles: of the labels.
        seed: of k-means, shuffles and the parts of the jackknife.

    Raises:
        CrosstaskError: as :func:`cluster`.
    """
    from sklearn.metrics import adjusted_mutual_info_score as ami

    whole = cluster(vectors, k, seed=seed)
    items = np.arange(len(vectors)) if groups is None else np.unique(list(groups), return_inverse=True)[1]
    parts = tenths(items.max() + 1, seed)[items]
    without = [(parts != part, cluster(vectors[parts != part], k, seed=seed).labels) for part in np.unique(parts)]
    rng = np.random.default_rng(seed)
    found = {}
    for kind, names in labels.items():
        codes = np.unique(list(names), return_inverse=True)[1]
        value = float(ami(codes, whole.labels))
        left = np.array([ami(codes[kept], clusters) for kept, clusters in without])
        null = np.array([ami(rng.permutation(codes), whole.labels) for _ in range(shuffles)])
        found[kind] = Agreement(jackknife(value, left), float(null.mean()), float(np.quantile(null, 0.95)))
    return whole, found


def tenths(n: int, seed: int) -> Int[np.ndarray, " n"]:
    """The part of each of n items; parts are of one size, or nearly."""
    return np.random.default_rng([seed, n]).permutation(n) % min(TENTHS, n)


def jackknife(value: float, without: Float[np.ndarray, " parts"], *, least: float = -1.0) -> Interval:
    """value +- t * standard error, from the values without each part; cut at `least` and 1."""
    from scipy.stats import t

    count = len(without)
    if not np.isfinite([value, *without]).all():
        return Interval(value, float("nan"), float("nan"))
    half = t.ppf(0.975, count - 1) * np.sqrt((count - 1) / count * np.sum((without - without.mean()) ** 2))
    return Interval(value, float(max(least, value - half)), float(min(1.0, value + half)))


def principal_plane(vectors: Float[np.ndarray, "N D"]) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " two"]]:
    """The first two principal components, and their shares of the variance."""
    from sklearn.decomposition import PCA

    fitted = PCA(2, svd_solver="full")
    return fitted.fit_transform(np.asarray(vectors, dtype=np.float64)), fitted.explained_variance_ratio_


def similarity_correlation(
    one: Float[np.ndarray, "N D"],
    other: Float[np.ndarray, "N E"],
    *,
    groups: Sequence[str] | None = None,
    permutations: int = 199,
    seed: int = 0,
) -> tuple[Interval, float]:
    """Correlation over pairs of items of the cosines in two representations, both without their mean.

    Args:
        one, other: N vectors of each.
        groups: the item of each vector, where items are there equally often; whole items are left out and permuted.
        permutations: of items.
        seed: of the parts of the jackknife and of permutations.

    Returns:
        Pearson's r with its jackknife interval over tenths of the items; and the 95th percentile of r over permuted
        items (Mantel's null).
    """
    first, second = centred_cosines(one), centred_cosines(other)
    rows, columns = np.triu_indices(len(first), 1)
    items = np.arange(len(first)) if groups is None else np.unique(list(groups), return_inverse=True)[1]
    of_item = np.stack([np.flatnonzero(items == item) for item in range(items.max() + 1)])
    parts = tenths(len(of_item), seed)[items]
    without = []
    for part in np.unique(parts):
        kept = (parts[rows] != part) & (parts[columns] != part)
        without.append(pearson(first[rows, columns][kept], second[rows, columns][kept]))
    rng = np.random.default_rng(seed)
    null = []
    for _ in range(permutations):
        order = np.empty(len(first), dtype=int)
        order[of_item] = of_item[rng.permutation(len(of_item))]
        null.append(pearson(first[rows, columns], second[order[rows], order[columns]]))
    value = jackknife(pearson(first[rows, columns], second[rows, columns]), np.array(without))
    return value, float(np.quantile(null, 0.95))


def random_routers(
    contexts: Float[np.ndarray, "N C"], routing: Float[np.ndarray, "N E"], *, routers: int = ROUTERS, seed: int = 0
) -> Float[np.ndarray, " routers"]:
    """r of context and routing similarity under random routers whose logits spread as the given ones' do.

    Args:
        contexts: what routers read.
        routing: softmax weights of the real router. Those of sparse routing are no softmax: their zeros say nothing of
            the logits, and NaN is returned.
        routers: how many are drawn.
        seed: of the draws.
    """
    if (np.asarray(routing) == 0).any():
        return np.full(routers, np.nan)
    logits = np.log(np.clip(np.asarray(routing, dtype=np.float64), 1e-12, None))
    logits = logits - logits.mean(1, keepdims=True)
    given = np.asarray(contexts, dtype=np.float64)
    spread, level = logits.std(0).mean(), logits.mean(0)
    similar = centred_cosines(given)
    rows, columns = np.triu_indices(len(given), 1)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(routers):
        drawn = (given - given.mean(0)) @ rng.normal(size=(given.shape[1], logits.shape[1]))
        drawn = level + drawn * (spread / max(drawn.std(0).mean(), 1e-12))
        weights = np.exp(drawn - drawn.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        found.append(pearson(similar[rows, columns], centred_cosines(weights)[rows, columns]))
    return np.array(found)


def centred_cosines(vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N N"]:
    """Cosines of all pairs without the mean; 0 where a vector is the mean."""
    moved = np.asarray(vectors, dtype=np.float64)
    moved = moved - moved.mean(0)
    sizes = np.linalg.norm(moved, axis=1, keepdims=True)
    moved = np.divide(moved, sizes, out=np.zeros_like(moved), where=sizes > 1e-12)
    return moved @ moved.T


def pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Pearson's r; NaN where one of them is constant."""
    a, b = x - x.mean(), y - y.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 1e-15 else float("nan")
