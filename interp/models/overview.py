"""What works on which family, as tables: what the registry says, and what the test battery found.

The first part follows from the code alone. The second is read from pytest's report on the battery, which runs every
family on a tiny random model of its real classes; only the models of :data:`REAL_WEIGHTS` were run on real weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from interp.errors import CrosstaskError
from interp.models.families import Family, families
from interp.models.pairs import KNOWN

REAL_WEIGHTS = {"bundled": "llava", "perception": "llava", "bundled-llm": "llama"}
"""Models that were run on their real weights, and the type of each."""
BATTERY = "tests/interp/test_families.py"

Points = Mapping[str, Mapping[str, bool]]
"""For each point of the battery, whether it passed on each tiny model."""


@dataclass(frozen=True)
class Entry:
    """What is known of a type of configuration before a model of it is loaded.

    Attributes:
        model_type: as the configuration has it.
        family: the family that handles it.
        layers: the kinds of its blocks' attention, in its default configuration.
        engines: the engines of the sweep that are exact for a short prompt, fastest first.
        windowed: a window cuts long prompts off, so that they are not packed.
    """

    model_type: str
    family: Family
    layers: tuple[str, ...]
    engines: tuple[str, ...]
    windowed: bool


def entries() -> list[Entry]:
    """One for each registered type, and llama for all language models without a file of their own."""
    found = {"llama": Family(), **dict(sorted(families().items()))}
    return [_entry(model_type, family) for model_type, family in found.items()]


def _entry(model_type: str, family: Family) -> Entry:
    module = _outline(AutoConfig.for_model(model_type))
    exact = {"packed": family.packs(module, 1), "copied": family.continues(module), "plain": True}
    return Entry(
        model_type,
        family,
        tuple(dict.fromkeys(family.layer_kinds(module))),
        tuple(name for name, fits in exact.items() if fits),
        family.packs(module, 1) and not family.packs(module, 10**9),
    )


def _outline(config: PretrainedConfig) -> PreTrainedModel:
    """What a family asks of a module to tell its engines, without making one."""
    takes_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    classes = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if takes_images else MODEL_FOR_CAUSAL_LM_MAPPING)[type(config)]
    config._attn_implementation = "sdpa"
    supports = getattr(classes, "_supports_attention_backend", False)
    return cast(PreTrainedModel, SimpleNamespace(config=config, _supports_attention_backend=supports))


def registry_part() -> str:
    """The part of the page that follows from the registry, as Markdown."""
    known = entries()
    capabilities = [
        [
            f"`{entry.model_type}`",
            _images(entry.family),
            "yes" if entry.family.causal_prefix else "no",
            " and ".join(kind.removesuffix("_attention") for kind in entry.layers),
            "yes" if entry.family.vision_between_blocks else "no",
            ", ".join(entry.engines) + (" (packed inside the window)" if entry.windowed else ""),
            ", ".join(f"`{name}`" for name, kind in REAL_WEIGHTS.items() if kind == entry.model_type) or "-",
        ]
        for entry in known
    ]
    names: dict[str, tuple[list[str], tuple[str, ...]]] = {}
    for entry in known:
        names.setdefault(entry.family.name, ([], entry.family.examples))[0].append(f"`{entry.model_type}`")
    checkpoints = [[family, ", ".join(types), ", ".join(ids)] for family, (types, ids) in names.items()]
    pairs = [[pair.llm, pair.vlm, ", ".join(map(str, pair.layer_map)) or "layer by layer"] for pair in KNOWN]
    return "\n\n".join(
        (
            "## What a family can do",
            "By `model_type`, in its default configuration; `llama` stands for every decoder-only language model that "
            "is laid out like it.\n\n"
            "- *images in a prompt*: how many, and who writes the tokens that an image becomes: transformers' "
            "processor, or our frame around what it writes. Positions are found in the expanded text either way.\n"
            "- *causal prefix*: no token sees a later one of the text, so a patch at the delimiter leaves the prefix "
            "as it is, and it is run once for all patches.\n"
            "- *blocks*: the kinds of attention that take turns.\n"
            "- *vision between blocks*: features of the tower are also added after the first blocks, at the tokens of "
            "images.\n"
            "- *engines*: those of the sweep that are exact, fastest first.\n"
            "- *real weights*: models that were run with the weights they were published with. All others were run on "
            "tiny random models only.",
            _table(
                (
                    "model type",
                    "images in a prompt",
                    "causal prefix",
                    "blocks",
                    "vision between blocks",
                    "engines",
                    "real weights",
                ),
                capabilities,
            ),
            "## Checkpoints",
            "Hub ids that belong to a family. They have the family's classes; none was downloaded here. "
            "(`bundled-llm` has the weights of SmolLM2-135M-Instruct, from 4 bits.)",
            _table(("family", "model types", "hub ids"), checkpoints),
            "## Known pairs",
            "A vision-language model and the language model it was made from, as the model cards say. "
            "`interp.models.pairs.check_pair` compares any two.",
            _table(("language model", "vision-language model", "layers"), pairs),
        )
    )


def _images(family: Family) -> str:
    if not family.image_placeholder:
        return "none"
    count = "several" if family.several_images else "one"
    before, after = family.image_frame
    return f"{count}, processor" + (f" inside our `{before}`, `{after}`" if before or after else "")


def read_battery(report: Path) -> Points:
    """The battery's points from pytest's JUnit report, by name: tests that were run on more than half of the models.

    Raises:
        CrosstaskError: if the report is missing, damaged, or of other tests.
    """
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        raise CrosstaskError(f"{str(report)!r} is no JUnit report: {error}") from error
    tried = []
    alone: dict[str, set[str]] = {}
    for case in cases:
        name, _, rest = case.get("name", "").partition("[")
        parameters = rest.removesuffix("]").split("-")
        passed = not any(child.tag in ("failure", "error", "skipped") for child in case)
        tried.append((name, parameters, passed))
        if len(parameters) == 1 and parameters[0]:
            alone.setdefault(name, set()).add(parameters[0])
    models: set[str] = max(alone.values(), key=len, default=set())
    if len(models) < 2:
        raise CrosstaskError(f"{str(report)!r} holds no test that was run on several families; run {BATTERY}")
    points: dict[str, dict[str, bool]] = {}
    for name, parameters, passed in tried:
        for model in models.intersection(parameters):
            points.setdefault(name, {})[model] = points.get(name, {}).get(model, True) and passed
    return {name: found for name, found in points.items() if 2 * len(found) > len(models)}


def battery_part(points: Points) -> str:
    """The part of the page that tells what the battery found, as Markdown."""
    models = list(dict.fromkeys(model for found in points.values() for model in found))
    claims = [name.removeprefix("test_").replace("_", " ") for name in points]
    signs = {None: "", True: "+", False: "**fails**"}
    rows = [[f"`{model}`", *(signs[found.get(model)] for found in points.values())] for model in models]
    return "\n\n".join(
        (
            "## What the battery found",
            f"`{BATTERY}`, on a tiny random model of each family's real configuration, processor and model classes. "
            "+ passed; empty where a model without images is not asked.",
            "\n".join(f"{number}. {claim}" for number, claim in enumerate(claims, 1)),
            _table(("tiny model", *(str(number) for number in range(1, len(claims) + 1))), rows),
        )
    )


def page(points: Points) -> str:
    """The whole of docs/models.md."""
    head = (
        "# Models\n\nWritten by `make docs` (`python -m experiments.model_table`) from the registry of families and "
        "the test battery; do not edit. How to add a family stands in `interp/models/families`."
    )
    return "\n\n".join((head, registry_part(), battery_part(points))) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *escaped]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
