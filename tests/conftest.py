"""Fixtures shared by all tests. Tiny models are read-only and made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image as Pillow

from interp.models.base import Model
from tests import tiny


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(scope="session")
def llava() -> Model:
    """A tiny vision-language model in float64."""
    return tiny.tiny_llava()


@pytest.fixture(scope="session")
def llama() -> Model:
    """A tiny language model in float64."""
    return tiny.tiny_llama()


@pytest.fixture(scope="session")
def gpt2() -> Model:
    """A tiny GPT-2 in float64."""
    return tiny.tiny_gpt2()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not drawn, which takes most of a small run."""

    def savefig(_figure: Figure, path: Path, **_options: object) -> None:
        Pillow.new("RGB", (2, 2)).save(path, format="PNG")

    monkeypatch.setattr(Figure, "savefig", savefig)
