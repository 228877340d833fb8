"""What is compared in each table: arms, their reference, and over which mixtures and shares of the data.

The letters are ours; the numbers in the paper (Zhou et al. 2026, "CoVFT") that a table miniaturises are those of
:mod:`interp.covft.expectations`.

    A  strategies                      F  number of experts
    B  what the router reads           G  shares of the data
    C  routing                         H  experts against types of task
    D  which layers                    I  as many trained parameters, by true counts
    E  overhead: time, memory, FLOPs

An arm's name is the same wherever it stands, so that tables share what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from interp.covft.options import StudyOptions
from interp.errors import CrosstaskError

FROZEN = "frozen"
"""The model as it was, which every table has as its baseline; nothing is trained."""
COVFT, FREEZE, FULL, LORA = "covft", "vision_freeze", "vision_full", "vision_lora"
DEFAULT_EXPERTS, DEFAULT_TEXT = 4, "minilm"
"""Of CoVFT."""


@dataclass(frozen=True)
class Arm:
    """One way of fine-tuning.

    Attributes:
        name: in tables, and of the arm's folder.
        training: fields of the runner's configuration that are its own: strategy, options, ...
    """

    name: str
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """An arm on a mixture, one training for each seed.

    Attributes:
        arm: how is trained.
        mixture: the tasks that are mixed in equal shares, and that are tested.
        fraction: share of the mixture's examples, and of the steps.
    """

    arm: Arm
    mixture: tuple[str, ...]
    fraction: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What a table compares.

    Attributes:
        table: its letter.
        reference: name of the arm that the others are compared with.
        cells: all of it.
    """

    table: str
    reference: str
    cells: tuple[Cell, ...]

    @property
    def arms(self) -> tuple[Arm, ...]:
        return tuple({cell.arm.name: cell.arm for cell in self.cells}.values())


QUESTIONS = {
    "A": "Which strategy learns a mixture best?",
    "B": "What has the router to read?",
    "C": "How should experts be weighed?",
    "D": "In which layers do experts help?",
    "E": "What does it cost?",
    "F": "How many experts?",
    "G": "Does the gain depend on the amount of data?",
    "H": "Do more types of task want more experts?",
    "I": "Is it only more parameters?",
}


def covft(**options: Any) -> Arm:
    """CoVFT with some options other than its defaults."""
    said = " ".join(f"{name}={value}" for name, value in options.items())
    return Arm(f"{COVFT} {said}".strip(), {"strategy": COVFT, **({"options": options} if options else {})})


def plain_arm(strategy: str) -> Arm:
    """A strategy with its defaults; "vision_full+pcgrad" is one with gradient surgery."""
    name, _, surgery = strategy.partition("+")
    return Arm(strategy, {"strategy": name, **({"surgery": surgery} if surgery else {})})


def check_arm(name: str) -> None:
    """Hold the name of an arm, such as "covft num_experts=2" or "vision_full+pcgrad", to what there is.

    Raises:
        CrosstaskError: there is no such strategy, surgery or option.
    """
    from interp.tuning.config import TuneConfig
    from interp.tuning.strategies.options import given_options

    head, *options = name.split() or [name]
    TuneConfig("RD", **{"options": given_options(tuple(options)), **plain_arm(head).training})


def lora(rank: int) -> Arm:
    """Low-rank updates of the tower at a rank."""
    return Arm(f"{LORA} r={rank}", {"strategy": LORA, "options": {"r": rank}})


def make_plan(
    table: str,
    tasks: Sequence[str],
    options: StudyOptions,
    *,
    matched: Sequence[Arm] = (),
    rates: Mapping[str, float] = MappingProxyType({}),
) -> Plan:
    """What a table compares.

    Args:
        table: its letter.
        tasks: of the mixture; of table H in the order in which they are added.
        options: arms and sizes.
        matched: of table I: the arms that have as many trained parameters as CoVFT's
            (:func:`interp.covft.counts.matched_arms`).
        rates: strategy -> its learning rate, where it has one of its own (:mod:`interp.covft.rates`).

    Raises:
        CrosstaskError: there is no such table, or it has too few tasks.
    """
    mixture = tuple(tasks)
    if table == "H":
        made = _types(mixture, options)
    else:
        arms, reference = _arms(table, options, matched)
        fractions = options.fractions if table == "G" else (1.0,)
        made = Plan(table, reference, tuple(Cell(arm, mixture, fraction) for fraction in fractions for arm in arms))
    return replace(
        made, cells=tuple(replace(cell, arm=at_rate(reading(cell.arm, options.text), rates)) for cell in made.cells)
    )


def at_rate(arm: Arm, rates: Mapping[str, float]) -> Arm:
    """An arm at its own learning rate, or that of its strategy, if there is one."""
    rate = rates.get(arm.name, rates.get(arm.training["strategy"]))
    return arm if rate is None else replace(arm, training={**arm.training, "learning_rate": rate})


def reading(arm: Arm, encoder: str) -> Arm:
    """An arm whose tower reads questions through an encoder, if it reads them at all."""
    from interp.tuning.strategies import strategy

    known = {option.name for option in fields(strategy(arm.training["strategy"]).Options)}
    if "text" not in known or encoder == DEFAULT_TEXT:
        return arm
    return replace(arm, training={**arm.training, "options": {**arm.training.get("options", {}), "text": encoder}})


def _arms(table: str, options: StudyOptions, matched: Sequence[Arm]) -> tuple[tuple[Arm, ...], str]:
    """The arms of a table with one mixture, and its reference."""
    none = plain_arm(FULL)
    if table in ("A", "E"):
        arms = [plain_arm(name) for name in options.strategies]
        return tuple(arms), COVFT if COVFT in options.strategies else options.strategies[0]
    if table == "B":
        contexts = [covft(), *(covft(context=name) for name in ("text", "concat", "image"))]
        return (*contexts, covft(routing="uniform"), none), FULL
    if table == "C":
        sparse = [covft(routing="sparse", active=2), covft(routing="sparse", active=2, balance=options.balance)]
        others = [covft(routing="uniform"), covft(routing="random", active=2)]
        return (covft(), *sparse, *others, none), FULL
    if table == "D":
        return (covft(), *(covft(layers=name) for name in options.layers if name != "auto"), none), FULL
    if table == "F":
        return (*map(_experts, options.experts), none), FULL
    if table == "G":
        return (covft(), none, plain_arm(FREEZE)), FULL
    if table == "I":
        return (covft(), *matched, none), COVFT
    raise CrosstaskError(f"there is no table {table!r}; the tables are {', '.join(QUESTIONS)}")


def _types(tasks: tuple[str, ...], options: StudyOptions) -> Plan:
    """Table H: each number of experts on mixtures of more and more types of task."""
    if max(options.types) > len(tasks):
        raise CrosstaskError(
            f"table H mixes up to {max(options.types)} types of task, and {len(tasks)} are given; name more tasks, or "
            "smaller types"
        )
    arms = (*map(_experts, options.experts), plain_arm(FULL))
    cells = (Cell(arm, tasks[:n]) for n in sorted(options.types) for arm in arms)
    return Plan("H", FULL, tuple(cells))


def _experts(number: int) -> Arm:
    """CoVFT with a number of experts; the default number is the arm of the other tables."""
    return covft() if number == DEFAULT_EXPERTS else covft(num_experts=number)
