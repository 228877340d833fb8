"""How far task vectors and prompts bear what is changed about them: five parts, each with its reference and controls.

template      a vector read under template A patched into queries under template B; A = B is the ceiling
instruction   instructions with typos, synonyms and unrelated words (:mod:`interp.protocol.noise`), as prompt and as
              vector, alone and with examples (the paper reports that instruction vectors are sensitive to such noise)
number        demonstrations in one context, in the prompt and behind the vector
labels        a share of the demonstrations' labels wrong, in the prompt and behind the vector
strength      the vector scaled, put in place of the state or added to it (Hendel et al. 2023 replace, Todd et al. 2024
              add)

Prompts and vectors see the same demonstrations: test query j has context j modulo the number of contexts, alone. Only
template and strength, which are about the patch itself, take the mean over contexts. Layers are chosen on selection
items with mean vectors: one for each query template, one for the instruction, one for the ensemble, one for adding.
Random vectors of the same norm and the other tasks' mean vectors stand beside every patch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.hooks import Mode
from interp.models.base import Model
from interp.prompts import Template
from interp.protocol.asking import Arm, Asked, Candidate, random_like
from interp.protocol.contexts import Context, draw, wrong_labels
from interp.protocol.estimate import Seconds
from interp.protocol.noise import CLEAN, KINDS, noisy, words_changed
from interp.protocol.plan import Plan
from interp.protocol.study import LAYERS, Study, Unit
from interp.protocol.variations import Variations, templates_of
from interp.runs import Run
from interp.tasks import Item, Task

MODES: dict[Mode, str] = {"replace": "text, template 0", "add": "text, added"}
"""Ways of writing a vector, and the candidate whose layer each takes."""
Answers = Iterator[dict[str, Any]]


class RobustnessStudy(Study):
    """Performs the units: after the layers one kind for each part.

    Args:
        plan: under the first template; sources text and, for its part, instruction.
        model: the model.
        run: the run folder.
        variations: what is varied.
    """

    def __init__(self, plan: Plan, model: Model, run: Run, variations: Variations) -> None:
        super().__init__(plan, model, run, variations.parts)
        self.variations, self.templates = variations, templates_of(variations)
        self.text = lru_cache(maxsize=256)(self._text)
        self.instruction = lru_cache(maxsize=256)(self._instruction)

    def answered(self, unit: Unit) -> Answers:
        """The answers of a part, its baselines first."""
        parts: dict[str, Callable[[Unit], Answers]] = {
            "template": self._template_part,
            "instruction": self._instruction_part,
            "number": self._number_part,
            "labels": self._labels_part,
            "strength": self._strength_part,
        }
        plain = {"part": unit.kind, "setting": "", "level": 0.0, "query_template": 0, "source": ""}
        for found in (self._baselines(unit), parts[unit.kind](unit)):
            yield from ({**plain, **answer} for answer in found)

    def seconds(self, unit: Unit, pace: Seconds) -> float:
        """About how long a unit takes."""
        s, given, query = self.plan.settings, self.variations, unit.query
        templates, noises = len(self.templates), len(KINDS) * len(given.noise)
        if unit.kind == LAYERS:
            found = templates + 2 * ("instruction" in self.kinds) + ("strength" in self.kinds)
            queries = len(self.plan.selection_queries(unit.task, unit.seed))
            return pace.read(s.contexts * templates, s.shots) + pace.swept(query, queries, found)
        demonstrations = {  # of a context, those of all conditions together; read for the prompt and for the vector
            "template": templates * s.shots / 2,
            "instruction": noises * s.shots / 2,
            "number": sum(given.numbers),
            "labels": len(given.wrong) * given.label_shots,
            "strength": 0,
        }[unit.kind]
        prompts, patches = {
            "template": (2 * templates, templates * (templates + 2)),
            "instruction": (2 * noises + 3, 2 * noises + 6),
            "number": (len(given.numbers) + 1, len(given.numbers) + 2),
            "labels": (len(given.wrong) + 1, len(given.wrong) + 2),
            "strength": (1, 6 * len(given.scales)),
        }[unit.kind]
        items = len(self.plan.tasks[unit.task].test)
        reading = 2 * pace.read(s.contexts, demonstrations)
        return reading + pace.asked(query, items * prompts) + pace.patched(query, items, patches)

    # Vectors

    def _task(self, name: str) -> Task:
        return self.plan.either(name).task

    def _text(self, task: str, seed: int, template: int) -> Float[Tensor, "P L D"]:
        contexts = self.plan.contexts(task, seed)
        return self.asking.states(self._task(task), "text", contexts, self.templates[template])

    def _instruction(self, task: str) -> Float[Tensor, "L D"]:
        return self.asking.states(self._task(task), "instruction", ())[0]

    def _mean(self, task: str, seed: int, template: int) -> Float[Tensor, "L D"]:
        return self.text(task, seed, template).mean(0)

    def _controls(
        self, unit: Unit, vector: Float[Tensor, "L D"], wrong: Float[Tensor, "L D"], layer: int, **labels: Any
    ) -> list[Arm]:
        """The two controls of a patch."""
        name = ", ".join(map(str, (unit.key, *labels.values())))
        return [
            Arm({"method": "control_random", **labels}, layer, random_like(vector, name)[layer]),
            Arm({"method": "control_wrong_task", **labels}, layer, wrong[layer]),
        ]

    def candidates(self, unit: Unit) -> tuple[list[Item], dict[str, Candidate]]:
        """Means over the contexts that do not show the query: one of each template, the instruction, and the rest."""
        contexts = self.plan.contexts(unit.task, unit.seed)
        items = self.plan.selection_queries(unit.task, unit.seed)
        found = {}
        for t, template in enumerate(self.templates):
            states = self.text(unit.task, unit.seed, t)
            means = [self.asking.clean_mean(states, contexts, item) for item in items]
            found[f"text, template {t}"] = Candidate(means, template=template)
        first = found["text, template 0"]
        if "instruction" in self.kinds:
            words = self.instruction(unit.task)
            found["instruction"] = first._replace(states=[words] * len(items))
            found["ensemble"] = first._replace(states=[(state + words) / 2 for state in first.states])
        if "strength" in self.kinds:
            found["text, added"] = first._replace(mode="add")
        return items, found

    # Parts

    def _baselines(self, unit: Unit) -> Answers:
        """Nothing but the query, and the majority answer."""
        yield from self.asking.majority(unit.task, {"method": "majority"})
        test, every = self.plan.tasks[unit.task].test, unit.kind == "template"
        yield from self.asking.prompted(
            unit.task,
            (
                Asked(
                    {"method": "no_context", "query_template": t, "setting": f"template {t}" if every else ""},
                    self.asking.bare(unit.task, unit.query, test, template),
                )
                for t, template in enumerate(self.templates if every else self.templates[:1])
            ),
        )

    def _template_part(self, unit: Unit) -> Answers:
        task, seed, contexts = unit.task, unit.seed, self.plan.contexts(unit.task, unit.seed)
        vectors = [self.text(task, seed, t).mean(0) for t in range(len(self.templates))]
        asked = []
        for t, template in enumerate(self.templates):
            layer = self.layers[f"text, template {t}", unit.query]
            labels = {"source": "text", "query_template": t}
            arms = [
                Arm({"method": "patch", **labels, "setting": f"template {read}"}, layer, vector[layer])
                for read, vector in enumerate(vectors)
            ]
            wrong = self.mean_of_others(task, partial(self._mean, seed=seed, template=t))
            labels["setting"] = f"template {t}"
            arms += self._controls(unit, vectors[t], wrong, layer, **labels)
            yield from self._patched(unit, [arms], template)
            prompts = self.asking.prompts(self._task(task), unit.query, "text", contexts, template)
            asked.append(Asked({"method": "prompt", **labels}, prompts))
        yield from self.asking.prompted(task, asked)

    def _instruction_part(self, unit: Unit) -> Answers:
        task, seed = self._task(unit.task), unit.seed
        examples = self.text(unit.task, seed, 0)
        at = {source: self.layers[source, unit.query] for source in ("instruction", "ensemble")}
        versions = list(self._versions(task, seed))
        yield from self.asking.prompted(unit.task, self._noisy_prompts(unit, versions))
        arms: list[list[Arm]] = [[] for _ in examples]
        for changed, labels in versions:
            words = self.asking.states(changed, "instruction", ())[0]
            for row, state in zip(arms, examples, strict=True):
                for source, vector in (("instruction", words), ("ensemble", (state + words) / 2)):
                    row.append(Arm({"method": "patch", "source": source, **labels}, at[source], vector[at[source]]))

        def both(name: str) -> Tensor:
            return (self._mean(name, seed, 0) + self.instruction(name)) / 2

        controls = []
        for source, vector in (("instruction", self.instruction), ("ensemble", both)):
            wrong, labels = self.mean_of_others(unit.task, vector), {"source": source, "setting": CLEAN}
            controls += self._controls(unit, vector(unit.task), wrong, at[source], **labels)
        yield from self._patched(unit, [[*row, *controls] for row in arms])

    def _versions(self, task: Task, seed: int) -> Iterator[tuple[Task, dict[str, Any]]]:
        """The task with its instruction clean and noisy, with the labels of each; `changed` counts words."""
        clean = task.instruction
        for kind, level in ((CLEAN, 0.0), *((kind, level) for kind in KINDS for level in self.variations.noise)):
            text = clean if kind == CLEAN else noisy(clean, kind, level, seed=seed)
            labels = {"setting": kind, "level": level, "instruction": text, "changed": words_changed(clean, text)}
            yield replace(task, instruction_text=text), labels

    def _noisy_prompts(self, unit: Unit, versions: Sequence[tuple[Task, dict[str, Any]]]) -> Iterator[Asked]:
        contexts = self.plan.contexts(unit.task, unit.seed)
        for changed, labels in versions:
            for source in ("instruction", "ensemble"):
                prompts = self.asking.prompts(changed, unit.query, source, contexts)
                yield Asked({"method": "prompt", "source": source, **labels}, prompts)

    def _number_part(self, unit: Unit) -> Answers:
        numbers = self.variations.numbers
        contexts = self._drawn(unit, max(numbers))
        return self._compared(unit, {float(n): [context.first(n) for context in contexts] for n in numbers})

    def _labels_part(self, unit: Unit) -> Answers:
        shots, pool = self.variations.label_shots, self.plan.tasks[unit.task].pool
        contexts = self._drawn(unit, shots)

        def spoilt(share: float) -> list[Context]:
            wrong = round(share * shots)
            return [wrong_labels(one, pool, wrong=wrong, seed=unit.seed, task=unit.task) for one in contexts]

        return self._compared(unit, {share: spoilt(share) for share in self.variations.wrong})

    def _drawn(self, unit: Unit, shots: int) -> tuple[Context, ...]:
        pool, count = self.plan.tasks[unit.task].pool, self.plan.settings.contexts
        return draw(pool, shots=shots, contexts=count, seed=unit.seed, task=unit.task)

    def _compared(self, unit: Unit, levels: dict[float, list[Context]]) -> Answers:
        """Prompt and single-context patch at every level, and the controls of the plan's own vector."""
        task, layer = self._task(unit.task), self.layers["text, template 0", unit.query]
        arms: list[list[Arm]] = [[] for _ in range(self.plan.settings.contexts)]
        asked = []
        for level, contexts in levels.items():
            labels = {"source": "text", "level": level}
            asked.append(Asked({"method": "prompt", **labels}, self.asking.prompts(task, unit.query, "text", contexts)))
            for row, state in zip(arms, self.asking.states(task, "text", contexts), strict=True):
                row.append(Arm({"method": "patch", **labels}, layer, state[layer]))
        yield from self.asking.prompted(unit.task, asked)
        wrong = self.mean_of_others(unit.task, partial(self._mean, seed=unit.seed, template=0))
        controls = self._controls(unit, self._mean(unit.task, unit.seed, 0), wrong, layer, source="text")
        yield from self._patched(unit, [[*row, *controls] for row in arms])

    def _strength_part(self, unit: Unit) -> Answers:
        vector = self._mean(unit.task, unit.seed, 0)
        wrong = self.mean_of_others(unit.task, partial(self._mean, seed=unit.seed, template=0))
        vectors = {"patch": vector, "control_random": random_like(vector, unit.key), "control_wrong_task": wrong}
        arms = []
        for mode, candidate in MODES.items():
            layer = self.layers[candidate, unit.query]
            for scale in self.variations.scales:
                for method, states in vectors.items():
                    labels = {"method": method, "source": "text", "setting": mode, "level": scale}
                    arms.append(Arm(labels, layer, scale * states[layer], mode))
        return self._patched(unit, [arms])

    def _patched(self, unit: Unit, arms: Sequence[Sequence[Arm]], template: Template | None = None) -> Answers:
        """Test query j under the arms of context j modulo their number."""
        rows = [arms[j % len(arms)] for j in range(len(self.plan.tasks[unit.task].test))]
        yield from self.asking.patched(unit.task, unit.query, rows, template)
