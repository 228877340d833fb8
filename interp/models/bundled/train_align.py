"""Second to fourth stage: teach the language model to read the tower's tokens.

- `anchor`: a cheap warm start in the space of input embeddings.
- `align`: the language model is frozen; the projector and the tower's transformer learn from next-token loss on the
  answers of `captions.Sampler`. Text behaviour cannot change, since no weight that text passes through does.
- `tune`: a LoRA on the language model's linear maps learns with them, held to the base model on text alone:

      loss = next-token loss on answers + KL(base || tuned) on text, every position

  where the text is examples of other mappings and text that the base model itself continued (distillation without
  data). Without that term, text in-context learning is lost within a few hundred steps.

A step's data depends on the seed and on the step's number alone, so a resumed run sees what an unbroken one would have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from interp.models.bundled.assemble import IMAGE_SIZE, IMAGE_TOKEN
from interp.models.bundled.augment import augmented, normalise
from interp.models.bundled.captions import Answer, Material, Sample, Sampler
from interp.models.bundled.pictures import Drawing, entities
from interp.models.bundled.scenes import Scene
from interp.models.bundled.train_tower import learning_rate
from interp.models.smollm2 import BOS_TEXT

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
IGNORED = -100
LOG_EVERY, CHECKPOINT_EVERY, EVALUATE_EVERY = 20, 60, 180  # steps


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded token ids, labels (`IGNORED` where nothing is to be predicted) and the pictures in order."""

    input_ids: torch.Tensor  # [B, T]
    attention_mask: torch.Tensor  # [B, T]
    labels: torch.Tensor  # [B, T]
    pixel_values: torch.Tensor | None  # [I, 3, H, W]


def encode(samples: Sequence[Sample], processor: LlavaProcessor, generator: torch.Generator) -> Batch:
    """Tokenise samples; every drawing is augmented anew.

    The text between two pictures is tokenised as one string, as a prompt of the toolkit would be, and a token is
    trained on if it begins inside an answer.
    """
    tokenizer = processor.tokenizer
    cells = (IMAGE_SIZE // processor.patch_size) ** 2
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    bos = tokenizer(BOS_TEXT, add_special_tokens=False).input_ids
    rows, labels, pictures = [], [], []
    for sample in samples:
        ids, wanted = list(bos), [IGNORED] * len(bos)
        for pictured, run in groupby(sample, key=lambda piece: isinstance(piece, Drawing | Scene)):
            if pictured:
                shown = [p for p in run if isinstance(p, Drawing | Scene)]
                pictures += shown
                new, marks = [image_id] * cells * len(shown), [IGNORED] * cells * len(shown)
            else:
                new, marks = _tokenise([p for p in run if isinstance(p, str | Answer)], tokenizer)
            ids, wanted = ids + new, wanted + marks
        rows.append(ids)
        labels.append(wanted)
    length = max(map(len, rows))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return Batch(
        torch.tensor([r + [pad] * (length - len(r)) for r in rows]),
        torch.tensor([[1] * len(r) + [0] * (length - len(r)) for r in rows]),
        torch.tensor([w + [IGNORED] * (length - len(w)) for w in labels]),
        _pixels(pictures, generator) if pictures else None,
    )


def _tokenise(pieces: Sequence[str | Answer], tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids of text pieces written one after another, and labels: an answer's ids, `IGNORED` elsewhere."""
    text, answered = "", []
    for piece in pieces:
        new = piece.text if isinstance(piece, Answer) else piece
        answered += [isinstance(piece, Answer)] * len(new)
        text += new
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = [start for start, _ in found["offset_mapping"]]
    ids = list(found["input_ids"])
    return ids, [i if answered[start] else IGNORED for i, start in zip(ids, starts, strict=True)]


def _pixels(pictures: Sequence[Drawing | Scene], generator: torch.Generator) -> torch.Tensor:
    out = torch.empty(len(pictures), 3, IMAGE_SIZE, IMAGE_SIZE)
    drawn = [i for i, p in enumerate(pictures) if isinstance(p, Drawing)]
    scenes = [i for i, p in enumerate(pictures) if isinstance(p, Scene)]
    if drawn:
        out[drawn] = augmented([pictures[i] for i in drawn], IMAGE_SIZE, generator)  # type: ignore[misc]
    if scenes:
        stack = np.stack([pictures[i].pixels for i in scenes])
        out[scenes] = normalise(torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255)
    return out.contiguous(memory_format=torch.channels_last)


def answer_loss(model: LlavaForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over the answers' tokens; the head is applied there alone."""
    hidden = model.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=batch.pixel_values,
        use_cache=False,
    ).last_hidden_state
    wanted = batch.labels[:, 1:]
    at = wanted != IGNORED
    return functional.cross_entropy(model.lm_head(hidden[:, :-1][at]).float(), wanted[at])


def retention_loss(model: PeftModel, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """KL(base || tuned) in nats a token, over every position of text alone."""
    at = attention_mask[:, 1:].bool()
    llava: Any = model.get_base_model()

    def log_probabilities() -> torch.Tensor:
        hidden = llava.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return functional.log_softmax(llava.lm_head(hidden[:, :-1][at]).float(), -1)

    with torch.no_grad(), model.disable_adapter():
        base = log_probabilities()
    return functional.kl_div(log_probabilities(), base, log_target=True, reduction="batchmean")


@torch.no_grad()
def own_text(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, *, rows: int, tokens: int, seed: int
) -> torch.Tensor:
    """Text that the base model writes by itself, sampled at temperature 1: token ids [rows, 1 + tokens]."""
    torch.manual_seed(seed)
    start = processor.tokenizer(BOS_TEXT, add_special_tokens=False, return_tensors="pt").input_ids
    return model.generate(
        input_ids=start.expand(rows, -1),
        attention_mask=torch.ones(rows, start.shape[1], dtype=torch.long),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        pad_token_id=processor.tokenizer.pad_token_id or 0,
    )


# How many samples of each kind one micro-batch holds; a step is one `name` batch and one of the others in turn.
SIZES = {"name": 14, "attribute": 8, "scene": 7, "several": 4, "labelled": 8, "examples": 4}
TURNS = {
    "align": ("several", "examples", "several", "attribute", "several", "scene", "examples", "scene"),
    "tune": ("labelled", "examples", "several", "attribute", "labelled", "scene", "several", "examples"),
}


def micro_batches(
    sampler: Sampler, processor: LlavaProcessor, stage: str, step: int, generator: torch.Generator
) -> list[tuple[str, Batch]]:
    """The micro-batches of a step."""
    kinds = ("name", TURNS[stage][step % len(TURNS[stage])])
    return [(k, encode([getattr(sampler, k)() for _ in range(SIZES[k])], processor, generator)) for k in kinds]


def anchor(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    material: Material,
    *,
    steps: int,
    batch: int,
    peak: float,
    seed: int,
    log: Callable[[dict], None],
) -> None:
    """Warm start without the language model's blocks: the last cells of a drawing stand where its name's words stand.

    With e_1..e_n the input embeddings of the n tokens of " name" and p_1..p_n the projected last n cells,

        loss = mean_k [ -log softmax_v(cos(p_k, e_v) / 0.07)[e_k] + |p_k - e_k|^2 / |e_k|^2 ]

    over the vocabulary v of all names. A step costs a twentieth of one through the language model. The other cells are
    left free for what else is in the picture, and everything is trained on through the language model afterwards.

    Args:
        model: The assembled model; projector and the tower's transformer are trained in place.
        processor: Its processor.
        material: Training drawings.
        steps: Optimiser steps.
        batch: Drawings a step.
        peak: Peak learning rate of the projector; the tower's transformer gets a third of it.
        seed: Fixes the data.
        log: Called with one dict a logged step.
    """
    model.requires_grad_(False)
    visual = trainable_tower(model)
    for parameter in visual.values():
        parameter.requires_grad_(True)
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in visual.items() if n.startswith("projector")], "scale": 1.0},
        {"params": [p for n, p in visual.items() if n.startswith("tower")], "scale": 1 / 3},
    ]
    optimiser = torch.optim.AdamW(groups, lr=peak, weight_decay=0.01)
    tokens = {
        (e.family, e.name): processor.tokenizer(f" {e.name}", add_special_tokens=False).input_ids for e in entities()
    }
    vocabulary = sorted({t for ids in tokens.values() for t in ids})
    index = {token: i for i, token in enumerate(vocabulary)}
    embeddings = model.get_input_embeddings().weight[vocabulary].float()
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        sampler = Sampler(material, np.random.default_rng([seed, step, 2]))
        shown = [sampler.draw(sampler.entity()) for _ in range(batch)]
        names = [tokens[d.entity.family, d.entity.name] for d in shown]
        features = model.model.get_image_features(_pixels(shown, generator), return_dict=True).pooler_output
        projected = torch.cat([cells[-len(ids) :] for cells, ids in zip(features, names, strict=True)]).float()
        wanted = torch.tensor([index[t] for ids in names for t in ids])
        target = embeddings[wanted]
        cosine = functional.normalize(projected, dim=-1) @ functional.normalize(embeddings, dim=-1).T
        distance = (projected - target).square().sum(-1) / target.square().sum(-1)
        loss = functional.cross_entropy(cosine / 0.07, wanted) + distance.mean()
        for group in optimiser.param_groups:
            group["lr"] = peak * group["scale"] * learning_rate(step, steps)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(visual.values()), 1.0)
        optimiser.step()
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            right = (cosine.argmax(-1) == wanted).float().mean().item()
            log(
                {
                    "stage": "anchor",
                    "step": step + 1,
                    "loss": round(loss.item(), 4),
                    "tokens_right": round(right, 3),
                    "distance": round(distance.mean().item(), 3),
                }
            )
    model.requires_grad_(False)


def in_half_precision(model: LlavaForConditionalGeneration) -> None:
    """Run the frozen language model in bfloat16 for training, where the processor has matrix units for it.

    On a CPU with AMX, bfloat16 products are five times as fast as float32's; elsewhere nothing is changed. Only what is
    trained (projector, tower, LoRA) is saved, in float32 all along, so the shipped base weights are untouched.
    """
    if torch.cuda.is_available() or torch.cpu._is_amx_tile_supported():
        torch.set_float32_matmul_precision("medium")
        model.model.language_model.bfloat16()
        model.lm_head.bfloat16()
        model.set_attn_implementation({"text_config": "eager"})  # faster than the fused kernel for short sequences


@contextmanager
def bfloat16_products(adapted: PeftModel | None) -> Iterator[None]:
    """Keep a LoRA's products in the half precision of its language model, where PEFT casts each one to float32.

    Nothing is changed without a LoRA, or where the language model is in float32.
    """
    llava: Any = adapted.get_base_model() if adapted is not None else None
    if adapted is None or llava.lm_head.weight.dtype != torch.bfloat16:
        yield
        return
    from peft.helpers import disable_input_dtype_casting

    with disable_input_dtype_casting(adapted), torch.autocast(adapted.device.type, torch.bfloat16):
        yield


def trainable_tower(model: LlavaForConditionalGeneration) -> dict[str, nn.Parameter]:
    """The tower's transformer and the projector: what is trained besides the LoRA; the convolutional stem stays."""
    llava = model.model
    frozen = ("embeddings.stem", "embeddings.blocks", "embeddings.head")
    found = {f"tower.{n}": p for n, p in llava.vision_tower.named_parameters() if not n.startswith(frozen)}
    return found | {f"projector.{n}": p for n, p in llava.multi_modal_projector.named_parameters()}


def train(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    material: Material,
    *,
    stage: str,
    steps: int,
    peak: float,
    seed: int,
    folder: Path,
    log: Callable[[dict], None],
    adapted: PeftModel | None = None,
    retention: float = 1.0,
    evaluate: Callable[[], dict] | None = None,
) -> None:
    """Run `align` (adapted None) or `tune` (adapted: the same model with a LoRA), resuming from `folder`.

    Args:
        model: The assembled model, trained in place.
        processor: Its processor.
        material: Training drawings.
        stage: Name of the stage, for the checkpoint and the log.
        steps: Optimiser steps.
        peak: Peak learning rate of the projector and the LoRA; the tower's transformer gets a fifth of it.
        seed: Fixes the data.
        folder: Where the checkpoint lies.
        log: Called with one dict a logged step.
        adapted: The PEFT wrapper around `model`.
        retention: Weight of the KL term.
        evaluate: Called every `EVALUATE_EVERY` steps and at the end; its dict is logged.
    """
    model.requires_grad_(False)
    visual = trainable_tower(model)
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in visual.items() if n.startswith("projector")], "scale": 1.0},
        {"params": [p for n, p in visual.items() if n.startswith("tower")], "scale": 0.2},
    ]
    if adapted is not None:
        groups.append({"params": [p for n, p in adapted.named_parameters() if "lora_" in n], "scale": 1.0})
    parameters = [p for g in groups for p in g["params"]]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(groups, lr=peak, weight_decay=0.01)
    checkpoint, first = folder / f"{stage}-checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for parameter, stored in zip(parameters, state["parameters"], strict=True):
            parameter.data.copy_(stored)
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    if first >= steps:
        return
    plain_text = own_text(model, processor, rows=96, tokens=63, seed=seed) if adapted is not None else None
    began = time.monotonic()
    recent: dict[str, float] = {}
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        sampler = Sampler(material, np.random.default_rng([seed, step, stage == "tune"]))
        for group in optimiser.param_groups:
            group["lr"] = peak * group["scale"] * learning_rate(step, steps)
        optimiser.zero_grad()
        for kind, batch in micro_batches(sampler, processor, stage, step, generator):
            with bfloat16_products(adapted):
                loss = answer_loss(model, batch)
            loss.backward()
            recent[kind] = 0.9 * recent.get(kind, loss.item()) + 0.1 * loss.item()
        if adapted is not None and plain_text is not None:
            if step % 2:
                text = encode([sampler.text() for _ in range(5)], processor, generator)
                ids, mask = text.input_ids, text.attention_mask
            else:
                ids = plain_text[torch.randperm(len(plain_text), generator=generator)[:3]]
                mask = torch.ones_like(ids)
            with bfloat16_products(adapted):
                kept = retention_loss(adapted, ids, mask)
            (retention * kept).backward()
            recent["kl"] = 0.9 * recent.get("kl", kept.item()) + 0.1 * kept.item()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        done = step + 1
        if done % CHECKPOINT_EVERY == 0 or done == steps:
            state = {"parameters": [p.data for p in parameters], "optimiser": optimiser.state_dict(), "step": done}
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").rename(checkpoint)
        if done % LOG_EVERY == 0 or done == steps:
            record = {"stage": stage, "step": done, "seconds": round(time.monotonic() - began, 1)}
            record |= {k: round(v, 4) for k, v in recent.items()}
            if evaluate is not None and (done % EVALUATE_EVERY == 0 or done == steps):
                model.eval()
                record |= evaluate()
            log(record)
    model.requires_grad_(False)
    model.eval()
