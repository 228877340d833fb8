"""The units of a study of perception tasks' vectors, each recorded in the run's journal when it is done.

    states <task>           the task's vectors in every setting, before fine-tuning
    moved <source> <seed>   vectors of all tasks under one adapter
    patch <split> <task>    answers to the task's items under every patch

Tensors are kept in `states/`, and answers in the journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from interp.errors import CrosstaskError
from interp.files import sha256_of
from interp.models.base import Model
from interp.perception_vectors.contexts import context_items, read_context, scored_items
from interp.perception_vectors.patches import patch_answers
from interp.perception_vectors.settings import SPLITS, Setting, VectorSettings
from interp.perception_vectors.states import halves, read_states
from interp.perception_vectors.transfer import arms_for, scored
from interp.runs import Run
from interp.tuning.evaluation.forced_choice import prepare
from interp.tuning.evaluation.packing import Pack, Reading
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.evaluation.variants import changes_vision, variants
from interp.tuning.evaluation.vision import Vision, vision_for
from interp.tuning.matrix.plan import plain
from interp.tuning.text_context import context_text

Unit: TypeAlias = tuple[Any, ...]
Source: TypeAlias = tuple[str, int]
"""What an adapter was trained on, and the seed of its training."""
VECTORS = "vectors.safetensors"
ALONE = ("item", "instruction")
"""Settings in which an item stands without examples."""


@dataclass(frozen=True)
class Contexts:
    """A task's contexts, ready to be read.

    Attributes:
        readings: setting -> contexts as tokens.
        texts: setting -> what a tower that reads questions is told of each: all that are asked, as in training.
        vision: how their pictures enter.
    """

    readings: dict[Setting, list[Reading]]
    texts: dict[Setting, list[str]]
    vision: Vision


class VectorWork:
    """Does the units of a study.

    Attributes:
        settings: resolved for the model.
        run: the study's folder.
        model: the model before fine-tuning.
        adapters: source and seed -> folder with the adapter.
    """

    def __init__(
        self, settings: VectorSettings, run: Run, model: Model, adapters: Mapping[Source, Path] | None = None
    ) -> None:
        self.settings, self.run, self.model = settings, run, model
        self.adapters = dict(adapters or {})
        self._contexts: dict[tuple[bool, str], Contexts] = {}

    def units(self) -> list[Unit]:
        """All units; each comes after those that it needs."""
        names = self.settings.names
        patching: list[Unit] = [("patch", split, name) for split in SPLITS for name in names if self.settings.items]
        return [
            *(("states", name) for name in names),
            *(("moved", source, seed) for source, seed in self.adapters),
            *patching,
        ]

    def perform(self, unit: Unit) -> None:
        """Do a unit and record it."""
        kind, *rest = unit
        if kind == "states":
            self._states(*rest)
        elif kind == "moved":
            self._moved(*rest)
        else:
            self._patch(*rest)

    def base(self) -> dict[Setting, Float[np.ndarray, "K 2 L D"]]:
        """Setting -> halves of all tasks' vectors before fine-tuning."""
        found = [self._read(("states", name)) for name in self.settings.names]
        return {setting: np.stack([one[setting].numpy() for one in found]) for setting in self.settings.settings}

    def moved(self) -> dict[Source, dict[Setting, Float[np.ndarray, "K 2 L D"]]]:
        """Source and seed -> setting -> the same under its adapter."""
        found = {source: self._read(("moved", *source)) for source in self.adapters}
        return {
            source: {
                setting: np.stack([one[f"{setting}/{name}"].numpy() for name in self.settings.names])
                for setting in self.settings.patched
            }
            for source, one in found.items()
        }

    def patched(self, split: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """(setting, target) -> the answers under every arm."""
        return {
            (setting, name): self._payload(("patch", split, name))[setting]
            for setting in self.settings.patched
            for name in self.settings.names
        }

    def write_vectors(self) -> Path:
        """All vectors before fine-tuning as `<setting>/<task>`, `[L, D]`, and their halves as `halves/...`."""
        tensors = {}
        for name in self.settings.names:
            for setting, found in self._read(("states", name)).items():
                tensors[f"{setting}/{name}"] = found.mean(0)
                tensors[f"halves/{setting}/{name}"] = found
        header = {
            "format": "crosstask.perception_vectors.1",
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            "position": self.settings.position,
        }
        return self.run.write_safetensors(VECTORS, tensors, header)

    def _states(self, name: str) -> None:
        prepared = self._prepared(name, self.settings.settings)
        self._write(("states", name), self._read_halves(prepared))

    def _moved(self, source: str, seed: int) -> None:
        folder = self.adapters[source, seed]
        pixels = changes_vision(folder)
        found: dict[str, Tensor] = {}
        # Read before the adapter is at work, since it is then found out whether features of pictures can be kept.
        ready = {name: self._kept(name, pixels) for name in self.settings.names}
        for _ in variants(self.model, {f"{source} (seed {seed})": folder}):
            for name, prepared in ready.items():
                found |= {f"{setting}/{name}": vector for setting, vector in self._read_halves(prepared).items()}
        self._write(("moved", source, seed), found)

    def _patch(self, split: str, target: str) -> None:
        settings = self.settings
        items = scored_items(settings, self._given(target), split)
        choices = prepare(self.model, items, reader=ItemReader(self.model), shifts=settings.shifts)
        payload: dict[str, Any] = {}
        for setting in settings.patched:
            vectors = {name: self._read(("states", name))[setting].mean(0) for name in settings.names}
            arms = arms_for(vectors, target, layers=settings.layers, items=len(items), seed=settings.seed)
            answers = patch_answers(choices, arms, position=settings.position)
            payload[setting] = scored(arms, answers)
        self.run.record(("patch", split, target), payload)

    def _read_halves(self, contexts: Contexts) -> dict[str, Tensor]:
        """Setting -> the halves of a task's vector, as the model is now."""
        return {
            setting: halves(read_states(self.model, read, contexts.vision, texts=contexts.texts[setting]))
            for setting, read in contexts.readings.items()
        }

    def _kept(self, name: str, pixels: bool) -> Contexts:
        """Contexts that are read again under every adapter."""
        if (pixels, name) not in self._contexts:
            self._contexts[pixels, name] = self._prepared(name, self.settings.patched, pixels=pixels)
        return self._contexts[pixels, name]

    def _prepared(self, name: str, settings: Sequence[Setting], *, pixels: bool = False) -> Contexts:
        """A task's contexts in some settings as tokens, and how their pictures enter."""
        reader = ItemReader(self.model)
        examples = any(setting not in ALONE for setting in settings)
        contexts = context_items(self.settings, self._given(name), examples=examples)
        readings = {
            setting: [read_context(reader, setting, items, self.settings.position) for items in contexts]
            for setting in settings
        }
        told = {
            setting: [
                context_text([item.prompt for item in items[-1 if setting in ALONE else 0 :]]) for items in contexts
            ]
            for setting in settings
        }
        packs = [Pack((reading,), 0) for read in readings.values() for reading in read]
        return Contexts(readings, told, vision_for(self.model, reader, packs, keep=not pixels))

    def _given(self, name: str) -> str:
        """A task as the settings name it."""
        return self.settings.tasks[self.settings.names.index(name)]

    def _write(self, unit: Unit, tensors: Mapping[str, Tensor]) -> None:
        path = self.run.write_safetensors(_file(unit), tensors)
        self.run.record(unit, {"sha256": sha256_of(path)})

    def _read(self, unit: Unit) -> dict[str, Tensor]:
        path = self.run.folder / _file(unit)
        recorded = self._payload(unit)["sha256"]
        try:
            if sha256_of(path) == recorded:
                return load_file(path)
        except (OSError, SafetensorError):
            pass
        raise CrosstaskError(f"{path} is missing or was changed; delete the folder {self.run.folder} and run again")

    def _payload(self, unit: Unit) -> Any:
        found = self.run.done(unit)
        if found is None:
            raise CrosstaskError(f"unit {' '.join(map(str, unit))} is not done; run the same command again to continue")
        return found


def read_vectors(path: Path | str) -> dict[str, dict[str, Float[Tensor, "L D"]]]:
    """What :meth:`VectorWork.write_vectors` wrote: setting -> task -> vectors.

    Raises:
        CrosstaskError: the file is missing, damaged, or holds something else.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CrosstaskError(f"vectors {str(path)!r} cannot be read: {error}") from error
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        setting, _, task = key.partition("/")
        if setting != "halves" and task:
            found.setdefault(setting, {})[task] = tensor
    if not found:
        raise CrosstaskError(f"{str(path)!r} holds no vectors of perception tasks; expected <setting>/<task>")
    return found


def _file(unit: Unit) -> str:
    """Where the tensors of a unit are kept."""
    kind, name, *seed = unit
    return f"states/{kind}-{plain(str(name))}{''.join(f'-seed{number}' for number in seed)}.safetensors"
