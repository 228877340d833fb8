"""Vision features kept on disk: the same training, without the tower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow

from interp.errors import CrosstaskError
from interp.images import Image
from interp.models.base import Model
from interp.tuning.batch import collate
from interp.tuning.encoding import encode
from interp.tuning.features import FeatureStore, covered_store, embed, image_features
from tests import tiny_families as tiny
from tests.tiny import picture, tiny_llama, tiny_llava

COVERED = [
    tiny.llava,
    tiny.llava_next,
    tiny.idefics2,
    tiny.idefics3,
    tiny.qwen2_vl,
    tiny.qwen2_5_vl,
    tiny.gemma3,
    tiny.internvl,
    tiny.paligemma,
]
UNCOVERED = [tiny.llava_onevision, tiny.qwen3_vl, tiny.fuyu]
IMAGES = [picture(1), picture(2, (20, 12)), picture(3)]


@pytest.mark.parametrize("make", COVERED, ids=lambda make: make.__name__)
def test_logits_from_features_are_those_from_pixels(make: Callable[[], Model], tmp_path: Path) -> None:
    model = make()
    rows = [encode(model, IMAGES[:1], [("What?", "(A)")]), encode(model, IMAGES[1:], [("Which is it?", "(B)")])]
    store = covered_store(model, tmp_path, rows)
    assert store is not None
    kept = embed(model, collate(model, rows, features=[store.get(row.images) for row in rows]))
    pixels = collate(model, rows)
    assert "input_ids" not in kept
    ours, theirs = (model.module(**{k: v for k, v in b.items() if k != "labels"}).logits for b in (kept, pixels))
    real = pixels["attention_mask"].bool()
    assert torch.allclose(ours[real], theirs[real], atol=1e-9)


@pytest.mark.parametrize("make", UNCOVERED, ids=lambda make: make.__name__)
def test_other_architectures_are_left_to_pixels(make: Callable[[], Model], tmp_path: Path) -> None:
    model = make()
    assert covered_store(model, tmp_path, [encode(model, IMAGES[:1], [("What?", "(A)")])]) is None
    assert not any(tmp_path.rglob("*.safetensors"))


def test_architecture_whose_logits_differ_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_llava()
    wrong = lambda model, image: image_features(model, image) * 1.001  # noqa: E731
    monkeypatch.setattr("interp.tuning.features.image_features", wrong)
    assert covered_store(model, tmp_path, [encode(model, IMAGES[:1], [("What?", "(A)")])]) is None
    assert "differ by" in caplog.text


def test_features_are_computed_once_for_equal_pictures(tmp_path: Path) -> None:
    model = tiny_llava()
    store = FeatureStore(model, tmp_path)
    again = Image(pixels=picture(1).pixels)
    first, second = store.get([picture(1), again])
    assert torch.equal(first, second)
    assert store.computed == 1
    other = FeatureStore(model, tmp_path)
    assert torch.equal(other.get([picture(1)])[0], first)
    assert other.computed == 0


def test_torn_file_is_computed_again(tmp_path: Path) -> None:
    model = tiny_llava()
    (found,) = FeatureStore(model, tmp_path).get([picture(1)])
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    store = FeatureStore(model, tmp_path)
    assert torch.equal(store.get([picture(1)])[0], found)
    assert store.computed == 1


def changed_tower(model: Model) -> None:
    with torch.no_grad():
        model.module.model.vision_tower.post_layernorm.bias.add_(1)


def changed_projector(model: Model) -> None:
    with torch.no_grad():
        model.module.model.multi_modal_projector.linear_2.bias.add_(1)


def changed_processor(model: Model) -> None:
    model.processor.image_processor.image_mean = [0.1, 0.2, 0.3]  # type: ignore[union-attr]


def changed_layer(model: Model) -> None:
    model.module.config.vision_feature_layer = -2


@pytest.mark.parametrize("change", [changed_tower, changed_projector, changed_processor, changed_layer])
def test_features_of_other_weights_or_settings_are_kept_apart(change: Callable[[Model], None], tmp_path: Path) -> None:
    model = tiny_llava()
    before = FeatureStore(model, tmp_path)
    change(model)
    assert FeatureStore(model, tmp_path).folder != before.folder


def test_features_do_not_depend_on_the_language_model(tmp_path: Path) -> None:
    one, other = tiny_llava(), tiny_llava()
    with torch.no_grad():
        other.blocks[0].mlp.up_proj.weight.add_(1)
    assert FeatureStore(one, tmp_path).folder == FeatureStore(other, tmp_path).folder


def test_model_without_images_has_no_store(tmp_path: Path) -> None:
    with pytest.raises(CrosstaskError, match="it takes no images"):
        FeatureStore(tiny_llama(), tmp_path)


def test_number_of_features_has_to_fit(tmp_path: Path) -> None:
    model = tiny_llava()
    row = encode(model, [picture(1)], [("What?", "(A)")])
    white = Image(pixels=Pillow.new("RGB", (8, 8), "white"))
    features = FeatureStore(model, tmp_path).get([picture(1), white])
    with pytest.raises(CrosstaskError, match="has 4 places for vision features, but 8"):
        embed(model, collate(model, [row], features=[features]))
