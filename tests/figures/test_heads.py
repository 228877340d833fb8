"""Figures of the head experiment, from tables made on the spot."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from figures import heads


@pytest.mark.parametrize("n_tasks", [1, 3, 6])
def test_effect_maps_have_a_panel_for_each_task_one_for_the_mean_and_no_other(n_tasks: int) -> None:
    places = itertools.product(range(n_tasks), range(3), range(2))
    effects = pd.DataFrame(
        [
            {"task": f"task {task}", "layer": layer, "head": head, "n": 8, "log_gain": task - layer + 0.5 * head}
            for task, layer, head in places
        ]
    )
    *panels, colours = heads.effect_maps(effects).axes
    assert [panel.get_title(loc="left") for panel in panels] == [*dict.fromkeys(effects["task"]), "mean over tasks"]
    assert "log p(answer)" in colours.get_ylabel()
    shown = panels[-1].images[0].get_array()
    assert shown.tolist() == [[(n_tasks - 1) / 2 - layer + 0.5 * head for layer in range(3)] for head in range(2)]
