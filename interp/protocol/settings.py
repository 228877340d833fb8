"""What the cross-modal patching experiment is asked to do, checked before anything is loaded or written."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from interp.backends.registry import DEFAULT as HOOKS
from interp.backends.registry import backend_names
from interp.errors import CrosstaskError
from interp.models.options import LoadOptions

SOURCES = ("text", "image", "instruction", "ensemble")
HEADS = "heads"  # the sum of the strongest heads, which costs more to find, so it is left out unless asked for
QUERIES = ("image", "text")


@dataclass(frozen=True)
class Settings:
    """One run of the experiment. Empty tuples mean "everything that applies"; `resolve` fills them in.

    Attributes:
        model: the patched model: "bundled", a hub id or a folder.
        source_models: models whose task vectors are patched into `model`.
        tasks: task names or folders.
        wrong_tasks: tasks whose vectors make the wrong-task control (the task itself is always left out).
        sources: how the task is specified: text, image, instruction, ensemble (mean of text and instruction vectors);
            or heads, the sum of the task's strongest attention heads over text examples.
        queries: modalities of the query that is patched or prompted.
        shots: complete demonstrations a single vector, and a prompt, has seen.
        contexts: contexts averaged in a mean vector.
        seeds: each draws its own contexts and random control vectors.
        layers: blocks that are tried on the selection split; empty is every `layer_step`-th one, from the first; with
            `second_half` without those of the first half, where few patches do anything.
        selection_items, test_items: most queries a task may have in a split; None is all of them.
        template: how an example is written, with {x} for the input and {y} for the output. Luo et al. write no space
            before either; SmolLM2, whose tokens begin with the space, then hardly knows the names (9 of 22 well-known
            capitals with 5 examples, against 21 of 22).
        max_new_tokens: longest generated answer in tokens; None is the longest accepted answer of the task plus one.
        on_error: "stop" or "continue" at an image that cannot be decoded.
        backend: what captures and patches: our own hooks, or another tool.
        loading: how all models are loaded; a revision is that of `model`.
    """

    model: str = "bundled"
    source_models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    wrong_tasks: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    shots: int = 5
    contexts: int = 5
    seeds: tuple[int, ...] = (0,)
    layers: tuple[int, ...] = ()
    layer_step: int = 1
    second_half: bool = False
    selection_items: int | None = 8
    test_items: int | None = 12
    template: str = "Q: {x}\nA: {y}\n\n"
    max_new_tokens: int | None = None
    on_error: str = "stop"
    backend: str = HOOKS
    loading: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        for name, value in (("--shots", self.shots), ("--contexts", self.contexts)):
            if value < 1:
                raise CrosstaskError(f"{name} is {value}; it must be at least 1.")
        optional = (
            ("--selection-items", self.selection_items),
            ("--test-items", self.test_items),
            ("--max-new-tokens", self.max_new_tokens),
        )
        for name, limit in optional:
            if limit is not None and limit < 1:
                raise CrosstaskError(f"{name} is {limit}; it must be at least 1, or left out.")
        known("--source", self.sources, (*SOURCES, HEADS))
        known("--query", self.queries, QUERIES)
        known("--on-error", (self.on_error,), ("stop", "continue"))
        known("--backend", (self.backend,), backend_names())
        if HEADS in self.sources and self.backend != HOOKS:
            raise CrosstaskError(f"--source heads needs --backend {HOOKS}, and the backend is {self.backend!r}.")
        if self.loading.device == "remote" and self.backend != "nnsight":
            raise CrosstaskError(f"--device remote needs --backend nnsight, and the backend is {self.backend!r}.")
        for name, values in (("--seeds", self.seeds), ("--tasks", self.tasks), ("--layers", self.layers)):
            if len(set(values)) < len(values):
                raise CrosstaskError(f"{name} names a value twice: {' '.join(map(str, values))}.")
        if not self.seeds:
            raise CrosstaskError("--seeds is empty; give at least one seed, for example --seeds 0.")

    def resolve(self, *, takes_images: bool, n_layers: int) -> "Settings":
        """Fills in what depends on the model, and refuses what the model cannot do.

        Raises:
            CrosstaskError: images asked of a model without images; a layer out of range.
        """
        from interp.models.loading import BUNDLED
        from interp.models.pairs import base_of

        if not takes_images:
            if "image" in self.queries:
                raise CrosstaskError(
                    f"{self.model!r} takes no images, so it cannot be asked image queries; use --query text."
                )
            if "image" in self.sources:
                raise CrosstaskError(
                    f"{self.model!r} takes no images, so it cannot read image examples; "
                    "use --source text instruction ensemble."
                )
        outside = [layer for layer in self.layers if not 0 <= layer < n_layers]
        if outside:
            raise CrosstaskError(
                f"--layers {outside[0]} is out of range: {self.model!r} has {n_layers} layers, 0 to {n_layers - 1}."
            )
        # Two large models are held at once only when both are asked for.
        llm = base_of(self.model) if self.model in BUNDLED else None
        return replace(
            self,
            source_models=self.source_models or tuple(filter(None, (self.model, llm))),
            sources=self.sources or tuple(s for s in SOURCES if takes_images or s != "image"),
            queries=self.queries or tuple(q for q in QUERIES if takes_images or q != "image"),
            layers=self.layers or every(self.layer_step, n_layers, second_half=self.second_half),
        )

    def config(self) -> dict[str, Any]:
        """The settings that decide the numbers, as plain JSON values.

        Backends agree to rounding, which can turn a near tie, so one run is not continued with another backend. The
        default is left out: a configuration that names no backend was run with our hooks.
        """
        elsewhere = {
            "on_error",
            "layer_step",
            "second_half",
            "loading",
        }  # how it runs; what the layers tell; said below
        if self.backend == HOOKS:
            elsewhere.add("backend")
        decisive = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in elsewhere
        }
        return decisive | self.loading.config()


def every(step: int, n_layers: int, *, second_half: bool = False) -> tuple[int, ...]:
    """Every `step`-th layer, from the first; with `second_half` those that, or whose successors, are in it."""
    return tuple(layer for layer in range(0, n_layers, step) if not second_half or layer + step > n_layers // 2)


def known(option: str, given: Iterable[str], accepted: tuple[str, ...]) -> None:
    """Raises CrosstaskError with the nearest accepted value when a given one is unknown."""
    for value in given:
        if value not in accepted:
            near = difflib.get_close_matches(value, accepted, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise CrosstaskError(f"{option} {value!r} is unknown; expected one of {', '.join(accepted)}.{hint}")


def at_least(settings: Any, least: int, *names: str) -> None:
    """Raises CrosstaskError when one of these fields, each an option, is smaller."""
    for name in names:
        if getattr(settings, name) < least:
            option = name.replace("_", "-")
            raise CrosstaskError(f"--{option} is {getattr(settings, name)}; it must be at least {least}.")


def once(option: str, given: Sequence[str]) -> None:
    """Raises CrosstaskError when a value is given twice."""
    if len(set(given)) < len(given):
        named = f"{option} names {'a task' if option == '--tasks' else 'a value'}"
        raise CrosstaskError(f"{named} twice: {' '.join(given)}.")


def decisive(settings: Any) -> dict[str, Any]:
    """What decides the numbers: all fields of the settings, and of their field `loading` what does."""
    given = asdict(settings)
    del given["loading"]
    return given | settings.loading.config()
