"""The benchmark from the command line, on tiny random models, with every peer that runs in this process."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from experiments import bench, common
from experiments.benchmark import settings, work, workloads
from experiments.benchmark.call_file import read_call, write_call
from experiments.benchmark.measure import difference, reference
from experiments.benchmark.peers import make_peer
from experiments.benchmark.peers.ours import Ours
from experiments.benchmark.peers.plain import Plain
from experiments.benchmark.worker import environment, serve
from experiments.benchmark.workloads import WORKLOADS, Call, Materials
from interp.errors import CrosstaskError
from interp.memory import peak_memory
from interp.models.base import Model, load_model
from interp.patching import sweep_logits
from interp.prompts import Template
from interp.runs import Run
from interp.tasks import load_task
from tests import tiny
from tests.places import Place

PEERS = ("ours", "ours_copied", "bare", "plain", "plain_cached", "nnsight", "transformer_lens")
SWEEPS = ("sweep_bare", "sweep_long", "sweep_vectors")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def arguments(place: Place, out: Path, *more: object) -> list[str]:
    given = ["--model", place.vlm, "--text-model", place.llm, "--tasks", place.kinds, place.colours, "--out", out]
    given += ["--peers", *PEERS, "--repeats", 1, "--queries", 2, "--vectors", 2, "--lengths", 60, 120, "--no-memory"]
    return list(map(str, [*given, "--threads", 1, *more]))


def run(argv: Sequence[str]) -> int:
    return common.run(bench.Arguments, bench.main, module=bench.MODULE, argv=argv)


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "bench"
    assert run(arguments(place, out)) == 0
    return out


@pytest.fixture(scope="module")
def vlm(place: Place) -> Model:
    return load_model(str(place.vlm))


@pytest.fixture(scope="module")
def materials(place: Place) -> Materials:
    tasks = tuple(load_task(str(folder)) for folder in (place.kinds, place.colours))
    return Materials(tasks, Template.parse(bench.Arguments().template), (60, 120), vectors=2, seed=0)


def rows_of(table: pd.DataFrame) -> set[tuple[str, str, str]]:
    return set(zip(table["workload"], table["peer"], table["verdict"], strict=True))


def test_every_peer_does_every_workload_and_its_numbers_are_right(finished: Path) -> None:
    results = pd.read_csv(finished / "results.csv")
    always = set(PEERS) - {"ours_copied", "plain_cached", "bare"}
    expected = {(name, peer, "right") for name in WORKLOADS for peer in always}
    expected |= {(name, "ours_copied" if name in SWEEPS else "plain_cached", "right") for name in WORKLOADS}
    expected |= {(name, "bare", "reference") for name in WORKLOADS if name != "generate"}
    assert rows_of(results) == expected
    assert (results["seconds_min"] <= results["seconds"]).all()
    assert (results["seconds"] <= results["seconds_max"]).all()
    assert (results["repeats"] == 1).all()
    assert (results["queries"] == 2).all()
    assert (results.query("peer == 'ours'")["ratio"] == 1).all()
    rows = results.query("peer == 'plain'").set_index("workload")["rows"]
    assert rows.to_dict() == {
        "capture_text": 2,
        "capture_images": 2,
        "sweep_bare": 2 * tiny.LAYERS,
        "sweep_long": 2 * tiny.LAYERS,
        "generate": 2,
        "sweep_vectors": 4 * tiny.LAYERS,
    }


def test_long_contexts_keep_to_their_lengths(finished: Path) -> None:
    long = pd.read_csv(finished / "results.csv").query("workload == 'sweep_long'")
    assert long["shortest"].min() >= 60
    assert long["longest"].max() <= 120
    assert (long["shortest"] < long["longest"]).all()


def test_every_target_is_measured_or_says_that_it_was_not(finished: Path) -> None:
    targets = pd.read_csv(finished / "targets.csv").set_index("target")
    memory = targets.index.str.startswith("peak memory")
    assert (targets[memory]["met"] == "not measured").all()
    assert targets[~memory]["met"].isin(["yes", "no"]).all()
    assert targets.loc["difference in float64", "found"] <= 1e-9
    assert targets.loc["difference in float32", "met"] == "yes"
    assert {path.name for path in (finished / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in ("seconds", "targets") for suffix in ("png", "pdf")
    }
    assert "| transformer_lens | 4" in (finished / "summary.md").read_text()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn once, by `finished`; they take seconds."""
    monkeypatch.setattr(Run, "write_figure", lambda *_, **__: [])


@pytest.mark.usefixtures("undrawn")
def test_stopped_run_continues_with_what_is_missing(place: Place, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    out.mkdir()
    for name in ("config.json", "environment.json"):
        (out / name).write_bytes((finished / name).read_bytes())
    lines = (finished / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kept = len(lines) - 8
    (out / "journal.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
    assert run(arguments(place, out)) == 0
    again = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert again[:kept] == lines[:kept]
    assert [json.loads(line)["key"] for line in again] == [json.loads(line)["key"] for line in lines]
    assert rows_of(pd.read_csv(out / "results.csv")) == rows_of(pd.read_csv(finished / "results.csv"))


class Shifted(Ours):
    """Patches one block too late."""

    role = "peer"

    def sweep(self, model: Model, call: Call) -> Sequence[Tensor]:
        late = [[type(p)((p.layer + 1) % model.n_layers, p.vector) for p in patches] for patches in call.patches]
        return [row for logits in sweep_logits(model, call.prompts, late) for row in logits]


class Broken(Ours):
    role = "peer"

    def __init__(self) -> None:
        raise NotImplementedError("no such architecture\nand more")


@pytest.mark.usefixtures("undrawn")
def test_peer_with_wrong_numbers_is_marked_and_one_that_fails_is_named(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"shifted": Shifted, "broken": Broken}
    monkeypatch.setattr(settings, "PEERS", {**settings.PEERS, **dict.fromkeys(others, "")})
    monkeypatch.setattr(work, "make_peer", lambda name: others[name]() if name in others else make_peer(name))
    out = tmp_path / "out"
    more = ["--peers", "ours", "plain", *others, "--workloads", "sweep_bare", "--repeats", 2]
    assert run(arguments(place, out, *more)) == 0
    results = pd.read_csv(out / "results.csv").set_index("peer")
    assert results["verdict"].to_dict() == {"ours": "right", "plain": "right", "shifted": "wrong", "broken": "not run"}
    assert results.loc["shifted", "difference"] > 0.01
    assert results.loc["broken", "note"] == "not run: NotImplementedError: no such architecture"
    fastest = pd.read_csv(out / "targets.csv").set_index("target").loc["fastest peer's sweep / ours", "found"]
    assert fastest == pytest.approx(results.loc["plain", "ratio"])


def test_number_of_queries_is_what_the_slowest_peer_does_in_the_time(finished: Path, tmp_path: Path) -> None:
    config = json.loads((finished / "config.json").read_text()) | {"peers": ("ours", "plain", "nnsight")}
    pilots = {"ours": {"seconds_a_query": 0.1}, "plain": {"seconds_a_query": 2.0}, "nnsight": {"absent": "not run"}}
    for name, seconds, queries, expected, repeats in (
        ("generate", 60.0, 512, 10, 3),
        ("generate", 4000.0, 512, 64, 3),
        ("generate", 4000.0, 9, 9, 3),
        ("generate", 5.0, 512, 1, 2),
        ("sweep_long", 0.0, 512, 2, 1),
    ):
        chosen = settings.Settings(**config | {"seconds": seconds, "queries": queries, "repeats": 3})
        with Run.open(tmp_path / f"{name}-{seconds}-{queries}", chosen.config()) as run:
            for peer, pilot in pilots.items():
                run.record(("pilot", name, peer), pilot)
            benchmark = work.BenchmarkWork(chosen, [name], chosen.materials([]), no_model, run, environments=tmp_path)
            assert benchmark.size(WORKLOADS[name]) == expected
            assert benchmark.repeats(WORKLOADS[name], "plain") == repeats
            assert benchmark.repeats(WORKLOADS[name], "ours") == 3


def no_model(name: str, dtype: str) -> Model:
    raise AssertionError(f"{name} is not needed in {dtype}")


@pytest.mark.parametrize("name", ["capture_images", "sweep_long", "generate"])
def test_call_comes_through_a_file_and_a_worker_unchanged(
    name: str, vlm: Model, materials: Materials, tmp_path: Path
) -> None:
    call = materials.call(WORKLOADS[name], vlm, 3)
    write_call(tmp_path / "call.safetensors", call)
    assert read_call(tmp_path / "call.safetensors").sites == call.sites
    files = {"inputs": str(tmp_path / "call.safetensors"), "outputs": str(tmp_path / "rows.safetensors")}
    options = {"model": vlm.name, "dtype": "float32", "device": "cpu", "threads": torch.get_num_threads()}
    requests = [{"do": "begin", "peer": "plain", **options}, {"do": "call", **options, **files}, {"do": "call"}]
    answers = io.StringIO()
    serve(io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), answers)
    begun, done, failed = map(json.loads, answers.getvalue().splitlines())
    assert begun["version"]
    assert done["seconds"] > 0
    assert failed["error"].startswith("KeyError")
    expected = Plain().run(vlm, call).kept
    assert expected is not None
    assert difference(load_file(files["outputs"])["kept"], expected) < 1e-6
    assert difference(expected, reference(vlm, call)) < 1e-4


def test_portions_hold_the_same_rows(vlm: Model, materials: Materials, monkeypatch: pytest.MonkeyPatch) -> None:
    call = materials.call(WORKLOADS["sweep_vectors"], vlm, 5)
    whole = Plain().run(vlm, call).kept
    monkeypatch.setattr(workloads, "LOGIT_BYTES", 4 * 320 * 2 * 2 * tiny.LAYERS)  # two queries at once
    assert [len(portion.prompts) for portion in call.portions(320)] == [2, 2, 1]
    assert whole is not None
    assert len(whole) == workloads.CHECKED
    torch.testing.assert_close(Plain().run(vlm, call).kept, whole, rtol=1e-4, atol=1e-4)


def test_peak_memory_sees_what_work_holds_and_gives_back(vlm: Model) -> None:
    above, total = peak_memory(vlm, lambda: [torch.ones(2**23), torch.ones(2**23)])
    assert 60 * 2**20 < above < 100 * 2**20
    assert total > above
    assert peak_memory(vlm, lambda: None)[0] < 10 * 2**20


def test_environment_that_cannot_be_made_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CrosstaskError, match=r"no environment for pyvene==0.1.8 could be made in .*file/here"):
        environment(tmp_path / "file" / "here", "pyvene==0.1.8")


def test_profile_says_where_the_time_goes(place: Place, tmp_path: Path) -> None:
    assert run(arguments(place, tmp_path, "--profile", "sweep_bare")) == 0
    report = (tmp_path / "profile_sweep_bare.txt").read_text()
    assert "aten::" in report
    assert "function calls" in report


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--workloads", "speed"], "--workloads 'speed' is unknown; expected some of capture_text"),
        (["--peers", "plain"], "--peers leaves out 'ours'"),
        (["--peers", "ours", "baukit"], "--peers 'baukit' is unknown"),
        (["--repeats", 0], "--repeats is 0; it must be at least 1"),
        (["--lengths", 9, 3], "--lengths 9 3: give the shortest"),
        (["--dtype", "bfloat16"], "--dtype 'bfloat16'"),
        (["--profile", "speed"], "--profile 'speed' is unknown"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    assert run(arguments(place, tmp_path / "out", *more)) == 2
    assert re.search(said, capsys.readouterr().err)
