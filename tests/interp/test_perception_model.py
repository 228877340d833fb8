"""The perception model: what its tower reads, what lessons say, and that training resumes and weights come back."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.errors import CrosstaskError
from interp.models.base import Model, load_model
from interp.models.perception import build, optimise
from interp.models.perception.assemble import assemble
from interp.models.perception.heads import Heads, total, words_of
from interp.models.perception.lessons import GRID, WHOLE, Lesson, cell_of, lessons
from interp.models.perception.load import DECODER, load_perception_vlm, save_weights
from interp.models.perception.optimise import Course
from interp.models.perception.scaffold import Marker, Pointer
from interp.models.perception.shards import Shard, ShardPlan, draw_shards, load_shard, plans, watched_plans
from interp.models.perception.tower import CELL_FEATURES, MultiScaleEmbeddings, MultiScaleVisionConfig
from interp.models.perception.train_decoder import ATTENTION, IGNORED, pointed, see, train_decoder
from interp.models.perception.train_tower import projected, train_tower
from interp.tasks.perception.registry import perception_task, perception_tasks

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


def test_lessons_name_the_seams_of_a_jigsaw_and_the_sides_of_boxes() -> None:
    item = perception_task("JG").item("build", 0, size=48)
    seams = [le for le in lessons(item) if le.head == "border"]
    assert {le.value for le in seams} == {item.key}
    assert all({image for image, _ in le.places} == {1, 2} for le in seams)
    item = perception_task("OL").item("build", 0, size=48)
    taught = {le.head: le.value for le in lessons(item)}
    assert taught["tight box"] == "AB"[item.key]
    assert taught["left of A"] == pytest.approx(4 * item.meta["truth"]["boxes"][0][0] - 2)


def test_shapes_of_a_count_lie_where_it_says() -> None:
    seen = 0
    for index in range(12):
        item = perception_task("CN").item("build", index, size=160, difficulty=0)
        truth = item.meta["truth"]
        assert Counter(kind for kind, _, _ in truth["places"]) == Counter(truth["counts"])
        pixels = np.asarray(item.images[0].load()).astype(int)
        for kind, x, y in truth["places"]:
            red, _, blue = pixels[int(y * 160), int(x * 160)]
            if kind in ("red", "blue") and red != blue:  # some shapes are open in their middle
                seen += 1
                assert (red > blue) == (kind == "red")
    assert seen > 10


def test_every_task_and_form_is_planned_once_for_each_item() -> None:
    wanted = plans(7, others=4, difficulties=(0.0, 0.4), per_shard=3)
    assert len({plan.file for plan in wanted}) == len(wanted)

    def of(form: str) -> list[tuple[int, int]]:
        return [(plan.start, plan.n) for plan in wanted if (plan.task, plan.form) == ("jigsaw", form)]

    assert of("pictures") == [(0, 3), (3, 3), (6, 1)]
    assert of("yes_no") == [(0, 3), (3, 1)]
    assert {(plan.task, plan.form) for plan in wanted} == {
        (name, form) for name, task in perception_tasks().items() for form in task.forms
    }
    others = watched_plans(5, difficulties=(0.0, 0.4))
    assert [plan.task for plan in others] == list(perception_tasks())
    assert all(item.name.split("/")[2] == "selection" for item in others[3].items())


def test_shards_hold_each_reply_and_are_not_drawn_twice(folder: Path, shards: list[Shard], drawing: Model) -> None:
    def none() -> Model:
        raise AssertionError("drawn again")

    draw_shards(folder, PLANS, none)
    for shard, plan in zip(shards, PLANS, strict=True):
        assert shard.cells.shape == (4 * shard.n_images, GRID * GRID, CELL_FEATURES)
        for ids, labels, item in zip(shard.ids, shard.labels, plan.items(), strict=True):
            said = drawing.tokenizer.decode(ids[labels != IGNORED]).strip()
            assert said[0] == "("
            assert said[2] == ")"
            if item.redraw is not None:
                assert said[:3] == item.answer


def test_facts_stand_at_the_letters_of_options_and_at_what_the_question_names(drawing: Model, tmp_path: Path) -> None:
    names = {"SC": "marks", "RD": "marks", "AS": "pictures", "SR": "yes_no", "CN": "words"}
    plans_of = [ShardPlan(perception_task(n).name, form, 0, 6, (0.0, 0.0)) for n, form in names.items()]
    draw_shards(tmp_path, plans_of, lambda: drawing)
    marker = Marker(drawing.tokenizer, drawing.module.config.image_token_id)
    for plan in plans_of:
        shard = load_shard(tmp_path, plan)
        found = 0
        for ids, labels, taught, item in zip(shard.ids, shard.labels, shard.lessons, plan.items(), strict=True):
            truth = item.meta["truth"]
            for fact in marker.read(ids, labels, taught).facts:
                found += 1
                before = drawing.tokenizer.decode(ids[: fact.position + 1])
                if plan.task == "semantic_correspondence":
                    last = before.split()[-1]
                    carried = last in ("REF", "(")
                    expected = truth["reference"] if carried else truth["points"]["ABCD".index(last)]
                    assert fact.value == expected
                elif plan.task == "relative_depth":
                    assert fact.value == pytest.approx(math.log(truth["depths"]["AB".index(before.split()[-1])]))
                elif plan.task == "art_style":
                    of = 0 if before.endswith("(") else ["first", "second", "third"].index(before.split()[-2])
                    assert fact.value == truth["styles"][of]
                elif plan.task == "counting":
                    assert fact.value == str(truth["counts"][truth["asked"]])
                elif fact.head == "dx":
                    assert before.endswith("(")
                    assert fact.value == pytest.approx(4 * (truth["first"][0] - truth["second"][0]))
                elif fact.head == "x":
                    where = "second" if before.split()[-1] in item.question.split("the ")[-1] else "first"
                    assert fact.value == pytest.approx(4 * truth[where][0] - 2)
        assert found, plan


def test_pointers_lead_to_marks_and_choices_to_the_right_option(drawing: Model, tmp_path: Path) -> None:
    plans_of = [
        ShardPlan(perception_task(n).name, form, 0, 6, (0.0, 0.0))
        for n, form in (("SC", "marks"), ("AS", "pictures"), ("JG", "pictures"))
    ]
    draw_shards(tmp_path, plans_of, lambda: drawing)
    token = drawing.module.config.image_token_id
    marker = Marker(drawing.tokenizer, token)
    for plan in plans_of:
        shard = load_shard(tmp_path, plan)
        for ids, labels, taught, item in zip(shard.ids, shard.labels, shard.lessons, plan.items(), strict=True):
            scaffold = marker.read(ids, labels, taught)
            cells = (ids == token).nonzero()[:, 0].tolist()
            (choice,) = scaffold.choices
            assert drawing.tokenizer.decode(ids[choice.position]).strip() == "("
            letter = drawing.tokenizer.decode(ids[choice.position + 1])
            before = drawing.tokenizer.decode(ids[: choice.tokens[0] + 1])
            assert before.rsplit("(", 1)[1].startswith(f"{letter})")
            asked = {drawing.tokenizer.decode(ids[p.tokens[0]]).strip() for p in scaffold.carried}
            if plan.task == "semantic_correspondence":
                assert asked <= {"REF"}
                for pointer in scaffold.pointers:
                    name = drawing.tokenizer.decode(ids[pointer.position]).strip()
                    image, place = (0, item.meta["reference"])
                    if name != "REF":
                        image, place = 1, item.meta["marks"]["ABCD".index(name)]
                    assert pointer.tokens == (cells[image * GRID * GRID + cell_of(place)],)
            elif plan.task == "jigsaw":  # the missing quarter's neighbours, and the upper and left border of pieces
                beside, border = (13, 14, 17, 22), (1, 3, 5, 15)
                assert asked == {"image"}
                assert {pointer.tokens for pointer in scaffold.pointers} == {
                    tuple(cells[image * GRID * GRID + cell] for cell in (border if image else beside))
                    for image in range(3)
                }
            else:
                assert asked == {"image"}
                assert {pointer.tokens for pointer in scaffold.pointers} == {
                    tuple(cells[image * GRID * GRID : (image + 1) * GRID * GRID]) for image in range(3)
                }


def test_verdicts_say_yes_or_no_and_how_far_things_are_off_as_asked(drawing: Model, tmp_path: Path) -> None:
    marker = Marker(drawing.tokenizer, drawing.module.config.image_token_id)
    for task, form in (("spatial_relation", "yes_no"), ("spatial_relation", "words"), ("art_style", "yes_no")):
        plan = ShardPlan(task, form, 0, 8, (0.0, 0.0))
        draw_shards(tmp_path, [plan], lambda: drawing)
        shard = load_shard(tmp_path, plan)
        for ids, labels, taught, item in zip(shard.ids, shard.labels, shard.lessons, plan.items(), strict=True):
            scaffold = marker.read(ids, labels, taught)
            said = {fact.head: fact.value for fact in scaffold.verdicts}
            assert {fact.position for fact in scaffold.verdicts} <= {scaffold.choices[0].position}
            answer = item.options[item.key]
            assert said.get("verdict") == (answer if form == "yes_no" else None)
            if task == "art_style" or form == "words":
                assert "way asked for" not in said
            else:
                assert (float(said["way asked for"]) > 0) == (answer == "yes")


def test_share_of_a_pointer_is_what_the_head_attends(drawing: Model) -> None:
    torch.manual_seed(0)
    model = assemble()[0]
    model.set_attn_implementation("eager")
    states = torch.randn(2, 9, 256)
    with torch.no_grad():
        out = model.model.language_model(inputs_embeds=states, output_hidden_states=True, output_attentions=True)
        for block in ATTENTION.values():
            found = [(0, Pointer(8, (2, 5))), (1, Pointer(4, (1,)))]
            loss, share = pointed(model, block, out.hidden_states[block], found)
            first = out.attentions[block][:, 0]
            shares = torch.stack([first[0, 8, [2, 5]].sum(), first[1, 4, 1]])
            assert share == pytest.approx(float(shares.mean()), rel=1e-4)
            assert float(loss) == pytest.approx(float(-shares.log().mean()), rel=1e-4)


def test_classes_are_read_as_words(drawing: Model) -> None:
    words = words_of(drawing.tokenizer, drawing.module.get_input_embeddings().weight)
    taught = [Lesson("mark", "class", 0, cell, letter) for cell, letter in enumerate("ABCD")]
    heads = Heads(taught, 256, words)
    tokens = torch.zeros(2, GRID * GRID, 256)
    for cell, letter in enumerate("ABCD"):
        tokens[1, cell] = words(letter)
    assert heads(tokens, [(1, taught)])["mark"][1] == 1
    assert heads(tokens.roll(1, 1), [(1, taught)])["mark"][1] < 0.5
    far = [Lesson("distance", "value", 0, cell, float(cell)) for cell in range(4)]
    assert Heads(far, 256, words)(tokens, [(0, far)])["distance"][0].isfinite()


def test_heads_of_one_family_count_as_one() -> None:
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    said = {
        "number of red": (one, 0.0),
        "number of blue": (two, 0.0),
        "left of A": (one, 0.0),
        "top of thing": (one, 0.0),
    }
    assert float(total({**said, "shape": (two, 0.0)})) == 1.5 + 1 + 2


def test_training_resumes_to_the_same_weights(
    shards: list[Shard], drawing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimise, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(optimise, "LOG_EVERY", 3)
    course = Course(4, 1e-3, 0)
    torch.manual_seed(0)
    start = assemble()[0]
    words = words_of(drawing.tokenizer, start.get_input_embeddings().weight.clone())

    def stop(record: dict) -> None:
        raise KeyboardInterrupt

    def trained(name: str, *, broken: bool) -> tuple[torch.nn.Module, list[dict]]:
        model = assemble()[0]
        model.load_state_dict(start.state_dict())
        folder, said = tmp_path / name, []
        folder.mkdir(exist_ok=True)
        how = {"batch": 6, "folder": folder, "log": stop if broken else said.append}
        train_tower(model, shards, course, words=words, watched=shards, **how)
        seen = see(model, shards, Marker(drawing.tokenizer, drawing.module.config.image_token_id), kept=folder / "seen")
        train_decoder(model, seen, course, parts=2, fact_weight=0.3, watched=seen, **how)
        return model, said

    whole, said = trained("whole", broken=False)
    with pytest.raises(KeyboardInterrupt):
        trained("parts", broken=True)
    assert (tmp_path / "parts" / "tower.pt").exists()
    parts, _ = trained("parts", broken=False)
    changed = {name for name, p in whole.named_parameters() if not torch.equal(p, start.get_parameter(name))}
    assert all(torch.equal(p, parts.get_parameter(name)) for name, p in whole.named_parameters())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in whole.parameters())
    for part in ("language_model.layers.5", "vision_tower.encoder", "multi_modal_projector"):
        assert any(part in name for name in changed), part
    assert not any("embed_tokens" in name or "embeddings.stem" in name for name in changed)
    assert {record["stage"] for record in said} == {
        "tower", "tower, other items", "decoder", "decoder, other items"
    }  # fmt: skip
    watched = [record for record in said if record["stage"] == "decoder, other items"][-1]
    assert {"relative_depth/marks", "counting/words", "~distance", "~number"} <= set(watched)


def test_tokens_that_the_decoder_learns_from_are_those_of_the_model(shards: list[Shard], drawing: Model) -> None:
    model = drawing.module
    (image,) = next(iter(PLANS[0].items())).images
    pixels = drawing.processor.image_processor(image.load(), return_tensors="pt")["pixel_values"].bfloat16()
    with torch.no_grad():
        model.bfloat16()
        kept = projected(model, shards[0].cells[:1])
        whole = model.model.get_image_features(pixels).pooler_output[0]
    assert torch.nn.functional.cosine_similarity(kept[0].float(), whole.float(), dim=-1).min() > 0.99


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
