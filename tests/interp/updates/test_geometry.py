"""Every measure of updates against the same measure of the matrices that they stand for."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.linalg import orth, subspace_angles
from transformer_lens.tools.analysis.projection_kernel import (
    orthonormal_subspace,
    projection_kernel,
    random_projection_kernel_moments,
)

from interp.errors import CrosstaskError
from interp.updates import Dense, LowRank, geometry, vector
from interp.updates.deltas import effective_rank
from interp.updates.tables import random_angles

OUT, WIDTH = 14, 10
RANKS = (2, 3, 5)


def factors(seed: int, rank: int) -> LowRank:
    rng = np.random.default_rng(seed)
    return LowRank(rng.standard_normal((OUT, rank)), rng.standard_normal((rank, WIDTH)), scale=0.7 + seed)


@pytest.fixture(scope="module")
def lows() -> list[LowRank]:
    return [factors(seed, rank) for seed, rank in enumerate(RANKS)]


@pytest.fixture(scope="module")
def matrices(lows: list[LowRank]) -> list[np.ndarray]:
    return [low.rows(0, OUT) for low in lows]


def as_dense(matrix: np.ndarray) -> Dense:
    return Dense(matrix.shape, lambda start, stop: matrix[start:stop])


def projector(matrix: np.ndarray, side: str) -> np.ndarray:
    basis = orth(matrix if side == "output" else matrix.T)
    return basis @ basis.T


def energy(matrix: np.ndarray, space: np.ndarray, side: str) -> float:
    """Energy of a matrix in the column or row space of another."""
    p = projector(space, side)
    return float(np.square(p @ matrix if side == "output" else matrix @ p).sum())


def test_inner_products_are_those_of_the_matrices(lows: list[LowRank], matrices: list[np.ndarray]) -> None:
    found = geometry(lows)
    for i, j in product(range(3), repeat=2):
        assert found.gram[i, j] == pytest.approx(np.vdot(matrices[i], matrices[j]), rel=1e-12)
    mean = np.mean(matrices, axis=0)
    for i, j in product(range(3), repeat=2):
        assert found.centred[i, j] == pytest.approx(np.vdot(matrices[i] - mean, matrices[j] - mean), rel=1e-12)


def test_the_common_mean_is_weighted(lows: list[LowRank], matrices: list[np.ndarray]) -> None:
    weights = np.array([0.25, 0.25, 0.5])
    mean = sum(w * m for w, m in zip(weights, matrices, strict=True))
    found = geometry(lows, centre=np.eye(3) - weights)
    assert found.centred[0, 2] == pytest.approx(np.vdot(matrices[0] - mean, matrices[2] - mean))


@pytest.mark.parametrize("side", ["output", "input"])
def test_energies_are_those_of_projected_matrices(lows: list[LowRank], matrices: list[np.ndarray], side: str) -> None:
    found, mean = geometry(lows), np.mean(matrices, axis=0)
    for i, j in product(range(3), repeat=2):
        assert found.energy[side][i, j] == pytest.approx(energy(matrices[i], matrices[j], side), rel=1e-10)
        expected = energy(matrices[i] - mean, matrices[j], side)
        assert found.energy_centred[side][i, j] == pytest.approx(expected, rel=1e-10)
    assert found.energy[side][0, 2] != pytest.approx(found.energy[side][2, 0])  # it has a direction


@pytest.mark.parametrize("side", ["output", "input"])
def test_overlap_is_the_projection_kernel_of_transformer_lens(
    lows: list[LowRank], matrices: list[np.ndarray], side: str
) -> None:
    found = geometry(lows)
    spaces = [orthonormal_subspace(torch.tensor(m if side == "output" else m.T), rtol=1e-10) for m in matrices]
    for i, j in product(range(3), repeat=2):
        known = projection_kernel(spaces[i], spaces[j])
        overlap = found.overlap[side][i, j]
        assert overlap == pytest.approx(float(known.score) / min(RANKS[i], RANKS[j]), abs=1e-12)
        # its own normalisation is by the geometric mean of the ranks
        assert overlap * min(RANKS[i], RANKS[j]) / np.sqrt(RANKS[i] * RANKS[j]) == pytest.approx(
            float(known.normalized)
        )
        explicit = np.trace(projector(matrices[i], side) @ projector(matrices[j], side))
        assert overlap == pytest.approx(explicit / min(RANKS[i], RANKS[j]), abs=1e-12)
        if i < j:
            angles = np.degrees(known.angles.numpy())
            assert found.angles[i, j, side] == pytest.approx(np.sort(angles), abs=1e-6)


@pytest.mark.parametrize("side", ["output", "input"])
def test_angles_are_those_of_scipy(lows: list[LowRank], matrices: list[np.ndarray], side: str) -> None:
    found = geometry(lows)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        spaces = [orth(m if side == "output" else m.T) for m in (matrices[i], matrices[j])]
        assert found.angles[i, j, side] == pytest.approx(np.sort(np.degrees(subspace_angles(*spaces))), abs=1e-6)


def test_effective_rank_is_the_entropy_of_the_spectrum(lows: list[LowRank], matrices: list[np.ndarray]) -> None:
    found = geometry(lows)
    for i, matrix in enumerate(matrices):
        energies = np.linalg.svd(matrix, compute_uv=False) ** 2
        shares = energies[energies > 1e-20] / energies.sum()
        assert found.effective_rank[i] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
        assert found.rank[i] == RANKS[i]
    assert effective_rank(np.array([2.0, 2.0, 2.0])) == pytest.approx(3)
    assert effective_rank(np.array([2.0, 0.0])) == pytest.approx(1)


def test_nothing_depends_on_how_the_product_was_split_but_a_alone_and_b_alone(lows: list[LowRank]) -> None:
    rng = np.random.default_rng(9)
    turned = []
    for low in lows:
        r = rng.standard_normal((low.left.shape[1],) * 2)
        turned.append(LowRank(low.left @ r, np.linalg.solve(r, low.right), low.scale))
    one, other = geometry(lows), geometry(turned)
    for name in ("gram", "centred", "effective_rank", "rank"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-8)
    for name, side in product(("overlap", "energy", "energy_centred"), ("output", "input")):
        assert getattr(other, name)[side] == pytest.approx(getattr(one, name)[side], rel=1e-8)
    for key, angles in one.angles.items():
        assert other.angles[key] == pytest.approx(angles, abs=1e-4)
    assert np.diag(other.factors["A"]) != pytest.approx(np.diag(one.factors["A"]), rel=0.01)


def test_factors_alone_are_compared_where_they_have_one_shape() -> None:
    first, second, third = factors(0, 3), factors(1, 3), factors(2, 5)
    found = geometry([first, second, third, None])
    assert found.factors["A"][0, 1] == pytest.approx(np.vdot(first.right, second.right))
    assert found.factors["B"][0, 1] == pytest.approx(np.vdot(first.left, second.left))
    assert np.isnan(found.factors["A"][0, 2])
    assert found.factors["A"][0, 3] == 0


def test_the_product_is_never_formed() -> None:
    rng = np.random.default_rng(0)
    wide = 200_000  # as a matrix 320 GB
    lows = [LowRank(rng.standard_normal((wide, 2)), rng.standard_normal((2, wide))) for _ in range(2)]
    found = geometry(lows)
    assert found.gram[0, 1] == pytest.approx(
        np.trace((lows[0].left.T @ lows[1].left) @ (lows[1].right @ lows[0].right.T)), rel=1e-6
    )


def test_dense_updates_measure_as_their_factors_do(lows: list[LowRank], matrices: list[np.ndarray]) -> None:
    one = geometry(lows)
    for mixed in ([as_dense(m) for m in matrices], [lows[0], as_dense(matrices[1]), lows[2]]):
        other = geometry(mixed)
        for name in ("gram", "centred", "effective_rank", "rank"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9)
        for name, side in product(("overlap", "energy", "energy_centred"), ("output", "input")):
            assert getattr(other, name)[side] == pytest.approx(getattr(one, name)[side], rel=1e-9)


def test_a_large_dense_update_is_read_in_blocks_of_rows(
    lows: list[LowRank], matrices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.updates.deltas.SMALL", 1)
    monkeypatch.setattr("interp.updates.deltas.CHUNK", 3 * WIDTH)
    monkeypatch.setattr("interp.updates.deltas.OVERSAMPLING", 2)
    longest = []

    def watched(matrix: np.ndarray) -> Dense:
        def rows(start: int, stop: int) -> np.ndarray:
            longest.append(stop - start)
            return matrix[start:stop]

        return Dense(matrix.shape, rows)

    found, expected = geometry([watched(m) for m in matrices], rank=5), geometry(lows)
    assert max(longest) <= 3
    assert found.gram == pytest.approx(expected.gram, rel=1e-10)
    assert found.rank == pytest.approx(expected.rank)
    assert np.isnan(found.effective_rank).all()  # not all singular values were computed
    for side in ("output", "input"):
        assert found.overlap[side] == pytest.approx(expected.overlap[side], rel=1e-6)
        assert found.energy[side] == pytest.approx(expected.energy[side], rel=1e-6)


def test_first_directions_of_a_dense_update_are_those_of_its_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.updates.deltas.SMALL", 1)
    matrix = np.random.default_rng(0).standard_normal((80, 60)) * 0.8 ** np.arange(60)
    form = as_dense(matrix).singular(rank=4)
    u, values, v = np.linalg.svd(matrix)
    assert form.values == pytest.approx(values[:4], rel=1e-5)
    assert np.abs(np.sum(form.output * u[:, :4], axis=0)) == pytest.approx(np.ones(4), abs=1e-4)
    assert np.abs(np.sum(form.input * v[:4].T, axis=0)) == pytest.approx(np.ones(4), abs=1e-4)


def test_vectors_have_cosines_and_an_output_side_alone() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 9))
    found = geometry([vector(a), vector(b), None])
    assert found.gram[0, 1] == pytest.approx(a @ b)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.overlap["output"][0, 1] == pytest.approx(cosine**2)
    assert found.overlap_chance["output"][0, 1] == pytest.approx(1 / 9)
    assert np.isnan(found.overlap["input"]).all()
    assert np.isnan(found.energy["input"]).all()
    assert found.gram[2].any() == np.False_


def test_an_update_that_lacks_the_weight_is_zero_there(lows: list[LowRank], matrices: list[np.ndarray]) -> None:
    found = geometry([lows[0], None, lows[2]])
    assert not found.gram[1].any()
    mean = (matrices[0] + matrices[2]) / 3
    assert found.centred[1, 1] == pytest.approx(np.vdot(mean, mean))
    assert np.isnan(found.overlap["output"][0, 1])
    assert found.energy["output"][0, 1] == 0
    assert (0, 1, "output") not in found.angles


def test_random_subspaces_are_at_the_chance_level() -> None:
    rng = np.random.default_rng(0)
    shape, draws = (40, 30), 300
    overlaps, shares, angles = [], [], []
    for _ in range(draws):
        pair = [LowRank(rng.standard_normal((40, r)), rng.standard_normal((r, 30))) for r in (2, 6)]
        found = geometry(pair)
        overlaps.append([found.overlap["output"][0, 1], found.overlap["input"][0, 1]])
        shares.append(
            [found.energy["output"][0, 1] / found.gram[0, 0], found.energy["output"][1, 0] / found.gram[1, 1]]
        )
        angles.append(found.angles[0, 1, "output"])
    error = np.std(overlaps, axis=0) / np.sqrt(draws)
    assert (np.abs(np.mean(overlaps, axis=0) - [6 / 40, 6 / 30]) < 4 * error).all()
    assert found.overlap_chance["output"][0, 1] == pytest.approx(6 / 40)
    assert found.overlap_chance["input"][0, 1] == pytest.approx(6 / 30)
    error = np.std(shares, axis=0) / np.sqrt(draws)
    assert (np.abs(np.mean(shares, axis=0) - [6 / 40, 2 / 40]) < 4 * error).all()
    assert found.space["output"] == pytest.approx([2 / 40, 6 / 40])
    assert random_angles(shape[0], 2, 6) == pytest.approx(np.mean(angles, axis=0), abs=3)
    equal = random_projection_kernel_moments(ambient_dim=40, rank=6)
    assert equal.mean / 6 == pytest.approx(6 / 40)


def test_unrelated_updates_have_the_expected_centred_cosines_and_energies() -> None:
    rng = np.random.default_rng(1)
    grams, energies = [], []
    for _ in range(300):
        lows = [
            LowRank(rng.standard_normal((30, r)), rng.standard_normal((r, 20)), scale=s)
            for r, s in ((2, 1.0), (3, 2.0), (4, 0.5))
        ]
        found = geometry(lows, angles=False)
        grams.append(found.centred - found.random_gram(centred=True))
        energies.append(found.energy_centred["output"] - found.random_energy("output", centred=True))
    for differences in (np.array(grams), np.array(energies)):
        error = differences.std(axis=0) / np.sqrt(len(differences))
        assert (np.abs(differences.mean(axis=0)) < 4 * error + 1e-9).all()


def test_shapes_that_differ_and_transposed_weights_are_refused(lows: list[LowRank]) -> None:
    with pytest.raises(CrosstaskError, match=r"shapes \(10, 10\) and \(14, 10\)"):
        geometry([lows[0], LowRank(np.ones((10, 1)), np.ones((1, 10)))])
    turned = LowRank(lows[1].left, lows[1].right, as_stored=False)
    with pytest.raises(CrosstaskError, match="stored transposed"):
        geometry([as_dense(lows[0].rows(0, OUT)), turned])
    with pytest.raises(CrosstaskError, match="no update changes"):
        geometry([None, None])
