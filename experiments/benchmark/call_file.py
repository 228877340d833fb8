"""A call as a safetensors file, for a peer in another process: tensors, and the rest as JSON in the header."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from experiments.benchmark.workloads import Call
from interp.images import Image
from interp.prompts import Prompt, Segment


def write_call(path: Path, call: Call) -> None:
    """Write a call; a picture that several prompts show is written once."""
    tensors: dict[str, Tensor] = {"vectors": call.vectors.clone()}
    numbers: dict[int, int] = {}
    listed: list[dict[str, Any]] = []
    for n, prompt in enumerate(call.prompts):
        tensors[f"prompt {n} ids"] = torch.tensor(prompt.input_ids)
        tensors |= {f"prompt {n} token {name}": tensor.clone() for name, tensor in prompt.token_inputs.items()}
        for image in prompt.images:
            number = numbers.setdefault(id(image), len(numbers))
            tensors |= {f"image {number} {name}": tensor.clone() for name, tensor in image.items()}
        starts = [segment.start for segment in prompt.segments if isinstance(segment.content, Image)]
        images = [numbers[id(image)] for image in prompt.images]
        listed.append({"images": images, "starts": starts, "delimiters": prompt.delimiters})
    header = {"kind": call.kind, "prompts": listed, "sites": call.sites, "checked": call.checked}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"call": json.dumps(header)})


def read_call(path: Path) -> Call:
    """Read what :func:`write_call` wrote. Prompts come back without their texts, which no peer looks at."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["call"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    prompts = [_prompt(n, listed, tensors) for n, listed in enumerate(header["prompts"])]
    sites = tuple(tuple((k, layer) for k, layer in pairs) for pairs in header["sites"])
    return Call(header["kind"], tuple(prompts), tensors["vectors"], sites, tuple(header["checked"]))


def _prompt(n: int, listed: dict[str, Any], tensors: dict[str, Tensor]) -> Prompt:
    ids = tuple(tensors[f"prompt {n} ids"].tolist())
    images = tuple(dict(_named(tensors, f"image {number} ")) for number in listed["images"])
    unseen = Image(path=Path("preprocessed"))
    segments = tuple(Segment("input", unseen, None, start, start + 1) for start in listed["starts"])
    return Prompt(
        segments, ids, images, dict(_named(tensors, f"prompt {n} token ")), tuple(listed["delimiters"]), text=""
    )


def _named(tensors: dict[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    return ((name.removeprefix(prefix), tensor) for name, tensor in tensors.items() if name.startswith(prefix))
