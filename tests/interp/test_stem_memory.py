"""What a frozen stem makes of pictures is computed once, and never where it would be wrong."""

import pytest
import torch
from safetensors.torch import load_file

from interp.models.base import load_model
from interp.models.bundled.stem_memory import StemMemory, remembered
from interp.models.bundled.tower import Convolution, ConvStemVisionConfig, ConvStemVisionModel
from interp.models.perception.tower import MultiScaleEmbeddings, MultiScaleVisionConfig, MultiScaleVisionModel
from interp.tasks.perception.registry import perception_task
from interp.tuning.config import TuneConfig
from interp.tuning.evaluation.evaluate import evaluate
from interp.tuning.run import finetune

KINDS = [(ConvStemVisionConfig, ConvStemVisionModel), (MultiScaleVisionConfig, MultiScaleVisionModel)]


@pytest.fixture(params=KINDS, ids=["one scale", "three scales"])
def tower(request):
    torch.manual_seed(0)
    config, kind = request.param
    made = kind(
        config(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64)
    ).eval()
    for part in made.modules():
        if isinstance(part, Convolution):  # maps of the size that trained ones have
            torch.nn.init.kaiming_normal_(part.weight)
    return made


def freeze_stem(tower, frozen=True):
    for part in (tower.embeddings.stem, tower.embeddings.blocks):
        part.requires_grad_(not frozen)
    if hasattr(tower.embeddings, "head"):
        tower.embeddings.head.requires_grad_(not frozen)


def pictures(n, seed=0):
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_each_picture_goes_through_the_stem_once(tower):
    freeze_stem(tower)
    x = pictures(4)
    plain = tower(pixel_values=x).last_hidden_state
    with remembered(tower) as memory:
        first = tower(pixel_values=x[:3]).last_hidden_state
        again = tower(pixel_values=x[[3, 1, 0, 1]]).last_hidden_state
    assert memory.computed == 4
    torch.testing.assert_close(first, plain[:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, plain[[3, 1, 0, 1]], rtol=1e-4, atol=1e-5)
    assert tower.embeddings.memory is None


def test_maps_of_a_picture_do_not_depend_on_the_batch_it_comes_in(tower):
    freeze_stem(tower)
    x = pictures(3)
    with remembered(tower):
        together = tower.embeddings.frozen_maps(x)
    with remembered(tower):
        alone = torch.cat([tower.embeddings.frozen_maps(x[i : i + 1]) for i in (2, 0, 1)])[[1, 2, 0]]
    assert torch.equal(together, alone)


def test_what_is_behind_the_stem_has_the_gradients_that_it_has_without(tower):
    freeze_stem(tower)
    x = pictures(3)

    def gradients():
        tower.zero_grad()
        tower(pixel_values=x).last_hidden_state.square().mean().backward()
        return {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}

    plain = gradients()
    with remembered(tower) as memory:
        with torch.inference_mode():
            tower(pixel_values=x)  # what was seen without gradients first can be learned from afterwards
        kept = gradients()
    assert memory.computed == 3
    assert kept.keys() == plain.keys()
    assert len(kept) > 10
    for name, gradient in plain.items():
        torch.testing.assert_close(kept[name], gradient, rtol=1e-3, atol=1e-6)


def test_another_stem_is_computed_anew(tower):
    freeze_stem(tower)
    x = pictures(2)
    with remembered(tower) as memory:
        before = tower.embeddings.frozen_maps(x)
        with torch.no_grad():
            tower.embeddings.stem.bias.add_(0.5)
        after = tower.embeddings.frozen_maps(x)
    assert memory.computed == 4
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, tower.embeddings.stem_maps(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("what", ["stem", "pixels"])
def test_nothing_is_remembered_where_the_stem_or_the_pixels_have_gradients(tower, what):
    freeze_stem(tower, frozen=what != "stem")
    x = pictures(2).requires_grad_(what == "pixels")
    with remembered(tower) as memory:
        tower(pixel_values=x).last_hidden_state.sum().backward()
    assert memory.computed == 0
    assert (tower.embeddings.stem.weight if what == "stem" else x).grad.abs().sum() > 0


def test_a_full_memory_drops_what_was_not_needed_for_longest(tower):
    freeze_stem(tower)
    x = pictures(3)
    size = tower.embeddings.stem_maps(x[:1]).nbytes
    with remembered(tower, StemMemory(limit=2 * size)) as memory:
        for index in (0, 1, 0, 2, 0):
            tower.embeddings.frozen_maps(x[index : index + 1])
        assert memory.computed == 3
        tower.embeddings.frozen_maps(x[1:2])
    assert memory.computed == 4


def test_the_outer_memory_stays_and_one_that_is_given_lasts(tower):
    freeze_stem(tower)
    x, lasting = pictures(2), StemMemory()
    for _ in range(2):
        with remembered(tower, lasting) as outer, remembered(tower) as inner:
            tower.embeddings.frozen_maps(x)
        assert outer is inner is lasting
    assert lasting.computed == 2


def test_models_without_such_a_stem_are_as_before():
    module = torch.nn.Linear(2, 2)
    with remembered(module) as memory:
        assert memory is None


def test_a_tower_learns_the_same_and_its_pictures_go_through_the_stem_once(tmp_path, monkeypatch):
    model = load_model("perception", dtype="float64")  # rounding by the number of threads does not matter
    items = [perception_task("relative_depth").item("train", index) for index in range(4)]
    passed, kept = [], {}
    plain = MultiScaleEmbeddings.stem_maps
    monkeypatch.setattr(MultiScaleEmbeddings, "stem_maps", lambda self, x: passed.append(len(x)) or plain(self, x))
    for features in ("auto", "off"):
        config = TuneConfig(
            "RD",
            model="perception",
            strategy="vision_full",
            steps=3,
            batch=4,
            micro_batch=2,
            warmup=0.0,
            features=features,
        )
        run = finetune(config, tmp_path / features, model=model, examples=items)
        kept[features] = load_file(run.adapter / "vision_model.safetensors"), sum(passed)
        passed.clear()
    (one, once), (other, often) = kept["auto"], kept["off"]
    assert (once, often) == (4, 12)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-5)
    records = dict(evaluate(model, items, {name: tmp_path / name / "adapter" for name in kept}))
    shifted = {image.key for item in items for by in range(2) for image in item.shifted(by).images}
    assert passed == [1] * len(shifted)  # by two adapters together
    assert [r.log_p_key for r in records["auto"]] == pytest.approx([r.log_p_key for r in records["off"]], abs=1e-3)
