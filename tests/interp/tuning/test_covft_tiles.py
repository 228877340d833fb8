"""Every family with a tower: each picture, or tile of it, is told the question of its own conversation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from interp.context_vectors.reading import context_strategy, read_contexts
from interp.models.base import Model
from interp.perception_vectors.states import read_states
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.adapters import adapter_at_work, attached
from interp.tuning.evaluation.evaluate import evaluate
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.evaluation.vision import PixelVision
from interp.tuning.run import finetune
from interp.tuning.strategies import strategy
from interp.tuning.text_context import context_text, owners
from tests.interp.tuning.covft import batch, config, covft, logits, part_experts
from tests.tiny import picture
from tests.tiny_families import VISION

TOWERS = sorted(VISION.keys() - {"fuyu"})  # which has no tower
TILED = ("llava_next", "llava_onevision", "idefics2_split", "idefics3", "smolvlm", "internvl")
WIDE, HIGH, SMALL = (24, 8), (8, 24), (8, 8)
ASKED = (
    ("How many dots are there?", (picture(1, WIDE), picture(2, SMALL))),
    ("Is the moon left of the tree?", (picture(3, HIGH),)),
)
ITEMS = [
    PerceptionItem("wide", "RD", (picture(1, WIDE),), "Which is nearer?", ("yes", "no"), 0),
    PerceptionItem("two", "RD", (picture(2, HIGH), picture(3, SMALL)), "Are they alike?", ("yes", "no"), 1),
    PerceptionItem("small", "RD", (picture(4, SMALL),), "How many dots are there?", ("one", "two"), 0),
    PerceptionItem("high", "RD", (picture(5, HIGH),), "Is the moon left of the tree?", ("yes", "no"), 1),
]
TEXTS = [context_text(item.prompt) for item in ITEMS]


@pytest.mark.parametrize("family", TOWERS)
def test_question_reaches_all_tiles_of_its_own_pictures_alone(family: str) -> None:
    model = VISION[family]()
    with torch.no_grad():
        before = logits(model, batch(model, ASKED))
    changed = (ASKED[0], ("What colour is the sky?", ASKED[1][1]))
    with covft(model) as found, torch.no_grad():
        inputs = batch(model, ASKED, reads=found)
        owner = inputs["context_owner"]
        assert (len(owner) > 3) == (family in TILED)
        torch.testing.assert_close(logits(model, inputs, found), before, rtol=0, atol=1e-10)
        part_experts(found)
        vectors = []
        for asked in (ASKED, changed):
            logits(model, batch(model, asked, reads=found), found)
            vectors.append(found.context_vectors()[1])
        assert len(vectors[0]) == len(owner)
        moved = (vectors[0] - vectors[1]).abs().amax(-1)
        assert float(moved[owner == 0].max()) < 1e-9
        assert float(moved[owner == 1].min()) > 1e-6


READERS = [
    *((family, "covft", {"layers": "all"} | options) for family in TOWERS
      for options in ({}, {"context": "concat"}, {"context": "image"}, {"routing": "sparse"})),
    *((family, name, {}) for family in TOWERS if not family.startswith("qwen")  # whose images stand in one row
      for name in ("qa_vit", "text_connector")),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name", "options"), READERS, ids=str)
def test_conversation_is_answered_alone_as_beside_another_with_larger_pictures(
    family: str, name: str, options: dict
) -> None:
    model = VISION[family]()
    found = strategy(name)(model, config().changed(strategy=name, options={"text": "hashing"} | options))
    asked = ASKED if model.family.several_images else tuple((question, images[:1]) for question, images in ASKED)
    with torch.no_grad():
        drawn = torch.Generator().manual_seed(3)
        for parameter in found.trainable().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=drawn, dtype=parameter.dtype))
        together, alone = (logits(model, batch(model, some, reads=found), found) for some in (asked, asked[1:]))
        torch.testing.assert_close(together[1, -2:], alone[0, -2:], atol=1e-10, rtol=0)


@pytest.fixture(scope="module", params=["llava_next", "llava_onevision", "internvl"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """A model that cuts pictures into tiles, and the adapter of a run on it."""
    model = VISION[request.param]()
    settings = config().changed(steps=2, batch=4, micro_batch=2, learning_rate=1e-2)
    return model, finetune(settings, tmp_path_factory.mktemp("tiles") / "run", model=model, examples=ITEMS).adapter


def test_items_with_tiles_are_evaluated_together_as_alone(trained: tuple[Model, Path]) -> None:
    model, adapter = trained
    [(_, together)] = evaluate(model, ITEMS, {"covft": adapter})
    alone = [records[0] for item in ITEMS for _, records in evaluate(model, [item], {"covft": adapter})]
    assert [one.log_p_key for one in together] == pytest.approx([one.log_p_key for one in alone], abs=1e-6)


def test_states_and_contexts_of_items_with_tiles_are_read_together_as_alone(trained: tuple[Model, Path]) -> None:
    model, folder = trained
    with attached(model, {"covft": folder}) as held, held.use("covft"):
        reader = ItemReader(model)
        readings = [reader.open(item) for item in ITEMS]
        vision = PixelVision(model, reader.pictures)
        states = read_states(model, readings, vision, texts=TEXTS)
        for index, reading in enumerate(readings):
            alone = read_states(model, [reading], vision, texts=TEXTS[index : index + 1])
            torch.testing.assert_close(states[index : index + 1], alone, rtol=0, atol=1e-8)
        swapped = read_states(model, readings, vision, texts=[TEXTS[1], *TEXTS[1:]])
        assert float((swapped[0] - states[0]).abs().max()) > 1e-9
        assert torch.allclose(swapped[1:], states[1:], rtol=0, atol=1e-8)


def test_context_of_an_item_is_the_mean_over_its_tiles(trained: tuple[Model, Path]) -> None:
    model, folder = trained
    with attached(model, {"covft": folder}) as held, held.use("covft"), torch.no_grad():
        together = read_contexts(model, ITEMS, TEXTS)
        for index, item in enumerate(ITEMS):
            owner = owners(model, [item.images])
            assert len(owner) >= len(item.images)
            with adapter_at_work(model).context(TEXTS[index : index + 1], owner):
                logits(model, batch(model, [(item.prompt, item.images)]))
            tiles = context_strategy(model).context_vectors()[1]
            assert len(tiles) == len(owner)
            torch.testing.assert_close(together["context/1"][index], tiles.mean(0), rtol=0, atol=1e-8)
