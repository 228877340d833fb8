"""Task vectors for users of the tools themselves: a TransformerLens hook, and an edit to call in an nnsight trace.

    name, hook = transformer_lens_hook(vectors, 12)
    logits = bridge.run_with_hooks(tokens, fwd_hooks=[(name, hook)])

    edit = nnsight_edit(vectors, 12)
    with lens.trace(**inputs) as tracer:
        edit(lens)
        logits = tracer.result.logits.save()

Both write at one column of every row, by default the last, which under left padding is the delimiter of every prompt.
A decoding step with the cache is one token long and passes untouched, so that a generation is patched in its prefill.
Neither tool is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.backends.base import refuse_noop, written
from interp.errors import CrosstaskError
from interp.hooks import Edit, HookError, Mode
from interp.models.families import family_for
from interp.vectors import TaskVectors


def transformer_lens_hook(
    vectors: TaskVectors, layer: int, *, column: int = -1, mode: Mode = "replace", scale: float = 1.0
) -> tuple[str, Callable[..., Float[Tensor, "B T D"]]]:
    """The vector of one layer as a hook for ``run_with_hooks`` and ``hooks`` of a TransformerBridge.

    Args:
        vectors: of a model with the bridge's width.
        layer: the block whose output is patched.
        column: where in the sequence; negative columns count from the right, and a generation without a cache needs
            a column that does not.
        mode: ``replace`` the state by ``scale * vector``, or ``add`` that to it.
        scale: factor of the vector.

    Returns:
        The hook point's name, ``blocks.{layer}.hook_out``, and the function.

    Raises:
        CrosstaskError: if the layer is out of range.
        HookError: (the function) if the widths differ, or the patch changes nothing.
    """
    vector = vectors.layer(layer)

    def hook(hidden: Float[Tensor, "B T D"], hook: Any = None) -> Float[Tensor, "B T D"]:
        return _patched(hidden, vector, layer, column, mode, scale)

    return f"blocks.{layer}.hook_out", hook


def nnsight_edit(
    vectors: TaskVectors, layer: int, *, column: int = -1, mode: Mode = "replace", scale: float = 1.0
) -> Callable[[Any], None]:
    """The vector of one layer as a function to call inside a trace, with nnsight's wrapper of the model.

    Arguments and errors are those of :func:`transformer_lens_hook`. It touches the block's output, so inside the trace
    it stands before whatever touches a later module. For a remote trace call ``nnsight.register`` on ``interp`` first,
    or use the backend, whose traces bring nothing of ours along.

    Raises:
        CrosstaskError: if the layer is out of range, or (the function) the model's blocks are not found.
    """
    vector = vectors.layer(layer)

    def edit(lens: Any) -> None:
        module = lens._module
        blocks = family_for(module.config).blocks(module)
        if layer >= len(blocks):
            raise CrosstaskError(f"layer {layer} is out of range; {type(module).__name__} has {len(blocks)} blocks")
        path = next(name for name, part in module.named_modules() if part is blocks)
        block = lens.get(f"{path}.{layer}")
        output = block.output
        hidden = output[0] if isinstance(output, tuple) else output
        changed = _patched(hidden, vector, layer, column, mode, scale)
        block.output = (changed, *output[1:]) if isinstance(output, tuple) else changed

    return edit


def _patched(
    hidden: Float[Tensor, "B T D"], vector: Float[Tensor, " D"], layer: int, column: int, mode: Mode, scale: float
) -> Float[Tensor, "B T D"]:
    """The hidden states with the vector written at one column of every row; a single token is a decoding step."""
    n_rows, n_tokens, width = hidden.shape
    if n_tokens == 1:
        return hidden
    if width != len(vector):
        raise HookError(f"layer {layer}: a vector of width {len(vector)} does not fit an output of width {width}")
    if not -n_tokens <= column < n_tokens:
        raise HookError(f"layer {layer}: column {column} is out of range in a sequence of {n_tokens} tokens")
    rows, columns = torch.arange(n_rows), torch.full((n_rows,), column % n_tokens)
    edit = Edit(rows, columns, vector.expand(n_rows, -1), mode=mode, scale=scale)
    at = rows.to(hidden.device), columns.to(hidden.device)
    refuse_noop(layer, edit, hidden[at])
    return hidden.index_put(at, written(edit, hidden[at]))
