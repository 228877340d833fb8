"""Contexts that share no demonstration, shorter contexts, and wrong labels."""

from __future__ import annotations

import pytest

from interp.errors import CrosstaskError
from interp.protocol.contexts import draw, draw_apart, wrong_labels
from interp.scoring import normalise
from interp.tasks import Item

POOL = [Item(f"thing {i}", (["cat", "dog", "ox"][i % 3], f"alias {i}"), None, "selection") for i in range(12)]


def test_contexts_apart_repeat_no_demonstration_before_the_pool_is_used_up() -> None:
    contexts = draw_apart(POOL, shots=5, contexts=6, seed=0, task="kinds")
    shown = [item.input for context in contexts for item in context.demonstrations]
    assert len(set(shown[:12])) == 12
    assert max(shown.count(name) for name in set(shown)) == 3  # 30 demonstrations of 12 items
    for context in contexts:
        assert len(context.items) == 6  # five different ones and a dummy that is none of them
    assert draw_apart(POOL, shots=5, contexts=2, seed=0, task="kinds") == contexts[:2]
    assert draw_apart(POOL, shots=5, contexts=2, seed=1, task="kinds") != contexts[:2]


def test_first_demonstrations_keep_the_dummy_query() -> None:
    (context,) = draw(POOL, shots=5, contexts=1, seed=0, task="kinds")
    short = context.first(2)
    assert (short.demonstrations, short.outputs) == (context.demonstrations[:2], context.outputs[:2])
    assert short.dummy == context.dummy


@pytest.mark.parametrize("wrong", [0, 1, 3, 5])
def test_so_many_labels_are_wrong_and_fewer_are_among_them(wrong: int) -> None:
    (context,) = draw(POOL, shots=5, contexts=1, seed=0, task="kinds")
    found = wrong_labels(context, POOL, wrong=wrong, seed=0, task="kinds")
    answers = {item.outputs[0] for item in POOL}
    changed = []
    for place, (item, output) in enumerate(zip(found.demonstrations, found.outputs, strict=True)):
        assert output in answers
        if normalise(output) not in {normalise(right) for right in item.outputs}:
            changed.append(place)
    assert len(changed) == wrong
    every = wrong_labels(context, POOL, wrong=5, seed=0, task="kinds")
    assert all(found.outputs[place] == every.outputs[place] for place in changed)


def test_a_task_with_one_answer_has_no_wrong_labels() -> None:
    pool = [Item(f"thing {i}", ("cat",), None, "selection") for i in range(8)]
    (context,) = draw(pool, shots=3, contexts=1, seed=0, task="cats")
    with pytest.raises(CrosstaskError, match="has no wrong answer"):
        wrong_labels(context, pool, wrong=1, seed=0, task="cats")
