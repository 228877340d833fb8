"""nnsight's remote execution, everything up to the network: the request is built, and a stand-in for NDIF runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from interp.backends import backend_for
from interp.backends.with_nnsight import NnsightBackend
from interp.errors import CrosstaskError
from interp.hooks import HookError
from interp.models.base import Model, load_model
from interp.patching import RowPatch
from interp.vectors import extract
from tests import tiny
from tests.interp.test_backends import assert_close, patches, ragged

HUB_NAME = "someone/tiny-llava"


@pytest.fixture(scope="module")
def held() -> Model:
    """What the server holds."""
    return tiny.tiny_llava(dtype=torch.float32)


@pytest.fixture(scope="module")
def outline(held: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same model as a client loads it: configuration, tokenizer and processor."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    held.module.config.save_pretrained(folder)
    assert held.processor is not None
    held.processor.save_pretrained(folder)
    return load_model(str(folder), device="remote")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NDIF_API_KEY", "a-key-of-the-user")
    return "a-key-of-the-user"


@pytest.fixture
def requests(held: Model, outline: Model, key: str, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Instead of the network: each request is kept, read as a server reads it, and run on the weights it holds."""
    import nnsight.modeling.huggingface as hub
    from nnsight import CONFIG
    from nnsight.intervention.backends.remote import RemoteBackend
    from nnsight.schema.request import RequestModel

    sent: list[dict[str, Any]] = []
    server = NnsightBackend(remote="local").wrapped(held)

    def request(self: RemoteBackend, envelope: RequestModel, tracer: Any) -> dict[str, Any]:
        blob = self._serialize(tracer)
        sent.append({"model": envelope.model_key, "key": self.api_key, "host": self.host, "bytes": len(blob)})
        work = RequestModel.deserialize(blob, server._remoteable_persistent_objects(), compress=self.compress)
        held.reset_state()
        work.execute(work.info.code)
        saved = work.info.frame.f_locals
        return {name: saved[name] for name in ("states", "logits", "ids", "replaced") if saved.get(name) is not None}

    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)
    monkeypatch.setitem(hub._ID_CACHE, outline.name, HUB_NAME)
    monkeypatch.setattr(RemoteBackend, "request", request)
    return sent


def test_outline_of_a_model_holds_no_weights_and_renders_the_same_prompts(outline: Model, held: Model) -> None:
    assert outline.is_remote
    assert not held.is_remote
    assert {parameter.device.type for parameter in outline.module.parameters()} == {"meta"}
    assert [p.input_ids for p in ragged(outline)] == [p.input_ids for p in ragged(held)]
    assert (outline.n_layers, outline.width) == (held.n_layers, held.width)


@pytest.mark.parametrize("name", ["hooks", "transformer_lens"])
def test_only_nnsight_runs_a_model_without_weights(name: str, outline: Model) -> None:
    with pytest.raises(CrosstaskError, match="was loaded without weights"):
        backend_for(name).extract(outline, ragged(outline))


def test_bundled_pair_is_not_on_ndif() -> None:
    with pytest.raises(CrosstaskError, match="model 'bundled' is not held by NDIF"):
        load_model("bundled", device="remote")


def test_remote_run_without_a_key_is_one_sentence(outline: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnsight import CONFIG

    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    with pytest.raises(CrosstaskError, match="needs your NDIF key in the environment variable NDIF_API_KEY") as caught:
        backend_for("nnsight").extract(outline, ragged(outline))
    assert "\n" not in str(caught.value)


def test_server_that_refuses_is_one_sentence(
    outline: Model, requests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnsight.intervention.backends.remote import RemoteBackend, RemoteError

    def refuse(*_: object) -> None:
        raise RemoteError("Failed to send request: 503 Service Unavailable\nbusy")

    monkeypatch.setattr(RemoteBackend, "request", refuse)
    with pytest.raises(
        CrosstaskError, match="through NDIF failed: Failed to send request: 503 Service Unavail"
    ) as caught:
        backend_for("nnsight").extract(outline, ragged(outline))
    assert "\n" not in str(caught.value)


def test_request_names_the_model_and_carries_the_users_key(
    outline: Model, key: str, requests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnsight.intervention.backends.remote import RemoteBackend, RemoteError

    original = RemoteBackend.request

    def intercepted(*arguments: Any) -> None:
        original(*arguments)
        raise RemoteError("intercepted")

    monkeypatch.setattr(RemoteBackend, "request", intercepted)
    with pytest.raises(CrosstaskError, match="intercepted"):
        backend_for("nnsight").extract(outline, ragged(outline))
    (sent,) = requests
    assert sent["key"] == key
    assert f'"repo_id": "{HUB_NAME}"' in sent["model"]
    assert '"task": "image-text-to-text"' in sent["model"]
    assert 1000 < sent["bytes"] < 1_000_000  # inputs and a few lines, no weights


def test_remote_run_gives_what_the_servers_weights_give(
    outline: Model, held: Model, requests: list[dict[str, Any]]
) -> None:
    backend, hooks = backend_for("nnsight"), backend_for("hooks")
    prompts = ragged(outline)
    assert_close(backend.extract(outline, prompts), extract(held, prompts))
    rows = patches(held, prompts)
    assert_close(backend.logits(outline, prompts, rows), hooks.logits(held, prompts, rows))
    options = {"vectors": [row.vector for row in rows], "layers": [row.layer for row in rows], "max_new_tokens": 4}
    assert backend.generate(outline, prompts, **options) == hooks.generate(held, prompts, **options)
    assert len(requests) == 3


@pytest.mark.parametrize("kind", ["llava", "llama"])
def test_rehearsed_remote_run_equals_our_own(kind: str, held: Model) -> None:
    """Written, read with our modules hidden, and run: so the bodies of the traces need nothing of ours."""
    model = held if kind == "llava" else tiny.tiny_llama(dtype=torch.float32)
    backend, hooks, prompts = backend_for("nnsight", remote="local"), backend_for("hooks"), ragged(model)
    assert_close(backend.extract(model, prompts), extract(model, prompts))
    rows = patches(model, prompts)
    assert_close(backend.logits(model, prompts, rows), hooks.logits(model, prompts, rows))
    options = {"vectors": [row.vector for row in rows], "layers": [row.layer for row in rows], "max_new_tokens": 4}
    assert backend.generate(model, prompts, **options) == hooks.generate(model, prompts, **options)
    own = backend.extract(model, prompts[:1])[0, 1]
    with pytest.raises(HookError, match="the patch changes nothing"):
        backend.logits(model, prompts[:1], [RowPatch(1, own * 0)], mode="add")


def test_saved_outline_needs_its_files(tmp_path: Path) -> None:
    with pytest.raises(CrosstaskError, match=r"holds no config\.json"):
        load_model(str(tmp_path), device="remote")
