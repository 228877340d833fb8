"""The logit lens: what a state of the residual stream says when it is read as if it were the last one.

    lens(h) = logits(final_norm(h))

with the model's own final norm, unembedding and whatever it does to their output (Gemma 2 caps the logits). At the last
block this is the model's prediction, and :func:`check_lens` holds the two together; at earlier blocks, and for vectors
that no forward pass ever held, such as differences, it is an approximation that later blocks need not share. The norm
takes the length off, so a difference of vectors is read by its direction alone.

Luo et al. (2025) read the delimiter through the lens, block by block, and follow three tokens: input, task and answer
(section 3, token representation evolution). Here each of the three is a *set* of tokens, with probability

    log p(S) = log sum over t in S of softmax(lens(h))_t,

and the *relative* probability of a set is its share of what the compared sets have together, a softmax over their
log-probabilities. Vocabularies are large, so logits are computed for some states at a time and reduced at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.batches import collate
from interp.errors import CrosstaskError
from interp.hooks import capture
from interp.memory import memory_plan
from interp.models.base import Model
from interp.prompts import Prompt

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far the lens at the last block may be from the model's own logits, as a share of the greatest of them."""
SPACE = "\u2581"
"""How a token's leading space is shown, as SentencePiece writes it."""


@torch.no_grad()
def project(model: Model, states: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
    """The logits of states, all at once: for a few of them.

    Returns:
        On the CPU, in float32 (float64 for a float64 model).

    Raises:
        CrosstaskError: for states of another width, or a model whose weights are not here.
    """
    if states.shape[-1] != model.width:
        raise CrosstaskError(
            f"states of width {states.shape[-1]} cannot be read by model {model.name!r}, whose width is {model.width}"
        )
    if model.is_remote:
        raise CrosstaskError(f"model {model.name!r} was loaded without weights, so it has no lens here")
    dtype = torch.promote_types(model.dtype, torch.float32)
    normed = model.final_norm(states.to(model.device, model.dtype))
    return model.family.logits(model.module, normed).to("cpu", dtype)


def log_probabilities(
    model: Model, states: Float[Tensor, "P L D"], sets: Sequence[Sequence[Sequence[int]]], *, rows: int | None = None
) -> Float[Tensor, "P L C"]:
    """The log-probability of sets of tokens in each state.

    Args:
        model: whose lens is used.
        states: of P prompts at L layers.
        sets: for each prompt its C sets of token ids; an empty set has probability zero.
        rows: states whose logits are held at once; by default what memory allows.

    Returns:
        ``[P, L, C]`` in nats, ``-inf`` for an empty set.

    Raises:
        CrosstaskError: if prompts have different numbers of sets, or there are not as many as prompts.
    """
    if len(sets) != len(states) or len({len(own) for own in sets}) > 1:
        raise CrosstaskError(
            f"{len(states)} prompts, but token sets for {len(sets)}, of sizes {[len(own) for own in sets]}"
        )
    size = max((len(tokens) for own in sets for tokens in own), default=0)
    padded = torch.tensor([[[*tokens, *[-1] * (size - len(tokens))] for tokens in own] for own in sets])
    owner = torch.arange(len(states)).repeat_interleave(states.shape[1])
    found = []
    for part, logits in _in_parts(model, states.flatten(0, 1), rows):
        tokens = padded[owner[part]]  # rows, C, size
        inside = logits.log_softmax(-1).gather(1, tokens.clamp(min=0).flatten(1)).view(tokens.shape)
        found.append(inside.masked_fill(tokens < 0, -torch.inf).logsumexp(-1))
    return torch.cat(found).view(*states.shape[:2], -1)


def top_tokens(
    model: Model, states: Float[Tensor, "... D"], count: int, *, rows: int | None = None
) -> tuple[Int[Tensor, "... k"], Float[Tensor, "... k"]]:
    """The most probable tokens of each state, first the most probable, and their probabilities."""
    ids, chances = [], []
    for _, logits in _in_parts(model, states.reshape(-1, model.width), rows):
        best = logits.softmax(-1).topk(min(count, logits.shape[-1]))
        ids.append(best.indices)
        chances.append(best.values)
    shape = (*states.shape[:-1], -1)
    return torch.cat(ids).view(shape), torch.cat(chances).view(shape)


def ranks(
    model: Model, states: Float[Tensor, "... D"], tokens: Int[Tensor, " n"], *, rows: int | None = None
) -> Int[Tensor, "... n"]:
    """The rank of tokens in each state among the vocabulary: 1 is the most probable, equal ones share the best."""
    found = []
    for _, logits in _in_parts(model, states.reshape(-1, model.width), rows):
        below = torch.searchsorted(logits.sort(-1).values, logits[:, tokens].contiguous(), right=True)
        found.append(1 + logits.shape[-1] - below)
    return torch.cat(found).view(*states.shape[:-1], len(tokens))


def best_rank(
    model: Model, states: Float[Tensor, "... D"], tokens: Sequence[int], *, rows: int | None = None
) -> Int[Tensor, " ..."]:
    """The rank of a set: that of its most probable token."""
    wanted = torch.tensor(list(tokens))
    found = [
        1 + (logits > logits[:, wanted].amax(-1, keepdim=True)).sum(-1)
        for _, logits in _in_parts(model, states.reshape(-1, model.width), rows)
    ]
    return torch.cat(found).view(states.shape[:-1])


def check_lens(model: Model, prompt: Prompt) -> float:
    """Hold the lens at the last block to the model's own logits after a prompt.

    Returns:
        The greatest difference, as a share of the greatest logit.

    Raises:
        CrosstaskError: if they differ by more than rounding: the family does not say what the model does to logits.
    """
    batch = collate(model, [prompt])
    last = model.n_layers - 1
    with capture(model.blocks, batch.positions, layers=[last]) as captured:
        output = model.forward(batch.inputs, use_cache=False)
    own, seen = output.logits[0, -1].to("cpu", torch.float64), project(model, captured.states[0])[0].double()
    difference = float((own - seen).abs().max() / own.abs().max())
    if not difference <= TOLERANCE.get(model.dtype, 1e-1):
        raise CrosstaskError(
            f"the logit lens at the last block of {model.name!r} differs from its logits by {difference:.1e} of their "
            "greatest; its family needs a `logits` in interp/models/families that says what the model does to them"
        )
    return difference


def first_token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[int, ...]:
    """First tokens with which texts may begin, with and without a space before, in the order in which they are found.

    Raises:
        CrosstaskError: a text has no visible token.
    """
    found: dict[int, None] = {}
    for text in texts:
        for way in _ways(tokenizer, text, ("", " ")):
            found[way[0]] = None
    return tuple(found)


def word_token_ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> tuple[int, ...]:
    """Tokens that spell a word, capitalised or not, with a space before or not: the spellings of fewest tokens.

    A word that no single token spells counts by its first tokens, with which other words may begin too.

    Raises:
        CrosstaskError: a word has no visible token.
    """
    found: dict[int, None] = {}
    for word in words:
        spelled = dict.fromkeys((word, word[:1].upper() + word[1:]))
        ways = [way for form in spelled for way in _ways(tokenizer, form, ("", " "))]
        fewest = min(map(len, ways))
        found |= dict.fromkeys(way[0] for way in ways if len(way) == fewest)
    return tuple(found)


def is_word(tokenizer: PreTrainedTokenizerBase, token: int, words: Sequence[str]) -> bool:
    """Whether a token spells one of the words, or (False) is only how one begins."""
    return str(tokenizer.decode([token])).strip().casefold() in {word.casefold() for word in words}


def spell(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token as text that can be printed: a leading space as ``SPACE``, control characters escaped."""
    piece, text = str(tokenizer.convert_ids_to_tokens(token)), str(tokenizer.decode([token]))
    if text.startswith(" ") or (piece.startswith(SPACE) and not text.startswith(SPACE)):
        text = SPACE + text.removeprefix(" ")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) or piece


def _ways(tokenizer: PreTrainedTokenizerBase, text: str, before: Sequence[str]) -> list[list[int]]:
    """The text's visible tokens after each of some beginnings."""
    ways = []
    for space in before:
        ids = tokenizer.encode(space + text.strip(), add_special_tokens=False)
        visible = next((i for i, token in enumerate(ids) if str(tokenizer.decode([token])).strip()), None)
        if visible is None:
            raise CrosstaskError(f"The text {text!r} has no visible token in this tokenizer.")
        ways.append(ids[visible:])
    return ways


def _in_parts(
    model: Model, states: Float[Tensor, "N D"], rows: int | None
) -> Iterator[tuple[slice, Float[Tensor, "n V"]]]:
    """The logits of some states after the other."""
    step = rows or memory_plan(model).rows
    for start in range(0, len(states), step):
        part = slice(start, start + step)
        yield part, project(model, states[part])
