"""The perception model: what its tower reads, what lessons say, and that training resumes and weights come back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from interp.errors import CrosstaskError
from interp.models.base import Model, load_model
from interp.models.perception import build, train
from interp.models.perception.assemble import assemble
from interp.models.perception.lessons import GRID, WHOLE, cell_of, lessons
from interp.models.perception.load import DECODER, load_perception_vlm, save_weights
from interp.models.perception.shards import Shard, ShardPlan, draw_shards, load_shard, plans
from interp.models.perception.tower import CELL_FEATURES, MultiScaleEmbeddings, MultiScaleVisionConfig
from interp.tasks.perception.registry import perception_task, perception_tasks

RECIPE = {"batch": 3, "groups": 2, "peak": 1e-3, "lesson_weight": 0.3, "seed": 0}
PLANS = [ShardPlan("relative_depth", "marks", 0, 4, (0.0, 0.2)), ShardPlan("counting", "words", 0, 4, (0.0, 0.2))]


@pytest.fixture(scope="module")
def drawing() -> Model:
    return build.drawing_model()


@pytest.fixture(scope="module")
def folder(drawing: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    draw_shards(folder, PLANS, lambda: drawing)
    return folder


@pytest.fixture(scope="module")
def shards(folder: Path) -> list[Shard]:
    return [load_shard(folder, plan) for plan in PLANS]


def test_cells_stay_where_they_are_in_the_picture() -> None:
    torch.manual_seed(0)
    config = MultiScaleVisionConfig(hidden_size=64, intermediate_size=64, num_attention_heads=1, image_size=160)
    embeddings = MultiScaleEmbeddings(config).eval()
    with torch.no_grad():
        plain = torch.zeros(1, 3, 160, 160)
        dotted = plain.clone()
        dotted[..., 96:128, 32:64] = 1  # row 3, column 1
        changed = (embeddings.cells(dotted) - embeddings.cells(plain)).abs().sum(-1)[0]
    assert embeddings.cells(plain).shape == (1, GRID * GRID, CELL_FEATURES)
    assert int(changed.argmax()) == 3 * GRID + 1 == cell_of((0.3, 0.7))
    with pytest.raises(ValueError, match="doesn't match model"):
        embeddings(torch.zeros(1, 3, 128, 128))


def test_lessons_point_at_the_marks_and_say_what_is_there() -> None:
    item = perception_task("SC").item("build", 3, size=64)
    taught = lessons(item)
    marks = {le.value: (le.image, le.cell) for le in taught if le.head == "mark"}
    assert marks["REF"] == (0, cell_of(item.meta["reference"]))
    assert marks["C"] == (1, cell_of(item.meta["marks"][2]))
    part = {(le.image, le.cell): le.value for le in taught if le.head == "part of an animal"}
    assert part[marks["REF"]] == item.meta["truth"]["reference"]


@pytest.mark.parametrize("name", perception_tasks())
def test_lessons_are_about_pictures_and_cells_of_the_item(name: str) -> None:
    task = perception_task(name)
    for form in task.forms:
        item = task.item("build", 1, form=form, size=48)
        for lesson in lessons(item):
            assert lesson.image < len(item.images)
            assert lesson.cell == WHOLE or 0 <= lesson.cell < GRID * GRID
            assert (lesson.kind == "match") == bool(lesson.places)


def test_every_task_and_form_is_planned_once_for_each_item() -> None:
    wanted = plans(7, difficulties=(0.0, 0.4), per_shard=3)
    assert len({plan.file for plan in wanted}) == len(wanted)
    of_one = [(plan.start, plan.n) for plan in wanted if (plan.task, plan.form) == ("jigsaw", "yes_no")]
    assert of_one == [(0, 3), (3, 3), (6, 1)]
    assert {(plan.task, plan.form) for plan in wanted} == {
        (name, form) for name, task in perception_tasks().items() for form in task.forms
    }


def test_shards_hold_each_reply_and_are_not_drawn_twice(folder: Path, shards: list[Shard], drawing: Model) -> None:
    def none() -> Model:
        raise AssertionError("drawn again")

    draw_shards(folder, PLANS, none)
    for shard, plan in zip(shards, PLANS, strict=True):
        assert shard.cells.shape == (4 * shard.n_images, GRID * GRID, CELL_FEATURES)
        for ids, labels, item in zip(shard.ids, shard.labels, plan.items(), strict=True):
            said = drawing.tokenizer.decode(ids[labels != train.IGNORED]).strip()
            assert said[0] == "("
            assert said[2] == ")"
            if item.redraw is not None:
                assert said[:3] == item.answer


def test_training_resumes_to_the_same_weights(
    shards: list[Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 2)

    def trained(folder: Path, steps: int, model: torch.nn.Module) -> list[dict]:
        said: list[dict] = []
        folder.mkdir(exist_ok=True)
        train.train(model, shards, steps=steps, lessons_only=1, folder=folder, log=said.append, **RECIPE)
        return said

    torch.manual_seed(0)
    whole, parts = assemble()[0], assemble()[0]
    parts.load_state_dict(whole.state_dict())
    before = {name: p.clone() for name, p in whole.named_parameters()}
    trained(tmp_path / "whole", 4, whole)

    def stop(record: dict) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "LOG_EVERY", 3)
    again = {name: p.clone() for name, p in parts.named_parameters()}
    (tmp_path / "parts").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train.train(parts, shards, steps=4, lessons_only=1, folder=tmp_path / "parts", log=stop, **RECIPE)
    parts.float().load_state_dict(again, strict=False)
    trained(tmp_path / "parts", 4, parts)
    changed = {name for name, p in whole.named_parameters() if not torch.equal(p, before[name])}
    assert all(torch.equal(p, parts.get_parameter(name)) for name, p in whole.named_parameters())
    assert any("language_model.layers.5" in name for name in changed)
    assert any("vision_tower.encoder" in name for name in changed)
    assert not any("embed_tokens" in name or "embeddings.stem" in name for name in changed)


def test_weights_come_back_as_they_were_saved(drawing: Model, tmp_path: Path) -> None:
    model, _, directions, base = assemble()
    save_weights(tmp_path, model, directions, base_sha256=base)
    loaded, _, fingerprint = load_perception_vlm(tmp_path)
    for name, saved in model.model.language_model.layers.state_dict().items():
        assert torch.equal(loaded.model.language_model.layers.state_dict()[name], saved.half().float()), name
    assert torch.allclose(
        loaded.get_input_embeddings().weight, model.get_input_embeddings().weight, atol=2e-2
    )  # the projection is kept in float16
    stem = drawing.module.model.vision_tower.embeddings.stem.weight.float()
    assert torch.allclose(loaded.model.vision_tower.embeddings.stem.weight, stem, rtol=1e-2)
    assert load_model(str(tmp_path)).fingerprint == fingerprint
    with pytest.raises(CrosstaskError, match="--quantize 4bit is not for it"):
        load_model(str(tmp_path), quantize="4bit")
    (tmp_path / DECODER).write_bytes(b"damaged")
    with pytest.raises(CrosstaskError, match=r"decoder\.safetensors is missing or damaged"):
        load_perception_vlm(tmp_path)
    with pytest.raises(CrosstaskError, match="build_perception_vlm"):
        load_perception_vlm(tmp_path / "nowhere")


def test_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    build.same_recipe(tmp_path, {"steps": 3})
    build.same_recipe(tmp_path, {"steps": 3})
    with pytest.raises(CrosstaskError, match="steps was 3 and is now 4"):
        build.same_recipe(tmp_path, {"steps": 4})
