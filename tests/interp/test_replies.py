"""What generated replies answer: the cascade of rules, BLINK's own scorer, and numbers."""

from __future__ import annotations

import pytest

from interp.tasks.perception.replies import (
    RULES,
    blink_prediction,
    mean_relative_accuracy,
    read_choice,
    read_number,
)

IMAGES = ("the second image", "the third image")
FOUR = ("the first image", "the second image", "the third image", "the fourth image")
DEPTH = ("A is closer", "B is closer")
ALBEDO = ("A is darker", "B is darker", "About the same")
POINTS = ("Point A", "Point B", "Point C", "Point D")
SIDES = ("left", "right")
YES = ("yes", "no")
COUNTS = ("3", "0", "2", "13")

REPLIES = [
    ("(A)", POINTS, "A", "letter"),
    ("A", POINTS, "A", "letter"),
    ("A.", POINTS, "A", "letter"),
    (" (b)\n", POINTS, "B", "letter"),
    ("(D)<|im_end|>", POINTS, "D", "letter"),
    ("**C**", POINTS, "C", "letter"),
    ("[C]", POINTS, "C", "letter"),
    ('"(C)"</s>', POINTS, "C", "letter"),
    ("<answer>B</answer>", POINTS, "B", "letter"),
    ("**(C)** Point C", POINTS, "C", "letter and text"),
    ("(B) B is closer", DEPTH, "B", "letter and text"),
    ("B. the third image", IMAGES, "B", "letter and text"),
    ("(A): Left.", SIDES, "A", "letter and text"),
    ("The answer is (B).", POINTS, "B", "answer is"),
    ("The correct answer is B", POINTS, "B", "answer is"),
    ("Answer: B) because it is near", POINTS, "B", "answer is"),
    ("Answer: the third image is more alike.", IMAGES, "B", "answer is"),
    ("First I thought the answer is (A). But the answer is option (B).", DEPTH, "B", "answer is"),
    ("The correct option is A because it is nearer.", DEPTH, "A", "answer is"),
    (r"So $\boxed{C}$", POINTS, "C", "answer is"),
    ("The second image differs. Answer: the third image", IMAGES, "B", "answer is"),
    ("Point (A) is far.\n\nSo it must be (B), I think.", DEPTH, "B", "last paragraph"),
    ("I choose (B).\n\nThank you.", POINTS, "B", "brackets"),
    ("Yes, there is no doubt about it.", YES, "A", "option first"),
    ("No.", YES, "B", "option first"),
    ("Left, since the right side shrinks.", SIDES, "A", "option first"),
    ("the second image", IMAGES, "A", "option first"),
    ("It is the third image that fits.", IMAGES, "B", "option text"),
    ("I think the second image is more similar.", FOUR, "B", "option text"),
    ("Both look about the same to me.", ALBEDO, "C", "option text"),
    ("Point B, where the child is sitting, is closer to the camera.", ("Point A", "Point B"), "B", "option first"),
    ("Point A is closer to the camera than point B.", DEPTH, "A", "option text"),
    ("There are three floats.", COUNTS, "A", "option text"),
    ("I can see 13 of them.", COUNTS, "D", "option text"),
    ("It is not the second image but the third image.", IMAGES, "B", "option text"),
    ("It cannot be (A); it is not (A), so (B)", DEPTH, "Z", "none"),
    ("It is not (A) but (B)", DEPTH, "B", "last paragraph"),
    ("The nearer one is B", DEPTH, "B", "bare letter"),
    ("Box A fits better.", ("first", "second"), "A", "bare letter"),
    ("A is the one", ("first", "second"), "A", "bare letter"),
    ("A dog on the grass, so B", ("first", "second"), "B", "bare letter"),
    ("It is not A, so B", ("first", "second"), "B", "bare letter"),
    ("A dog on the grass", POINTS, "Z", "none"),
    ("The answer is A dog", POINTS, "Z", "none"),
    ("A and B are alike", ("first", "second"), "Z", "none"),
    ("The second image and the third image are alike.", IMAGES, "Z", "none"),
    ("(A) A is closer\n(B) B is closer", DEPTH, "Z", "none"),
    ("I'm sorry, but I can't help with that.", POINTS, "Z", "none"),
    ("(E)", POINTS, "Z", "none"),
    ("", POINTS, "Z", "none"),
    ("bright", SIDES, "Z", "none"),
]


@pytest.mark.parametrize(("reply", "options", "letter", "rule"), REPLIES)
def test_a_reply_is_read_by_the_first_rule_that_finds_an_option(
    reply: str, options: tuple[str, ...], letter: str, rule: str
) -> None:
    found = read_choice(reply, options)
    assert (found.letter, found.rule) == (letter, rule)


def test_every_rule_is_shown_and_none_is_in_vain() -> None:
    assert {rule for *_, rule in REPLIES} == {*RULES, "none"}


def test_the_form_that_training_teaches_is_always_the_first_rule() -> None:
    for n in range(2, 9):
        options = [f"option {place}" for place in range(n)]
        assert [read_choice(f"({letter})", options).key for letter in "ABCDEFGH"[:n]] == list(range(n))
    assert {read_choice("(A)", options).rule for options in (DEPTH, SIDES, COUNTS)} == {"letter"}


@pytest.mark.parametrize(
    ("reply", "prediction"),
    [
        ("(B)", "(B)"),
        ("B", "(B)"),
        ("E", "(E)"),  # beyond four options, and stored all the same
        (" B", "(Z)"),
        ("B.", "(Z)"),
        ("(C) Point C", "(C)"),
        ("The answer is (C)", "(C)"),
        ("The answer is (C).", "(Z)"),  # "(C)." is another word
        ("(A) is far.\n\nSo (B)", "(B)"),
        ("(A) or\n\nlet me see", "(A)"),
        ("(A) or (B)", "(Z)"),
        ("Point B", "(Z)"),
    ],
)
def test_blinks_own_scorer_is_as_strict_as_published(reply: str, prediction: str) -> None:
    assert blink_prediction(reply, 4) == prediction


@pytest.mark.parametrize(
    ("reply", "value", "rule"),
    [
        ("4", 4.0, "first word"),
        ("4.", 4.0, "first word"),
        ("2.5 meters", 2.5, "first word"),
        ("-3", -3.0, "first word"),
        ("There are 12 chairs.", 12.0, "number"),
        ("About 1,250 cm", 1250.0, "number"),
        ("I count four chairs", 4.0, "number word"),
        ("between 3 and 4", None, "none"),
        ("one or two", None, "none"),
        ("many", None, "none"),
        ("", None, "none"),
    ],
)
def test_a_number_is_read_by_the_benchmarks_rule_or_as_the_only_one(reply: str, value: float | None, rule: str) -> None:
    found = read_number(reply)
    assert (found.value, found.rule) == (value, rule)


@pytest.mark.parametrize(
    ("predicted", "truth", "score"),
    [(4, 4, 1.0), (2, 4, 0.1), (1.99, 4, 0.0), (3, 4, 0.6), (5, 4, 0.6), (9, 10, 0.9), (None, 4, 0), (0, 0, 1)],
)  # fmt: skip
def test_mean_relative_accuracy_counts_the_thresholds_that_an_error_passes(
    predicted: float | None, truth: float, score: float
) -> None:
    assert mean_relative_accuracy(predicted, truth) == pytest.approx(score)
