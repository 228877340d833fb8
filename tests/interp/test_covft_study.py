"""Plans, units, tables and answers of the CoVFT study, with work that is made up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from figures.covft_study import all_figures, lines
from interp.covft import expectations, overhead, rates
from interp.covft.arms import FULL, QUESTIONS, Cell, Plan, covft, lora, make_plan, plain_arm
from interp.covft.cost import kind_of
from interp.covft.counts import matched_arms
from interp.covft.expectations import EXPECTATIONS, Term, answer, answered, contrast
from interp.covft.options import StudyOptions
from interp.covft.plan import Request, StudySettings, Unit, make_unit, make_units, read_requests, training_job
from interp.covft.tables import Results, _corrected, make_tables
from interp.covft.units import folder_of, is_finished, opened, perform, perform_all
from interp.errors import CrosstaskError
from interp.runs import Run
from interp.statistics import Interval
from interp.tuning.evaluation.records import Record

TASKS = ("visual_similarity", "relative_depth", "counting", "jigsaw")
SETTINGS = StudySettings("m", {"examples": 160, "steps": 10}, items=40)


@dataclass
class MadeUp:
    """Trains nothing; an arm is right on an item with a chance that depends on its name."""

    chances: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)
    fails_at: str = ""
    diverges: str = ""

    def train(self, unit: Unit, folder: Path) -> dict[str, Any]:
        self.trained.append(unit.key)
        if unit.cell.arm.name == self.diverges:
            raise CrosstaskError("the loss is nan at step 3")
        data = self.data.get(unit.cell.arm.name, f"data {unit.seed} {unit.cell.fraction}")
        dose = {"examples": 160, "steps": 10, "update_norm": 1.0, "seconds": 2.0, "trained_parameters": 7}
        return {"adapter": "adapter", "data": data, **dose}

    def evaluate(self, unit: Unit, task: str, adapter: Path | None) -> list[Record]:
        if task == self.fails_at:
            raise KeyboardInterrupt
        drawn = np.random.default_rng([unit.seed, TASKS.index(task)]).random(40)
        chance = self.chances.get(
            f"{unit.cell.arm.name} {len(unit.cell.mixture)}", self.chances.get(unit.cell.arm.name, 0.5)
        )
        right = drawn < chance
        return [Record(f"{task}/{n}", "A", "A" if ok else "B", float(ok)) for n, ok in enumerate(right)]

    def discard(self, adapter: Path) -> None:
        """Nothing was made."""


def study(root: Path, work: MadeUp, *plans: Plan, seeds: tuple[int, ...] = (0, 1)) -> tuple[Results, list[Request]]:
    requests = [Request(plan, seeds) for plan in plans]
    with opened(root, SETTINGS.config()) as run:
        for request in requests:
            run.write_json(f"requests/{request.name}.json", request.row())
    perform_all(root, make_units(SETTINGS, plans, seeds), work)
    return Results(root, SETTINGS), read_requests(root)


def plan(table: str, *, tasks: tuple[str, ...] = TASKS[:2], **options: Any) -> Plan:
    return make_plan(table, tasks, StudyOptions(**options))


def test_tables_share_the_units_that_are_the_same() -> None:
    every = [plan(table) for table in "ABCDF"]
    units = make_units(SETTINGS, every, (0,))
    assert [unit.cell.arm.name for unit in units].count("covft") == 1
    assert [unit.cell.arm.name for unit in units].count("vision_full") == 1
    assert len({unit.key for unit in units}) == len(units)
    assert [unit.key for unit in units[:2]] == ["frozen/visual_similarity", "frozen/relative_depth"]


@pytest.mark.parametrize("table", sorted(QUESTIONS))
def test_arms_of_expectations_are_those_of_their_table(table: str) -> None:
    """A name that is spelt otherwise in the plan would quietly never be answered."""
    from fnmatch import fnmatchcase

    made = make_plan(table, TASKS, StudyOptions(types=(2, 4)), matched=[lora(9)])
    names = {cell.arm.name for cell in made.cells}
    for expectation in EXPECTATIONS:
        if expectation.table == table:
            for term in expectation.terms:
                assert any(fnmatchcase(name, term.arm) for name in names), (expectation.key, term.arm)
    assert made.reference in names


def test_terms_of_every_expectation_add_up_to_nothing() -> None:
    """Else a contrast would hold the tasks' difficulty."""
    for expectation in EXPECTATIONS:
        assert sum(term.weight for term in expectation.terms) == 0
        assert sum(term.weight for term in expectation.terms if term.at == "least") == 0
    keys = [expectation.key for expectation in EXPECTATIONS]
    assert len(set(keys)) == len(keys)


def test_each_strategy_takes_the_rate_at_which_it_is_right_most_often_on_selection_items(tmp_path: Path) -> None:
    class ByRate(MadeUp):
        def evaluate(self, unit: Unit, task: str, adapter: Path | None) -> list[Record]:
            assert unit.config["split"] == "selection"
            rate = training_job(unit).config["training"]["learning_rate"]
            self.chances = {"covft": {1e-4: 0.3, 1e-3: 0.9, 1e-2: 0.5}[rate], FULL: {1e-4: 0.8}.get(rate, 0.2)}
            if unit.cell.arm.name == FULL and rate == 1e-2:
                raise CrosstaskError("the loss is nan at step 3")
            return super().evaluate(unit, task, adapter)

    grid = (1e-2, 1e-4, 1e-3)
    arms = plan("A", strategies=("covft", FULL, "vision_full+pcgrad")).arms
    made = rates.trials(tmp_path, SETTINGS, arms, TASKS[:2], grid, seed=0)
    for trial in made:
        perform_all(trial.root, [trial.unit], ByRate())
    found = rates.table(made)
    picked = found[found["chosen"]].set_index("strategy")
    assert picked["learning_rate"].to_dict() == {"covft": 1e-3, FULL: 1e-4, "vision_full+pcgrad": 1e-4}
    assert picked["at_edge"].to_dict() == {"covft": False, FULL: True, "vision_full+pcgrad": True}
    assert found[found["strategy"] == FULL]["accuracy"].isna().sum() == 1
    assert (found.dropna()["low"] <= found.dropna()["accuracy"]).all()
    with pytest.raises(CrosstaskError, match=r"'vision_full' diverged at every"):
        rates.chosen(found[(found["strategy"] == FULL) & (found["learning_rate"] == 1e-2)])
    with pytest.raises(CrosstaskError, match=r"0.1: expected two or more"):
        rates.trials(tmp_path, SETTINGS, arms, TASKS[:2], (0.1,), seed=0)


def test_trials_of_other_arms_are_put_beside_the_earlier_ones(tmp_path: Path) -> None:
    def found(arm: str, rate: float) -> pd.DataFrame:
        return pd.DataFrame([(arm, rate, 80, 0.5, 0.4, 0.6, True, False)], columns=list(rates.COLUMNS))

    path = tmp_path / "rates.csv"
    assert len(rates.beside_earlier(found(FULL, 1e-3), path)) == 1
    pd.concat([found(FULL, 1e-3), found("vision_lora r=9", 1e-3)]).to_csv(path, index=False)
    rows = rates.beside_earlier(found("vision_lora r=9", 1e-4), path)
    assert dict(zip(rows["strategy"], rows["learning_rate"], strict=True)) == {FULL: 1e-3, "vision_lora r=9": 1e-4}


def test_arms_train_at_the_rate_of_their_strategy_unless_they_have_their_own() -> None:
    given = {"covft": 3e-3, FULL: 1e-4, "vision_full+cagrad": 5e-5, "vision_lora r=9": 2e-5}
    made = make_plan("C", TASKS[:2], StudyOptions(), rates=given).arms
    assert {arm.training["learning_rate"] for arm in made if arm.training["strategy"] == "covft"} == {3e-3}
    table = {arm.name: arm.training for arm in make_plan("A", TASKS[:2], StudyOptions(), rates=given).arms}
    assert table["vision_full+pcgrad"]["learning_rate"] == 1e-4
    assert table["vision_full+cagrad"]["learning_rate"] == 5e-5
    assert "learning_rate" not in table["vpt"]
    matched = {arm.name: arm for arm in make_plan("I", TASKS[:2], StudyOptions(), matched=[lora(9)], rates=given).arms}
    assert matched["vision_lora r=9"].training["learning_rate"] == 2e-5
    unit = make_unit(SETTINGS, Cell(covft(), TASKS[:2]), 0)
    assert "learning_rate" not in training_job(unit).config["training"]


@pytest.mark.parametrize(
    ("written", "said"),
    [('{"covft": 0}', "the learning rate 0; expected"), ('{"covfft": 1}', "no strategy 'covfft'"), ("[1]", "a list"),
     ("{", "cannot be read"), ('{"covft": Infinity}', "the learning rate inf; expected"),
     ('{"covft num_expert=1": 1}', "has no option 'num_expert'"), ('{"vision_full+pcgrd": 1}', "no surgery 'pcgrd'"),
     ('{"": 1}', "no strategy ''"), ('{"covft": 1' + 400 * "0" + "}", "expected a number above zero")],
)  # fmt: skip
def test_files_of_rates_that_are_none_are_refused(tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / "rates.json").write_text(written)
    with pytest.raises(CrosstaskError, match=said):
        rates.read_rates(tmp_path / "rates.json")


@pytest.mark.parametrize("written", ["", "strategy,n\ncovft,3\n"])
def test_damaged_file_of_earlier_trials_is_refused_before_new_ones(tmp_path: Path, written: str) -> None:
    (tmp_path / "rates.csv").write_text(written)
    with pytest.raises(CrosstaskError, match=r"rates.csv .*: delete it to have it written from new trials"):
        rates.check_earlier(tmp_path / "rates.csv")


def test_rates_may_be_of_an_arm_with_its_options(tmp_path: Path) -> None:
    (tmp_path / "rates.json").write_text('{"vision_full+pcgrad": 1, "vision_lora r=9": 2}')
    assert rates.read_rates(tmp_path / "rates.json") == {"vision_full+pcgrad": 1.0, "vision_lora r=9": 2.0}


def test_share_of_the_data_is_a_share_of_the_steps() -> None:
    unit = make_unit(SETTINGS, Cell(covft(), TASKS[:2], 0.25), 1)
    job = training_job(unit)
    assert unit.key == "covft/VS-RD-025/seed1"
    assert job.config["training"] == {"examples": 40, "steps": 10, "strategy": "covft"}
    assert job.config["fraction"] == 0.25
    assert job.config["shares"] == {"visual_similarity": 0.5, "relative_depth": 0.5}


def test_killed_unit_keeps_its_training_and_what_was_evaluated(tmp_path: Path) -> None:
    unit = make_unit(SETTINGS, Cell(covft(), TASKS[:3]), 0)
    work = MadeUp(fails_at="counting")
    with pytest.raises(KeyboardInterrupt):
        perform(tmp_path, unit, work)
    assert not is_finished(tmp_path, unit)
    work.fails_at = ""
    perform(tmp_path, unit, work)
    assert is_finished(tmp_path, unit)
    assert work.trained == [unit.key]


def test_unit_that_fails_does_not_keep_the_others_from_being_done(tmp_path: Path) -> None:
    work = MadeUp(diverges="covft")
    units = make_units(SETTINGS, [plan("A", strategies=("covft", FULL))], (0,))
    failed = perform_all(tmp_path, units, work)
    assert failed == {"covft/VS-RD/seed0": "the loss is nan at step 3"}
    assert [is_finished(tmp_path, unit) for unit in units] == [True, True, False, True]


def test_unit_that_another_process_holds_is_left_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    first, second = (make_unit(SETTINGS, Cell(covft(), TASKS[:1]), seed) for seed in (0, 1))
    folder = folder_of(tmp_path, first)
    folder.mkdir(parents=True)
    held = FileLock(folder / ".lock", is_singleton=False)
    held.acquire()
    monkeypatch.setattr("interp.covft.units.time.sleep", lambda _: held.release())
    monkeypatch.setattr("interp.runs._locked", _locked_by_path)
    done: list[str] = []
    perform_all(tmp_path, [first, second], MadeUp(), say=lambda unit: done.append(unit.key))
    assert done == [second.key, first.key]


def _locked_by_path(folder: Path) -> Any:
    """As `interp.runs._locked`, without its one lock a process."""
    import filelock

    lock = filelock.FileLock(folder.resolve() / ".lock", blocking=False, is_singleton=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise CrosstaskError("held") from error
    return lock


def test_comparison_with_the_reference_is_paired_and_the_frozen_model_is_beside(tmp_path: Path) -> None:
    work = MadeUp({"covft": 0.8, FULL: 0.6, "frozen": 0.3})
    results, requests = study(tmp_path, work, plan("A", strategies=("covft", FULL)))
    tables = make_tables(results, requests)
    macro = tables["comparisons"].query("task == 'macro'").set_index(["arm", "reference"])
    row = macro.loc[(FULL, "covft")]
    assert row["difference"] == pytest.approx(row["accuracy"] - row["reference_accuracy"])
    assert row["high"] < 0
    assert set(macro.index) == {(FULL, "covft"), (FULL, "frozen"), ("covft", "frozen")}
    arms = tables["arms"].set_index("arm")
    assert arms.loc["covft", "over_frozen"] == pytest.approx(
        arms.loc["covft", "accuracy"] - arms.loc["frozen", "accuracy"]
    )
    assert arms.loc["covft", "tasks_above_frozen"] == 2
    assert len(tables["cells"]) == 2 + 2 * 2 * 2


def test_arms_that_saw_other_data_are_refused(tmp_path: Path) -> None:
    work = MadeUp(data={FULL: "other"})
    results, requests = study(tmp_path, work, plan("A", strategies=("covft", FULL)))
    with pytest.raises(CrosstaskError, match="was trained on other examples"):
        make_tables(results, requests)


@pytest.mark.parametrize(
    ("interval", "repeats", "said"),
    [
        (Interval(0.1, 0.01, 0.2), 3, "held"),
        (Interval(-0.1, -0.2, -0.01), 3, "not held"),
        (Interval(0.1, -0.01, 0.2), 3, "not decidable"),
        (Interval(0.0, 0.0, 0.0), 3, "not decidable"),
        (Interval(0.1, 0.01, 0.2), 1, "not decidable"),
        (None, 0, "not measured"),
    ],
)
def test_answers_follow_the_rule(interval: Interval | None, repeats: int, said: str) -> None:
    assert answer(interval, repeats=repeats) == said


def test_expectations_are_answered_with_their_contrast(tmp_path: Path) -> None:
    work = MadeUp({"covft": 0.9, FULL: 0.5, "vision_freeze": 0.5})
    results, requests = study(tmp_path, work, plan("A", strategies=("covft", FULL, "vision_freeze")))
    found = answered(results, requests).set_index("key")
    assert found.loc["A1", "answer"] == "held"
    assert found.loc["A2", "answer"] == "not measured"
    arms = make_tables(results, requests)["arms"].set_index("arm")["accuracy"]
    assert found.loc["A1", "contrast"] == pytest.approx(arms["covft"] - arms[FULL])
    assert set(found["mixture"]) == {"VS-RD"}


def test_interaction_is_the_difference_of_the_mixtures_gains(tmp_path: Path) -> None:
    """Mixtures of different size weigh the same, however many tasks each has."""
    eight, two = "covft num_experts=8", "covft num_experts=2"
    chances = {f"{eight} 4": 0.9, f"{two} 4": 0.4, f"{eight} 2": 0.4, f"{two} 2": 0.6, FULL: 0.5}
    made = plan("H", tasks=TASKS, experts=(2, 8), types=(2, 4))
    results, requests = study(tmp_path, MadeUp(chances), made)
    found = answered(results, requests).set_index("key")
    assert found.loc["H1", "answer"] == "held"
    assert found.loc["H2", "answer"] == "held"
    assert found.loc["H3", "contrast"] == pytest.approx(found.loc["H1", "contrast"] + found.loc["H2", "contrast"])
    assert found.loc["H3", "answer"] == "held"
    interval, seeds = contrast(results, made, (0, 1), [Term(1, eight), Term(-1, eight)])
    assert (interval, seeds) == (Interval(0, 0, 0), 2)


def test_requests_of_the_same_tasks_are_one_table(tmp_path: Path) -> None:
    work = MadeUp()
    study(tmp_path, work, plan("A", strategies=("covft",)), seeds=(0,))
    results, requests = study(tmp_path, work, plan("A", strategies=("covft", FULL)), seeds=(1,))
    tables = make_tables(results, requests)
    assert len(requests) == 2
    assert tables["arms"].set_index("arm")["seeds"].to_dict() == {"frozen": 0, "covft": 2, FULL: 1}
    assert set(tables["comparisons"].query("reference == 'covft'")["seeds"]) == {1}


def test_reference_of_a_table_is_covft_in_whatever_order_it_was_asked_for(tmp_path: Path) -> None:
    for place, asked in enumerate([("covft", FULL), (FULL, "vision_freeze")][::step] for step in (1, -1)):
        requests: list[Request] = []
        for strategies in asked:
            results, requests = study(tmp_path / str(place), MadeUp(), plan("A", strategies=strategies))
        compared = make_tables(results, requests)["comparisons"].query("reference != 'frozen'")
        assert set(compared["reference"]) == {"covft"}
        assert set(compared["arm"]) == {FULL, "vision_freeze"}


def test_a_single_arm_is_drawn_beside_the_frozen_model(tmp_path: Path) -> None:
    results, requests = study(tmp_path, MadeUp(), plan("A", strategies=("vision_freeze",)))
    tables = {**make_tables(results, requests), "expectations": answered(results, requests)}
    _, caption = all_figures(tables)["strategies"]
    assert "accuracy minus that of frozen" in caption


def test_costs_that_were_measured_by_several_commands_are_one_table(tmp_path: Path) -> None:
    first, second = (plan("E", strategies=names) for names in (("covft", FULL), ("vpt", FULL)))
    with Run.open(overhead.folder_of(tmp_path, first), {}) as run:
        for name in ("covft", FULL, "vpt"):
            run.record((name, 0), {"step_seconds": 1.0})
    found = overhead.read_all(tmp_path, [first, second])
    assert sorted(found["arm"]) == ["covft", FULL, "vpt"]


def test_damaged_request_is_one_sentence(tmp_path: Path) -> None:
    study(tmp_path, MadeUp(), plan("A", strategies=("covft",)))
    (path,) = (tmp_path / "requests").glob("*.json")
    path.write_text("{")
    with pytest.raises(CrosstaskError, match=r"A-.*json cannot be read .*: delete it, and run its command again"):
        read_requests(tmp_path)


def test_costs_are_relative_and_paired_by_repeat() -> None:
    table = pd.DataFrame(
        {"arm": ["covft", FULL] * 3, "repeat": [0, 0, 1, 1, 2, 2], "step_seconds": [2.2, 2.0, 4.4, 4.0, 3.3, 3.0]}
    )
    (expected,) = [e for e in EXPECTATIONS if e.key == "E2"]
    interval, repeats = expectations._relative(table, expected)
    assert interval is not None
    assert interval.value == pytest.approx(0.1)
    assert repeats == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"experts": (2, 2)}, "experts has 2 twice"),
        ({"fractions": (0.0,)}, "fractions are above 0"),
        ({"types": ()}, "types is empty"),
        ({"balance": 0.0}, "a weight above 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CrosstaskError, match=said):
        StudyOptions(**options)


def test_more_types_than_tasks_are_refused() -> None:
    with pytest.raises(CrosstaskError, match="mixes up to 13 types of task, and 4 are given"):
        plan("H", tasks=TASKS)


def test_settings_need_a_dose() -> None:
    with pytest.raises(CrosstaskError, match="the same for all arms"):
        StudySettings("m", {"steps": 3})


def test_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    unit = make_unit(SETTINGS, Cell(plain_arm(FULL), TASKS[:1]), 0)
    Run.open(folder_of(tmp_path, unit), {**unit.config, "items": 3}).close()
    with pytest.raises(CrosstaskError, match="items was 3 and is now 40"):
        is_finished(tmp_path, unit)


def test_arms_cost_what_they_are_and_not_what_their_strategy_is() -> None:
    plans = [plan("F", experts=(2, 8))]
    kinds = {kind_of(unit) for unit in make_units(SETTINGS, plans, (0, 1))}
    assert kinds == {"frozen", "covft num_experts=2", "covft num_experts=8", FULL}


def test_experts_are_drawn_in_order_with_their_number() -> None:
    arms = ["covft num_experts=8", "frozen", FULL, "covft", "covft num_experts=2 layers=all"]
    table = pd.DataFrame({"arm": arms, "types": 3, "accuracy": 0.5, "low": 0.4, "high": 0.6})
    _, labels = lines(table, along="types").axes[0].get_legend_handles_labels()
    assert labels == ["frozen", "covft num_experts=2 layers=all", "covft num_experts=4", "covft num_experts=8", FULL]


def test_costs_answer_for_the_mixture_that_they_were_measured_on(tmp_path: Path) -> None:
    asked = [plan("E", tasks=TASKS[:n], strategies=("covft", FULL)) for n in (2, 3)]
    for one, times in zip(asked, (2.0, 0.5), strict=True):
        with Run.open(overhead.folder_of(tmp_path, one), {}) as run:
            for repeat in range(3):
                slow = 1.0 + repeat  # the machine gets slower; both arms of a repeat do
                run.record(("covft", repeat), {"step_seconds": times * slow})
                run.record((FULL, repeat), {"step_seconds": slow})
    found = answered(Results(tmp_path, SETTINGS), [Request(one, (0,)) for one in asked])
    found = found[found["key"] == "E2"].set_index("mixture")
    assert found["contrast"].to_dict() == pytest.approx({"VS-RD": 1.0, "VS-RD-CN": -0.5})
    assert found["answer"].to_dict() == {"VS-RD": "held", "VS-RD-CN": "not held"}
    assert (found["high"] - found["low"]).max() == pytest.approx(0.0)  # paired by repeat


def test_costs_are_medians_over_repeats() -> None:
    table = pd.DataFrame({"arm": ["covft"] * 3, "repeat": range(3), "step_seconds": [1.0, 2.0, 9.0]})
    found = overhead.summary(table.reindex(columns=list(overhead.COLUMNS)))
    assert found["step_seconds"].tolist() == [2.0]
    assert found["repeats"].tolist() == [3]


def test_flops_are_of_a_picture_however_a_tower_is_given_it() -> None:
    layer = torch.nn.Linear(8, 4, bias=False)
    with overhead.counted(layer) as meter:
        layer(torch.ones(6, 8))  # six patches, or tiles, of two pictures
    assert meter.each(2) == 6 * 8 * 4 * 2 / 2
    with pytest.raises(CrosstaskError, match="did not run"):
        overhead.FlopMeter().each(1)


def test_what_is_claimed_of_all_data_is_not_answered_from_a_share_of_it(tmp_path: Path) -> None:
    work = MadeUp({"covft": 0.9, FULL: 0.3})
    results, requests = study(tmp_path, work, plan("G", fractions=(0.5, 0.25)))
    found = answered(results, requests).set_index("key")["answer"]
    assert found[["G1", "G3"]].tolist() == ["not measured", "not measured"]
    assert found["G2"] == "held"


@pytest.mark.parametrize("change", [lambda rows: rows[::-1], lambda rows: rows[:-1]])
def test_arms_that_answered_other_items_are_refused(tmp_path: Path, change: Any) -> None:
    study(tmp_path, MadeUp(), plan("A", strategies=("covft", FULL)))
    results, requests = Results(tmp_path, SETTINGS), read_requests(tmp_path)
    plain = results.records

    def records(unit: Unit, task: str) -> list[Record]:
        found = plain(unit, task)
        return change(found) if (unit.cell.arm.name, unit.seed) == (FULL, 1) else found

    results.records = records  # type: ignore[method-assign]
    with pytest.raises(CrosstaskError, match="were tested on other items of 'visual_similarity'"):
        make_tables(results, requests)


def test_equal_means_take_the_lower_rate_though_rounding_tells_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    right = {1e-4: (10, 13, 29), 1e-3: (29, 10, 13), 1e-2: (1, 1, 1)}
    monkeypatch.setattr(rates, "is_finished", lambda *_: True)
    monkeypatch.setattr(
        rates,
        "read_records",
        lambda root, unit, task: [
            Record(f"{task}/{n}", "A", "A" if n < right[float(str(root.name))][TASKS.index(task)] else "B", 1.0)
            for n in range(40)
        ],
    )
    made = rates.trials(Path(), SETTINGS, [covft()], TASKS[:3], list(right), seed=0)
    found = rates.table(made).set_index("learning_rate")
    assert found["chosen"].to_dict() == {1e-4: True, 1e-3: False, 1e-2: False}
    assert found.loc[1e-4, "at_edge"]


@pytest.mark.parametrize(("full", "experts", "ranks"), [(900, 1, {8, 19}), (2500, 5, {19, 23}), (2040, 4, {19})])
def test_matched_arms_are_the_nearest_by_count(full: int, experts: int, ranks: set[int]) -> None:
    def count(arm: Any) -> int:
        options = arm.training.get("options", {})
        if arm.training["strategy"] == "covft":
            return 440 + 380 * options.get("num_experts", 4) + 20
        return full if arm.name == FULL else 30 + 102 * options["r"]

    arms, counts = matched_arms(count)  # type: ignore[arg-type]
    assert {arm.training["options"]["r"] for arm in arms if arm.name.startswith("vision_lora")} == ranks
    numbers = [arm.training["options"].get("num_experts") for arm in arms if arm.name.startswith("covft")]
    assert numbers == ([experts] if experts != 4 else [])
    assert counts[FULL] == full


def test_holm_is_over_all_mixtures_of_a_table_against_one_reference() -> None:
    rows = [
        ("H", m, "covft", r, "macro", p) for m, r, p in [("a", FULL, 0.01), ("b", FULL, 0.04), ("a", "frozen", 0.5)]
    ]
    table = pd.DataFrame(rows, columns=["table", "mixture", "arm", "reference", "task", "p_value"])
    assert _corrected(table.assign(p_holm=np.nan))["p_holm"].tolist() == pytest.approx([0.02, 0.04, 0.5])


def test_a_task_on_which_nothing_changed_is_not_above_the_frozen_model(tmp_path: Path) -> None:
    results, requests = study(tmp_path, MadeUp({FULL: 0.9}), plan("A", strategies=("covft", FULL)), seeds=(0,))
    arms = make_tables(results, requests)["arms"].set_index("arm")
    assert arms["tasks_above_frozen"].dropna().to_dict() == {"covft": 0, FULL: 2}


def test_arms_that_took_other_steps_are_refused(tmp_path: Path) -> None:
    class Longer(MadeUp):
        def train(self, unit: Unit, folder: Path) -> dict[str, Any]:
            return super().train(unit, folder) | {"steps": 11 if unit.cell.arm.name == FULL else 10}

    with pytest.raises(CrosstaskError, match="was trained on other examples or steps"):
        make_tables(*study(tmp_path, Longer(), plan("A", strategies=("covft", FULL))))
