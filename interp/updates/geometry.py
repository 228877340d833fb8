"""How the updates of one weight lie to each other: every measure, for all pairs at once.

With dW_i = U_i S_i V_i^T, all U side by side and all V side by side, everything follows from two matrices of size
(sum of ranks)^2, G = U^T U and H = V^T V, whatever the width of the model:

    inner product               <dW_i, dW_j> = sum_ab s_a s_b G_ab H_ab        (a of i, b of j)
    overlap, output side        |U_i^T U_j|_F^2 / min(r_i, r_j)                chance max(r_i, r_j) / out
    share of i's energy in j's column space
                                |U_j^T dW_i|_F^2 / |dW_i|_F^2                  chance r_j / out; directional
    principal angles            arccos of the singular values of U_i^T U_j

and the same with V on the input side. The overlap is the normalised one of Hu et al. (2022, section 7.2). Without the
common mean, dW_i becomes dW_i - sum_k M_ik dW_k, which is linear, so that its inner products and energies come from the
same numbers.

Dense updates are read by rows, in one pass for inner products and energies, which are then exact; their subspaces are
those of their first directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, combinations_with_replacement

import numpy as np
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.updates.deltas import Delta, Dense, LowRank, Singular, chunks

SIDES = ("output", "input")


@dataclass(frozen=True, eq=False)
class Geometry:
    """The updates of one weight, K of them. Rows are sources, columns targets.

    Attributes:
        gram: inner products.
        centred: those without the common mean.
        overlap: side -> normalised overlap of subspaces; NaN where one of the two has none.
        overlap_chance: side -> what random subspaces of their ranks have.
        energy: side -> energy of the row's update in the column's space; NaN for the input side of a vector.
        energy_centred: side -> the same of the row's update without the common mean.
        space: side -> rank of each update over the width: what of any energy a random space of that rank holds.
        angles: (i, j, side) -> principal angles in degrees, rising.
        factors: "A" and "B" -> inner products of the factors as they were trained, which depend on their gauge; NaN
            where ranks differ or there are no factors.
        rank: of each update; of a dense one the directions that were kept.
        effective_rank: of each update; NaN where it is not known.
        shape: of the weight, (out, in).
        centre: what takes the common mean off.
    """

    gram: Float[np.ndarray, "K K"]
    centred: Float[np.ndarray, "K K"]
    overlap: dict[str, Float[np.ndarray, "K K"]]
    overlap_chance: dict[str, Float[np.ndarray, "K K"]]
    energy: dict[str, Float[np.ndarray, "K K"]]
    energy_centred: dict[str, Float[np.ndarray, "K K"]]
    space: dict[str, Float[np.ndarray, " K"]]
    factors: dict[str, Float[np.ndarray, "K K"]]
    rank: Float[np.ndarray, " K"]
    effective_rank: Float[np.ndarray, " K"]
    shape: tuple[int, int]
    centre: Float[np.ndarray, "K K"]
    angles: dict[tuple[int, int, str], Float[np.ndarray, " r"]] = field(default_factory=dict)

    def random_gram(self, *, centred: bool) -> Float[np.ndarray, "K K"]:
        """Expected inner products of unrelated updates of the same sizes.

        Taking a mean off makes unrelated updates negatively related, by -1 / (K - 1) if they are of one size.
        """
        own = np.diag(np.diag(self.gram))
        return self.centre @ own @ self.centre.T if centred else own

    def random_energy(self, side: str, *, centred: bool) -> Float[np.ndarray, "K K"]:
        """Expected energy of the row's update in the column's space, if all updates are unrelated.

        What of the mean comes from the column's own update lies in its space wholly.
        """
        shares = np.square(self.centre) if centred else np.eye(len(self.gram))
        sizes = shares * np.diag(self.gram)  # [i, k]: energy of update k in the centred update i
        space = self.space[side]
        return sizes.sum(axis=1, keepdims=True) * space + sizes * (1 - space)


def geometry(
    deltas: Sequence[Delta | None],
    *,
    centre: Float[np.ndarray, "K K"] | None = None,
    rank: int = 16,
    angles: bool = True,
) -> Geometry:
    """Every measure of the updates of one weight.

    Args:
        deltas: one for each update; None counts as zero.
        centre: what takes the common mean off, I - M with the weights of each update's mean in a row of M; by default
            all updates weigh the same.
        rank: directions that are kept of a dense update.
        angles: whether principal angles are computed.

    Raises:
        CrosstaskError: the updates have different shapes, or there are none.
    """
    shape = common_shape(deltas)
    forms = [None if delta is None else delta.singular(rank=rank) for delta in deltas]
    k = len(deltas)
    if centre is None:
        centre = np.eye(k) - 1 / k
    owner, stacked = _stack(forms)
    products = {"output": stacked.output.T @ stacked.output, "input": stacked.input.T @ stacked.input}
    if any(isinstance(delta, Dense) for delta in deltas):
        gram, kernels = _dense_products(deltas, owner, stacked, shape)
    else:
        gram, kernels = _low_rank_products(owner, stacked.values, products, k)
    if any(form is not None and form.is_vector for form in forms):  # it reads from nothing
        del products["input"], kernels["input"]
    ranks = np.bincount(owner, minlength=k).astype(float)
    overlap, chance = _overlaps(products, owner, ranks, shape)
    return Geometry(
        gram=gram,
        centred=centre @ gram @ centre.T,
        overlap=overlap,
        overlap_chance=chance,
        energy=_energies(kernels, np.eye(k)),
        energy_centred=_energies(kernels, centre),
        space={
            side: ranks / width if side in products else np.full(k, np.nan)
            for side, width in zip(SIDES, shape, strict=True)
        },
        factors={name: _factor_products(deltas, name) for name in "AB"},
        rank=ranks,
        effective_rank=np.array([np.nan if form is None else form.effective_rank for form in forms]),
        shape=shape,
        centre=centre,
        angles=_angles(owner, products, k) if angles else {},
    )


def _overlaps(
    products: dict[str, Float[np.ndarray, "R R"]],
    owner: np.ndarray,
    ranks: Float[np.ndarray, " K"],
    shape: tuple[int, int],
) -> tuple[dict[str, Float[np.ndarray, "K K"]], dict[str, Float[np.ndarray, "K K"]]]:
    """Normalised overlaps and their chance levels, by side; NaN where there is no subspace."""
    least, most = np.minimum.outer(ranks, ranks), np.maximum.outer(ranks, ranks)
    nowhere = np.full(least.shape, np.nan)
    overlap, chance = dict.fromkeys(SIDES, nowhere), dict.fromkeys(SIDES, nowhere)
    for side, width in zip(SIDES, shape, strict=True):
        if side in products:
            blocks = _blocks(np.square(products[side]), owner, len(ranks))
            overlap[side] = np.where(least > 0, blocks / np.maximum(least, 1), np.nan)
            chance[side] = np.where(least > 0, most / width, np.nan)
    return overlap, chance


def _energies(
    kernels: dict[str, Float[np.ndarray, "K K K"]], centre: Float[np.ndarray, "K K"]
) -> dict[str, Float[np.ndarray, "K K"]]:
    """Energies of all updates in the space of each, by side."""
    nowhere = np.full(centre.shape, np.nan)
    return {
        side: np.stack([np.diag(centre @ space @ centre.T) for space in kernels[side]], axis=1)
        if side in kernels
        else nowhere
        for side in SIDES
    }


def common_shape(deltas: Sequence[Delta | None]) -> tuple[int, int]:
    """The shape that all updates of a weight have.

    Raises:
        CrosstaskError: they have several, or their axes are not in one order, or there are none.
    """
    known = [delta for delta in deltas if delta is not None]
    if not known:
        raise CrosstaskError("a weight that no update changes has no geometry")
    shapes = {delta.shape for delta in known}
    if len(shapes) > 1:
        first, second = sorted(shapes)[:2]
        raise CrosstaskError(
            f"updates of shapes {first} and {second} of one weight: they are of different base models, or one of them "
            "keeps its axes the other way round"
        )
    if len({delta.as_stored for delta in known}) > 1:
        raise CrosstaskError(
            "an adapter of layers that are stored transposed (fan_in_fan_out) and whole weights of the same layers "
            "cannot be compared; merge the adapter into its base model, and give both as checkpoints"
        )
    return shapes.pop()


def _stack(forms: Sequence[Singular | None]) -> tuple[np.ndarray, Singular]:
    """All forms side by side, and the update that each direction is of."""
    known = [(i, form) for i, form in enumerate(forms) if form is not None]
    owner = np.repeat([i for i, _ in known], [form.rank for _, form in known]).astype(int)
    output = np.concatenate([form.output for _, form in known], axis=1)
    values = np.concatenate([form.values for _, form in known])
    return owner, Singular(output, values, np.concatenate([form.input for _, form in known], axis=1), np.nan)


def _blocks(matrix: Float[np.ndarray, "R R"], owner: np.ndarray, k: int) -> Float[np.ndarray, "K K"]:
    """Sums over the directions of each pair of updates."""
    member = np.zeros((len(owner), k))
    member[np.arange(len(owner)), owner] = 1.0
    return member.T @ matrix @ member


def _low_rank_products(
    owner: np.ndarray,
    values: Float[np.ndarray, " R"],
    products: dict[str, Float[np.ndarray, "R R"]],
    k: int,
) -> tuple[Float[np.ndarray, "K K"], dict[str, Float[np.ndarray, "K K K"]]]:
    """Inner products, and for each space j and side the inner products of what all updates have in it."""
    scales = np.outer(values, values)
    kernels = {side: np.zeros((k, k, k)) for side in SIDES}
    for side, own, other in zip(SIDES, products.values(), reversed(products.values()), strict=True):
        for j in np.unique(owner):
            inside = own[:, owner == j]
            kernels[side][j] = _blocks(scales * (inside @ inside.T) * other, owner, k)
    return _blocks(scales * products["output"] * products["input"], owner, k), kernels


def _dense_products(
    deltas: Sequence[Delta | None], owner: np.ndarray, stacked: Singular, shape: tuple[int, int]
) -> tuple[Float[np.ndarray, "K K"], dict[str, Float[np.ndarray, "K K K"]]]:
    """The same of updates that are read by rows; every row once."""
    k, r = len(deltas), len(owner)
    gram, kernels = np.zeros((k, k)), {side: np.zeros((k, k, k)) for side in SIDES}
    into = np.zeros((k, r, shape[1]))  # U^T dW_i: what each update has in each output direction
    for start, stop in chunks(shape, among=k):
        rows = np.stack([np.zeros((stop - start, shape[1])) if d is None else d.rows(start, stop) for d in deltas])
        flat = rows.reshape(k, -1)
        gram += flat @ flat.T
        into += stacked.output[start:stop].T @ rows
        out = rows @ stacked.input  # what each has in each input direction
        for j in np.unique(owner):
            part = out[:, :, owner == j].reshape(k, -1)
            kernels["input"][j] += part @ part.T
    for j in np.unique(owner):
        part = into[:, owner == j].reshape(k, -1)
        kernels["output"][j] = part @ part.T
    return gram, kernels


def _factor_products(deltas: Sequence[Delta | None], name: str) -> Float[np.ndarray, "K K"]:
    """Inner products of all A, or of all B, as they were trained; zero where there are none."""
    k = len(deltas)
    found = np.zeros((k, k))
    factors = [(d.a if name == "A" else d.b) if isinstance(d, LowRank) and not d.is_vector else None for d in deltas]
    for i, j in combinations_with_replacement(range(k), 2):
        if deltas[i] is None or deltas[j] is None:
            continue
        first, second = factors[i], factors[j]
        alike = first is not None and second is not None and first.shape == second.shape
        found[i, j] = found[j, i] = np.vdot(first, second) if alike else np.nan  # type: ignore[arg-type]
    return found


def _angles(
    owner: np.ndarray, products: dict[str, Float[np.ndarray, "R R"]], k: int
) -> dict[tuple[int, int, str], Float[np.ndarray, " r"]]:
    """Principal angles of every pair, from products that are there already.

    scipy.linalg.subspace_angles would orthogonalise both spaces again for each of the pairs, which takes minutes for a
    large model; it is more precise only for angles under 1e-6 degrees.
    """
    members = [np.flatnonzero(owner == i) for i in range(k)]
    found = {}
    for side, product in products.items():
        for i, j in combinations(range(k), 2):
            if len(members[i]) and len(members[j]):
                cosines = np.linalg.svd(product[np.ix_(members[i], members[j])], compute_uv=False)
                found[i, j, side] = np.degrees(np.arccos(np.clip(cosines, 0, 1)))
    return found
