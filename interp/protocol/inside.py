"""One prompt from the inside: its tokens, what each layer would say next, and what each state does in a bare query.

lens      softmax(head(norm(h_l[t]))): the next token, were layer l the last (nostalgebraist 2020, the logit lens)
gain      log p(answer | query with h_l[t] in place of its delimiter's state at layer l) - log p(answer | query), of
          the answer's first token, in nats. At the prompt's last delimiter this is the patch of Luo et al. (2025,
          section 3); at every other token it says whether the task can be read there too.
control   the same gain for a random direction with the norm of the last delimiter's state
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.batches import collate
from interp.errors import CrosstaskError
from interp.hooks import capture
from interp.models.base import Model
from interp.patching import RowPatch, sweep_logits
from interp.prompts import Image, Prompt, Template
from interp.vectors import norm_matched_random


@dataclass(frozen=True)
class Inside:
    """What is known of a prompt of T tokens.

    Attributes:
        tokens: one row per token: position, text, role, example (missing for the query), image (which of the prompt's
            images it belongs to, missing for text), delimiter.
        lens: one row per token, layer and rank: position, layer, rank, token, probability.
        effects: one row per token and layer: position, layer, lens_answer (the lens's probability of the answer), gain
            (nats), says (the first token of what the query is then answered).
        controls: one row per layer: layer, gain.
    """

    tokens: pd.DataFrame
    lens: pd.DataFrame
    effects: pd.DataFrame
    controls: pd.DataFrame


def look_inside(
    model: Model,
    prompt: Prompt,
    query: Prompt,
    answer: str,
    *,
    template: Template | None = None,
    top: int = 3,
    seed: int = 0,
) -> Inside:
    """Every state of a prompt through the lens, and patched into the delimiter of a query.

    Args:
        model: the model.
        prompt: the prompt to look into, of T tokens.
        query: the bare query that each of its states is patched into, at the same layer.
        answer: the right answer to the query.
        template: what both are written in; its lead stands before the answer.
        top: tokens of the lens that are kept.
        seed: of the control's direction.

    Raises:
        CrosstaskError: if the answer is empty.
    """
    if not answer.strip():
        raise CrosstaskError("the answer is empty; expected what the query should be answered, such as 'Paris'")
    lead = (template or Template()).output_lead
    token = model.tokenizer(lead + answer, add_special_tokens=False).input_ids[0]
    states = states_of(model, prompt)
    lens, probability = _lens(model, states, token, top)
    control = norm_matched_random(states[:, prompt.delimiter], seed)
    rows, controls = [], []
    (bare,) = sweep_logits(model, [query], [[RowPatch(0, None)]])
    start = bare[0].float().log_softmax(-1)[token]
    for layer in range(model.n_layers):
        patches = [RowPatch(layer, vector) for vector in (*states[layer], control[layer])]
        (logits,) = sweep_logits(model, [query], [patches], allow_noop=True)
        gain = (logits.float().log_softmax(-1)[:, token] - start).tolist()
        says = [model.tokenizer.decode([i]) for i in logits.argmax(-1).tolist()]
        controls.append({"layer": layer, "gain": gain.pop()})
        rows += [
            {"position": at, "layer": layer, "lens_answer": p, "gain": g, "says": s}
            for at, (p, g, s) in enumerate(zip(probability[layer], gain, says[:-1], strict=True))
        ]
    return Inside(token_table(model, prompt), lens, pd.DataFrame(rows), pd.DataFrame(controls))


def token_table(model: Model, prompt: Prompt) -> pd.DataFrame:
    """The tokens of a prompt with what they are; see :class:`Inside`."""
    rows, images = [], 0
    for segment in prompt.segments:
        pictured = isinstance(segment.content, Image)
        for at in range(segment.start, segment.stop):
            rows.append(
                {
                    "position": at,
                    "text": model.tokenizer.decode([prompt.input_ids[at]]),
                    "role": segment.role,
                    "example": segment.example,
                    "image": images if pictured else None,
                    "delimiter": at in prompt.delimiters,
                }
            )
        images += pictured
    return pd.DataFrame(rows).astype({"example": "Int64", "image": "Int64"})


def states_of(model: Model, prompt: Prompt) -> Float[Tensor, "L T D"]:
    """The residual stream after every block at every token, on the CPU."""
    batch = collate(model, [prompt])
    with capture(model.blocks, torch.arange(prompt.n_tokens)[None]) as captured:
        model.forward(batch.inputs, use_cache=False)
    return captured.states[:, 0].cpu()


@torch.no_grad()
def _lens(
    model: Model, states: Float[Tensor, "L T D"], answer: int, top: int
) -> tuple[pd.DataFrame, list[list[float]]]:
    """The lens's strongest tokens, and its probability of the answer at each layer and token."""
    rows, answers = [], []
    for layer, hidden in enumerate(states):
        logits = model.head(model.final_norm(hidden.to(model.device)))
        found = logits.float().softmax(-1).cpu()
        answers.append(found[:, answer].tolist())
        strongest, ids = found.topk(top)
        for at, pairs in enumerate(zip(strongest.tolist(), ids.tolist(), strict=True)):
            for rank, (value, i) in enumerate(zip(*pairs, strict=True)):
                token = model.tokenizer.decode([i])
                rows.append({"position": at, "layer": layer, "rank": rank, "token": token, "probability": value})
    return pd.DataFrame(rows), answers
