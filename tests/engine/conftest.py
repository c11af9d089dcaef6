"""The model that most of the engine's tests ask, built once."""

from __future__ import annotations

import pytest

from tests.tiny_models import Shape, build

SHAPE = Shape(hidden=64, layers=3)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return str(build(tmp_path_factory.mktemp("model"), SHAPE))
