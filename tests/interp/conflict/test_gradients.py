"""Gradients on the common parameters, distances of trainings, and where the parameters are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import pandas as pd
import pytest
import torch

from interp.conflict.alignment import DEFINITIONS
from interp.conflict.distance import distances
from interp.conflict.gradients import Grams, gradient_grams
from interp.conflict.places import chosen_layers, common_places
from interp.conflict.tables import differences
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.batch import collate
from interp.tuning.config import TuneConfig
from interp.tuning.encoding import Encoded, encode
from interp.tuning.strategies.covft import CoVFT
from interp.tuning.trainer import answer_loss
from tests import tiny


@pytest.fixture
def model() -> Model:
    """Its own, since gradients are switched on."""
    return tiny.tiny_llava()


def rows_of(model: Model, n: int) -> list[Encoded]:
    return [encode(model, [tiny.picture(i)], [(f"Q: what is {i}?", f"thing {i}")]) for i in range(n)]


def test_inner_products_are_those_of_gradients_taken_one_by_one(model: Model) -> None:
    rows = rows_of(model, 6)
    batches = [rows[:2], rows[2:4], rows[4:]]
    places = common_places(model, chosen_layers(model, "all"))
    grams, losses = gradient_grams(model, batches, places)
    assert set(grams) == {("summed", 0), ("summed", 1)}
    stacked = []
    for batch, loss in zip(batches, losses, strict=True):
        for place in places:
            place.parameters[0].requires_grad_(True)
        given = collate(model, batch)
        labels = given.pop("labels")
        found = answer_loss(model.module(**given), labels)
        assert float(found.detach()) == pytest.approx(loss)
        parameters = [place.parameters[0] for place in places if place.layer == 1]
        stacked.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(found, parameters)]).numpy())
    np.testing.assert_allclose(grams["summed", 1], np.stack(stacked) @ np.stack(stacked).T, rtol=1e-8)


def test_model_is_left_as_it_was(model: Model) -> None:
    rows = rows_of(model, 2)
    gradient_grams(model, [rows[:1], rows[1:]], common_places(model, (1,)))
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())


def test_common_parameters_are_ffn_and_norms_of_the_late_half(model: Model) -> None:
    layers = chosen_layers(model, "late")
    assert layers == (1,)
    names = {place.name for place in common_places(model, layers)}
    assert names == {
        f"{part}.{kind}" for part in ("mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2") for kind in ("weight", "bias")
    }
    assert {place.name for place in common_places(model, layers, ("norms",))} < names


def test_micro_batches_of_different_sizes_are_refused(model: Model) -> None:
    rows = rows_of(model, 3)
    with pytest.raises(CrosstaskError, match="of one size"):
        gradient_grams(model, [rows[:1], rows[1:]], common_places(model, (1,)))


def test_distances_are_relative_and_displacements_have_a_cosine() -> None:
    start = {0: torch.tensor([3.0, 4.0]).double(), 1: torch.tensor([1.0, 0.0]).double()}
    ends = {
        ("x", 0): {0: start[0] + torch.tensor([1.0, 0.0]), 1: start[1]},
        ("x", 1): {0: start[0] + torch.tensor([2.0, 0.0]), 1: start[1]},
        ("y", 0): {0: start[0] + torch.tensor([0.0, 1.0]), 1: start[1]},
    }
    found = {(row["a"], row["b"], row["layer"]): row for row in distances(start, ends)}
    assert found["x@0", "x@1", 0]["kind"] == "seeds"
    assert found["x@0", "x@1", 0]["distance"] == pytest.approx(0.2)
    assert found["x@0", "x@1", 0]["cosine"] == pytest.approx(1.0)
    assert found["x@0", "y@0", 0]["kind"] == "tasks"
    assert found["x@0", "y@0", 0]["distance"] == pytest.approx(2**0.5 / 5)
    assert found["x@0", "y@0", 0]["cosine"] == pytest.approx(0.0)
    assert np.isnan(found["x@0", "y@0", 1]["cosine"])  # nothing moved there
    assert found["x@0", "y@0", -1]["distance"] == pytest.approx((2 / 26) ** 0.5)


def experts_of(model: Model, **options: object) -> tuple[CoVFT, list[list[Encoded]]]:
    """A CoVFT strategy on the model, and micro-batches of two conversations."""
    rows = rows_of(model, 6)
    config = TuneConfig(task="mixture", strategy="covft", options={"text": "hashing", **options})
    return CoVFT(model, config), [rows[:2], rows[2:4], rows[4:]]


def grams_of(model: Model, chosen: CoVFT, batches: list[list[Encoded]]) -> Grams:
    def context(rows: Sequence[Encoded]) -> AbstractContextManager[None]:
        return chosen.context(chosen.text_inputs(["what?"] * len(rows), list(range(len(rows)))))

    return gradient_grams(model, batches, common_places(model, (1,)), context=context)[0]


def test_summed_experts_have_the_gradient_of_the_network_they_are_copies_of(model: Model) -> None:
    rows = rows_of(model, 6)
    before, _ = gradient_grams(model, [rows[:2], rows[2:4], rows[4:]], common_places(model, (1,)))
    chosen, batches = experts_of(model)
    found = grams_of(model, chosen, batches)
    chosen.detach()
    np.testing.assert_allclose(found["summed", 1], before["summed", 1], rtol=1e-6)
    assert not np.allclose(found["apart", 1], before["summed", 1], rtol=1e-3)


def test_uniform_experts_side_by_side_are_one_network_but_for_a_factor(model: Model) -> None:
    """So cosines of the feed-forward part gain nothing without a router."""
    rows = rows_of(model, 6)
    batches = [rows[:2], rows[2:4], rows[4:]]
    before, _ = gradient_grams(model, batches, common_places(model, (1,), ("ffn",)))
    chosen, _ = experts_of(model, routing="uniform", num_experts=4)
    found, _ = gradient_grams(model, batches, common_places(model, (1,), ("ffn",)))
    chosen.detach()
    np.testing.assert_allclose(found["apart", 1], before["summed", 1] / 4, rtol=1e-6)


def test_distances_have_the_lengths_of_both_displacements_and_add_up_over_layers() -> None:
    rng = np.random.default_rng(0)
    start, one, other = (
        {layer: torch.from_numpy(scale * rng.normal(size=12)) for layer in (0, 1)} for scale in (1.0, 0.1, 0.4)
    )
    ends = {("a", 0): {n: start[n] + one[n] for n in start}, ("b", 0): {n: start[n] + other[n] for n in start}}
    rows = {row["layer"]: row for row in distances(start, ends)}
    for layer, parts in ((0, [0]), (1, [1]), (-1, [0, 1])):
        begun, a, b = (torch.cat([given[n].flatten() for n in parts]) for given in (start, one, other))
        expected = {
            "distance": (a - b).norm() / begun.norm(),
            "cosine": a @ b / a.norm() / b.norm(),
            "norm_a": a.norm() / begun.norm(),
            "norm_b": b.norm() / begun.norm(),
        }
        for name, value in expected.items():
            assert rows[layer][name] == pytest.approx(float(value))
        assert rows[layer]["kind"] == "tasks"


def test_differences_are_from_the_summed_experts_of_the_reference() -> None:
    columns = ["arm", "point", "experts", "micro_batch", *DEFINITIONS]
    rows = [
        ("covft", 0.0, "summed", n, 0.1, 0.1, 0.1) for n in range(3)
    ] + [("covft", 0.0, "apart", n, 0.9, 0.9, 0.9) for n in range(3)]  # fmt: skip
    rows += [("full", 0.0, "summed", n, 0.3, 0.3, 0.3) for n in range(3)]
    found = differences(pd.DataFrame(rows, columns=columns), reference="covft")
    values = found.groupby(["arm", "experts"])["difference"].mean().to_dict()
    assert values == pytest.approx({("covft", "apart"): 0.8, ("full", "summed"): 0.2})
