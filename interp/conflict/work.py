"""The units of a study of gradient conflict, each recorded in the run's journal when it is done.

    trained <arm> <what> <seed>   a training on the mixture or on one task, with an adapter at each point
    grams <arm> <point>           inner products of the gradients of all micro-batches at a point of the mixed training
    distance <arm> <point>        distances between trainings on the two tasks of the pair, and between their seeds

All arms see the same examples in the same order, and gradients of the same micro-batches are taken, which no training
has seen. The micro-batches' order is that of the tasks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from interp.conflict.distance import Trained, Weights, distances, weights_of
from interp.conflict.gradients import Context, Experts, Grams, gradient_grams
from interp.conflict.places import common_places
from interp.conflict.settings import Arm, ConflictSettings
from interp.errors import CrosstaskError
from interp.files import sha256_of
from interp.models.base import Model
from interp.runs import Run
from interp.tasks.perception.datasets import mixture, training_data
from interp.tuning.adapters import adapter_at_work, attached
from interp.tuning.dataset import Learnable, as_example, encode_all
from interp.tuning.encoding import Encoded
from interp.tuning.matrix.plan import plain
from interp.tuning.run import finetune, without_dropout
from interp.tuning.strategies import strategy
from interp.tuning.strategies.towers import used_blocks
from interp.tuning.text_context import context_text, owners

Unit: TypeAlias = tuple[Any, ...]
MIXTURE = "mixture"


class ConflictWork:
    """Does the units of a study.

    Attributes:
        settings: resolved for the model.
        run: the study's folder.
        model: the model before training.
    """

    def __init__(self, settings: ConflictSettings, run: Run, model: Model) -> None:
        self.settings, self.run, self.model = settings, run, model
        self._batches: list[list[Encoded]] | None = None

    def units(self) -> list[Unit]:
        """All units; each comes after those that it needs."""
        found: list[Unit] = []
        for arm in self.settings.arms:
            if any(point > 0 for point in self.settings.points):
                found.append(("trained", arm.name, MIXTURE, self.settings.train_seed))
            found += [("grams", arm.name, point) for point in self.settings.points]
        for arm in self.settings.arms:
            if self.settings.pair:
                found += [("trained", arm.name, *one) for one in self._runs()]
                found += [("distance", arm.name, point) for point in self.settings.points if point > 0]
        return found

    def perform(self, unit: Unit) -> None:
        """Do a unit and record it."""
        kind, name, *rest = unit
        arm = self.settings.arm(name)
        if kind == "trained":
            self._train(arm, *rest)
        elif kind == "grams":
            self._grams(arm, *rest)
        else:
            self._distance(arm, *rest)

    def grams(self, arm: str, point: float) -> Grams:
        """The inner products at a point.

        Raises:
            CrosstaskError: they are not there yet, or the file was changed.
        """
        unit = ("grams", arm, point)
        payload, path = self._payload(unit), self.run.folder / _file(unit)
        try:
            if sha256_of(path) == payload["sha256"]:
                return {
                    (cast("Experts", name.partition("/")[0]), int(name.partition("/")[2])): tensor.numpy()
                    for name, tensor in load_file(path).items()
                }
        except (OSError, SafetensorError):
            pass
        raise CrosstaskError(f"{path} is missing or was changed; delete the folder {self.run.folder} and run again")

    def losses(self, arm: str, point: float) -> list[float]:
        """The loss of each micro-batch at a point."""
        return self._payload(("grams", arm, point))["losses"]

    def distance(self, arm: str, point: float) -> list[dict[str, Any]]:
        """Rows of distances at a point."""
        return self._payload(("distance", arm, point))["rows"]

    def _runs(self) -> list[Trained]:
        return [(task, seed) for task in self.settings.pair for seed in self.settings.pair_seeds]

    def _train(self, arm: Arm, what: str, seed: int) -> None:
        config = self.settings.training(arm, what, seed)
        tuned = finetune(config, self._place(arm, what, seed), model=self.model, examples=self._examples(what, seed))
        record = tuned.record
        self.run.record(
            ("trained", arm.name, what, seed),
            {name: record[name] for name in ("steps", "trained_parameters", "update_norm")}
            | {"loss": record["curve"][-1]["loss"]},
        )

    def _grams(self, arm: Arm, point: float) -> None:
        settings = self.settings
        layers = cast("tuple[int, ...]", settings.layers)
        with without_dropout(self.model.module), self._at(arm, MIXTURE, settings.train_seed, point) as context:
            found, losses = gradient_grams(
                self.model,
                self._micro_batches(),
                common_places(self.model, layers, settings.parts),
                context=context,
                folder=self.run.folder,
            )
        unit = ("grams", arm.name, point)
        tensors = {f"{experts}/{layer}": torch.from_numpy(gram) for (experts, layer), gram in found.items()}
        path = self.run.write_safetensors(_file(unit), tensors)
        self.run.record(unit, {"sha256": sha256_of(path), "losses": losses})

    def _distance(self, arm: Arm, point: float) -> None:
        start = self._weights(arm, *self._runs()[0], 0.0)
        ends = {trained: self._weights(arm, *trained, point) for trained in self._runs()}
        self.run.record(("distance", arm.name, point), {"rows": distances(start, ends)})

    def _weights(self, arm: Arm, what: str, seed: int, point: float) -> Weights:
        """The common parameters of all blocks at a point of a training."""
        with self._at(arm, what, seed, point):
            return weights_of(common_places(self.model, range(used_blocks(self.model)), self.settings.parts))

    @contextlib.contextmanager
    def _at(self, arm: Arm, what: str, seed: int, point: float) -> Iterator[Context]:
        """The model as it is at a point of a training, and what gives its tower the text."""
        if point == 0:
            chosen = strategy(arm.strategy)(self.model, self.settings.training(arm, what, seed))
            try:
                yield lambda rows: chosen.context(chosen.text_inputs(*_texts(self.model, rows)))
            finally:
                chosen.detach()
                self.model.module.requires_grad_(False).eval()
                self.model.reset_state()
            return
        folder = self._place(arm, what, seed)
        folder = folder / "adapter" if point == 1 else folder / "snapshots" / f"{point:g}"
        with attached(self.model, {arm.name: folder}) as held, held.use(arm.name):
            adapter = adapter_at_work(self.model)
            yield lambda rows: adapter.context(*_texts(self.model, rows))

    def _place(self, arm: Arm, what: str, seed: int) -> Path:
        return self.run.folder / "trained" / plain(arm.name) / f"{plain(what)}-seed{seed}"

    def _examples(self, what: str, seed: int) -> Sequence[Learnable]:
        settings = self.settings
        given: dict[str, Any] = {"wording": settings.wording, "size": settings.size, "seed": seed}
        tasks = settings.tasks if what == MIXTURE else (what,)
        levels = {task: settings.difficulty(task) for task in tasks}
        return mixture([(task, 1.0) for task in tasks], n=settings.examples, difficulty=levels, **given)

    def _micro_batches(self) -> list[list[Encoded]]:
        """Micro-batches of single tasks, from the content that trainings draw from, with another seed."""
        if self._batches is None:
            settings = self.settings
            size, count = settings.micro_batch, settings.micro_batches
            found = []
            for task in settings.tasks:
                level = settings.difficulty(task)
                data = training_data(
                    task, n=size * count, difficulty=level, wording=settings.wording, size=settings.size,
                    seed=settings.seed,
                )  # fmt: skip
                encoded = encode_all(self.model, [as_example(data[index]) for index in range(size * count)])
                found += [encoded[start : start + size] for start in range(0, size * count, size)]
            self._batches = found
        return self._batches

    def _payload(self, unit: Unit) -> Any:
        found = self.run.done(unit)
        if found is None:
            raise CrosstaskError(f"unit {' '.join(map(str, unit))} is not done; run the same command again to continue")
        return found


def total(grams: Grams, experts: Experts) -> dict[int, np.ndarray]:
    """Inner products by layer, and of all layers together as layer -1; with no experts, `apart` is `summed`."""
    kept = {layer: gram for (way, layer), gram in grams.items() if way == experts}
    kept = kept or {layer: gram for (_, layer), gram in grams.items()}
    return {-1: np.sum(list(kept.values()), axis=0), **kept}


def _texts(model: Model, rows: Sequence[Encoded]) -> tuple[list[str], list[int]]:
    """What the tower is told of some conversations, and the conversation of each picture that it is given."""
    return [context_text(row.questions) for row in rows], owners(model, [row.images for row in rows])


def _file(unit: Unit) -> str:
    kind, arm, point = unit
    return f"{kind}/{plain(str(arm))}-{point:g}.safetensors"
