"""Task vectors of a run, by arm.

The delimiter states of every context are extracted once and kept in the run folder's `contexts/` while the run lasts,
so that a continued run reads what the killed one had. A vector is then

    single        v_c               one context, `shots` demonstrations
    mean          mean_c v_c        all contexts; on the selection split only those that do not show the query's item
    ensemble      (v_text + v_instruction) / 2
    wrong task    mean of the other tasks' vectors of the same source
    shuffled      mean over contexts whose outputs were permuted among the demonstrations
    random        a random direction with, at each layer, the norm of the mean vector
    heads         of each context the sum of the task's strongest heads, the same at every layer, to be added; they are
                  chosen by their effect on as many shuffled contexts of the selection split (:mod:`interp.heads`)
"""

import re
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from interp import vectors
from interp.backends.base import Backend
from interp.backends.registry import backend_for
from interp.heads import extract_heads, strongest, sum_of_heads
from interp.models.base import Model
from interp.prompts import Prompt
from interp.protocol.contexts import Context, demonstrated, draw, shuffle_labels, source_prompts
from interp.protocol.heads import TRIAL_SEED, trial_effects
from interp.protocol.plan import Plan, Unit
from interp.protocol.settings import HEADS
from interp.runs import Run

TOP_HEADS = 10
"""Heads in a sum, as Todd et al. (2024) take for models of this kind."""


class Bank:
    """Extracts, keeps and combines the task vectors of a run."""

    def __init__(self, plan: Plan, run: Run, models: Callable[[str], Model], backend: Backend | None = None) -> None:
        self.plan, self.run, self.models = plan, run, models
        self.backend = backend or backend_for(plan.settings.backend)
        self.states = lru_cache(maxsize=64)(self._states)

    def extract(self, unit: Unit) -> dict[str, Any]:
        """Extracts one unit's states [P, L, D], and saves them and (for the tasks of the run) their mean vector."""
        model, plan = self.models(unit.source_model), self.plan
        task = plan.either(unit.task)
        contexts = plan.contexts(unit.task, unit.seed)
        if unit.shuffled:
            contexts = tuple(shuffle_labels(context, seed=unit.seed) for context in contexts)
        prompts = source_prompts(model, task.task, demonstrated(unit.source), contexts, template=plan.template)
        if unit.source == HEADS:
            states = self._head_sums(unit, model, contexts, prompts)
        else:
            states = self.backend.extract(model, prompts)
        self.run.write_safetensors(_path(unit, "contexts"), {"states": states})
        self.states.cache_clear()
        if unit.task in plan.tasks and not unit.shuffled:
            self._save_mean(unit, states)
        return {"contexts": len(prompts), "tokens": sum(prompt.n_tokens for prompt in prompts)}

    def _head_sums(
        self, unit: Unit, model: Model, contexts: Sequence[Context], prompts: Sequence[Prompt]
    ) -> Float[Tensor, "P L D"]:
        """The sum of the task's strongest heads in each context."""
        plan = self.plan
        task = plan.either(unit.task)
        trials = draw(
            task.pool,
            shots=plan.settings.shots,
            contexts=len(contexts),
            seed=unit.seed + TRIAL_SEED,
            task=task.task.name,
        )
        heads = extract_heads(model, prompts)
        gains, _ = trial_effects(
            model, task.task, contexts, heads, trials, modality="text", template=plan.template, seed=unit.seed
        )
        chosen = strongest(gains.mean(0), min(TOP_HEADS, model.n_layers * model.n_heads))
        sums = torch.stack([sum_of_heads(model, states, chosen) for states in heads])
        return sums[:, None].repeat(1, model.n_layers, 1)

    def _save_mean(self, unit: Unit, states: Float[Tensor, "P L D"]) -> None:
        """Keeps the mean vector with its provenance in `vectors/`, for notebooks and other experiments."""
        plan, examples = self.plan, unit.source != "instruction"
        contexts = plan.contexts(unit.task, unit.seed) if examples else ()
        provenance = vectors.Provenance.of(
            self.models(unit.source_model),
            task=unit.task,
            kind=HEADS if unit.source == HEADS else "examples" if examples else "instruction",
            modality=demonstrated(unit.source) if examples else "none",
            template=plan.template.text,
            delimiter=plan.template.delimiter,
            demonstrations=plan.settings.shots * len(contexts),
            contexts=len(states),
            seeds=(unit.seed,),
            items=tuple(sorted(frozenset().union(*(context.items for context in contexts)))),
        )
        vectors.TaskVectors(states.mean(dim=0), provenance).save(self.run.folder / _path(unit, "vectors"))

    def saved(self, source_model: str, source: str, task: str, seed: int) -> vectors.TaskVectors:
        """The mean vector as it was kept in `vectors/`; there is none of an ensemble, and none of other tasks."""
        unit = Unit("extract", task, seed, source=source, source_model=source_model)
        return vectors.TaskVectors.load(self.run.folder / _path(unit, "vectors"))

    def _states(self, unit: Unit) -> Float[Tensor, "P L D"]:
        path = self.run.folder / _path(unit, "contexts")
        if not path.exists():
            self.extract(unit)
        return load_file(path)["states"]

    def vector(
        self,
        source_model: str,
        source: str,
        task: str,
        seed: int,
        *,
        context: int | None = None,
        exclude: str | None = None,
        shuffled: bool = False,
    ) -> Float[Tensor, "L D"]:
        """The task vector of one arm.

        Args:
            context: read this one context only; None is the mean over contexts.
            exclude: input of the query; contexts that show it are left out of the mean.
            shuffled: with the outputs permuted among the demonstrations.
        """
        if source == "ensemble":
            both = [
                self.vector(source_model, part, task, seed, context=context, exclude=exclude)
                for part in ("text", "instruction")
            ]
            return torch.stack(both).mean(dim=0)
        states = self.states(Unit("extract", task, seed, source=source, source_model=source_model, shuffled=shuffled))
        if source == "instruction":
            return states[0]
        if context is not None:
            return states[context]
        items = [context.items for context in self.plan.contexts(task, seed)]
        return vectors.mean(states, items=items, exclude=exclude)

    def wrong_task(self, source_model: str, source: str, task: str, seed: int) -> Float[Tensor, "L D"]:
        """Mean over the other tasks' mean vectors of the same source."""
        others = [self.vector(source_model, source, name, seed) for name in self.plan.others(task)]
        return torch.stack(others).mean(dim=0)

    def random(self, source_model: str, source: str, task: str, seed: int) -> Float[Tensor, "L D"]:
        """A random direction with the norm of the mean vector at each layer."""
        mean = self.vector(source_model, source, task, seed)
        own_seed = zlib.crc32(f"{source_model}, {source}, {task}, {seed}".encode())
        return vectors.norm_matched_random(mean, seed=own_seed)


def slug(name: str) -> str:
    """A name that is safe in a path: "org/model" becomes "org--model", and a folder its last part with a checksum."""
    if name.count("/") > 1:
        name = f"{name.rstrip('/').rsplit('/', 1)[-1]}-{zlib.crc32(name.encode()):08x}"
    return re.sub(r"[^\w.-]+", "--", name).strip("-")


def _path(unit: Unit, folder: str) -> str:
    shuffled = "-shuffled" if unit.shuffled else ""
    return f"{folder}/{slug(unit.source_model)}/{slug(unit.task)}-{unit.source}-seed{unit.seed}{shuffled}.safetensors"
