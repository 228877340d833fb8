"""How the bundled VLM is trained: what a sample says, which of its tokens are trained on, and what repeats."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from interp.models.bundled import train_align
from interp.models.bundled.assemble import assemble
from interp.models.bundled.augment import augmented, plain
from interp.models.bundled.captions import QUESTIONS, Answer, Material, Sampler, scene_questions
from interp.models.bundled.pictures import SIDE, STYLES, Drawing, entities
from interp.models.bundled.scenes import Scene, Shape, draw_scene
from interp.models.bundled.train_align import IGNORED, encode
from interp.models.bundled.train_tower import learning_rate, scene_targets
from interp.tasks import load_task, task_names

KINDS = ("name", "attribute", "scene", "several", "labelled", "examples", "text")


def _drawing(entity, value):
    pixels = np.full((SIDE, SIDE, 4), 255, dtype=np.uint8)
    pixels[40:-40, 40:-40, :3] = value
    return Drawing(entity, "made up", pixels)


@pytest.fixture(scope="module")
def material():
    chosen = [e for family in QUESTIONS for e in entities() if e.family == family][::11]
    return Material([_drawing(e, 10 + 3 * i) for i, e in enumerate(chosen)], 64)


@pytest.fixture(scope="module")
def processor():
    return assemble()[1]


def _shown(sample):
    return [p.entity.name if isinstance(p, Drawing) else p.shapes if isinstance(p, Scene) else p for p in sample]


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_draws_the_same_sample(material, kind):
    first, second, other = (getattr(Sampler(material, np.random.default_rng(s)), kind)() for s in (1, 1, 2))
    assert _shown(first) == _shown(second)
    assert _shown(first) != _shown(other)


def test_text_sample_shows_no_picture(material):
    sampler = Sampler(material, np.random.default_rng(0))
    assert all(isinstance(p, str | Answer) for _ in range(30) for p in sampler.text())


def test_numbered_samples_ask_for_what_stands_at_the_number(material):
    pictured = 0
    for seed in range(40):
        sample = Sampler(material, np.random.default_rng(seed)).labelled()
        listed = {}
        for before, piece in pairwise(sample):
            if isinstance(before, str) and before.startswith("Image ") and before.endswith(": "):
                listed[before.strip(": ")] = piece.entity.name if isinstance(piece, Drawing) else piece
            if isinstance(piece, Answer):
                assert piece.text == f" {listed[before.removesuffix(' shows:')]}\n"
        pictured += sum(isinstance(p, Drawing) for p in sample)
    assert 0 < pictured < 40 * 2  # some are shown, most are named


def test_no_question_asks_what_a_task_asks():
    asked = " ".join(q for questions in QUESTIONS.values() for q in questions.values()).lower()
    words = {
        "capital",
        "currency",
        "money",
        "latin",
        "scientific",
        "baby",
        "young",
        "colour",
        "color",
        "flavour",
        "taste",
    }
    assert not words & set(asked.replace("?", "").split())


def test_samples_never_answer_with_a_task_answer(material):
    """Answers of every kind but names; a name may itself be an answer elsewhere (a kid is a goat's young)."""
    sampler = Sampler(material, np.random.default_rng(5))
    families = {"countries": "country", "animals": "animal", "foods": "food"}
    told = {}
    for task in map(load_task, task_names()):
        for item in task.items:
            told.setdefault((families[task.family], item.input), set()).update(o.lower() for o in item.outputs)
    for _ in range(300):
        sample = sampler.attribute()
        drawing = next(p for p in sample if isinstance(p, Drawing))
        answers = {p.text.strip().lower() for p in sample if isinstance(p, Answer)}
        key = (drawing.entity.family, drawing.entity.name)
        assert not answers & told.get(key, set()) - {drawing.entity.name.lower()}


@pytest.mark.slow
def test_training_resumes_as_if_it_had_not_been_killed(material, tmp_path, monkeypatch):
    """Killed in its third step, with a checkpoint after each, and started again."""

    def trained(folder):
        torch.manual_seed(0)
        model, processor, _ = assemble()
        train_align.train(
            model,
            processor,
            material,
            stage="align",
            steps=3,
            peak=1e-3,
            seed=0,
            folder=folder,
            log=lambda record: None,
        )
        return {name: p.clone() for name, p in train_align.trainable_tower(model).items()}

    def killed(sampler, processor, stage, step, generator):
        if step == 2:
            raise KeyboardInterrupt
        return micro_batches(sampler, processor, stage, step, generator)

    micro_batches = train_align.micro_batches
    monkeypatch.setattr(train_align, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(train_align, "SIZES", dict.fromkeys(train_align.SIZES, 2))
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = trained(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(train_align, "micro_batches", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "broken")
    resumed = trained(tmp_path / "broken")
    assert any((p - q).abs().max() > 0 for p, q in zip(whole.values(), _untrained(), strict=True))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def _untrained():
    torch.manual_seed(0)
    return train_align.trainable_tower(assemble()[0]).values()


@pytest.mark.slow
def test_labels_are_the_answers_and_nothing_else(material, processor):
    tokenizer = processor.tokenizer
    for seed in range(12):
        sample = Sampler(material, np.random.default_rng(seed)).several()
        batch = encode([sample], processor, torch.Generator().manual_seed(0))
        kept = batch.labels[0] != IGNORED
        assert torch.equal(batch.labels[0][kept], batch.input_ids[0][kept])
        assert tokenizer.decode(batch.input_ids[0][kept]) == "".join(p.text for p in sample if isinstance(p, Answer))


@pytest.mark.slow
def test_text_is_tokenised_as_one_string(material, processor):
    """Token by token would write two tokens where a prompt has one, or one where it has two."""
    sample = Sampler(material, np.random.default_rng(4)).text()
    whole = "".join(p.text if isinstance(p, Answer) else p for p in sample)
    batch = encode([sample], processor, torch.Generator())
    assert batch.input_ids[0, 1:].tolist() == processor.tokenizer(whole, add_special_tokens=False).input_ids


@pytest.mark.slow
def test_pictures_take_their_cells_in_order(material, processor):
    first, second = material.drawings[:2]
    batch = encode([["a ", first, second, " b"], ["c", second]], processor, torch.Generator().manual_seed(0))
    image_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert (batch.input_ids == image_id).sum(1).tolist() == [50, 25]
    assert batch.pixel_values.shape == (3, 3, 160, 160)
    assert (batch.labels == IGNORED).all()  # no answer among the pieces
    assert batch.attention_mask[:, 0].all()
    assert not batch.attention_mask[1, -1]  # the shorter row is padded on the right


def test_augmentation_repeats_with_its_seed_and_changes_the_picture(material):
    first, second = (augmented(material.drawings[:6], 64, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.abs().max() <= 1.01
    assert (first - plain(material.drawings[:6], 64)).abs().mean() > 0.05


def test_unambiguous_questions_only():
    shapes = (Shape("star", "red", 0.2, 0.2, 0.1), Shape("star", "blue", 0.8, 0.8, 0.1))
    asked = dict(scene_questions(Scene(np.zeros((4, 4, 3), np.uint8), shapes, ())))
    assert asked["How many shapes are there?"] == "two"
    assert asked["Where is the red star?"] == "top left"
    assert asked["Which shape is blue?"] == "star"
    assert "What colour is the star?" not in asked


def test_scene_targets_name_the_cell_of_each_shape():
    scenes = [draw_scene(np.random.default_rng(i), side=80) for i in range(10)]
    targets = scene_targets(scenes, 5)
    for row, scene in enumerate(scenes):
        cells = {int(s.y * 5) * 5 + int(s.x * 5) for s in scene.shapes}
        assert set(targets["kind"][row].nonzero()[:, 0].tolist()) == cells


def test_learning_rate_warms_up_and_decays():
    rates = [learning_rate(s, 100) for s in range(100)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[-1] < 0.03
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_no_style_is_both_trained_on_and_held_out():
    art = {use: {(s.package, s.version) for s in STYLES if s.use == use} for use in ("train", "held out", "evaluate")}
    assert not art["train"] & (art["held out"] | art["evaluate"])
    assert all(len(s.sha256) == 64 for s in STYLES)
