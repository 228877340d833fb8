"""Figures and page of a relation show what the tables hold."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pandas as pd
import pytest

from figures import relation as draw
from figures import relation_report
from interp.relation.alignment import Transfer
from interp.relation.study import Relation, relate
from interp.relation.tables import NOTES

TASKS = ("art_style", "jigsaw", "relative_depth", "counting", "my task", "yours")


@cache
def found(models: int = 1, *, runs: int = 2, layers: int = 2) -> Relation:
    rng = np.random.default_rng(0)
    rows = [
        {"measure": measure, "layer": layer, "source": s, "target": t, "value": rng.normal()}
        for measure in ("vector_cosine", "lora_cosine")
        for layer in range(layers)
        for s in TASKS
        for t in TASKS
    ]
    names = [f"model {n}" for n in range(models)]
    transfers = {name: Transfer(name, TASKS, rng.normal(size=(runs, 6, 6))) for name in names}
    groups = pd.DataFrame({"task": TASKS, "format": list("aabbcc")})
    return relate(pd.DataFrame(rows), transfers, covariates=[groups])


def test_every_claim_has_a_scatter_and_two_matrices() -> None:
    drawn = relation_report.all_figures(found().tables)
    claims = ("structure", "vectors", "updates", "format", "prediction")
    assert set(drawn) == {f"{claim}_{kind}" for claim in claims for kind in ("scatter", "heatmaps")} | {
        "correlations", "layers", "predictors"
    }  # fmt: skip
    for claim in claims:
        figure, caption = drawn[f"{claim}_heatmaps"]
        assert len([ax for ax in figure.axes if ax.images]) == 2
        assert caption


def test_scatter_shows_every_pair_of_the_strongest_measure() -> None:
    tables = found().tables
    chosen = draw.chosen_matrix(tables["relation"], "task vectors")["model 0"]
    figure = draw.scatter(tables["pairs"], tables["relation"], family="task vectors")
    points = figure.axes[0].collections[0].get_offsets()
    pairs = tables["pairs"].set_index(["kind", "matrix"])
    assert len(points) == 30
    assert np.asarray(points)[:, 0] == pytest.approx(pairs.loc[("task vectors", "vector_cosine"), "left"].to_numpy())
    assert np.corrcoef(np.asarray(points).T)[0, 1] == pytest.approx(chosen["r"])
    assert f"r = {chosen['r']:.2f}" in figure.axes[0].get_title(loc="left")


def test_scatter_without_an_interval_says_none() -> None:
    tables = found().tables
    relation = tables["relation"].assign(low=np.nan, high=np.nan)
    title = draw.scatter(tables["pairs"], relation, family="covariate").axes[0].get_title(loc="left")
    assert "nan" not in title
    assert "[" not in title


def test_curves_of_many_measures_can_be_told_apart_and_are_not_under_the_legend() -> None:
    relation = found().tables["relation"]
    rows = relation[(relation["family"] == "task vectors") & (relation["layer"] != "pooled")]
    many = pd.concat([relation, *(rows.assign(measure=f"vector {n}") for n in range(9))])
    figure = draw.layer_curves(many)
    assert figure is not None
    ax = figure.axes[0]
    looks = [
        (line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines if len(line.get_xdata()) == 2
    ]
    looks = [look for look in looks if look[2] not in ("None", "")]
    assert len(looks) == len(set(looks)) == 11
    assert ax.get_legend() is None
    assert len(figure.legends) == 1


def test_heatmaps_have_sources_as_rows() -> None:
    tables = found().tables
    figure = draw.structure_heatmaps(tables["pairs"])
    shown = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    transfer = found().models[0].aligned.transfer
    apart = ~np.eye(6, dtype=bool)
    assert shown[apart] == pytest.approx(transfer[apart])
    assert np.isnan(np.diag(shown)).all()
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list(found().models[0].aligned.short)


def test_models_stand_side_by_side() -> None:
    tables = found(2).tables
    assert len(draw.scatter(tables["pairs"], tables["relation"], family="updates").axes) == 2
    panels = [ax for ax in draw.heatmaps(tables["pairs"], tables["relation"], family="updates").axes if ax.images]
    assert len(panels) == 4
    assert panels[2].get_title(loc="left").startswith("model 1: ")


def test_one_run_shows_the_two_directions_of_a_pair() -> None:
    figure = draw.structure_scatter(found(runs=1).tables["pairs"])
    assert "target to source" in figure.axes[0].get_ylabel()


def test_layers_are_drawn_against_the_largest_of_permuted_tasks() -> None:
    relation = found().tables["relation"]
    figure = draw.layer_curves(relation)
    assert figure is not None
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    mine = relation.query("measure == 'lora_cosine' and layer in ['0', '1']")
    assert np.asarray(lines["lora_cosine"]) == pytest.approx(mine["r"].to_numpy())
    assert draw.layer_curves(relation[~relation["layer"].isin(["0", "1"])]) is None


def test_predictors_have_their_interval_in_every_metric() -> None:
    prediction = found().tables["prediction"]
    figure = draw.predictor_bars(prediction)
    for ax, metric in zip(figure.axes, draw.METRICS, strict=True):
        rows = prediction[prediction["metric"] == metric]
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        assert [float(dot.get_xdata()[0]) for dot in dots] == pytest.approx(rows["value"].tolist())


def test_page_answers_in_order_and_refers_to_nothing_outside() -> None:
    study = found()
    html = relation_report.report(
        title="A title", lead=["Six tasks."], answers=study.sentences, tables=study.tables,
        figures={name: (b"\x89PNG" + bytes(30), name) for name in relation_report.all_figures(study.tables)},
        notes=NOTES, details={"Configuration": "{}"},
    )  # fmt: skip
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == [
        "1. Is there structure beyond main effects?",
        "2. Do task vectors relate to it?",
        "3. Do updates relate to it?",
        "4. Does format explain it?",
        "5. How well can transfer be predicted beforehand?",
        "All measures",
        "Tables",
        "How it was run",
    ]
    order = [html.index(f"{claim}_scatter") for claim in ("structure", "vectors", "updates", "format", "prediction")]
    assert order == sorted(order)
    assert not re.findall(r"(?:src|href)=\"(?!data:)", html)


def test_claims_without_a_similarity_are_not_drawn() -> None:
    plain = relate([], Transfer("x", TASKS, np.random.default_rng(1).normal(size=(1, 6, 6))), covariates=())
    assert set(relation_report.all_figures(plain.tables)) == {
        "structure_scatter", "structure_heatmaps", "prediction_scatter", "prediction_heatmaps", "predictors"
    }  # fmt: skip
