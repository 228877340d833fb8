"""Updates compared weight by weight, and pooled over layers, over projections and over the whole model.

Inner products and energies of several weights add up, as if the weights stood in one block-diagonal matrix, so a
pooled cosine is the cosine of the whole updates and not a mean of cosines; overlaps of subspaces are averaged. A weight
that only one of two updates changed is zero in the other.

Measures (rows are sources, columns targets; `directed` ones differ in the two directions)

    cosine, inner_product           of dW; with and without the common mean
    overlap_output, overlap_input   of subspaces
    energy_output, energy_input     share of the source's energy in the target's column or row space; directed; with and
                                    without the common mean
    a_alone, b_alone                cosines of A and of B as they were trained: they depend on the gauge, and with one
                                    seed all tasks share where A began
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.updates.geometry import SIDES, Geometry, geometry
from interp.updates.places import Place, last_attention_output
from interp.updates.update import Name, Update

DIRECTED = frozenset({"energy_output", "energy_input", "gain", "gain_unit", "state_projection"})
"""Measures whose two directions differ."""
GAUGE = frozenset({"a_alone", "b_alone"})
"""Measures that depend on how BA was split."""
PAPER = "paper"
"""The published choice: cosine of the last layer's attention output projection."""


@dataclass(frozen=True)
class Part:
    """What is pooled.

    Attributes:
        layer: number of a block, or "all".
        projection: name of a projection, or "all".
    """

    layer: int | str = "all"
    projection: str = "all"


@dataclass(frozen=True, eq=False)
class Measured:
    """A measure of a part for every pair of K updates.

    Attributes:
        measure: its name.
        part: of which weights.
        centred: whether the common mean was taken off.
        value: rows are sources, columns targets.
        chance: what unrelated updates would have.
    """

    measure: str
    part: Part
    centred: bool
    value: Float[np.ndarray, "K K"]
    chance: Float[np.ndarray, "K K"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """K updates compared, weight by weight.

    Attributes:
        names: of the updates.
        modules: place of each weight -> the geometry of its updates.
    """

    names: tuple[Name, ...]
    modules: dict[Place, Geometry]

    @property
    def parts(self) -> dict[Part, list[Place]]:
        """Everything that is pooled, with its weights: the whole, each projection, each layer, each weight in a block.

        Weights outside of the blocks are in the whole and in their projection alone.
        """
        found: dict[Part, list[Place]] = {Part(): sorted(self.modules)}
        for where in sorted(self.modules):
            found.setdefault(Part("all", where.projection), []).append(where)
        for where in sorted(self.modules):
            if where.layer >= 0:
                found.setdefault(Part(where.layer), []).append(where)
        for where in sorted(self.modules):
            if where.layer >= 0:
                found.setdefault(Part(where.layer, where.projection), []).append(where)
        return found

    @property
    def paper_part(self) -> Part | None:
        """The last layer's attention output projection, if an update changed it."""
        where = last_attention_output(self.modules)
        return None if where is None else Part(where.layer, where.projection)

    def measured(self) -> Iterator[Measured]:
        """Every measure of every part."""
        for part, wheres in self.parts.items():
            yield from pooled([self.modules[where] for where in wheres], part)
        where = last_attention_output(self.modules)
        if where is not None:
            part = Part(where.layer, where.projection)
            for one in pooled([self.modules[where]], part):
                if one.measure == "cosine":
                    yield Measured(PAPER, part, one.centred, one.value, one.chance)


def compare(
    updates: Sequence[Update],
    *,
    rank: int = 16,
    angles: bool = True,
    progress: Callable[[Place, int], object] | None = None,
) -> Comparison:
    """Compare updates, one weight at a time.

    Args:
        updates: two or more; for the common mean see :func:`centring`.
        rank: directions that are kept of dense updates.
        angles: whether principal angles are computed.
        progress: is told each weight and how many there are.

    Raises:
        CrosstaskError: an update is zero everywhere, or two have different shapes or no weight in common.
    """
    if len(updates) < 2:
        raise CrosstaskError(f"{len(updates)} updates were given, and at least 2 are needed to compare")
    _check_common(updates)
    centre = centring([update.name for update in updates])
    wheres = sorted({where for update in updates for where in update.places})
    modules = {}
    for where in wheres:
        try:
            found = geometry([u.delta(where) for u in updates], centre=centre, rank=rank, angles=angles)
        except CrosstaskError as error:
            raise CrosstaskError(f"at {where.name!r}: {error}") from error
        if found.gram.any():
            modules[where] = found
        if progress is not None:
            progress(where, len(wheres))
    energies = sum((np.diag(found.gram) for found in modules.values()), np.zeros(len(updates)))
    for update, energy in zip(updates, energies, strict=True):
        if not energy > 0:
            raise CrosstaskError(
                f"update {str(update.name)!r} in {update.folder} changes nothing: all of its weights are zero, so it "
                "was never trained, or saved before it was"
            )
    return Comparison(tuple(update.name for update in updates), modules)


def centring(names: Sequence[Name]) -> Float[np.ndarray, "K K"]:
    """What takes the common mean off K updates, I - M with the weights of each update's mean in a row of M.

    Where every task has every seed it is the mean over the tasks of an update's own seed: adapters of a seed begin with
    the same A, which is common to them and to no others, so that a mean over all seeds would leave half of it in each,
    with opposite signs, and make any two updates of different seeds look opposed. Else it is the mean over tasks of the
    mean over each task's seeds.
    """
    tasks, seeds = {name.task for name in names}, {name.seed for name in names}
    if len(tasks) > 1 and len(set(names)) == len(tasks) * len(seeds):
        means = np.array([[(one.seed == other.seed) / len(tasks) for other in names] for one in names])
    else:
        counts = {task: sum(name.task == task for name in names) for task in tasks}
        means = np.array([[1 / (len(tasks) * counts[other.task]) for other in names] for _ in names])
    return np.eye(len(names)) - means


def pooled(found: Sequence[Geometry], part: Part) -> Iterator[Measured]:
    """Every measure of some weights together."""
    k = len(found[0].gram)
    nothing = np.zeros((k, k))
    for centred in (False, True):
        gram = sum((g.centred if centred else g.gram for g in found), nothing)
        random = sum((g.random_gram(centred=centred) for g in found), nothing)
        yield Measured("inner_product", part, centred, gram, random)
        yield Measured("cosine", part, centred, cosines(gram), cosines(random))
    for side in SIDES:
        value, chance = (_mean([getattr(g, name)[side] for g in found]) for name in ("overlap", "overlap_chance"))
        yield Measured(f"overlap_{side}", part, False, value, chance)
    for side in SIDES:
        for centred in (False, True):
            known = [g for g in found if not np.isnan(g.space[side]).any()]
            total = sum((np.diag(g.centred if centred else g.gram) for g in known), np.zeros(k))[:, None]
            expected = sum((np.diag(g.random_gram(centred=centred)) for g in known), np.zeros(k))[:, None]
            energy = sum(((g.energy_centred if centred else g.energy)[side] for g in known), nothing)
            random = sum((g.random_energy(side, centred=centred) for g in known), nothing)
            yield Measured(f"energy_{side}", part, centred, _ratio(energy, total), _ratio(random, expected))
    for name in "AB":
        gram = sum((g.factors[name] for g in found), nothing)
        yield Measured(f"{name.lower()}_alone", part, False, cosines(gram), nothing)


def norms_of(found: Sequence[Geometry], *, centred: bool = False) -> Float[np.ndarray, " K"]:
    """Frobenius norm of each update over some weights."""
    energies = sum((np.diag(g.centred if centred else g.gram) for g in found), np.zeros(len(found[0].gram)))
    return np.sqrt(np.maximum(energies, 0.0))


def cosines(gram: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    """Cosines from inner products; NaN where a norm is zero."""
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    return np.clip(_ratio(gram, np.outer(norms, norms)), -1, 1)


def _ratio(above: Float[np.ndarray, "K K"], below: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=np.broadcast_to(below > 0, above.shape))


def _mean(matrices: Sequence[Float[np.ndarray, "K K"]]) -> Float[np.ndarray, "K K"]:
    """Mean of what is defined."""
    stacked = np.stack(matrices)
    defined = ~np.isnan(stacked)
    return _ratio(np.where(defined, stacked, 0.0).sum(axis=0), defined.sum(axis=0).astype(float))


def _check_common(updates: Sequence[Update]) -> None:
    """An update that shares no weight with any other is most likely of another model."""
    for update in updates:
        others = {where for other in updates if other is not update for where in other.places}
        if not others & set(update.places):
            raise CrosstaskError(
                f"update {str(update.name)!r} in {update.folder} changes no weight that another changes: it has "
                f"{update.places[0].name!r}, others have {min(others).name!r}"
            )
