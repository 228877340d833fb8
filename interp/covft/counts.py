"""True counts of trained parameters, and arms that have as many (table I).

The paper sets 4 experts against updates of rank 512 as "6.85 against 6.86 B", and by its own release's code these would
be 6.94 B; so here a count is that of the tensors which the optimiser is given. Low-rank updates add r (d_in + d_out) a
layer, so that the rank which matches a count is found from two counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from interp.covft.arms import COVFT, DEFAULT_TEXT, FULL, Arm, Cell, covft, lora, plain_arm, reading
from interp.covft.plan import StudySettings, make_unit
from interp.covft.work import StudyWork
from interp.models.base import Model
from interp.tuning.config import TuneConfig
from interp.tuning.strategies import strategy

MOST_EXPERTS = 16
"""Tried when CoVFT is matched with whole training of the tower."""


@dataclass
class Counter:
    """Counts of an arm's trained parameters on the study's model.

    Attributes:
        settings: of the study.
        work: holds the model.
        tasks: any mixture, for the runner's configuration.
        text: the question's encoder.
    """

    settings: StudySettings
    work: StudyWork
    tasks: tuple[str, ...]
    text: str = DEFAULT_TEXT

    def __call__(self, arm: Arm) -> int:
        unit = make_unit(self.settings, Cell(reading(arm, self.text), self.tasks), 0)
        return trained_parameters(self.work.model, self.work.config(unit))


def trained_parameters(model: Model, config: TuneConfig) -> int:
    """How many numbers a configuration trains; the model is as before afterwards."""
    chosen = strategy(config.strategy)(model, config)
    try:
        return sum(parameter.numel() for parameter in chosen.trainable().values())
    finally:
        chosen.detach()
        model.module.requires_grad_(False).eval()


def matched_arms(count: Counter) -> tuple[tuple[Arm, ...], dict[str, int]]:
    """Arms with as many trained parameters as others have.

    Args:
        count: counts an arm's parameters.

    Returns:
        Low-rank updates of the tower that match CoVFT; CoVFT with the number of experts that comes nearest to training
        the whole tower, where that is not the default; low-rank updates that match it. And the counts of all arms.
    """
    counts = {arm.name: count(arm) for arm in (covft(), plain_arm(FULL))}
    one, two = count(lora(1)), count(lora(2))
    few, more = count(covft(num_experts=2)), count(covft(num_experts=3))
    wanted = round((counts[FULL] - few) / (more - few)) + 2
    experts = covft(num_experts=min(MOST_EXPERTS, max(1, wanted)))
    found = [_rank(counts[COVFT], one, two)]
    if count(experts) != counts[COVFT]:
        counts[experts.name] = count(experts)
        found += [experts, _rank(counts[experts.name], one, two)]
    arms = tuple({arm.name: arm for arm in found}.values())
    return arms, counts | {arm.name: count(arm) for arm in arms}


def _rank(wanted: int, one: int, two: int) -> Arm:
    """Low-rank updates with about so many parameters; one and two are the counts of ranks 1 and 2."""
    return lora(max(1, round((wanted - one) / (two - one)) + 1))
