"""LogME of tuned states finds the source whose states tell a target's answers."""

import numpy as np
import pytest

from interp.errors import CrosstaskError
from interp.updates.answers import LastStates, answer_logme

RNG = np.random.default_rng(0)
TARGETS = ["RD"] * 40 + ["CN"] * 40 + ["caption"] * 4
ANSWERS = [f"({'AB'[i % 2]})" for i in range(80)] + ["a red cup"] * 4


def states(told: slice | None) -> np.ndarray:
    found = RNG.standard_normal((84, 6))
    if told is not None:
        found[told, 0] += 3 * np.array([1 if answer == "(A)" else -1 for answer in ANSWERS[told]])
    return found


def test_states_that_tell_a_targets_answers_have_more_evidence():
    last = {"RD@0": states(slice(0, 40)), "RD@1": states(slice(0, 40)), "CN@0": states(None)}
    found = answer_logme(last, {"RD@0": "RD", "RD@1": "RD", "CN@0": "CN"}, TARGETS, ANSWERS)
    values = found.set_index(["source", "target"])["value"]
    assert set(values.index) == {("RD", "RD"), ("RD", "CN"), ("CN", "RD"), ("CN", "CN")}  # captions have no letter
    assert values["RD", "RD"] > max(values["RD", "CN"], values["CN", "RD"], values["CN", "CN"]) + 0.1
    assert set(found["measure"]) == {"logme"}


def test_a_sources_updates_are_averaged():
    one, other = states(slice(0, 40)), states(None)
    both = answer_logme({"a": one, "b": other}, {"a": "RD", "b": "RD"}, TARGETS, ANSWERS).set_index("target")["value"]
    alone = [answer_logme({"a": x}, {"a": "RD"}, TARGETS, ANSWERS).set_index("target")["value"] for x in (one, other)]
    assert both["RD"] == pytest.approx((alone[0]["RD"] + alone[1]["RD"]) / 2)


def test_last_states_are_those_after_the_last_block():
    made = RNG.standard_normal((5, 3, 2))
    recorded = LastStates(lambda name: made)
    recorded(None)
    assert recorded.last == {}
    assert np.allclose(recorded("RD@0")[:, -1], recorded.last["RD@0"])


def test_other_prompts_are_refused():
    with pytest.raises(CrosstaskError, match="update 'a' has states of 3 prompts, and 84 were asked"):
        answer_logme({"a": np.zeros((3, 2))}, {"a": "RD"}, TARGETS, ANSWERS)
