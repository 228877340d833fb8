"""Read and write the residual stream, on plain PyTorch forward hooks. The only file that touches a module's output.

``capture`` copies the states at named positions out of each block, so that only ``[L, B, D]`` leaves the layers.
``patch`` writes at one block and position per row: ``h <- scale * v`` (replace) or ``h <- h + scale * v`` (add).
With ``site="input"`` both take what goes *into* a module instead: attention heads are read and patched at the input of
the attention's output projection, where each has a slice of its own.

Both count. A call of a block is *covering* when its sequence is long enough to hold every position asked for; under
``generate`` with a cache that is the prefill alone, since decoding steps are one token long. A block that was covered
more or less often than announced raises when the context is left, and so does a patch that changed nothing. Hooks are
removed on every way out, outputs may be tensors or tuples, and nothing is written in place.

Hooks run in the order in which they were registered: a capture inside a patch sees the patched stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Mode: TypeAlias = Literal["replace", "add"]
Site: TypeAlias = Literal["output", "input"]


class HookError(RuntimeError):
    """A hook did not do what it was set up to do, so the numbers of this run would be wrong."""


@dataclass(eq=False)
class Capture:
    """Where :func:`capture` puts what it read; ``states`` is complete once the context has been left.

    Attributes:
        states: ``[L, B, D]`` for one column per row, ``[L, B, K, D]`` for K of them, in the model's dtype.
    """

    _layers: dict[int, Tensor] = field(default_factory=dict)

    @property
    def states(self) -> Float[Tensor, "L B ... D"]:
        if not self._layers:
            raise HookError("nothing was captured: no forward pass ran inside `capture`")
        device = next(iter(self._layers.values())).device
        return torch.stack([state.to(device) for _, state in sorted(self._layers.items())])


@dataclass(frozen=True, eq=False)
class Edit:
    """What to write at one block: at ``(rows[n], columns[n])`` the vector ``vectors[n]``.

    Attributes:
        rows: row of the batch, N of them.
        columns: column in the (padded) sequence, N of them; a pair of row and column may occur once.
        vectors: ``[N, D]``.
        heads: for each vector the slice of the state that it is written to, counted in multiples of D; None to write
            the whole state.
        mode: ``replace`` the state by ``scale * vector``, or ``add`` that to it.
        scale: one factor for all.
    """

    rows: Int[Tensor, " N"]
    columns: Int[Tensor, " N"]
    vectors: Float[Tensor, "N D"]
    heads: Int[Tensor, " N"] | None = None
    mode: Mode = "replace"
    scale: float = 1.0

    @property
    def places(self) -> tuple[Int[Tensor, " N"], ...]:
        """Where the vectors go, as an index into the states."""
        return (self.rows, self.columns) if self.heads is None else (self.rows, self.columns, self.heads)

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.columns) == len(self.vectors) > 0:
            counts = f"{len(self.rows)} rows, {len(self.columns)} columns and {len(self.vectors)} vectors"
            raise HookError(f"an edit of {counts}; expected as many of each, and at least one")
        if self.mode not in ("replace", "add"):
            raise HookError(f"unknown mode {self.mode!r}; expected 'replace' or 'add'")
        if len(set(zip(*(place.tolist() for place in self.places), strict=True))) < len(self.rows):
            raise HookError("an edit writes twice at the same row and column")


@contextmanager
def capture(
    blocks: Sequence[nn.Module] | nn.ModuleList,
    columns: Int[Tensor, "B ..."],
    *,
    layers: Sequence[int] | None = None,
    site: Site = "output",
) -> Iterator[Capture]:
    """Copy the outputs of blocks at given positions during the forward pass inside the context.

    Args:
        blocks: the decoder blocks of the model, or one other module of each layer.
        columns: for each row of the batch the column to read, ``[B]``, or K columns, ``[B, K]``.
        layers: which blocks, all by default.
        site: read what comes out of the modules, or what goes into them.

    Yields:
        A :class:`Capture`, filled when the context is left.

    Raises:
        HookError: on leaving, if a block was covered other than exactly once.
    """
    captured, needed, least = Capture(), int(columns.max()) + 1, int(columns.min())
    if least < 0:
        raise HookError(f"columns are counted from the left edge of the batch, got {least}")
    wanted = list(range(len(blocks))) if layers is None else list(layers)
    fired = dict.fromkeys(wanted, 0)

    def read(layer: int) -> Callable[[Tensor], None]:
        def hook(hidden: Tensor) -> None:
            if hidden.shape[1] < needed:
                return
            if hidden.shape[0] != len(columns):
                raise HookError(f"asked for {len(columns)} rows of a batch that has {hidden.shape[0]}")
            fired[layer] += 1
            at = columns.to(hidden.device)
            rows = torch.arange(len(at), device=hidden.device).view(-1, *[1] * (at.ndim - 1))
            captured._layers[layer] = hidden[rows, at]  # advanced indexing copies, so the sequence can be freed

        return hook

    with _hooks(blocks, {layer: read(layer) for layer in wanted}, site):
        yield captured
    _check_counts(fired, expected=1, what="read")


@contextmanager
def patch(
    blocks: Sequence[nn.Module] | nn.ModuleList,
    edits: Mapping[int, Edit],
    *,
    times: int = 1,
    allow_noop: bool = False,
    site: Site = "output",
) -> Iterator[None]:
    """Write into the outputs of blocks during the first ``times`` covering calls inside the context.

    Args:
        blocks: the decoder blocks of the model.
        edits: for each layer what to write there.
        times: how many calls of each block to patch; 1 is the prefill. Later calls pass untouched.
        allow_noop: permit a vector that equals the state it replaces (for tests of identity).
        site: write to what comes out of the modules, or to what goes into them.

    Raises:
        HookError: if a row's state did not change, or, on leaving, if a block was patched other than ``times`` times.
    """
    fired = dict.fromkeys(edits, 0)

    def write(layer: int, edit: Edit) -> Callable[[Tensor], Tensor | None]:
        needed, rows_needed = int(edit.columns.max()) + 1, int(edit.rows.max()) + 1
        top_head = 0 if edit.heads is None else int(edit.heads.max())

        def hook(hidden: Tensor) -> Tensor | None:
            if fired[layer] == times or hidden.shape[1] < needed:
                return None
            width = edit.vectors.shape[1]
            fits = hidden.shape[2] == width if edit.heads is None else hidden.shape[2] >= width * (top_head + 1)
            if hidden.shape[0] < rows_needed or not fits:
                raise HookError(
                    f"layer {layer}: an edit of row {rows_needed - 1} with width {width} does not fit "
                    f"an {site} of shape {tuple(hidden.shape)}"
                )
            fired[layer] += 1
            states = hidden if edit.heads is None else hidden.unflatten(2, (-1, width))
            places = tuple(place.to(hidden.device) for place in edit.places)
            old = states[places]
            new = edit.vectors.to(hidden) * edit.scale
            new = old + new if edit.mode == "add" else new
            if not allow_noop and not (unchanged := (new == old).all(-1)).logical_not().all():
                raise HookError(
                    f"layer {layer}: the patch changes nothing in rows {edit.rows[unchanged.cpu()].tolist()}"
                )
            return states.index_put(places, new).view_as(hidden)

        return hook

    with _hooks(blocks, {layer: write(layer, edit) for layer, edit in edits.items()}, site):
        yield
    _check_counts(fired, expected=times, what="patched")


@contextmanager
def narrow(blocks: Sequence[nn.Module] | nn.ModuleList, widths: Sequence[int]) -> Iterator[None]:
    """Run each block on the first columns only, as long as the others equal column 0.

    In the forward pass inside the context block ``l`` gets ``widths[l]`` columns. What it makes of column 0 is then
    copied for the columns that the next block gets more, and after the last block for all that are missing, so that
    the module's own code sees every column again. A patch that is entered after this context writes into the copies.

    Args:
        blocks: the decoder blocks, which are called with keyword arguments beside the hidden states.
        widths: for each block how many columns it gets; never fewer than the one before.

    Raises:
        HookError: if a block is given something whose columns are not known, or, on leaving, if one did not run once.
    """
    if list(widths) != sorted(widths) or len(widths) != len(blocks) or widths[0] < 1:
        raise HookError(f"widths {list(widths)} for {len(blocks)} blocks; expected as many, growing from 1 or more")
    total = 0
    fired = dict.fromkeys(range(len(blocks)), 0)

    def enter(layer: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
            nonlocal total
            fired[layer] += 1
            if layer == 0:
                total = inputs[0].shape[1]
            given = {name: _columns(name, value, widths[layer], total) for name, value in options.items()}
            return (inputs[0][:, : widths[layer]], *inputs[1:]), given

        return hook

    def leave(layer: int) -> Callable[[Tensor], Tensor]:
        def widen(hidden: Tensor) -> Tensor:
            more = (widths[layer + 1] if layer + 1 < len(blocks) else total) - hidden.shape[1]
            return torch.cat([hidden, hidden[:, :1].expand(-1, more, -1)], dim=1)

        return widen

    with ExitStack() as handles:
        for layer, block in enumerate(blocks):
            handles.enter_context(block.register_forward_pre_hook(enter(layer), with_kwargs=True))
            handles.enter_context(block.register_forward_hook(_on_hidden(leave(layer))))
        yield
    _check_counts(fired, expected=1, what="run")


def _columns(name: str, value: Any, width: int, total: int) -> Any:
    """A block's keyword argument for the first columns of a sequence of ``total``."""
    if name == "position_embeddings":
        return tuple(part[..., :width, :] for part in value)
    if not isinstance(value, Tensor) or name == "logits_to_keep":  # some models hand the latter on; no block reads it
        return value
    if name == "attention_mask":
        return value[..., :width, : value.shape[-1] - total + width]
    if name in ("position_ids", "cache_position"):
        return value[..., :width]
    raise HookError(f"a block was given {name!r}, of which it is not known what belongs to which column")


@contextmanager
def _hooks(
    blocks: Sequence[nn.Module] | nn.ModuleList,
    actions: Mapping[int, Callable[[Tensor], Tensor | None]],
    site: Site,
) -> Iterator[None]:
    """Register one action per block and take it away again, whatever happens inside."""
    for layer in actions:
        if not 0 <= layer < len(blocks):
            raise HookError(f"layer {layer} is out of range; there are {len(blocks)} blocks, 0 to {len(blocks) - 1}")
    with ExitStack() as handles:
        for layer, action in actions.items():
            if site == "output":
                handles.enter_context(blocks[layer].register_forward_hook(_on_hidden(action)))
            else:
                handles.enter_context(blocks[layer].register_forward_pre_hook(_on_input(action)))
        yield


def _on_hidden(action: Callable[[Tensor], Tensor | None]) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward hook that hands the hidden states ``[B, T, D]`` to the action and puts its answer in their place."""

    def hook(module: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            shape = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise HookError(f"{type(module).__name__} returned {shape}; expected a tensor [B, T, D], alone or first")
        changed = action(hidden)
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def _on_input(action: Callable[[Tensor], Tensor | None]) -> Callable[[nn.Module, Any], Any]:
    """The same for the first positional argument, before the module runs."""

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        hidden = inputs[0] if inputs else None
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            shape = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise HookError(f"{type(module).__name__} was given {shape}; expected a tensor [B, T, D] first")
        changed = action(hidden)
        return None if changed is None else (changed, *inputs[1:])

    return hook


def _check_counts(fired: Mapping[int, int], *, expected: int, what: str) -> None:
    wrong = {layer: count for layer, count in fired.items() if count != expected}
    if wrong:
        listed = ", ".join(f"layer {layer} {count} times" for layer, count in sorted(wrong.items()))
        raise HookError(f"every block should have been {what} {expected} times, but {listed}")
