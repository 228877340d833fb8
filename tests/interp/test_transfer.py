"""Rates, comparisons and the paper's tables, from synthetic answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.protocol import rates as protocol
from interp.protocol import transfer
from interp.statistics import holm, wilson
from tests.figures import tables

MAIN, OTHER = "Q: {x}\\nA: {y}\\n\\n", "chat"
SOURCES = (tables.MODEL, tables.LLM)


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    """Two templates and two seeds; the text patch is right on image queries wherever its number of the item is even."""
    found = []
    for template in (MAIN, OTHER):
        for seed in (0, 1):
            frame = tables.predictions(items=4).assign(template=template, seed=seed)
            number = frame["item"].str.removeprefix("item ").astype(int)
            own = (frame["source"] == "text") & (frame["source_model"] == tables.MODEL) & (frame["query"] == "image")
            for method, right in (("patch_mean", number % 2 == 0), ("patch_single", number < 5)):
                rows = own & (frame["method"] == method)
                frame.loc[rows, "exact"] = right[rows]
            prompt = (frame["method"] == "prompt") & (frame["source"] == "text") & (frame["query"] == "image")
            frame.loc[prompt, "exact"] = (number == 0)[prompt]
            found.append(frame)
    return pd.concat(found, ignore_index=True)


@pytest.fixture(scope="module")
def rates(answers: pd.DataFrame) -> pd.DataFrame:
    return transfer.transfer_rates(answers)


@pytest.fixture(scope="module")
def compared(answers: pd.DataFrame) -> pd.DataFrame:
    return transfer.transfer_comparisons(answers, tables.MODEL, SOURCES)


def test_rates_are_means_over_tasks_with_items_of_a_family_counted_once(rates: pd.DataFrame) -> None:
    row = rates[
        (rates["template"] == MAIN) & (rates["query"] == "image") & (rates["method"] == "patch_mean")
        & (rates["source"] == "text") & (rates["source_model"] == tables.MODEL) & (rates["layer_choice"] == "pooled")
    ].set_index("task")  # fmt: skip
    assert len(row) == 1 + len(tables.TASKS)
    assert (row["exact"] == 0.5).all()
    assert row.loc["all", ["items", "seeds"]].tolist() == [12, 2]  # three families of four items
    assert row.loc[tables.TASKS[0], "items"] == 4
    assert row.loc["all", "low"] < 0.5 < row.loc["all", "high"]
    assert row.loc["all", "seed_sd"] == 0


def test_comparison_is_paired_and_holm_is_over_a_template_and_query(compared: pd.DataFrame) -> None:
    table = compared
    row = table[
        (table["comparison"] == "text patch - text prompt") & (table["budget"] == "unmatched")
        & (table["query"] == "image") & (table["template"] == MAIN) & (table["task"] == "all")
    ].iloc[0]  # fmt: skip
    assert (row["a"], row["b"], row["difference"]) == (0.5, 0.25, 0.25)  # items 0 and 2 against item 0
    assert (row["only_a"], row["only_b"], row["items"], row["seeds_above"]) == (12, 0, 12, 2)
    for _, family in table.groupby(["template", "query", table["task"] == "all"]):
        assert family["p_holm"].tolist() == pytest.approx(holm(family["p"].tolist()))
    names = set(table["comparison"])
    assert {"text patch - best image method", f"text patch of {tables.LLM} - of {tables.MODEL}"} <= names
    assert "text patch - majority answer" in names


def test_best_image_method_is_the_better_of_the_two(compared: pd.DataFrame) -> None:
    table = compared
    table = table[(table["task"] == "all") & (table["query"] == "image") & (table["template"] == MAIN)]
    by_name = table[table["budget"] == "unmatched"].set_index("comparison")["b"]
    image = by_name[["text patch - image prompt", "text patch - image patch"]]
    assert by_name["text patch - best image method"] == image.max() > image.min()


def test_models_without_images_have_fewer_comparisons(answers: pd.DataFrame) -> None:
    text = answers[(answers["source"] != "image") & (answers["query"] == "text") & (answers["task"] == tables.TASKS[0])]
    names = set(transfer.transfer_comparisons(text, tables.MODEL, SOURCES)["comparison"])
    assert not any("image" in name for name in names)
    assert "text patch - text prompt" in names


def test_paper_tables_hold_what_their_captions_say(rates: pd.DataFrame) -> None:
    one, three, four, five = (transfer.paper_table(rates, tables.MODEL, number, MAIN) for number in (1, 3, 4, 5))
    assert set(one["query"]) == {"image"}
    assert {"no_context", "majority", "prompt", "patch_single", "patch_mean", "control_wrong_task"} <= set(
        one["method"]
    )
    assert set(three["source_model"]) == set(SOURCES)
    assert set(three["source"]) == {"text"}
    assert set(zip(four["source"], four["query"], strict=True)) == {
        (source, query) for source in ("text", "image", "instruction", "ensemble") for query in ("image", "text")
    }
    assert set(four["source_model"]) == set(SOURCES)
    assert set(five["template"]) == {MAIN, OTHER}
    for table in (one, three, four, five):
        assert (table["by"] == transfer.OURS).all()
        assert not table.duplicated(["template", "query", "method", "source_model", "source"]).any()
        means = table[tables.TASKS].to_numpy(float).mean(1)
        assert table["all"].to_numpy(float) == pytest.approx(means)


@pytest.mark.parametrize(
    ("model", "counts"),
    [("llava-hf/llava-1.5-7b-hf", {1: 4, 3: 2, 4: 2}), ("HuggingFaceM4/idefics2-8b", {1: 6, 3: 2, 4: 4, 5: 4})],
)
def test_published_rows_stand_beside_a_model_of_the_paper(
    answers: pd.DataFrame, model: str, counts: dict[int, int]
) -> None:
    used = answers[(answers["template"] == MAIN) & (answers["seed"] == 0) & (answers["source_model"] != tables.LLM)]
    renamed = used.assign(model=model, source_model=used["source_model"].replace({tables.MODEL: model}))
    rates = transfer.transfer_rates(renamed)
    for number, count in counts.items():
        table = transfer.paper_table(rates, model, number, MAIN)
        theirs = table[table["by"] == transfer.PAPER]
        assert len(theirs) == count
        assert set(theirs["demonstrations"]) <= {0, 5, 120}
        assert theirs[tables.TASKS].notna().all().all()


def test_folder_called_like_a_model_of_the_paper_is_that_model(tmp_path: Path) -> None:
    named = tmp_path / "llava-1.5-7b-hf"
    cached = tmp_path / "models--HuggingFaceM4--idefics2-8b" / "snapshots" / "0f"
    other = tmp_path / "llava-1.5-7b-hf-tuned"
    for folder in (named, cached, other):
        folder.mkdir(parents=True)
    assert set(transfer.published(str(named))["model"]) == {"", "llava-hf/llava-1.5-7b-hf"}
    assert set(transfer.published(str(cached))["model"]) == {"", "HuggingFaceM4/idefics2-8b"}
    assert transfer.published(str(other)).empty
    assert transfer.published("someone/llava-1.5-7b-hf").empty


def test_mean_of_published_rows_is_over_the_tasks_that_were_run(answers: pd.DataFrame) -> None:
    model, some = "llava-hf/llava-1.5-7b-hf", tables.TASKS[:2]
    used = answers[answers["task"].isin(some) & (answers["source_model"] != tables.LLM) & (answers["seed"] == 0)]
    renamed = used.assign(model=model, source_model=used["source_model"].replace({tables.MODEL: model}))
    table = transfer.paper_table(transfer.transfer_rates(renamed), model, 4, MAIN)
    theirs = table[table["by"] == transfer.PAPER]
    assert theirs["all"].tolist() == pytest.approx([(0.31 + 0.30) / 2, (0.97 + 0.58) / 2])
    assert set(tables.TASKS) & set(table) == set(some)


def test_published_means_are_those_of_their_tasks() -> None:
    for model in ("llava-hf/llava-1.5-7b-hf", "TIGER-Lab/Mantis-8B-Fuyu", "HuggingFaceM4/idefics2-8b"):
        table = transfer.published(model)
        assert len(table) > 3
        assert np.abs(table[tables.TASKS].mean(axis=1) - table["all"]).max() < 0.011
    assert transfer.published("bundled").empty


def test_arms_without_a_common_answer_are_not_compared(answers: pd.DataFrame) -> None:
    some = answers[answers["method"] == "prompt"]
    assert protocol.comparison_rows(some.iloc[:0], some.iloc[:0], {}) == []
    assert protocol.with_holm([], ["template"]).empty


def test_rates_that_never_vary_still_have_an_interval() -> None:
    rows = [("f", "t", f"item {i}", s, False, False, False) for i in range(10) for s in (0, 1)]
    frame = pd.DataFrame(rows, columns=[*protocol.WHERE, *protocol.RULES]).assign(arm="x")
    row = protocol.rate_table(frame, ["arm"]).iloc[0]
    assert (row["exact"], row["low"]) == (0, 0)
    assert row["high"] == pytest.approx(wilson(0, 10).high)
    (difference, _) = protocol.comparison_rows(frame, frame, {})
    assert (difference["difference"], difference["p"]) == (0, 1)
    assert difference["high"] == -difference["low"] == pytest.approx(wilson(0, 10).high)
