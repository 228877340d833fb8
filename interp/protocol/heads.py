"""The protocol behind `experiments.head_effects`: which heads carry a task, measured on the selection split.

1. means     per task, each head's state at the delimiter of `contexts` prompts with right labels
2. effects   per task, `trials` other prompts whose labels are shuffled among their demonstrations, ending in a query of
             the selection split; each head's causal indirect effect on the query's right answer. A mean leaves out the
             contexts that show the query's item.
3. ranking   the average indirect effect over tasks; the `top` heads
4. curve     on bare test queries, the sum of the top heads of each task added at every layer, beside the sum of as many
             heads drawn at random (Todd et al. 2024, section 2.3 and their control)
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CrosstaskError
from interp.heads import Head, extract_heads, indirect_effects, strongest, sum_of_heads
from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.patching import Generation, RowPatch, sweep
from interp.prompts import Specification, Template, render
from interp.protocol.contexts import Context, content, draw, shuffle_labels, source_prompts
from interp.protocol.settings import at_least, decisive
from interp.runs import Run
from interp.scoring import could_become, score
from interp.statistics import bootstrap_mean, wilson
from interp.tasks import Task

TRIAL_SEED = 1_000_000
"""Added to a run's seed for the contexts of the trials, so that they are not those of the means."""


def trial_effects(
    model: Model,
    task: Task,
    contexts: Sequence[Context],
    states: Float[Tensor, "C L H E"],
    trials: Sequence[Context],
    *,
    modality: str,
    template: Template,
    seed: int,
) -> tuple[Float[Tensor, "P L H"], Float[Tensor, "P L H"]]:
    """Every head's causal indirect effect on each trial, in log-probability and in probability.

    Args:
        contexts: what the head states were read from.
        states: each head's state at the delimiter of each context, with right labels.
        trials: their labels are permuted, and their dummy query is the question. The mean that is patched leaves out
            the contexts that show it; a trial that every context shows is left out.
        seed: of the permutation.

    Raises:
        CrosstaskError: if no trial is left.
    """
    logs, chances = [], []
    for trial in trials:
        clean = [i for i, context in enumerate(contexts) if trial.dummy.input not in context.items]
        if not clean:
            continue
        shuffled = shuffle_labels(trial, seed=seed)
        (prompt,) = source_prompts(model, task, modality, [shuffled], template=template)
        first = model.tokenizer(template.output_lead + trial.dummy.outputs[0], add_special_tokens=False).input_ids[0]
        gain = indirect_effects(model, [prompt], torch.tensor([first]), states[clean].mean(0))
        logs.append(gain[0][0])
        chances.append(gain[1][0])
    if not logs:
        raise CrosstaskError(
            f"Every context of task {task.name!r} shows {trials[0].dummy.input!r}; use more --contexts."
        )
    return torch.stack(logs), torch.stack(chances)


@dataclass(frozen=True)
class HeadSettings:
    """One run. Attributes as in :class:`interp.protocol.settings.Settings`, and:

    Attributes:
        modality: text or image demonstrations.
        trials: prompts with shuffled labels a task.
        top: heads in a sum.
    """

    model: str
    tasks: tuple[str, ...]
    modality: str
    query: str
    shots: int
    contexts: int
    trials: int
    top: int
    test_items: int
    seed: int
    template: str
    loading: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        at_least(self, 1, "shots", "contexts", "trials", "top", "test_items")
        for name in ("modality", "query"):
            if getattr(self, name) not in ("text", "image"):
                raise CrosstaskError(f"--{name} {getattr(self, name)!r} is unknown; expected text or image.")

    def config(self) -> dict[str, Any]:
        """What decides the numbers."""
        return decisive(self)


class HeadWork:
    """Performs the units of a run, one or two a task, and makes its tables."""

    def __init__(self, settings: HeadSettings, tasks: Sequence[Task], model: Model, run: Run) -> None:
        if not model.takes_images and "image" in (settings.modality, settings.query):
            raise CrosstaskError(f"{model.name!r} takes no images; use --modality text --query text.")
        heads = model.n_layers * model.n_heads
        if settings.top > heads:
            raise CrosstaskError(f"--top is {settings.top}, but {model.name!r} has {heads} heads.")
        self.settings, self.tasks, self.model, self.run = settings, list(tasks), model, run
        self.template = Template.parse(settings.template)

    def units(self) -> list[str]:
        """The keys of all units in order; effects of every task come before the first curve."""
        return [f"{kind} / {task.name}" for kind in ("effects", "curve") for task in self.tasks]

    def perform(self, key: str) -> None:
        """Do a unit unless the journal holds it."""
        if self.run.done(key) is not None:
            return
        kind, _, name = key.partition(" / ")
        task = next(task for task in self.tasks if task.name == name)
        self.run.record(key, self._effects(task) if kind == "effects" else self._curve(task))

    # Effects

    def _effects(self, task: Task) -> dict[str, Any]:
        settings = self.settings
        contexts, trials = (
            draw(task.split("selection"), shots=settings.shots, contexts=count, seed=seed, task=task.name)
            for count, seed in ((settings.contexts, settings.seed), (settings.trials, settings.seed + TRIAL_SEED))
        )
        prompts = source_prompts(self.model, task, settings.modality, contexts, template=self.template)
        states = extract_heads(self.model, prompts)
        self.run.write_safetensors(f"heads/{task.name}.safetensors", {"means": states.mean(0)})
        logs, chances = trial_effects(
            self.model, task, contexts, states, trials,
            modality=settings.modality, template=self.template, seed=settings.seed,
        )  # fmt: skip
        return {"log": logs.tolist(), "probability": chances.tolist()}

    def effects(self, task: Task) -> Float[Tensor, "P L H"]:
        """The gains in log-probability of every trial."""
        return torch.tensor(self._record("effects", task)["log"])

    def _record(self, kind: str, task: Task) -> dict[str, Any]:
        record = self.run.done(f"{kind} / {task.name}")
        assert record is not None
        return record

    def average(self) -> Float[Tensor, "L H"]:
        """The average indirect effect over tasks."""
        return torch.stack([self.effects(task).mean(0) for task in self.tasks]).mean(0)

    # Curve

    def _curve(self, task: Task) -> dict[str, Any]:
        from safetensors.torch import load_file

        settings, model = self.settings, self.model
        means = load_file(self.run.folder / f"heads/{task.name}.safetensors")["means"]
        chosen = strongest(self.effects(task).mean(0), settings.top)
        sums = {"top": sum_of_heads(model, means, chosen), "random": sum_of_heads(model, means, self._drawn(task))}
        self.run.write_safetensors(f"vectors/{task.name}.safetensors", sums)
        items = task.split("test")[: settings.test_items]
        prompts = [
            render(model, Specification(), content(item, settings.query), template=self.template) for item in items
        ]
        rows = [RowPatch(layer, vector) for vector in sums.values() for layer in range(model.n_layers)]
        longest = max(
            len(model.tokenizer(answer, add_special_tokens=False).input_ids) for i in items for answer in i.outputs
        )
        found = sweep(
            model,
            prompts,
            [rows] * len(prompts),
            mode="add",
            max_new_tokens=longest + 2,
            keep=lambda query, row, text: could_become(text, items[query].outputs),
        )
        right = torch.tensor(
            [
                [self._right(answer, item.outputs) for answer in answers]
                for answers, item in zip(found, items, strict=True)
            ]
        )
        counts = right.sum(0).view(2, model.n_layers).tolist()
        return {"n": len(items), "top": counts[0], "random": counts[1], "heads": [list(head) for head in chosen]}

    def _right(self, answer: Generation, outputs: tuple[str, ...]) -> bool:
        return score(answer.text, answer.first_token, outputs).exact

    def _drawn(self, task: Task) -> list[Head]:
        """As many heads at random, drawn among all."""
        every = [(layer, head) for layer in range(self.model.n_layers) for head in range(self.model.n_heads)]
        return random.Random(f"{task.name}, seed {self.settings.seed}").sample(every, self.settings.top)

    # Tables

    def effect_table(self) -> pd.DataFrame:
        """One row per task and head: mean gain in log-probability with its bootstrap interval over trials."""
        rows = []
        for task in self.tasks:
            gains = self.effects(task)
            chances = torch.tensor(self._record("effects", task)["probability"]).mean(0)
            for layer in range(gains.shape[1]):
                for head in range(gains.shape[2]):
                    values = gains[:, layer, head].tolist()
                    interval = bootstrap_mean(values, groups=range(len(values)))
                    rows.append(
                        {
                            "model": self.model.name,
                            "task": task.name,
                            "layer": layer,
                            "head": head,
                            "n": len(values),
                            "log_gain": interval.value,
                            "low": interval.low,
                            "high": interval.high,
                            "probability_gain": chances[layer, head].item(),
                        }
                    )
        return pd.DataFrame(rows)

    def ranking_table(self) -> pd.DataFrame:
        """Every head with its average indirect effect over tasks, greatest first."""
        average = self.average()
        order = strongest(average, average.numel())
        return pd.DataFrame(
            {"rank": rank, "layer": layer, "head": head, "average_log_gain": average[layer, head].item()}
            for rank, (layer, head) in enumerate(order, 1)
        )

    def curve_table(self) -> pd.DataFrame:
        """One row per task, kind of sum and layer: exact match on bare test queries with its Wilson interval."""
        rows = []
        for task in self.tasks:
            record = self._record("curve", task)
            for kind in ("top", "random"):
                for layer, correct in enumerate(record[kind]):
                    rate = wilson(correct, record["n"])
                    rows.append(
                        {
                            "model": self.model.name,
                            "task": task.name,
                            "heads": kind,
                            "layer": layer,
                            "n": record["n"],
                            "correct": correct,
                            "exact": rate.value,
                            "wilson_low": rate.low,
                            "wilson_high": rate.high,
                        }
                    )
        return pd.DataFrame(rows)
