"""Fixtures shared by all tests. Tiny models are read-only and made once per session."""

from __future__ import annotations

import pytest

from interp.models.base import Model
from tests import tiny


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
