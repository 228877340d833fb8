"""What the robustness experiment varies, checked before anything is run."""

import logging
from dataclasses import asdict, dataclass, replace
from math import inf

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.prompts import Example, Specification, Template, render
from interp.protocol.contexts import draw, query_prompt, source_prompts, wrong_labels
from interp.protocol.plan import Plan
from interp.protocol.settings import known

logger = logging.getLogger(__name__)

PARTS = ("template", "instruction", "number", "labels", "strength")


@dataclass(frozen=True)
class Variations:
    """What is varied.

    Attributes:
        parts: which of PARTS.
        templates: of the template part; the first is that of all others.
        noise: shares of words of an instruction that are changed.
        numbers: demonstrations of a context.
        wrong: shares of wrong labels.
        label_shots: demonstrations of a context whose labels are made wrong.
        scales: factors of the vector.
    """

    parts: tuple[str, ...]
    templates: tuple[str, ...]
    noise: tuple[float, ...]
    numbers: tuple[int, ...]
    wrong: tuple[float, ...]
    label_shots: int
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        known("--parts", self.parts, PARTS)
        for name, values in asdict(self).items():
            if isinstance(values, tuple):
                if not values:
                    raise CrosstaskError(f"--{name} is empty; give at least one value.")
                if len(set(values)) < len(values):
                    raise CrosstaskError(f"--{name} names a value twice: {' '.join(map(str, values))}.")
        for share in self.noise:
            if not 0 < share <= 1:
                raise CrosstaskError(f"--noise {share} is no share of words; expected above 0, up to 1.")
        for share in self.wrong:
            if not 0 <= share <= 1:
                raise CrosstaskError(f"--wrong {share} is no share; expected 0 to 1.")
        if "template" in self.parts and len(self.templates) < 2:
            raise CrosstaskError("--templates names one template; the part template compares two or more.")
        for n in (*self.numbers, self.label_shots):
            if n < 1:
                name = "label-shots" if n == self.label_shots else "numbers"
                raise CrosstaskError(f"--{name} is {n}; it must be at least 1.")
        for scale in self.scales:
            if not 0 < scale < inf:
                raise CrosstaskError(f"--scales {scale} is no factor of a vector; expected numbers above 0.")
        if "strength" in self.parts and 1.0 not in self.scales:
            raise CrosstaskError("--scales lacks 1, which the part strength compares the others with; add it.")


def templates_of(variations: Variations) -> list[Template]:
    """The templates that are run, parsed: all of them, or without the part template the first.

    Raises:
        CrosstaskError: for a template without a delimiter.
    """
    templates = [Template.parse(template) for template in variations.templates]
    return templates if "template" in variations.parts else templates[:1]


def with_usable_templates(variations: Variations, model: Model) -> Variations:
    """The same without the templates whose delimiter is not one token of the model; says at INFO which they are."""
    kept = []
    for template in variations.templates:
        try:
            render(model, Specification((Example("one", "two"),)), "three", template=Template.parse(template))
            kept.append(template)
        except CrosstaskError as error:
            logger.info("left out the template %s: %s", template, error)
    return replace(variations, templates=tuple(kept))


def check_variations(plan: Plan, model: Model, variations: Variations) -> None:
    """Draws the largest contexts and renders the longest prompts of every task, so that nothing fails later.

    Raises:
        CrosstaskError: for a template that the tokenizer cannot delimit, a prompt that is too long, or too few
            selection items.
    """
    seed, sizes = plan.settings.seeds[0], {}
    if "number" in variations.parts:
        sizes["--numbers"] = max(variations.numbers)
    if "labels" in variations.parts:
        sizes["--label-shots"] = variations.label_shots
    for name, task in plan.tasks.items():
        for option, n in sizes.items():
            if len(task.pool) < n + 2:
                raise CrosstaskError(
                    f"{option} is {n}, and task {name!r} has {len(task.pool)} selection items, enough for "
                    f"{len(task.pool) - 2} demonstrations, a dummy query and one that is in neither; lower it."
                )
            (context,) = draw(task.pool, shots=n, contexts=1, seed=seed, task=name)
            for query in plan.settings.queries:
                query_prompt(
                    model, task.task, task.test[0], query, source="text", context=context, template=plan.template
                )
            if option == "--label-shots":
                wrong_labels(context, task.pool, wrong=n, seed=seed, task=name)
        for template in templates_of(variations):
            contexts = plan.contexts(name, seed)[:1]
            source_prompts(model, task.task, "text", contexts, template=template)
            for query in plan.settings.queries:
                query_prompt(
                    model, task.task, task.test[0], query, source="text", context=contexts[0], template=template
                )
