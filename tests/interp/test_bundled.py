"""The bundled VLM and what it is made from: the shipped weights are loaded and asked for real."""

import csv
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from transformers import AutoModel

from interp.errors import CrosstaskError
from interp.models.bundled import evaluate
from interp.models.bundled.captions import QUESTIONS
from interp.models.bundled.load import MANIFEST, load_bundled_vlm, weights_folder
from interp.models.bundled.pictures import entities
from interp.models.bundled.scenes import cell, draw_scene
from interp.models.bundled.tower import Convolution, ConvStemVisionConfig, ConvStemVisionModel
from interp.tasks.loader import load_task, task_names

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}


@pytest.fixture(scope="module")
def bundled():
    return load_bundled_vlm()


@pytest.fixture(scope="module")
def tiny_tower():
    torch.manual_seed(0)
    return AutoModel.from_config(ConvStemVisionConfig(**TINY)).eval()


def test_stride_two_pads_only_right_and_bottom():
    convolution = Convolution(1, 1, kernel=3, stride=2)
    with torch.no_grad():
        convolution.weight.copy_(torch.ones(1, 1, 3, 3))
        convolution.bias.zero_()
    ramp = torch.arange(16.0).view(1, 1, 4, 4)
    # The first window starts at the first pixel (0..2 by 0..2), and the last one hangs over the right and lower edge.
    expected = torch.tensor([[0 + 1 + 2 + 4 + 5 + 6 + 8 + 9 + 10, 2 + 3 + 6 + 7 + 10 + 11], [78, 10 + 11 + 14 + 15]])
    expected[1, 0] = 8 + 9 + 10 + 12 + 13 + 14
    assert torch.equal(convolution(ramp)[0, 0], expected.float())


def test_tower_survives_saving_through_auto_model(tiny_tower, tmp_path):
    tiny_tower.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 64, 64)
    assert isinstance(again, ConvStemVisionModel)
    assert torch.equal(again(pixels).last_hidden_state, tiny_tower(pixels).last_hidden_state)


def test_tower_reports_hidden_states_like_any_vit(tiny_tower):
    output = tiny_tower(torch.randn(2, 3, 64, 64), output_hidden_states=True)
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, 4, 32)] * 3
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


def test_picture_is_read_alike_alone_and_in_a_batch(tiny_tower):
    pixels = torch.randn(5, 3, 64, 64)
    alone = torch.cat([tiny_tower(p[None]).last_hidden_state for p in pixels])
    torch.testing.assert_close(tiny_tower(pixels).last_hidden_state, alone, rtol=1e-4, atol=1e-5)


def test_tower_refuses_another_image_size(tiny_tower):
    with pytest.raises(ValueError, match=r"96\*96.*64\*64"):
        tiny_tower(torch.randn(1, 3, 96, 96))


def test_same_seed_draws_the_same_scene():
    first, second = (draw_scene(np.random.default_rng(7), side=96) for _ in range(2))
    assert first.shapes == second.shapes
    assert np.array_equal(first.pixels, second.pixels)
    assert not np.array_equal(first.pixels, draw_scene(np.random.default_rng(8), side=96).pixels)


def test_a_lone_shape_lies_where_the_scene_says():
    scene = draw_scene(np.random.default_rng(3), side=100, most=1, marked=0.0)
    shape = scene.shapes[0]
    ground = scene.pixels[0, 0].astype(int)
    rows, columns = np.nonzero(np.abs(scene.pixels.astype(int) - ground).sum(-1) > 60)
    assert abs(columns.mean() / 100 - shape.x) < 0.04
    assert abs(rows.mean() / 100 - shape.y) < 0.06
    assert cell(0.99, 0.0, 5) == 4


def test_training_tables_hold_no_answer_of_a_task():
    """No attribute of an entity may be what a task asks of it; the country's own name is not an answer (Singapore)."""
    by_name = {(e.family, e.name): e for e in entities()}
    families = {"countries": "country", "animals": "animal", "foods": "food"}
    for name in task_names():
        task = load_task(name)
        for item in task.items:
            entity = by_name[families[task.family], item.input]
            said = {v.lower() for k, v in entity.attributes.items() if k in QUESTIONS[entity.family]}
            told = said & {o.lower() for o in item.outputs} - {item.input.lower()}
            assert not told, f"{name}: training says {told} of {item.input}"


def test_every_task_item_is_an_entity_with_a_shipped_picture():
    for name in task_names():
        for item in load_task(name).items:
            with Pillow.open(item.image) as picture:
                assert picture.size == (224, 224)


def test_shipped_weights_stay_small():
    assert sum(f.stat().st_size for f in weights_folder().rglob("*") if f.is_file()) <= 25_000_000


@pytest.mark.slow
def test_bundled_model_names_its_held_out_pictures(bundled):
    """The card's numbers are higher; this is the bar under which the weights or the loading must be broken."""
    model, processor, _ = bundled
    said, right = [], []
    for task, family in (("country-capital", "country"), ("animal-latin", "animal"), ("food-color", "food")):
        named = {e.name: e for e in entities() if e.family == family}
        items = load_task(task).items[::8]
        pictures = [[Pillow.open(i.image).convert("RGBA")] for i in items]
        white = [[_on_white(p[0])] for p in pictures]
        said += evaluate.answers(model, processor, ["<image>\nName:"] * len(items), white)
        right += [evaluate.is_named(s, named[i.input]) for s, i in zip(said[-len(items) :], items, strict=True)]
    assert sum(right) / len(right) >= 0.5


@pytest.mark.slow
def test_blank_picture_names_next_to_nothing(bundled):
    model, processor, _ = bundled
    blank = Pillow.new("RGB", (160, 160), "white")
    said = evaluate.answers(model, processor, ["<image>\nName:"], [[blank]])[0]
    assert sum(evaluate.is_named(said, e) for e in entities()) <= 1


@pytest.mark.slow
def test_update_of_the_language_model_is_merged_and_moves_it(bundled):
    tuned = bundled[0].model.language_model.layers[10].mlp.up_proj.weight
    base = load_bundled_vlm(merge=False)[0].model.language_model.layers[10].mlp.up_proj.weight
    distance = ((tuned - base).norm() / base.norm()).item()
    assert 1e-4 < distance < 0.5


def test_damaged_weights_are_refused(tmp_path):
    with pytest.raises(CrosstaskError, match="not in"):
        load_bundled_vlm(tmp_path)
    for name in (MANIFEST, "projector.safetensors"):
        (tmp_path / name).write_bytes((weights_folder() / name).read_bytes())
    (tmp_path / "projector.safetensors").write_bytes(b"torn")
    with pytest.raises(CrosstaskError, match="missing or damaged"):
        load_bundled_vlm(tmp_path)


def _on_white(picture: Pillow.Image) -> Pillow.Image:
    ground = Pillow.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    return ground.convert("RGB")


def test_attribute_tables_have_no_empty_name():
    folder = resources.files("interp.models.bundled").joinpath("data")
    for table in ("countries.csv", "attributes_animals.csv", "attributes_foods.csv"):
        with folder.joinpath(table).open(encoding="utf-8") as file:
            names = [row["name"] for row in csv.DictReader(file)]
        assert all(names)
        assert len(set(names)) == len(names)
