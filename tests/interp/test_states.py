"""Blocks of items and the states read from their contexts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.prompts import Example, Prompt, Specification, Template, render
from interp.protocol.contexts import source_prompts
from interp.protocol.states import StatePlan, StateSettings, embedded_tokens, extract_states
from interp.tasks import load_task
from interp.vectors import extract
from tests import tiny
from tests.places import make_task


def settings(**changes: object) -> StateSettings:
    given: dict = {"model": "m", "tasks": ("a", "b"), "shots": 2, "blocks": 3, "choice_blocks": 2, "orders": 2}
    return StateSettings(**given | {"seed": 0, "template": "Q: {x}\\nA: {y}\\n\\n"} | changes)


@pytest.fixture(scope="module")
def plan() -> StatePlan:
    tasks = [load_task(name) for name in ("country-capital", "country-currency", "food-color")]
    return StatePlan(settings(tasks=tuple(task.name for task in tasks), blocks=5), tasks)


def test_blocks_share_no_item_and_all_families_have_as_many(plan: StatePlan) -> None:
    for split, families in plan.blocks.items():
        assert {len(blocks) for blocks in families.values()} == {5 if split == "test" else 2}
        for blocks in families.values():
            names = [name for block in blocks for name in block]
            assert len(names) == len(set(names)) == 3 * len(blocks)
    chosen, scored = ({n for block in plan.blocks[s]["countries"] for n in block} for s in ("selection", "test"))
    assert not chosen & scored


def test_tasks_of_a_family_read_the_same_items_in_the_same_order(plan: StatePlan) -> None:
    capital, currency = (plan.contexts(plan.tasks[f"country-{name}"], "test") for name in ("capital", "currency"))
    assert [c.dummy.input for c in capital] == [c.dummy.input for c in currency]
    assert [[i.input for i in c.demonstrations] for c in capital] == [
        [i.input for i in c.demonstrations] for c in currency
    ]
    assert capital[0].outputs != currency[0].outputs


def test_orders_of_a_block_show_its_items_with_other_dummy_queries(plan: StatePlan) -> None:
    contexts = plan.contexts(plan.tasks["food-color"], "test")
    for first, second in zip(contexts[::2], contexts[1::2], strict=True):
        assert first.items == second.items
        assert first.dummy != second.dummy
        assert len(first.demonstrations) == 2


def test_configuration_changes_with_the_items(plan: StatePlan) -> None:
    tasks = list(plan.tasks.values())
    again = StatePlan(plan.settings, tasks)
    other = StatePlan(settings(tasks=plan.settings.tasks, blocks=5, seed=1), tasks)
    assert again.config() == plan.config()
    assert other.config()["items_sha256"] != plan.config()["items_sha256"]


@pytest.fixture(scope="module")
def prompts(llava: Model) -> list[Prompt]:
    """Text, image and instruction prompts of different lengths."""
    template = Template.parse("Q: {x}\\nA: {y}\\n\\n")
    pictures = [tiny.picture(seed) for seed in range(3)]
    return [
        render(llava, Specification((Example("a ratio of 3:1", "x"), Example("b", "y"))), "c", template=template),
        render(
            llava, Specification((Example(pictures[0], "x"), Example(pictures[1], "y"))), pictures[2], template=template
        ),
        render(llava, Specification(instruction="The capital city of the country:"), None, template=template),
    ]


def test_states_of_a_ragged_batch_are_those_of_each_prompt_alone(llava: Model, prompts: list[Prompt]) -> None:
    found = extract_states(llava, prompts)
    torch.testing.assert_close(found["task_vector"], extract(llava, prompts), rtol=0, atol=1e-9)
    for at, prompt in enumerate(prompts):
        alone = extract_states(llava, [prompt])
        for kind, states in found.items():
            torch.testing.assert_close(states[at], alone[kind][0], rtol=0, atol=1e-9)


def test_context_embedding_is_the_mean_state_over_the_demonstrations_inputs(
    llava: Model, prompts: list[Prompt]
) -> None:
    from interp.batches import collate

    found = extract_states(llava, prompts)["context_embedding"]
    for prompt, mean in zip(prompts, found, strict=True):
        output = llava.forward(collate(llava, [prompt]).inputs, use_cache=False, output_hidden_states=True)
        spans = [*prompt.spans("input", example=0), *prompt.spans("input", example=1)]
        spans = spans or [slice(1, prompt.n_tokens - 1)]  # the instruction
        tokens = [token for span in spans for token in range(span.start, span.stop)]
        assert embedded_tokens(prompt).tolist() == tokens
        expected = output.hidden_states[2][0, tokens].mean(0)  # after block 1
        torch.testing.assert_close(mean[1], expected, rtol=0, atol=1e-9)


def test_text_and_image_contexts_of_a_task_are_read_at_their_own_tokens(llava: Model, tmp_path: Path) -> None:
    task = load_task(make_task(tmp_path / "kinds", ["cat", "dog"], items=24))
    other = load_task(make_task(tmp_path / "colours", ["red", "blue"], items=24))
    plan = StatePlan(settings(tasks=("kinds", "colours"), blocks=2), [task, other])
    contexts = plan.contexts(task, "test")
    text, image = (source_prompts(llava, task, way, contexts, template=plan.template) for way in ("text", "image"))
    assert all(len(embedded_tokens(prompt)) == 2 * 4 for prompt in image)  # two pictures of 4 tokens
    assert all(len(embedded_tokens(prompt)) > 0 for prompt in text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shots": 0}, "--shots is 0; it must be at least 1"),
        ({"choice_blocks": 1}, "--choice-blocks is 1; it must be at least 2"),
        ({"orders": 4}, "--orders is 4, but a block of 2 demonstrations and a dummy query has 3 items"),
        ({"tasks": ("a",)}, "--tasks names 1 task"),
        ({"tasks": ("a", "a")}, "names a task twice"),
    ],
)
def test_bad_settings_are_one_sentence(changes: dict, said: str) -> None:
    with pytest.raises(CrosstaskError, match=said):
        settings(**changes)


def test_too_few_items_for_two_blocks_are_refused() -> None:
    tasks = [load_task(name) for name in ("animal-young", "food-color")]
    with pytest.raises(CrosstaskError, match="'animal-young' has 29 selection items; two blocks of 19 demonstrations"):
        StatePlan(settings(tasks=tuple(task.name for task in tasks), shots=19), tasks)
