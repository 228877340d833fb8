"""The protocol behind `experiments.similarity`: how alike task vectors are across models and ways to specify a task.

A *source* is a model with a way to specify the task: the base LLM by text examples or an instruction, the VLM by text
examples, image examples or an instruction. For every pair of sources and every layer

    cosines   of the mean task vector of every task with that of every task (:func:`interp.models.pairs.agreement`),
              raw and centred; *matched* is the mean over tasks of the same task's, and its baselines are *mismatched*
              (a wrong task), *same family* (a wrong task over the same items), random directions of the same norms, and
              for p all ways to match tasks with tasks. *Gap* and *family gap* are matched minus these two. A source
              stands beside itself as the ceiling: the means over one half of the blocks and over the other
    CKA       of the states of single contexts, both sources reading the same ones, for both kinds of state
              (:mod:`probes.similarity`), beside the same with the contexts of one source permuted: among all, and
              among those of the same task, which asks for agreement beyond the task; there the contexts of a family
              that show the same items change places together

Contexts and blocks are those of :mod:`interp.protocol.states`; the selection split's blocks choose the layer of the
matrices that are drawn and of the numbers in the text. Intervals resample blocks, with both sources reading the same:
a percentile bootstrap would lie below the cosine of the means, as resampled means are noisier than the mean, so the
*basic* interval is taken, which mirrors it about the value.

Here is what is asked; :mod:`probes.similarity_work` does it, and :mod:`probes.similarity_tables` says what came out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.pairs import check_pair
from interp.protocol.settings import at_least
from interp.protocol.states import StatePlan, StateSettings
from interp.tasks import Task


@dataclass(frozen=True)
class SimilaritySettings(StateSettings):
    """One run. Attributes as in :class:`interp.protocol.states.StateSettings`, and:

    Attributes:
        llm: the base language model, or "" for none.
        layer_map: source layer of the LLM for each layer of the model, where the depths differ.
        permutations: behind every null of CKA.
        resamples: of the bootstrap.
    """

    llm: str
    layer_map: tuple[int, ...]
    permutations: int
    resamples: int

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "permutations", "resamples")
        if self.llm == self.model:
            raise CrosstaskError(f"--llm and --model are both {self.model!r}; name two models, or leave out --llm.")


@dataclass(frozen=True)
class Source:
    """A model and how it is given the task: text, image or instruction."""

    model: str
    modality: str

    @property
    def name(self) -> str:
        return f"{self.model} {self.modality}"


class SimilarityPlan(StatePlan):
    """The contexts of a run and who reads them, checked against the models.

    Attributes:
        sources: the LLM's first, then the model's; instructions where all tasks have one.
        layer_map: model -> the layer that stands for each layer of the VLM.
    """

    settings: SimilaritySettings

    def __init__(self, settings: SimilaritySettings, tasks: Sequence[Task], models: Callable[[str], Model]) -> None:
        """
        Raises:
            CrosstaskError: as :meth:`interp.protocol.states.StatePlan.check` and
                :func:`interp.models.pairs.check_pair`; or there is one source only, or too few items for three blocks.
        """
        super().__init__(settings, tasks)
        model = models(settings.model)
        instructed = all(task.instruction_text is not None for task in tasks)
        ways = ["text", *(["image"] if model.takes_images else []), *(["instruction"] if instructed else [])]
        of_llm = [Source(settings.llm, way) for way in ways if way != "image"] if settings.llm else []
        self.sources = of_llm + [Source(settings.model, way) for way in ways]
        self.layer_map = {settings.model: tuple(range(model.n_layers))}
        if len(self.sources) < 2:
            raise CrosstaskError(
                f"{settings.model!r} with text examples is the only source; name an --llm, or tasks with instructions."
            )
        for family, blocks in self.blocks["test"].items():
            if len(blocks) < 3:
                raise CrosstaskError(
                    f"{len(blocks)} blocks of {settings.shots} demonstrations and a dummy query of {family!r}; the "
                    "intervals of CKA leave blocks out in turn and need three. Use more --blocks or fewer --shots."
                )
        if settings.llm:
            llm = models(settings.llm)
            report = check_pair(llm, model, template=self.template, layer_map=settings.layer_map)
            self.layer_map[settings.llm] = report.layer_map
        self.check(model, ways)
