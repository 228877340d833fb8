"""The cross-modal protocol: contexts, layer choice, tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binomtest

from interp.errors import CrosstaskError
from interp.models.options import LoadOptions
from interp.protocol import tables
from interp.protocol.contexts import draw, shuffle_labels
from interp.protocol.settings import Settings, every
from interp.statistics import wilson
from interp.tasks import Item

POOL = tuple(Item(f"item {i}", (f"answer {i}",), None, "selection") for i in range(10))


def contexts(n: int = 6, seed: int = 0, shots: int = 3) -> tuple:
    return draw(POOL, shots=shots, contexts=n, seed=seed, task="task")


def test_context_shows_different_items_and_a_dummy_query_that_is_none_of_them() -> None:
    for context in contexts():
        assert len(context.demonstrations) == 3
        assert len(context.items) == 4
        assert context.dummy.input not in {item.input for item in context.demonstrations}
        assert context.outputs == tuple(item.outputs[0] for item in context.demonstrations)


def test_contexts_do_not_depend_on_how_many_are_drawn_but_on_the_seed() -> None:
    assert contexts(6)[:2] == contexts(2)
    assert contexts(2, seed=1) != contexts(2)


def test_too_small_a_pool_says_what_is_needed() -> None:
    with pytest.raises(CrosstaskError, match=r"'task' has 10 selection items; 9 demonstrations, .* need 11"):
        contexts(shots=9)


def test_shuffled_labels_keep_inputs_and_outputs_but_not_their_pairing() -> None:
    for context in contexts():
        shuffled = shuffle_labels(context, seed=0)
        assert shuffled.demonstrations == context.demonstrations
        assert sorted(shuffled.outputs) == sorted(context.outputs)
        assert all(a != b for a, b in zip(shuffled.outputs, context.outputs, strict=True))
        assert shuffle_labels(context, seed=0) == shuffled


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 0}, "--shots is 0; it must be at least 1"),
        ({"sources": ("txt",)}, "--source 'txt' is unknown; expected one of text, .* Did you mean 'text'"),
        ({"queries": ("picture",)}, "--query 'picture' is unknown"),
        ({"on_error": "skip"}, "--on-error 'skip' is unknown"),
        ({"seeds": (1, 1)}, "--seeds names a value twice"),
        ({"seeds": ()}, "--seeds is empty"),
        ({"test_items": 0}, "--test-items is 0"),
    ],
)
def test_settings_refuse_what_makes_no_sense(options: dict, message: str) -> None:
    with pytest.raises(CrosstaskError, match=message):
        Settings(**options)


def test_settings_take_what_the_model_can_do_unless_told() -> None:
    text_only = Settings(model="m").resolve(takes_images=False, n_layers=3)
    assert text_only.queries == ("text",)
    assert text_only.sources == ("text", "instruction", "ensemble")
    assert text_only.layers == (0, 1, 2)
    assert Settings(model="bundled").resolve(takes_images=True, n_layers=3).source_models == ("bundled", "bundled-llm")
    with pytest.raises(CrosstaskError, match="takes no images, so it cannot be asked image queries"):
        Settings(queries=("image",)).resolve(takes_images=False, n_layers=3)
    with pytest.raises(CrosstaskError, match="--layers 3 is out of range: 'm' has 3 layers, 0 to 2"):
        Settings(model="m", layers=(0, 3)).resolve(takes_images=False, n_layers=3)


def sweep(*curves: tuple[str, int, list[float]]) -> pd.DataFrame:
    """Selection accuracies of one arm: (task, seed, curve over layers)."""
    arm = {"model": "m", "source_model": "m", "source": "text", "query": "text"}
    rows = [arm | {"task": t, "seed": s, "layer": i, "exact": x} for t, s, c in curves for i, x in enumerate(c)]
    return pd.DataFrame(rows)


def test_pooled_layer_gives_each_task_the_same_weight_whatever_its_seeds() -> None:
    found = tables.layer_table(sweep(("a", 0, [0.6, 0.0]), ("a", 1, [0.6, 0.0]), ("b", 0, [0.0, 0.7])))
    assert found[["task", "layer", "exact"]].to_numpy().tolist() == [["all", 1, 0.35], ["a", 0, 0.6], ["b", 1, 0.7]]


def test_ties_go_to_the_lowest_layer() -> None:
    found = tables.layer_table(sweep(("a", 0, [0.1, 0.3, 0.3, 0.2]), ("b", 0, [0.3, 0.2, 0.2, 0.0])))
    assert found.set_index("task")["layer"].to_dict() == {"all": 1, "a": 1, "b": 0}


def predictions(answers: dict[str, dict[tuple[str, int], tuple[bool, bool]]]) -> pd.DataFrame:
    """task -> (item, seed) -> (patch right, prompt right); the tasks are one family."""
    rows = []
    for task, found in answers.items():
        for (item, seed), right in found.items():
            for method, exact in zip(("patch_single", "prompt"), right, strict=True):
                patched = method == "patch_single"
                rows.append(
                    {
                        "model": "m",
                        "family": "f",
                        "task": task,
                        "query": "image",
                        "seed": seed,
                        "method": method,
                        "source_model": "m" if patched else "",
                        "source": "text",
                        "layer_choice": "pooled" if patched else "",
                        "layer": 2 if patched else None,
                        "demonstrations": 5,
                        "budget": "matched",
                        "item": item,
                        "exact": exact,
                        "first_token": exact,
                        "prefix": exact,
                    }
                )
    return pd.DataFrame(rows).astype({"layer": "Int64"})


ONE_SEED = {"a": {(f"i{n}", 0): (n < 6, n in (0, 7)) for n in range(8)}}


def test_results_have_wilson_intervals_of_each_seeds_items() -> None:
    table = tables.result_table(predictions(ONE_SEED)).set_index("method")
    assert table.loc["patch_single", ["n", "correct", "exact", "layer"]].tolist() == [8, 6, 0.75, 2]
    expected = wilson(6, 8)
    assert table.loc["patch_single", ["wilson_low", "wilson_high"]].tolist() == [expected.low, expected.high]
    assert pd.isna(table.loc["prompt", "layer"])


def test_paired_comparison_of_one_task_and_seed_is_mcnemars_test() -> None:
    row = tables.paired_table(predictions(ONE_SEED)).set_index("task").loc["a"]
    assert (row["only_patch"], row["only_prompt"], row["items"]) == (5, 1, 8)
    assert row["p"] == pytest.approx(binomtest(5, 6).pvalue)
    assert row["difference"] == pytest.approx(0.5)
    assert row["low"] < 0.5 < row["high"]


def test_repeating_items_over_seeds_narrows_no_interval() -> None:
    once = predictions(ONE_SEED)
    thrice = predictions({"a": {(item, s): r for (item, _), r in ONE_SEED["a"].items() for s in (0, 1, 2)}})
    columns = ["exact", "low", "high", "items"]
    one, three = tables.summary_table(once), tables.summary_table(thrice)
    assert one[columns].equals(three[columns])
    assert three["seeds"].tolist() == [3] * len(three)
    pairs = [tables.paired_table(found).set_index("task").loc["a"] for found in (once, thrice)]
    assert pairs[0][["difference", "low", "high", "items"]].equals(pairs[1][["difference", "low", "high", "items"]])
    assert pairs[1]["p"] > 0.05


def test_mean_over_tasks_weighs_tasks_equally_and_counts_shared_items_once() -> None:
    answers = {
        "a": {(f"i{n}", 0): (True, False) for n in range(2)},
        "b": {(f"i{n}", 0): (n < 1, False) for n in range(4)},
    }
    table = tables.summary_table(predictions(answers)).set_index(["task", "method"])
    overall = table.loc[("all", "patch_single")]
    assert overall["exact"] == pytest.approx((1 + 0.25) / 2)
    assert overall["items"] == 4
    pair = tables.paired_table(predictions(answers)).set_index("task").loc["all"]
    assert pair["difference"] == pytest.approx(0.625)
    assert pair["items"] == 4


def test_config_holds_what_decides_the_numbers_and_nothing_of_the_machine() -> None:
    config = Settings(model="m", loading=LoadOptions(device="cuda"), tasks=(str(Path("a")),)).config()
    assert config["tasks"] == ["a"]
    assert "device" not in config


def test_second_half_of_the_layers_has_those_of_the_whole_grid() -> None:
    assert every(2, 30) == tuple(range(0, 30, 2))
    assert every(2, 30, second_half=True) == (14, 16, 18, 20, 22, 24, 26, 28)
    assert every(1, 4, second_half=True) == (2, 3)
    assert every(2, 1, second_half=True) == every(2, 2, second_half=True) == (0,)  # never none
