"""The model that most of the engine's tests ask, built once; and how to see what the engine asks of others."""

from __future__ import annotations

from unittest.mock import create_autospec

import pytest

from tests.tiny_models import Shape, build

SHAPE = Shape(hidden=64, layers=3)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return str(build(tmp_path_factory.mktemp("model"), SHAPE))


@pytest.fixture
def spy(monkeypatch):
    """`spy(owner, name)`: a class's method, which does as before, as a mock that knows its calls."""

    def watched(owner: type, name: str):
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, create_autospec(method, side_effect=method))
        return getattr(owner, name)

    return watched
