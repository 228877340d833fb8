"""How alike the vectors of tasks are, over layers.

    task_vector_cosine      <v_i, v_j> / |v_i| |v_j|; all prompts have much in common, so it is high for every pair
    task_vector_centred     the same without the mean over tasks; about -1 / (K - 1) for unrelated tasks
    task_vector_euclidean   -|v_i - v_j|, the distance with its sign turned, so that more is more alike

A measure's name ends in its setting, as in task_vector_centred_item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.perception_vectors.states import cosines

MEASURES = ("task_vector_cosine", "task_vector_centred", "task_vector_euclidean")
LONG_COLUMNS = ("measure", "layer", "source", "target", "value")


def similarity(vectors: Mapping[str, Float[np.ndarray, "K L D"]], tasks: Sequence[str]) -> pd.DataFrame:
    """All measures of all pairs, both ways.

    Args:
        vectors: setting -> vectors of K tasks.
        tasks: their names.

    Returns:
        A long table (measure, layer, source, target, value) that `experiments.relate` reads.
    """
    rows = []
    for setting, found in vectors.items():
        exact = np.asarray(found, dtype=np.float64)
        for layer in range(exact.shape[1]):
            for measure, matrix in zip(MEASURES, measured(exact[:, layer]), strict=True):
                for i, source in enumerate(tasks):
                    for j, target in enumerate(tasks):
                        if i != j:
                            rows.append((f"{measure}_{setting}", layer, source, target, matrix[i, j]))
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS))


def measured(
    vectors: Float[np.ndarray, "K D"],
) -> tuple[Float[np.ndarray, "K K"], Float[np.ndarray, "K K"], Float[np.ndarray, "K K"]]:
    """The measures of one layer's vectors, in the order of `MEASURES`."""
    centred = vectors - vectors.mean(0)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    return cosines(vectors, vectors), cosines(centred, centred), -apart
