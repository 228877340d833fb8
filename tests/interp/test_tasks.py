"""Tasks: what the bundled tables promise, and what a bad table is told."""

import csv
import re
from pathlib import Path

import pytest

from interp.errors import CrosstaskError
from interp.scoring import normalise
from interp.tasks import Item, Task, load_task, task_names
from interp.tasks.loader import read_items

PACKAGE = Path(__file__).parents[2] / "interp"
FAMILIES = {
    "countries": ("country-capital", "country-currency"),
    "animals": ("animal-latin", "animal-young"),
    "foods": ("food-color", "food-flavor"),
}
TRAINED_ON = {"countries": "countries.csv", "animals": "attributes_animals.csv", "foods": "attributes_foods.csv"}


def write_task(folder: Path, table: str | bytes, *, instruction: str | None = "The opposite of the word:") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "items.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    if instruction is not None:
        (folder / "instruction.txt").write_text(instruction)
    return folder


def words(text: str) -> list[str]:
    return normalise(re.sub(r"[^\w]+", " ", text)).split()


# ---- the bundled tables


def test_the_six_tasks_are_named_in_the_order_of_the_paper():
    assert task_names() == [name for pair in FAMILIES.values() for name in pair]


@pytest.mark.parametrize("family", FAMILIES)
def test_tasks_of_a_family_share_inputs_pictures_and_splits(family):
    one, two = (load_task(name) for name in FAMILIES[family])
    assert (one.family, two.family) == (family, family)
    assert [(i.input, i.image, i.split) for i in one.items] == [(i.input, i.image, i.split) for i in two.items]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_item_of_a_family_has_its_own_picture(family):
    images = [item.image for item in load_task(FAMILIES[family][0]).items]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("name", sum(FAMILIES.values(), ()))
def test_a_bundled_table_has_60_to_130_items_in_two_splits(name):
    task = load_task(name)
    assert 60 <= len(task.items) <= 130
    assert len(task.split("selection")) + len(task.split("test")) == len(task.items)
    assert 0.35 <= len(task.split("selection")) / len(task.items) <= 0.45
    assert task.instruction.endswith(":")


@pytest.mark.parametrize("name", sum(FAMILIES.values(), ()))
def test_repeating_the_input_is_never_right(name):
    for item in load_task(name).items:
        assert normalise(item.input) not in {normalise(output) for output in item.outputs}


@pytest.mark.parametrize("name", ["country-capital", "animal-latin"])
def test_no_demonstration_gives_another_items_canonical_answer_away(name):
    outputs = [normalise(item.outputs[0]) for item in load_task(name).items]
    assert len(set(outputs)) == len(outputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_input_is_a_name_the_bundled_model_is_taught(family):
    with (PACKAGE / "models" / "bundled" / "data" / TRAINED_ON[family]).open(encoding="utf-8") as file:
        taught = {row["name"] for row in csv.DictReader(file)}
    assert {item.input for item in load_task(FAMILIES[family][0]).items} <= taught


@pytest.mark.parametrize("name", sum(FAMILIES.values(), ()))
def test_what_the_bundled_model_is_taught_holds_no_answer_of_the_tasks(name):
    """Captions are made from these cells, and the six tasks must measure what nobody trained on."""
    task = load_task(name)
    answers = {" ".join(words(output)) for item in task.items for output in item.outputs}
    with (PACKAGE / "models" / "bundled" / "data" / TRAINED_ON[task.family]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= len(task.items)
    for row in rows:
        for column, cell in row.items():
            if column in ("name", "aliases", "iso2", "neighbour", "icons"):
                continue
            taught = words(cell)
            runs = {" ".join(taught[i:j]) for i in range(len(taught)) for j in range(i + 1, len(taught) + 1)}
            assert not runs & answers, f"{row['name']}: {column} {cell!r} contains the answer {runs & answers}"


def test_majority_answer_is_chosen_on_the_selection_split():
    items = (
        Item("a", ("yes",), None, "selection"),
        Item("b", ("no", "yes"), None, "selection"),
        Item("c", ("no",), None, "selection"),
        Item("d", ("yes",), None, "test"),
        Item("e", ("yes",), None, "test"),
    )
    assert Task("t", "t", items, None, Path("t.csv")).majority_answer == "no"


# ---- a user's own task


def test_a_folder_is_a_task_with_its_images_beside_it(tmp_path):
    folder = write_task(tmp_path / "antonyms", "")
    (folder / "hot.png").touch()
    (folder / "up.png").touch()
    write_task(
        folder,
        'input,output,image,aliases,split\nhot,cold,hot.png,cool | cold|,test\n"up, up",down,up.png,,selection\n',
    )
    task = load_task(folder)
    assert (task.name, task.instruction) == ("antonyms", "The opposite of the word:")
    assert task.items == (
        Item("hot", ("cold", "cool"), folder / "hot.png", "test"),
        Item("up, up", ("down",), folder / "up.png", "selection"),
    )
    assert load_task(folder / "items.csv") == task


def test_a_table_may_come_from_a_spreadsheet(tmp_path):
    table = "\ufeffoutput,input\r\nfroid , chaud\r\n\r\nété,hiver\r\n".encode()
    items = load_task(write_task(tmp_path / "t", table)).items
    assert [(item.input, item.outputs, item.image) for item in items] == [
        ("chaud", ("froid",), None),
        ("hiver", ("été",), None),
    ]


def test_the_split_of_a_table_without_one_ignores_the_order_of_its_rows(tmp_path):
    rows = [f"word {i},answer {i}" for i in range(50)]
    forward = write_task(tmp_path / "forward", "\n".join(["input,output", *rows]))
    backward = write_task(tmp_path / "backward", "\n".join(["input,output", *reversed(rows)]))
    splits = [{item.input: item.split for item in load_task(folder).items} for folder in (forward, backward)]
    assert splits[0] == splits[1]
    assert list(splits[0].values()).count("selection") == 20
    assert {item.input: item.split for item in load_task(forward, split_seed=1).items} != splits[0]


@pytest.mark.parametrize("name", sum(FAMILIES.values(), ()))
def test_a_bundled_task_has_words_that_no_other_task_has(name):
    own = load_task(name).words
    assert len(own) >= 3
    for other in set(task_names()) - {name}:
        assert not set(own) & set(load_task(other).words)


def test_the_words_of_a_task_are_a_line_each_and_missed_only_when_asked_for(tmp_path):
    folder = write_task(tmp_path / "t", "input,output\nhot,cold\n")
    with pytest.raises(CrosstaskError, match=r"no task words; write those .*words\.txt"):
        _ = load_task(folder).words
    (folder / "words.txt").write_text("opposite\n\n antonym \nopposite\n")
    assert load_task(folder).words == ("opposite", "antonym")
    (folder / "words.txt").write_text("\n")
    with pytest.raises(CrosstaskError, match=r"words\.txt is empty; expected words that name what the task asks for"):
        load_task(folder)


def test_a_missing_instruction_matters_only_when_it_is_asked_for(tmp_path):
    task = load_task(write_task(tmp_path / "t", "input,output\nhot,cold\n", instruction=None))
    with pytest.raises(CrosstaskError, match=r"no instruction; write .*instruction\.txt"):
        _ = task.instruction


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", r"line 1: the column 'input' is missing; it is empty"),
        ("input,answer\na,b\n", r"line 1: the column 'output' is missing; its header is 'input,answer'"),
        ("input;output\na;b\n", r"line 1: the column 'input' is missing; .* separated by commas"),
        ("input,output,output\na,b,c\n", r"line 1: the column 'output' appears twice"),
        ("input,output\n", r"has no items"),
        ("input,output\na,b\n\nc,\n", r"line 4: the cell 'output' is empty"),
        ("input,output\n ,b\n", r"line 2: the cell 'input' is empty"),
        ("input,output,image\na,b,\n", r"line 2: the cell 'image' is empty"),
        ("input,output,image\na,b,no.png\n", r"line 2: the image .*no\.png does not exist"),
        ("input,output,image\na,b,.\n", r"line 2: the image .* does not exist"),
        (
            "input,output,split\na,b,test\nc,d,train\n",
            r"line 3: the split 'train' is unknown; expected selection or test",
        ),
        ("input,output,split\na,b,\n", r"line 2: the cell 'split' is empty"),
        ("input,output\na,b\nc,d\nA,e\n", r"line 4: the input 'A' is already on line 2"),
        ("input,output\na,b,c\n", r"line 2: 3 cells for the 2 columns"),
        ("input,output\na\n", r"line 2: 1 cells for the 2 columns"),
        ('input,output\n"a\nb",c\n', r"line 3: 'a\\nb' has a line break"),
        ("input,output\na,?!\n", r"line 2: the answer '\?!' is only punctuation"),
        ('input,output\na,"b\n', r"line 2: not readable as CSV"),
        (b"input,output\nhiver,\xe9t\xe9\n", r"is not UTF-8 text"),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path, table, message):
    folder = write_task(tmp_path / "bad", table)
    with pytest.raises(CrosstaskError, match=message) as error:
        load_task(folder)
    assert str(folder / "items.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CrosstaskError, match=r"nowhere\.csv cannot be read: No such file"):
        read_items(tmp_path / "nowhere.csv", tmp_path)


def test_a_folder_with_two_tables_must_say_which(tmp_path):
    (tmp_path / "a.csv").write_text("input,output\na,b\n")
    assert load_task(tmp_path).items[0].input == "a"
    (tmp_path / "b.csv").write_text("input,output\nc,d\n")
    with pytest.raises(CrosstaskError, match=r"needs one table items\.csv; CSV files found there: a\.csv, b\.csv"):
        load_task(tmp_path)
    (tmp_path / "items.csv").write_text("input,output\ne,f\n")
    assert load_task(tmp_path).items[0].input == "e"


def test_a_folder_without_a_table_says_what_it_needs(tmp_path):
    with pytest.raises(CrosstaskError, match=r"needs one table items\.csv; CSV files found there: none"):
        load_task(tmp_path)


def test_a_folder_named_like_a_bundled_task_would_be_confused_with_it(tmp_path):
    folder = write_task(tmp_path / "food-color", "input,output\na,b\n")
    with pytest.raises(CrosstaskError, match=r"has the name of the bundled task 'food-color'; rename it"):
        load_task(folder)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("country-capitol", r"no task 'country-capitol'.*did you mean country-capital"),
        ("flavour", r"did you mean food-flavor|the tasks are country-capital"),
        ("Latin", r"did you mean .*animal-latin"),
        ("zzz", r"the tasks are country-capital, country-currency"),
        ("", r"the tasks are country-capital"),
        ("no/such/folder", r"no folder or table 'no/such/folder'"),
    ],
)
def test_an_unknown_task_gets_the_nearest_names(asked, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CrosstaskError, match=message):
        load_task(asked)


def test_an_unknown_split_is_refused():
    with pytest.raises(CrosstaskError, match="no split 'train'; a task has selection and test"):
        Task("t", "t", (), None, Path("t.csv")).split("train")
