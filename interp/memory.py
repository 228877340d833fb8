"""How much goes through a model at once, from the memory that is free, and what happens when that was too much.

A token of a forward pass with a cache costs its keys and values in every layer, and once a few dozen activations as
wide as the widest layer; a packed row costs its logits. The plan is made when a model is first used and then kept, so
that prompts are batched alike for as long as the program runs.

`peak_memory` measures what some work needed: on a CPU read from the kernel (`VmHWM`, reset before the work), on CUDA
from PyTorch's allocator.
"""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from ctypes import CDLL
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import psutil
import torch

from interp.errors import CrosstaskError
from interp.models.base import Model

logger = logging.getLogger(__name__)

CPU_TOKENS, GPU_TOKENS = 2048, 131072
"""Most tokens of a forward pass: a CPU's cores are busy well below that."""
SWEEP_ROWS = 2048
"""Most packed rows of a forward pass, over all its queries."""
PACKED_ROWS = 512
"""Most packed rows of one query in a forward pass: beyond it masked-out pairs of rows begin to cost."""
SHARED_ROWS = 128
"""So many rows of each query are run together, where queries share a pass and each has more than that."""
ROW_TOKENS = 16
"""Tokens that a packed row adds to the cache, its answer included."""
LOGIT_BYTES = 2**29
"""Most memory for the logits of packed rows, which are all computed."""
TOKEN_SHARE, LOGIT_SHARE = 0.4, 0.1
"""What part of the free memory tokens and logits may take; the rest is for the vision tower, masks and fragments."""
RETRIES = 2
"""How often a plan is halved after it did not fit."""
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Freed memory goes back to the system, so that what is held follows what is used."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class MemoryPlan:
    """What one forward pass may hold.

    Attributes:
        tokens: tokens of all prompts together, padding included.
        rows: packed rows of a sweep.
        free: bytes that were free when the plan was made, on the fullest of the model's devices.
    """

    tokens: int
    rows: int
    free: int

    def __str__(self) -> str:
        return f"{self.tokens} tokens a forward pass, {self.rows} packed rows, from {self.free / 2**30:.1f} GiB free"


_plans: WeakKeyDictionary[Model, MemoryPlan] = WeakKeyDictionary()


def memory_plan(model: Model) -> MemoryPlan:
    """The model's plan; made, and said once at INFO, when it is first asked for."""
    if model not in _plans:
        free = free_memory(model)
        tokens, logits = int(TOKEN_SHARE * free) // _token_bytes(model), min(LOGIT_BYTES, int(LOGIT_SHARE * free))
        most = GPU_TOKENS if model.device.type == "cuda" else CPU_TOKENS
        row = model.module.config.get_text_config().vocab_size * model.dtype.itemsize
        rows = min(SWEEP_ROWS, logits // row, tokens // ROW_TOKENS)
        _plans[model] = MemoryPlan(max(1, min(most, tokens)), max(1, rows), free)
        logger.info("sweep of model %r: %s", model.name, _plans[model])
    return _plans[model]


def free_memory(model: Model) -> int:
    """Bytes that are free for the model's work, on the fullest of its devices.

    On a GPU what PyTorch holds in reserve counts as free; elsewhere it is what the system could give without swapping.
    """
    return min(_free(device) for device in model.devices)


def _free(device: torch.device) -> int:
    if device.type != "cuda":
        return psutil.virtual_memory().available
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _token_bytes(model: Model) -> int:
    config = model.module.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or model.width // config.num_attention_heads
    cache = 2 * model.n_layers * heads * head
    activations = 16 * model.width + 4 * (getattr(config, "intermediate_size", None) or 4 * model.width)
    return (cache + activations) * model.dtype.itemsize


def within_memory(
    work: Callable[Concatenate[Model, Arguments], Result],
) -> Callable[Concatenate[Model, Arguments], Result]:
    """Decorator: where a GPU runs out of memory, halve the model's plan and do the whole call again, twice at most.

    Nothing of a call outlives it, so doing it again is safe. With a ``budget`` or ``max_rows`` of the caller's own
    there is nothing to halve.

    Raises:
        CrosstaskError: if it does not fit even so.
    """

    @wraps(work)
    def call(model: Model, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        given = {name: kwargs[name] for name in ("budget", "max_rows") if kwargs.get(name)}
        for _ in range(0 if given else RETRIES):
            try:
                return work(model, *args, **kwargs)
            except torch.OutOfMemoryError:
                pass  # while it is handled, its traceback keeps the tensors of the failed call
            _halve(model)
        try:
            return work(model, *args, **kwargs)
        except torch.OutOfMemoryError as error:
            size = " and ".join(f"{name} {value}" for name, value in given.items()) or str(memory_plan(model))
            raise CrosstaskError(f"model {model.name!r} ran out of memory on {model.device} with {size}") from error

    return call


def _halve(model: Model) -> None:
    torch.cuda.empty_cache()
    plan = memory_plan(model)
    _plans[model] = replace(plan, tokens=max(1, plan.tokens // 2), rows=max(1, plan.rows // 2))
    logger.warning("model %r ran out of memory; halved to %s", model.name, _plans[model])


def measuring_environment(threads: int) -> dict[str, str]:
    """The environment of a process whose peak memory is measured, which finds this package and gives memory back."""
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **_MALLOC, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}


def peak_memory(model: Model, work: Callable[[], object]) -> tuple[int, int]:
    """Bytes that some work needed at most above what was held before it, and bytes held in all at that moment."""
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        work()
        torch.cuda.synchronize(model.device)
        peak = torch.cuda.max_memory_allocated(model.device)
        return peak - before, peak
    with suppress(OSError, AttributeError):
        CDLL("libc.so.6").malloc_trim(0)  # so that memory freed earlier is not used again unseen
    before = _resident("VmRSS")
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
    work()
    peak = _resident("VmHWM")
    return peak - before, peak


def _resident(field: str) -> int:
    """A field of /proc/self/status in bytes; without /proc the process's highest."""
    import resource  # not on Windows

    with suppress(OSError):
        if found := re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii")):
            return 1024 * int(found[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
