"""The experiment from the command line, on tiny random models and tasks made on the spot."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoTokenizer

from experiments import common, cross_modal_patch
from interp.models.base import Model, load_model
from interp.patching import generate
from interp.prompts import Example, Image, Specification, Template, render
from interp.protocol.bank import Bank
from interp.protocol.contexts import draw
from interp.protocol.plan import Plan, make_plan
from interp.protocol.settings import Settings
from interp.runs import Run
from interp.tasks import load_task
from interp.vectors import TaskVectors
from tests import tiny
from tests.places import Place, make_task

TABLES = ("results.csv", "summary.csv", "paired.csv", "layers.csv", "sweep.csv", "predictions.jsonl")
TEMPLATE = Template.parse(Settings().template)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def run(arguments: Sequence[str]) -> int:
    return common.run(
        cross_modal_patch.Arguments, cross_modal_patch.main, module=cross_modal_patch.MODULE, argv=arguments
    )


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    """A whole run, its report included."""
    out = place.folder / "finished"
    assert run(place.arguments(out)) == 0
    return out


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables only: figures take longer than the tiny models."""
    monkeypatch.setattr(cross_modal_patch, "_figures", lambda *_: {})


def test_run_writes_every_table_figure_and_vector(finished: Path) -> None:
    for name in (*TABLES, "report.html", "config.json", "environment.json", "journal.jsonl"):
        assert (finished / name).stat().st_size > 0, name
    figures = {path.name for path in (finished / "figures").iterdir()}
    assert {"methods.png", "methods.pdf", "layers.png", "layers.pdf", "methods_image.png"} <= figures
    vectors = sorted(path.name for path in (finished / "vectors").rglob("*.safetensors"))
    assert len(vectors) == 2 * (
        3 + 2
    )  # tasks x (text, image and instruction of the VLM; text and instruction of the LLM)
    assert not (finished / "contexts").exists()
    assert not [path for path in finished.rglob(".*") if path.name != ".lock"]


@pytest.mark.usefixtures("no_drawing")
def test_last_line_is_the_reports_path(place: Place, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place.arguments(finished)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(finished / "report.html")
    assert any("Everything is done already" in line for line in printed)


@pytest.mark.usefixtures("no_drawing")
def test_loading_is_in_the_configuration_and_the_memory_plan_on_the_terminal(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place.arguments(tmp_path, "--attention", "sdpa", "--device", "cpu", full=False)) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["attention"], config["dtype"]) == ("sdpa", "float64")
    assert not {"device", "loading", "quantize", "device_map"} & set(config)
    assert "tokens a forward pass" in next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith(f"sweep of model '{place.vlm}'")
    )


def test_revision_is_that_of_the_main_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("interp.models.base.load_model", lambda name, **given: asked.append((name, given)))
    load = common.model_loader(common.LoadOptions(revision="v1", attention="eager"), main="main")
    for name in ("main", "other", "main"):
        load(name)
    assert [(name, given["revision"], given["attention"]) for name, given in asked] == [
        ("main", "v1", "eager"),
        ("other", None, "eager"),
    ]


def test_results_have_one_row_per_arm_task_query_and_seed(finished: Path) -> None:
    table = pd.read_csv(finished / "results.csv", keep_default_na=False)
    keys = ["source_model", "task", "source", "query", "method", "layer_choice", "seed"]
    assert not table.duplicated(keys).any()
    assert set(table["n"]) == {4}
    arms = table[(table["task"] == "kinds") & (table["query"] == "image")].groupby("method").size().to_dict()
    sources, models = 4 + 3, 2  # of the VLM and of the LLM
    assert arms == {
        "no_context": 1,
        "majority": 1,
        "prompt": 4,
        "patch_single": 2 * sources,
        "patch_mean": 2 * (sources - models),
        "control_random": sources,
        "control_wrong_task": sources,
        "control_shuffled": 3,
    }
    assert (table["correct"] / table["n"]).equals(table["exact"])
    assert (table["wilson_low"] <= table["exact"]).all()
    assert (table["exact"] <= table["wilson_high"]).all()


def test_budgets_are_shown(finished: Path) -> None:
    table = pd.read_csv(finished / "results.csv", keep_default_na=False)
    shown = {
        (row.method, row.source): (row.demonstrations, row.budget)
        for row in table.itertuples()
        if row.method in ("prompt", "patch_single", "patch_mean")
    }
    assert shown[("prompt", "text")] == shown[("patch_single", "text")] == (2, "matched")
    assert shown[("patch_mean", "text")] == (6, "unmatched")
    assert shown[("prompt", "instruction")] == shown[("patch_single", "instruction")] == (0, "matched")
    assert shown[("prompt", "ensemble")] == shown[("patch_single", "ensemble")] == (2, "matched")


def test_sweep_has_the_curve_over_every_other_layer(finished: Path) -> None:
    table = pd.read_csv(finished / "sweep.csv")
    layers = set(range(0, tiny.LAYERS, 2))
    assert set(table["layer"]) == layers
    assert len(table) == len(layers) * 7 * 2 * 2  # layers, arms, tasks, query modalities
    chosen = pd.read_csv(finished / "layers.csv")
    assert set(chosen["task"]) == {"all", "kinds", "colours"}


@pytest.mark.parametrize("query", ["text", "image"])
def test_saved_answers_are_what_patching_by_hand_gives(place: Place, finished: Path, query: str) -> None:
    model = load_model(str(place.vlm), dtype="float64")
    task = load_task(place.kinds)
    lines = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    found = [
        row
        for row in lines
        if (row["task"], row["query"], row["method"], row["source"]) == ("kinds", query, "patch_mean", "text")
        and row["layer_choice"] == "pooled"
        and row["source_model"] == str(place.llm)
    ]
    assert len(found) == 4
    folder = next(path for path in (finished / "vectors").iterdir() if path.name.startswith("llm"))
    vector = TaskVectors.load(folder / "kinds-text-seed0.safetensors")
    assert vector.provenance.demonstrations == 6
    items = {item.input: item for item in task.split("test")}
    asked = [items[row["item"]] for row in found]
    contents = [item.input if query == "text" else Image(path=item.image) for item in asked]
    prompts = [render(model, Specification(), content, template=TEMPLATE) for content in contents]
    layer = found[0]["layer"]
    generations = generate(
        model, prompts, vectors=[vector.layer(layer)] * 4, layers=[layer] * 4, max_new_tokens=4, stop="\n"
    )
    assert [g.text for g in generations] == [row["answer"] for row in found]


def test_prompt_and_single_vector_see_the_same_demonstrations(place: Place, finished: Path) -> None:
    model = load_model(str(place.vlm), dtype="float64")
    task = load_task(place.kinds)
    lines = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    found = [
        r for r in lines if (r["task"], r["query"], r["method"], r["source"]) == ("kinds", "text", "prompt", "text")
    ]
    contexts = draw(make_plan_of(place, model).tasks["kinds"].pool, shots=2, contexts=3, seed=0, task="kinds")
    items = {item.input: item for item in task.split("test")}
    for j, row in enumerate(found):
        shown = tuple(Example(item.input, item.outputs[0]) for item in contexts[j % 3].demonstrations)
        prompt = render(model, Specification(shown), items[row["item"]].input, template=TEMPLATE)
        assert generate(model, [prompt], max_new_tokens=4)[0].text == row["answer"]


def make_plan_of(place: Place, model: Model) -> Plan:
    tasks = (str(place.kinds), str(place.colours))
    settings = Settings(model=model.name, tasks=tasks, wrong_tasks=tasks, shots=2, contexts=3)
    return make_plan(settings, model)


def test_selection_vectors_leave_out_contexts_that_show_the_query(place: Place, tmp_path: Path) -> None:
    model = load_model(str(place.vlm), dtype="float64")
    plan = make_plan_of(place, model)
    with Run.open(tmp_path / "run", plan.config()) as opened:
        bank = Bank(plan, opened, lambda name: model)
        contexts = plan.contexts("kinds", 0)
        singles = [bank.vector(model.name, "text", "kinds", 0, context=c) for c in range(3)]
        queries = plan.selection_queries("kinds", 0)
        assert any(item.input in contexts[0].items for item in queries)
        for item in queries:
            clean = [v for v, context in zip(singles, contexts, strict=True) if item.input not in context.items]
            found = bank.vector(model.name, "text", "kinds", 0, exclude=item.input)
            assert found.allclose(sum(clean) / len(clean))
        scored = {item.input for item in plan.tasks["kinds"].test}
        assert all(not scored & context.items for context in contexts)


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize("share", [0.02, 0.45, 0.8, 0.97])
def test_killed_run_continues_to_the_same_bytes(place: Place, finished: Path, tmp_path: Path, share: float) -> None:
    out = tmp_path / "killed"
    out.mkdir()
    for name in ("config.json", "environment.json"):
        shutil.copy(finished / name, out / name)
    journal = (finished / "journal.jsonl").read_bytes()
    (out / "journal.jsonl").write_bytes(journal[: int(share * len(journal))])  # in the middle of a line, most likely
    assert run(place.arguments(out)) == 0
    for name in TABLES:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.usefixtures("no_drawing")
def test_interrupted_run_says_how_to_go_on_and_does(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, out = tmp_path / "straight", tmp_path / "interrupted"
    assert run(place.arguments(straight, full=False)) == 0
    record = Run.record

    def interrupt(self: Run, key: str, payload: dict) -> None:
        if len(self) == 9:
            raise KeyboardInterrupt
        record(self, key, payload)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "record", interrupt)
        assert run(place.arguments(out, full=False)) == 130
    assert "run the same command again to continue" in capsys.readouterr().err
    assert not (out / "results.csv").exists()
    assert run(place.arguments(out, full=False)) == 0
    assert "Continuing: 9 of" in capsys.readouterr().out
    for name in TABLES:
        assert (out / name).read_bytes() == (straight / name).read_bytes(), name


def test_other_options_in_the_same_folder_are_refused_with_the_difference(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "results.csv").read_bytes()
    assert run(place.arguments(finished, "--contexts", 4)) == 2
    assert "contexts was 3 and is now 4" in sentence(capsys)
    assert (finished / "results.csv").read_bytes() == before


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to stderr: one line that begins with "error:"."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def empty_table(place: Place, folder: Path) -> list[object]:
    task = make_task(folder / "empty", ["cat"], images=False)
    (task / "items.csv").write_text("input,output\n")
    return ["--tasks", task]


def few_items(place: Place, folder: Path) -> list[object]:
    return ["--tasks", make_task(folder / "few", ["cat"], items=6)]


def broken_image(place: Place, folder: Path) -> list[object]:
    task = make_task(folder / "broken", ["cat", "dog"])
    (task / "9.png").write_bytes(b"this is no picture")
    return ["--tasks", task, "--query", "image"]


BAD: dict[str, tuple[Callable[[Place, Path], list[object]], str]] = {
    "unknown model": (lambda p, f: ["--model", "bundeld"], "did you mean 'bundled'"),
    "unknown source model": (lambda p, f: ["--source-model", "bundled-lm"], "did you mean 'bundled-llm'"),
    "unknown task": (lambda p, f: ["--tasks", "country-captial"], "did you mean country-capital"),
    "unknown source": (lambda p, f: ["--source", "txt"], "Did you mean 'text'"),
    "unknown query": (lambda p, f: ["--query", "picture"], "'picture' is unknown; expected one of image, text"),
    "image queries without images": (
        lambda p, f: ["--model", p.llm, "--source-model", p.llm, "--query", "image"],
        "takes no images, so it cannot be asked image queries",
    ),
    "image examples without images": (
        lambda p, f: ["--model", p.llm, "--source-model", p.llm, "--source", "image"],
        "takes no images, so it cannot read image examples",
    ),
    "table without images": (
        lambda p, f: ["--tasks", make_task(f / "plain", ["cat"], images=False), "--query", "image"],
        "has no image",
    ),
    "undecodable image": (broken_image, "9.png' cannot be decoded"),
    "empty table": (empty_table, "items.csv has no items"),
    "fewer items than shots": (few_items, "has 4 selection items; 3 demonstrations, a dummy query"),
    "layer out of range": (lambda p, f: ["--layers", 0, 4], "--layers 4 is out of range"),
    "template without y": (lambda p, f: ["--template", "Q:{x}\\nA:"], "template 'Q:{x}\\\\nA:' must hold {x} once"),
    "template without delimiter": (lambda p, f: ["--template", "{x}{y}"], "template"),
    "template the tokenizer splits": (lambda p, f: ["--template", "Q:{x}\\nA:=>%{y}"], "--template"),
    "unknown dtype": (lambda p, f: ["--dtype", "int3"], "unknown dtype 'int3'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_no_folder(
    case: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    options, message = BAD[case]
    out = tmp_path / "out"
    more = [*options(place, tmp_path), *(["--shots", 3] if case == "fewer items than shots" else [])]
    assert run(place.arguments(out, *more, full=False)) == 2
    assert message in sentence(capsys)
    assert not out.exists()


@pytest.mark.usefixtures("no_drawing")
def test_run_can_go_on_without_an_undecodable_image(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [*broken_image(place, tmp_path), "--on-error", "continue"]
    assert run(place.arguments(tmp_path / "out", *more, full=False)) == 0
    assert "9.png' cannot be decoded" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "out" / "results.csv")["n"]) == {3}
    assert "9.png" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.usefixtures("no_drawing")
def test_full_disk_is_one_sentence_and_the_run_goes_on_once_there_is_room(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, calls, sync = tmp_path / "out", [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert run(place.arguments(out, full=False)) == 2
    assert "No space is left on the disk" in sentence(capsys)
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]
    assert not (out / "results.csv").exists()
    assert run(place.arguments(out, full=False)) == 0


def test_help_imports_nothing_heavy_and_shows_an_example() -> None:
    code = (
        "import sys; from experiments import common, cross_modal_patch as c; "
        "status = common.run(c.Arguments, c.main, module=c.MODULE, argv=['--help']); "
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'numpy', 'sklearn'} & set(sys.modules); "
        "sys.exit(status or ' '.join(heavy) or None)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2
    assert "Example: python -m experiments.cross_modal_patch" in done.stdout
    assert all(f"--{name}" in done.stdout for name in ("model", "source-model", "tasks", "shots", "full", "on-error"))


@pytest.mark.usefixtures("no_drawing")
def test_other_backend_finds_the_same_tables_and_is_no_continuation(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "hooks", tmp_path / "nnsight"
    assert run(place.arguments(ours, full=False)) == 0
    assert run(place.arguments(theirs, "--backend", "nnsight", full=False)) == 0
    for name in TABLES:
        assert (theirs / name).read_bytes() == (ours / name).read_bytes(), name
    assert "backend" not in json.loads((ours / "config.json").read_text())  # as in runs from before there was a choice
    assert json.loads((theirs / "config.json").read_text())["backend"] == "nnsight"
    capsys.readouterr()
    assert run(place.arguments(ours, "--backend", "nnsight", full=False)) == 2
    assert "backend" in capsys.readouterr().err


def test_sum_of_heads_is_one_more_source_that_is_added(place: Place, tmp_path: Path, no_drawing: None) -> None:
    out = tmp_path / "heads"
    assert run(place.arguments(out, "--source", "text", "heads", "--wrong-tasks", place.colours, full=False)) == 0
    results = pd.read_csv(out / "results.csv", keep_default_na=False)
    arms = set(results.loc[results["source"] == "heads", "method"])
    assert arms == {"patch_mean", "control_random", "control_wrong_task"}  # never one context alone, and no prompt
    (shown,) = set(results.loc[(results["source"] == "heads") & (results["method"] == "patch_mean"), "demonstrations"])
    assert shown == 2 * 2 * 3  # contexts of the mean, and the trials that chose the heads
    model, vectors = load_model(str(place.vlm), dtype="float64"), TaskVectors.load(heads_vector(out))
    assert vectors.provenance.kind == "heads"
    assert (vectors.states == vectors.states[:1]).all()
    answers = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    asked = [a for a in answers if a["source"] == "heads" and a["method"] == "patch_mean" and a["task"] == "kinds"]
    asked = [a for a in asked if a["layer_choice"] == "pooled"]
    prompts = [render(model, Specification(), a["item"], template=TEMPLATE) for a in asked]
    given = [vectors.states[0]] * len(asked)
    layers = [int(a["layer"]) for a in asked]
    added = generate(model, prompts, vectors=given, layers=layers, mode="add", max_new_tokens=4)
    assert [a["answer"] for a in asked] == [g.text for g in added]
    replaced = generate(model, prompts, vectors=given, layers=layers, max_new_tokens=4)
    assert [g.text for g in added] != [g.text for g in replaced]


def heads_vector(out: Path) -> Path:
    (path,) = (out / "vectors").rglob("kinds-heads-seed0.safetensors")
    return path


def test_sum_of_heads_needs_our_hooks(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place.arguments(tmp_path / "out", "--source", "heads", "--backend", "nnsight")) == 2
    assert "--source heads needs --backend hooks, and the backend is 'nnsight'" in sentence(capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "nsight"], "--backend 'nsight' is unknown"),
        (["--device", "remote"], "--device remote needs --backend nnsight"),
        (["--backend", "nnsight", "--device", "remote", "--model", "bundled"], "'bundled' is not held by NDIF"),
        (["--backend", "transformer_lens"], "softmax is in float32"),
    ],
)
def test_backend_that_cannot_serve_ends_in_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run(place.arguments(tmp_path / "out", *options, full=False)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_experiments_are_listed_with_a_line_each() -> None:
    done = subprocess.run([sys.executable, "-m", "experiments"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "python -m experiments.cross_modal_patch" in done.stdout


def test_default_folder_is_the_same_for_the_same_command_and_another_for_another() -> None:
    def folder(arguments: cross_modal_patch.Arguments) -> Path:
        return common.run_folder(arguments, "cross_modal_patch")

    plain = cross_modal_patch.Arguments()
    assert folder(plain) == Path("runs/cross_modal_patch/bundled")
    assert folder(cross_modal_patch.Arguments(full=True)).name == "bundled-full"
    other = cross_modal_patch.Arguments(shots=3)
    assert folder(other) == folder(cross_modal_patch.Arguments(shots=3)) != folder(plain)
    assert folder(cross_modal_patch.Arguments(model="org/model")).name == "org--model"


@pytest.mark.parametrize(("given", "step"), [({}, 2), ({"layers": "all"}, 1), ({"full": True}, 1)])
def test_quick_run_alone_leaves_layers_out(given: dict[str, object], step: int) -> None:
    settings = cross_modal_patch.Arguments(**given).settings().resolve(takes_images=True, n_layers=5)
    assert settings.layers == tuple(range(0, 5, step))


def test_longest_answer_is_never_cut(place: Place) -> None:
    model = load_model(str(place.vlm), dtype="float64")
    plan = make_plan_of(place, model).tasks["kinds"]
    tokenizer = AutoTokenizer.from_pretrained(place.vlm)
    answers = {answer for item in plan.task.items for answer in item.outputs}
    longest = max(len(tokenizer(" " + a, add_special_tokens=False)["input_ids"]) for a in answers)
    assert plan.max_new_tokens == longest + 1
