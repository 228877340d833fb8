"""What fine-tuning added to one weight, dW, as factors or as rows that are read when they are wanted.

    low rank    dW = scale B A,   B in R^{out x r}, A in R^{r x in}
    dense       dW = W' - W, a block of rows at a time, so that two models are never in memory together

Both have a *singular form* dW = U diag(s) V^T that says nothing about how B and A were chosen: (B R)(R^-1 A) is the
same update for every invertible R, so what is measured on A or on B alone depends on an accident of training.
Of factors the form comes from QR: B = Q_B T_B and A^T = Q_A T_A give the r x r matrix T_B T_A^T, whose singular vectors
are rotated back. Of a dense update it is that of its best approximation of a given rank (Halko, Martinsson & Tropp
2011, algorithm 4.4), read row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

SMALL = 2**20
"""A dense update of at most so many numbers is decomposed whole."""
CHUNK = 2**22
"""Numbers of a dense update that are read at a time."""
POWER_STEPS, OVERSAMPLING = 3, 10

Rows: TypeAlias = Callable[[int, int], Float[np.ndarray, "rows in"]]


@dataclass(frozen=True, eq=False)
class Singular:
    """dW = output diag(values) input^T, with as many directions as its rank; a dense one is cut.

    Attributes:
        output: orthonormal directions that dW writes to.
        values: singular values, falling.
        input: orthonormal directions that dW reads from.
        effective_rank: exp of the entropy of the squared singular values' shares (Roy & Vetterli 2007 with energies);
            NaN where the values are not all known.
        is_vector: whether this is an update of a vector, which reads from nothing.
    """

    output: Float[np.ndarray, "out r"]
    values: Float[np.ndarray, " r"]
    input: Float[np.ndarray, "in r"]
    effective_rank: float
    is_vector: bool = False

    @property
    def rank(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class LowRank:
    """dW = scale * left @ right.

    Attributes:
        left: B of a linear layer's LoRA; a column for an update of a vector.
        right: A of a linear layer's LoRA.
        scale: alpha / r, or alpha / sqrt(r) of rsLoRA.
        is_vector: whether a vector was updated.
        swapped: whether left is made of A and right of B, as in an embedding.
        as_stored: whether dW has the axes of the stored weight; GPT-2 stores its own the other way round.
    """

    left: Float[np.ndarray, "out r"]
    right: Float[np.ndarray, "r in"]
    scale: float = 1.0
    is_vector: bool = False
    swapped: bool = False
    as_stored: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def a(self) -> Float[np.ndarray, "r d"]:
        """A as it was trained."""
        return self.left.T if self.swapped else self.right

    @property
    def b(self) -> Float[np.ndarray, "d r"]:
        """B as it was trained."""
        return self.right.T if self.swapped else self.left

    def rows(self, start: int, stop: int) -> Float[np.ndarray, "rows in"]:
        """Rows of dW."""
        return self.scale * self.left[start:stop] @ self.right

    def singular(self, *, rank: int | None = None) -> Singular:
        """The singular form, exactly; `rank` is for dense updates and cuts nothing here."""
        q_left, t_left = np.linalg.qr(self.left)
        q_right, t_right = np.linalg.qr(self.right.T)
        u, values, v = np.linalg.svd(self.scale * t_left @ t_right.T)
        return _form(q_left @ u, values, q_right @ v.T, whole=True, is_vector=self.is_vector)


@dataclass(frozen=True, eq=False)
class Dense:
    """dW whose rows are read.

    Attributes:
        shape: (out, in) as stored.
        read: rows `start` to `stop` in float64.
    """

    shape: tuple[int, int]
    read: Rows
    is_vector: bool = False
    as_stored: bool = True

    def rows(self, start: int, stop: int) -> Float[np.ndarray, "rows in"]:
        """Rows of dW."""
        return self.read(start, stop)

    def singular(self, *, rank: int | None = 16, seed: int = 0) -> Singular:
        """The singular form of the best approximation of a rank; of a small one exactly before it is cut.

        Args:
            rank: directions that are kept; None keeps all, which a large update is not asked for.
            seed: of the directions that a large one is first tried on.
        """
        smaller = min(self.shape)
        wanted = smaller if rank is None else min(rank, smaller)
        if self.shape[0] * self.shape[1] <= SMALL or wanted + OVERSAMPLING >= smaller:
            u, values, v = np.linalg.svd(self.rows(0, self.shape[0]), full_matrices=False)
            return _form(u, values, v.T, whole=True, most=wanted)
        u, values, v = self._approximate(wanted, seed)
        return _form(u, values, v, whole=False, most=wanted)

    def _approximate(
        self, rank: int, seed: int
    ) -> tuple[Float[np.ndarray, "out k"], Float[np.ndarray, " k"], Float[np.ndarray, "in k"]]:
        tried = np.random.default_rng(seed).standard_normal((self.shape[1], rank + OVERSAMPLING))
        basis = np.linalg.qr(self._times(tried))[0]
        for _ in range(POWER_STEPS):
            basis = np.linalg.qr(self._transposed_times(basis))[0]
            basis = np.linalg.qr(self._times(basis))[0]
        u, values, v = np.linalg.svd(self._transposed_times(basis).T, full_matrices=False)
        return basis @ u, values, v.T

    def _times(self, right: Float[np.ndarray, "in k"]) -> Float[np.ndarray, "out k"]:
        return np.concatenate([self.rows(*span) @ right for span in chunks(self.shape)])

    def _transposed_times(self, left: Float[np.ndarray, "out k"]) -> Float[np.ndarray, "in k"]:
        total = np.zeros((self.shape[1], left.shape[1]))
        for start, stop in chunks(self.shape):
            total += self.rows(start, stop).T @ left[start:stop]
        return total


Delta: TypeAlias = LowRank | Dense


def vector(values: Float[np.ndarray, " d"]) -> LowRank:
    """The update of a vector, such as a bias: one column."""
    return LowRank(values.reshape(-1, 1), np.ones((1, 1)), is_vector=True)


def chunks(shape: tuple[int, int], *, among: int = 1) -> Iterator[tuple[int, int]]:
    """Spans of rows that hold `CHUNK` numbers together over so many updates."""
    step = max(1, CHUNK // (shape[1] * among))
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def effective_rank(values: Float[np.ndarray, " r"]) -> float:
    """exp(H(p)) with p the shares of the squared singular values: r if all are equal, 1 if one is all; NaN of zero."""
    energy = np.square(values)
    if not energy.sum() > 0:
        return float("nan")
    shares = energy / energy.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _form(
    u: Float[np.ndarray, "out k"],
    values: Float[np.ndarray, " k"],
    v: Float[np.ndarray, "in k"],
    *,
    whole: bool,
    most: int | None = None,
    is_vector: bool = False,
) -> Singular:
    """Without the directions that are nothing but rounding."""
    least = values.max(initial=0.0) * max(len(u), len(v)) * np.finfo(float).eps
    rank = int((values > least).sum())
    kept = rank if most is None else min(rank, most)
    found = effective_rank(values) if whole else float("nan")
    return Singular(u[:, :kept], values[:kept], v[:, :kept], found, is_vector)
