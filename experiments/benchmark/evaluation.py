"""The same evaluation by this package and by loops over single items, for `experiments.bench_evaluation`.

    ours           forced choice: all shifts of an item in one sequence, items in batches, pictures encoded once,
                   adapters added to the weights one after another
    loop_letters   the same numbers without any of it: for every adapter, item and shift one forward pass from pixels
    loop           what BLINK's script and lmms-eval do: for every adapter, item and shift the answer is generated

The loops are favoured where the originals leave a choice: pictures are drawn and decoded beforehand, and answers have
no more tokens than "(A)" and its end need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tasks.perception.items import PerceptionItem
from interp.tasks.perception.replies import read_choice
from interp.tuning.adapters import attached
from interp.tuning.encoding import Encoded, encode
from interp.tuning.evaluation.evaluate import EvaluationOptions, evaluate
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.evaluation.records import Record, choice_record

ANSWER_TOKENS = 4
"""Of a generated answer: "(A)" and its end take no more."""


@dataclass(frozen=True)
class Workload:
    """Items, and adapters to evaluate on them.

    Attributes:
        model: the model.
        items: multiple-choice items.
        folders: name -> folder with an adapter; None for the frozen model.
        budget: most tokens of a forward pass of ours.
    """

    model: Model
    items: tuple[PerceptionItem, ...]
    folders: Mapping[str, Path | None]
    budget: int | None = None

    @cached_property
    def shifted(self) -> list[list[PerceptionItem]]:
        """Every shift of every item, its pictures drawn."""
        return [[item.shifted(k) for k in range(len(item.options))] for item in self.items]

    @property
    def answers(self) -> int:
        """Answers of each peer: adapters times items times shifts."""
        return len(self.folders) * sum(map(len, self.shifted))

    def ours(self) -> dict[tuple[str, str], Record]:
        """Forced choice by the engine."""
        found = evaluate(self.model, self.items, self.folders, EvaluationOptions(budget=self.budget))
        return {(name, record.item): record for name, records in found for record in records}

    def loop_letters(self) -> dict[tuple[str, str], Record]:
        """Forced choice by one forward pass for each adapter, item and shift."""
        reader = ItemReader(self.model)
        if not reader.single:
            raise CrosstaskError(f"the letters of model {self.model.name!r} are not one token each")

        def letters(moved: PerceptionItem) -> np.ndarray:
            encoded = encode(self.model, moved.images, [(moved.prompt, "(A)")])
            stop = encoded.first_answer + reader.common
            inputs = self._inputs(encoded, moved, stop)
            logits = self.model.forward(inputs, use_cache=False).logits[0, -1].double()
            ids = [reply[0] for reply in reader.reply_ids(len(moved.options))]
            return logits[ids].softmax(-1).cpu().numpy()

        found = self._loop(letters)
        keys = {item.name: item.key for item in self.items}
        return {(name, item): choice_record(item, keys[item], np.stack(rows)) for (name, item), rows in found.items()}

    def loop(self) -> dict[tuple[str, str], list[str]]:
        """Generated answers, one for each adapter, item and shift; the letters that the rules find."""

        def reply(moved: PerceptionItem) -> str:
            encoded = encode(self.model, moved.images, [(moved.prompt, None)])
            inputs = self._inputs(encoded, moved, encoded.n_tokens)
            inputs.pop("position_ids", None)  # generation counts by itself
            generate: Any = self.model.module.generate
            ids = generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, pad_token_id=self.model.pad_id)
            text = self.model.tokenizer.decode(ids[0, encoded.n_tokens :], skip_special_tokens=True)
            return read_choice(text, moved.options).letter

        return self._loop(reply)

    @torch.no_grad()
    def _loop(self, one: Callable[[PerceptionItem], Any]) -> dict[tuple[str, str], list[Any]]:
        """Do something for every adapter, item and shift, one after another."""
        adapters = {name: folder for name, folder in self.folders.items() if folder is not None}
        found = {}
        with attached(self.model, adapters) as held:
            for name, folder in self.folders.items():
                with held.use(name if folder is not None else None):
                    for item, shifts in zip(self.items, self.shifted, strict=True):
                        found[name, item.name] = [one(moved) for moved in shifts]
        return found

    def _inputs(self, encoded: Encoded, item: PerceptionItem, stop: int) -> dict[str, Tensor]:
        """One prompt with its pictures as pixels."""
        model = self.model
        among, processor = len(item.images), model.processor
        assert processor is not None
        given = [model.family.image(processor, image.load(), among=among).features for image in item.images]
        pixels = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in model.family.collate(given).items()}
        tokens = {name: tensor[..., None, :stop] for name, tensor in encoded.token_inputs.items()}
        ids = encoded.input_ids[None, :stop]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **tokens, **pixels}
        return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def differences(
    ours: Mapping[tuple[str, str], Record],
    letters: Mapping[tuple[str, str], Record],
    generated: Mapping[tuple[str, str], Sequence[str]],
) -> dict[str, float]:
    """How far the peers' answers are from each other.

    Returns:
        "difference": largest difference of a letter's mean probability between ours and the loop over letters;
        "same predictions": share of items with the same prediction; "generated alike": share of generated answers to
        unshifted items that are the letter of the largest likelihood.
    """
    gaps = [np.abs(np.subtract(ours[key].letters, letters[key].letters)).max() for key in ours]
    same = [ours[key].prediction == letters[key].prediction for key in ours]
    alike = [generated[key][0] == letters[key].plain_prediction for key in generated]
    return {
        "difference": float(max(gaps)),
        "same predictions": float(np.mean(same)),
        "generated alike": float(np.mean(alike)) if alike else float("nan"),
    }


def random_adapters(model: Model, folder: Path, n: int, *, rank: int = 8, seed: int = 0) -> dict[str, Path]:
    """LoRA adapters with small random updates on the attention projections, for a timing without any training."""
    from peft import LoraConfig, get_peft_model

    from interp.tuning.strategies.lora import target_pattern

    found = {}
    for number in range(n):
        path = folder / f"random{number}"
        with torch.random.fork_rng():
            torch.manual_seed(seed + number)
            pattern = target_pattern(model, ("q_proj", "k_proj", "v_proj", "o_proj"))
            adapted: Any = get_peft_model(model.module, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=pattern))
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(std=0.002)
        adapted.peft_config["default"].base_model_name_or_path = model.name
        adapted.save_pretrained(str(path), save_embedding_layers=False)
        adapted.unload()
        model.module.requires_grad_(False)
        found[path.name] = path
    return found


PEERS = ("ours", "loop_letters", "loop")
