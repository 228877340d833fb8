"""The figures of overriding are pure functions of the saved tables."""

from __future__ import annotations

import pandas as pd
import pytest

from figures import override


def rows(kind: str, low: float) -> list[dict[str, object]]:
    arms = [("before", ""), ("patch", "text"), ("random", "text"), ("wrong", "text"), ("prefix", ""), ("majority", "")]
    return [
        {
            "kind": kind,
            "set": name,
            "arm": arm,
            "source": source,
            "sets": 2,
            "items": 12,
            "query": low + place / 20,
            "query_low": low,
            "query_high": 0.9,
            "vector": low + place / 10,
            "vector_low": low / 2,
            "vector_high": 0.95,
        }
        for name in ("all", "one")
        for place, (arm, source) in enumerate(arms)
    ]


def test_both_rates_of_every_arm_are_drawn_with_their_intervals() -> None:
    summary = pd.DataFrame([*rows("all", 0.0), *rows("semantic", 0.1), *rows("factual", 0.2)])
    figure = override.both_accuracies(summary)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "semantic\n2 sets, 12 items",
        "factual\n2 sets, 12 items",
    ]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:3] == ["no patch", "instruction as prefix", "patch · text examples"]
    drawn = [line.get_xdata()[0] for line in figure.axes[1].lines]
    expected = summary[(summary["kind"] == "factual") & (summary["set"] == "all")].set_index("arm")
    order = [arm for arm in override.ARMS if arm in expected.index]
    assert drawn == pytest.approx([expected.loc[arm, side] for arm in order for side in ("query", "vector")])
    ends = {tuple(segment[:, 0]) for line in figure.axes[1].collections for segment in line.get_segments()}
    assert ends == {(0.2, 0.9), (0.1, 0.95)}


def test_curves_average_the_sets_of_a_kind_and_mark_the_chosen_layer() -> None:
    sweep = pd.DataFrame(
        {"kind": "semantic", "set": name, "source": "text", "layer": layer, "n": 6, "vector": rate * layer}
        for name, rate in (("one", 0.1), ("two", 0.3))
        for layer in (0, 2)
    )
    layers = pd.DataFrame({"kind": ["semantic"], "source": ["text"], "layer": [2]})
    (ax,) = override.accuracy_by_layer(sweep, layers).axes
    assert ax.lines[2].get_ydata().tolist() == pytest.approx([0.0, 0.4])
    assert list(ax.lines[3].get_xdata()) == [2, 2]
