"""Data that users have: conversations, their own tasks, BLINK, VSI-Bench, and the names that stand for them."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from interp.errors import CrosstaskError
from interp.images import Image
from interp.tasks.perception import datasets
from interp.tasks.perception.blink import CONFIGS, config_of, read_blink
from interp.tasks.perception.conversations import Conversation, read_conversations
from interp.tasks.perception.items import PerceptionItem
from interp.tasks.perception.own import read_own
from interp.tasks.perception.registry import perception_tasks
from interp.tasks.perception.rows import read_rows
from interp.tasks.perception.sequences import Lazy
from interp.tasks.perception.vsi import read_vsi
from tests.tiny import picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with pictures 0.png to 3.png."""
    for number in range(4):
        picture(number).load().save(tmp_path / f"{number}.png")
    return tmp_path


def write(path: Path, rows: Sequence[Any]) -> Path:
    """JSON lines, or (.json) an indented list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(json.dumps(row) for row in rows)
    path.write_text(json.dumps(rows, indent=1) if path.suffix == ".json" else lines + "\n")
    return path


def said(question: str, reply: str = "(A)", **more: Any) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
    return {"conversations": turns, **more}


def shown(images: Iterable[Image]) -> list[bytes]:
    return [image.load().tobytes() for image in images]


# Conversations


@pytest.mark.parametrize("name", ["some.jsonl", "some.json"])
def test_conversations_are_read_from_lines_and_from_a_list(folder: Path, name: str) -> None:
    rows = [said("<image>\nWhich?", image="0.png"), said("<image>\n<image>\nSame?", "(B)", image=["1.png", "2.png"])]
    first, second = read_conversations(write(folder / name, rows))
    assert first.turns == (("Which?", "(A)"),)
    assert shown(first.images) == shown([picture(0)])
    assert second.turns == (("Same?", "(B)"),)
    assert [image.path.name for image in second.images if image.path] == ["1.png", "2.png"]
    assert re.search(r"line 2$" if name.endswith("l") else r"entry 2 \(line \d+\)$", second.where)


@pytest.mark.parametrize(
    ("question", "clean"),
    [
        ("<image>Which?", "Which?"),
        ("Which?\n<image>", "Which?"),
        ("Is <image> nice?", "Is [image 1] nice?"),
        ("<image> <image>\nIs this like <image>?", "Is this like [image 3]?"),
    ],
)
def test_tags_at_the_edges_go_and_others_become_numbers(folder: Path, question: str, clean: str) -> None:
    images = ["0.png"] * question.count("<image>")
    (found,) = read_conversations(write(folder / "some.jsonl", [said(question, image=images)]))
    assert found.turns[0][0] == clean


def test_later_turns_keep_their_order_and_words_need_no_picture(folder: Path) -> None:
    row = said("<image>Which?", image=["0.png", "1.png"])
    row["conversations"] += said("And <image>?", "(C)")["conversations"]
    talk, words = read_conversations(write(folder / "some.jsonl", [row, said("Hello?", "Hello.")]))
    assert talk.turns == (("Which?", "(A)"), ("And [image 2]?", "(C)"))
    assert (words.images, words.turns) == ((), (("Hello?", "Hello."),))


def without_reply() -> dict:
    row = said("Which?")
    del row["conversations"][1]
    return row


MISTAKES = {
    "does not exist; names are relative": said("<image>Which?", image="no.png"),
    "2 <image> tags in the questions, but 1 image;": said("<image><image>Which?", image="0.png"),
    "0 <image> tags in the questions, but 1 image;": said("Which?", image="0.png"),
    "1 <image> tag in the questions, but 0 images;": said("<image>Which?"),
    "has an <image> tag; expected tags in questions only": said("Which?", "<image>"),
    "turn 1 has the unknown role 'system'": {"conversations": [{"from": "system", "value": "Hi"}]},
    "turn 2 is from human, which is out of order; expected gpt": {
        "conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]
    },
    "turn 1 is from gpt, which is out of order": {"conversations": [{"from": "gpt", "value": "a"}]},
    "the last turn is from human": without_reply(),
    "turn 2: 'value' is ''": said("Which?", ""),
    "'conversations' is empty": {"conversations": []},
    "'conversations' is missing": {"image": "0.png"},
    "nothing but <image> tags": said("<image>", image="0.png"),
    "'video' is not supported": said("Which?", video="a.mp4"),
    "turn 1 is 'Which?'; expected an object": {"conversations": ["Which?"]},
    "is no JSON object": ["Which?"],
}


@pytest.mark.parametrize("message", MISTAKES)
@pytest.mark.parametrize("name", ["some.jsonl", "some.json"])
def test_a_mistake_in_a_conversation_is_named_by_file_and_line(folder: Path, name: str, message: str) -> None:
    path = write(folder / name, [said("<image>Which?", image="0.png"), MISTAKES[message]])
    place = "line 2" if name.endswith("l") else r"entry 2 \(line 15\)"
    with pytest.raises(CrosstaskError, match=rf"some\.jsonl?, {place}.*{re.escape(message)}"):
        read_conversations(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": \n', r"some.jsonl, line 2 is not JSON"),
        ('[{"a": 1},\n {"a": }]', r"some.jsonl, entry 2 \(line 2\) is not JSON"),
        ('[{"a": 1}\n {"a": 2}]', r"some.jsonl: after entry 1 \(line 1\) a comma"),
        ('[{"a": 1}] {}', r"more follows after the end of the list"),
        ("[]", "is empty"),
        ("\n", "is empty"),
    ],
)
def test_what_is_not_json_or_empty_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(text)
    with pytest.raises(CrosstaskError, match=message):
        read_rows(path)
    with pytest.raises(CrosstaskError, match="There is no file"):
        read_rows(tmp_path / "none.jsonl")


# A user's own task


def own(number: int, **more: Any) -> dict:
    row = {"images": [f"{number % 4}.png"], "question": f"Which {number}?", "options": ["box", "ball"], "answer": "B"}
    return row | more


def test_own_task_takes_letters_brackets_and_texts(folder: Path) -> None:
    rows = [own(0), own(1, answer="(A)"), own(2, answer="ball", id="x")]
    found = read_own(write(folder / "weights.jsonl", [row | {"split": "test"} for row in rows]))
    assert [item.key for item in found["test"]] == [1, 0, 1]
    assert found["test"][2].name == "weights/test/x"
    assert {item.task for item in found["test"]} == {"weights"}
    assert shown(found["test"][0].images) == shown([picture(0)])
    assert found["train"] == found["selection"] == []


def test_own_task_without_splits_selects_forty_percent_whatever_the_order(folder: Path) -> None:
    rows = [own(number) for number in range(20)]
    found = read_own(write(folder / "a.jsonl", rows))
    assert {split: len(items) for split, items in found.items()} == {"train": 0, "selection": 8, "test": 12}
    turned = read_own(write(folder / "b.jsonl", rows[::-1]))
    assert {item.question for item in turned["selection"]} == {item.question for item in found["selection"]}
    other = read_own(folder / "a.jsonl", split_seed=1)
    assert {item.question for item in other["selection"]} != {item.question for item in found["selection"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "C"}, "the answer 'C' is neither a letter from A to B nor one of the options"),
        ({"options": ["B", "A"]}, "the letter of one option and the text of another"),
        ({"options": ["box"]}, "1 options; expected 2 to 8"),
        ({"options": ["box", "box"]}, "not all different"),
        ({"images": ["no.png"]}, "does not exist"),
        ({"images": []}, "'images' is empty"),
        ({"question": ""}, "'question' is ''"),
        ({"split": "dev"}, "the split 'dev' is unknown"),
        ({"hint": "left"}, "the key 'hint' is unknown"),
        ({"question": "Which 0?", "images": ["0.png"]}, "line 1 again"),
    ],
)
def test_a_mistake_in_an_own_task_is_named_by_line(folder: Path, change: dict, message: str) -> None:
    rows = [own(0, split="test"), own(1, split="test") | change]
    with pytest.raises(CrosstaskError, match=rf"mine\.jsonl, line 2: .*{message}"):
        read_own(write(folder / "mine.jsonl", rows))


def test_a_split_is_on_every_line_or_on_none(folder: Path) -> None:
    with pytest.raises(CrosstaskError, match="line 2: 'split' is missing"):
        read_own(write(folder / "mine.jsonl", [own(0, split="test"), own(1)]))


# BLINK


def blink_row(number: int, config: str, *, split: str = "val", images: int = 1, answer: str = "(B)") -> dict:
    row: dict[str, Any] = {
        "idx": f"{split}_{config}_{number}",
        "question": "Which point is closer?",
        "sub_task": config,
        **{f"image_{k}": f"{k - 1}.png" if k <= images else None for k in range(1, 5)},
        "choices": ["A is closer", "B is closer"],
        "answer": answer,
        "prompt": "Published words.\n(A) A is closer\n(B) B is closer",
        "explanation": "",
    }
    return row


@pytest.fixture
def blink(folder: Path) -> Path:
    """Two tasks as a user may have them: JSON lines with files, and parquet with the pictures inside."""
    parquet, arrow = (pytest.importorskip(name) for name in ("pyarrow.parquet", "pyarrow"))
    depth = folder / "Relative_Depth"
    depth.mkdir()
    for number in range(4):
        picture(number).load().save(depth / f"{number}.png")
    write(depth / "val.jsonl", [blink_row(k, "Relative_Depth") for k in range(3)])
    hidden = [blink_row(k, "Relative_Depth", split="test", answer="hidden") for k in range(2)]
    write(depth / "test.jsonl", hidden)
    rows = [blink_row(k, "Jigsaw", images=3, answer="(A)") for k in range(4)]
    for row in rows:
        for key in ("image_1", "image_2", "image_3"):
            row[key] = {"bytes": (depth / row[key]).read_bytes(), "path": row[key]}
    for part in range(2):
        path = folder / "Jigsaw" / f"val-{part:05}-of-00002.parquet"
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(arrow.Table.from_pylist(rows[2 * part : 2 * part + 2]), path)
    return folder


def test_blink_is_read_from_lines_and_parquet_alike(blink: Path) -> None:
    depth, jigsaw = read_blink("RD", blink), read_blink("Jigsaw", blink)
    assert [item.name for item in depth] == [f"blink/val_Relative_Depth_{k}" for k in range(3)]
    assert [item.name for item in jigsaw] == [f"blink/val_Jigsaw_{k}" for k in range(4)]
    assert (depth[0].key, depth[0].answer, jigsaw[0].answer) == (1, "(B)", "(A)")
    assert [len(item.images) for item in (depth[0], jigsaw[0])] == [1, 3]
    assert shown(jigsaw[0].images) == shown(map(picture, range(3)))
    assert (depth[0].task, jigsaw[0].task) == ("relative_depth", "jigsaw")
    assert depth[0].chance == 0.5


def test_blink_asks_its_published_prompt_until_the_options_are_shifted(blink: Path) -> None:
    item = read_blink("Relative_Depth", blink)[0]
    assert item.prompt.startswith("Published words.")
    shifted = item.shifted(1)
    assert shifted.prompt.splitlines()[0] == "Which point is closer?"
    assert (shifted.key, shifted.options[0]) == (0, "B is closer")


def test_blink_disclaims_three_tasks_when_asked(blink: Path) -> None:
    jigsaw = read_blink("JG", blink, disclaimer="A word before. ")[0]
    assert jigsaw.prompt == "A word before. " + "Published words.\n(A) A is closer\n(B) B is closer"
    assert jigsaw.shifted(1).prompt.startswith("A word before. ")
    assert not read_blink("RD", blink, disclaimer="A word before. ")[0].prompt.startswith("A word before. ")


def test_blink_joins_pictures_on_black_for_models_of_one(blink: Path) -> None:
    (item, *_), (apart, *_) = read_blink("JG", blink, joined=True), read_blink("JG", blink)
    (whole,) = item.images
    pixels, parts = np.asarray(whole.load()), [np.asarray(image.load()) for image in apart.images]
    assert pixels.shape[1] == sum(part.shape[1] for part in parts) + 20
    width = parts[0].shape[1]
    assert (pixels[:, width : width + 10] == 0).all()
    assert np.array_equal(pixels[: parts[1].shape[0], width + 10 : width + 10 + parts[1].shape[1]], parts[1])


def test_hidden_keys_are_refused_and_can_be_kept_for_predictions(blink: Path) -> None:
    with pytest.raises(CrosstaskError, match="keys of BLINK's test split are hidden"):
        read_blink("RD", blink, split="test")
    with pytest.raises(CrosstaskError, match="hidden"):
        datasets.test_data(f"blink:{blink}#RD", split="test")
    kept = read_blink("RD", blink, split="test", hidden="keep")
    assert [item.meta["hidden"] for item in kept] == [True, True]


def test_all_fourteen_tasks_of_blink_are_known_however_they_are_spelt() -> None:
    assert len(set(CONFIGS.values())) == 14
    assert {task.abbreviation for task in perception_tasks(core=True).values()} <= set(CONFIGS)
    for short, config in CONFIGS.items():
        assert config_of(short.lower()) == config_of(config.lower().replace("_", " ")) == config
    with pytest.raises(CrosstaskError, match="BLINK has no task 'depth'"):
        config_of("depth")


def test_mistakes_in_blink_are_named(blink: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrosstaskError, match=r"no val split of Counting; expected Counting/val-\*.parquet"):
        read_blink("Counting", blink)
    write(blink / "Counting" / "val.jsonl", [blink_row(0, "Counting", images=0)])
    with pytest.raises(CrosstaskError, match=r"val\.jsonl, line 1: there is no picture"):
        read_blink("Counting", blink)
    write(blink / "Relative_Depth" / "val.jsonl", [blink_row(0, "Relative_Depth", answer="(C)")])
    with pytest.raises(CrosstaskError, match=r"the answer '\(C\)' is none of \(A\), \(B\)"):
        read_blink("RD", blink)
    with pytest.raises(CrosstaskError, match="There is no folder 'nowhere'"):
        read_blink("RD", "nowhere")
    (blink / "Jigsaw" / "val-00000-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(CrosstaskError, match="cannot be read as parquet"):
        read_blink("JG", blink)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CrosstaskError, match="pip install pyarrow"):
        read_blink("JG", blink)


def test_blink_of_the_hub_is_downloaded_a_task_at_a_time(blink: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []

    def snapshot(name: str, *, repo_type: str, allow_patterns: list[str]) -> str:
        asked.append((name, repo_type, allow_patterns))
        if name == "some/where":
            raise OSError("no network")
        return str(blink)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert len(datasets.test_data("blink:Relative_Depth")) == 3
    assert asked == [("BLINK-Benchmark/BLINK", "dataset", ["Relative_Depth/*"])]
    with pytest.raises(CrosstaskError, match=r"some/where cannot be downloaded \(no network\): give a local folder"):
        datasets.test_data("blink:some/where#RD")


# VSI-Bench


def vsi_row(number: int, **more: Any) -> dict:
    row = {"id": number, "dataset": "scannet", "scene_name": "scene1", "question_type": "object_counting"}
    return row | {"question": "How many chairs?", "options": None, "ground_truth": "4"} | more


CHOICE = {"question_type": "object_rel_distance", "options": ["A. sofa", "B. tv", "C. bed"], "ground_truth": "C"}


@pytest.fixture
def vsi(folder: Path) -> Path:
    scene = folder / "scannet" / "scene1"
    scene.mkdir(parents=True)
    for number in range(12):
        picture(number).load().save(scene / f"frame {number}.png")
    return write(folder / "vsi.jsonl", [vsi_row(0), vsi_row(1, **CHOICE), vsi_row(2, ground_truth=2.5)])


def test_vsi_asks_numbers_and_choices_over_spaced_frames(vsi: Path) -> None:
    count, choice, size = read_vsi(vsi, frames=4)
    assert [path.stem for path in (image.path for image in count.images) if path] == [
        f"frame {k}" for k in (0, 4, 7, 11)
    ]
    assert (count.number, count.answer, count.options) == (4.0, "4", ())
    assert count.prompt.endswith("using a single word or phrase.")
    assert (size.number, size.answer) == (2.5, "2.5")
    assert (choice.key, choice.options, choice.answer) == (2, ("sofa", "tv", "bed"), "(C)")
    assert choice.prompt.splitlines()[2:4] == ["Options:", "A. sofa"]
    assert len(read_vsi(vsi, frames=40)[0].images) == 12
    assert [item.number for item in datasets.test_data(f"vsi:{vsi}#object_counting")] == [4.0, 2.5]


def test_vsi_reads_a_video_where_pyav_is_installed(vsi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = vsi.parent / "scannet"
    (scenes / "scene1").rename(scenes / "elsewhere")
    (scenes / "scene1.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    items = read_vsi(vsi, frames=2)  # nothing is decoded yet
    with pytest.raises(CrosstaskError, match=r"needs PyAV \(pip install av\); or write its frames into the folder"):
        items[0]

    class Container:
        def __enter__(self) -> Container:
            return self

        def __exit__(self, *_: object) -> None: ...

        def decode(self, video: int) -> Any:
            return (SimpleNamespace(to_image=lambda k=k: picture(k).load()) for k in range(5))

    monkeypatch.setitem(sys.modules, "av", SimpleNamespace(open=lambda _: Container()))
    assert items[0].images == tuple(map(picture, (0, 4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scene_name": "scene2"}, "the scene scannet/scene2 is not in"),
        ({"question_type": "smell"}, "the question type 'smell' is unknown"),
        ({"ground_truth": "four"}, "the answer 'four' is no number"),
        (CHOICE | {"ground_truth": "D"}, "the answer 'D' is no letter of its 3 options"),
        ({"question": None}, "'question' is None"),
    ],
)
def test_a_mistake_in_vsi_is_named_by_line(vsi: Path, change: dict, message: str) -> None:
    write(vsi, [vsi_row(0), vsi_row(1) | change])
    with pytest.raises(CrosstaskError, match=f"vsi.jsonl, line 2: {message}"):
        read_vsi(vsi)


# Names


def test_every_kind_of_name_is_resolved(folder: Path, blink: Path, vsi: Path) -> None:
    name = next(iter(perception_tasks(core=True).values())).abbreviation
    talks = write(folder / "talks.jsonl", [said("<image>Which?", image="0.png")] * 10)
    mine = write(folder / "mine.jsonl", [own(k, split="train" if k < 6 else "test") for k in range(10)])
    assert len(datasets.training_data(name, n=1000, size=32)) == 1000
    assert all(isinstance(talk, Conversation) for talk in datasets.training_data(str(talks)))
    assert len(datasets.training_data(talks, n=3)) == 3
    assert len(datasets.training_data(f"{talks}%50")) == 5
    assert len(datasets.training_data(str(mine))) == 6
    for given, n in ((name, 7), (str(mine), 4), (f"blink:{blink}#Jigsaw", 4), (f"vsi:{vsi}", 3)):
        items = datasets.test_data(given, n=7, size=32)
        assert len(items) == n
        assert all(isinstance(item, PerceptionItem) for item in items)


def test_procedural_items_are_those_of_the_task_and_drawn_on_access() -> None:
    task = next(iter(perception_tasks(core=True).values()))
    data = datasets.training_data(task.name, n=10**9, form=task.form, size=32, seed=3, difficulty=0.2)
    expected = task.item("train", 5, size=32, seed=3, difficulty=0.2)
    assert (data[5].name, data[5].images) == (expected.name, expected.images)
    assert data[-1].name == f"{task.name}/{task.form}/train/3/{10**9 - 1}"
    assert [item.name for item in data[5:7]] == [data[5].name, data[6].name]
    assert datasets.test_data(task.name, n=2, split="selection", size=32)[0].meta["split"] == "selection"
    other = list(task.forms)[-1]
    assert datasets.test_data(f"{task.abbreviation}/{other}", n=2, size=32)[0].meta["form"] == other


def test_a_part_of_a_file_depends_on_the_seed_alone(folder: Path) -> None:
    talks = str(write(folder / "talks.jsonl", [said(f"Which {k}?") for k in range(50)]))
    first, again, other = (
        [talk.turns[0][0] for talk in datasets.training_data(talks, n=9, seed=seed)] for seed in (0, 0, 1)
    )
    assert first == again != other
    assert first == sorted(first, key=lambda text: int(text[6:-1]))


def test_mixture_has_its_shares_in_every_beginning(folder: Path) -> None:
    name = next(iter(perception_tasks(core=True).values())).abbreviation
    talks = str(write(folder / "talks.jsonl", [said(f"Which {k}?") for k in range(30)]))
    mixed = datasets.mixture([(name, 3), (talks, 1)], n=40, size=32)
    kinds = [type(example).__name__ for example in mixed]
    assert Counter(kinds) == {"PerceptionItem": 30, "Conversation": 10}
    for stop in (4, 12, 20):
        assert abs(kinds[:stop].count("Conversation") - stop / 4) <= 1
    drawn = [example.name for example in mixed if isinstance(example, PerceptionItem)]
    assert len(set(drawn)) == 30
    levels = {name: 0.0, "RD": 1.0}
    hard = datasets.mixture([(name, 1), ("RD", 1)], n=4, size=32, difficulty=levels)
    asked = {item.meta["difficulty"] for item in hard if isinstance(item, PerceptionItem)}
    assert asked == {0.0, 1.0}
    thirds = datasets.mixture([(name, 1), (talks, 1), ("none", 0)], n=5, size=32)
    assert Counter(type(example).__name__ for example in thirds) == {"PerceptionItem": 3, "Conversation": 2}


def test_names_that_stand_for_nothing_are_refused(folder: Path, vsi: Path) -> None:
    name = next(iter(perception_tasks(core=True).values())).abbreviation
    talks = str(write(folder / "talks.jsonl", [said("Which?")]))
    mine = str(write(folder / "mine.jsonl", [own(k) for k in range(5)]))
    odd = str(write(folder / "odd.jsonl", [{"text": "Which?"}]))
    refused = [
        (lambda: datasets.training_data("no/such.jsonl"), "There is no file no/such.jsonl"),
        (lambda: datasets.training_data("smell", n=3), "no perception task 'smell'"),
        (lambda: datasets.training_data(name), "expected their number, not None"),
        (lambda: datasets.training_data(name, n=3, split="dev"), "no split 'dev'"),  # type: ignore[arg-type]
        (lambda: datasets.training_data("blink:Jigsaw", n=3), "is for testing alone"),
        (lambda: datasets.training_data(talks, n=2), "has 1 examples to learn from, and 2 are asked for"),
        (lambda: datasets.training_data(f"{talks}%150"), "no share in percent"),
        (lambda: datasets.training_data(mine), "no items of the split 'train' .*2 of selection, 3 of test"),
        (lambda: datasets.training_data(odd), "neither 'conversations' nor 'question'"),
        (lambda: datasets.test_data(talks), "holds conversations, which are for training alone"),
        (lambda: datasets.test_data(f"vsi:{vsi}", split="val"), "VSI-Bench has no split 'val'"),
        (lambda: datasets.mixture([], n=3), "needs sources"),
        (lambda: datasets.mixture([(name, -1), (talks, 2)], n=3), "weights of zero or more"),
        (lambda: datasets.mixture([(name, 1), (name, 2)], n=3), "each source once"),
    ]
    for call, message in refused:
        with pytest.raises(CrosstaskError, match=message):
            call()


def test_lazy_sequences_make_entries_when_asked() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * 10

    numbers = Lazy(6, make)
    assert (len(numbers), len(numbers[1:4]), made) == (6, 3, [])
    assert (numbers[2], numbers[-1], numbers[1:4][1], list(numbers.at([5, 0]))) == (20, 50, 20, [50, 0])
    assert made == [2, 5, 2, 5, 0]
    with pytest.raises(IndexError):
        numbers[6]
