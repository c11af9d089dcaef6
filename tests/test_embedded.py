"""The models that come with the package. What they are worth: tests/worlds/drawn/test_weights.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

import adafv.embedded
from adafv.embedded import BUILT, EMBEDDED, OF_WORLDS, embedded_model, own_model


@pytest.mark.parametrize("name", EMBEDDED)
def test_each_is_a_folder_of_safetensors(name):
    assert (embedded_model(name) / "model.safetensors").is_file()


def test_without_weights_the_error_says_how_to_make_them(monkeypatch, tmp_path):
    monkeypatch.setattr(adafv.embedded, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FileNotFoundError, match=r"python -m adafv\.worlds\.drawn\.train --output"):
        embedded_model("testbed")


@pytest.mark.parametrize("name", OF_WORLDS)
def test_those_of_worlds_come_with_a_checkout(monkeypatch, tmp_path, name):
    assert (own_model(name) / "model.safetensors").is_file()
    monkeypatch.setattr(adafv.embedded, "__file__", str(tmp_path / "embedded" / "__init__.py"))
    with pytest.raises(FileNotFoundError, match=f"the model {name} is not in .* comes with a checkout"):
        own_model(name)


def test_built_ones_lie_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ADAFV_CACHE", str(tmp_path))
    for name, place in BUILT.items():
        with pytest.raises(FileNotFoundError, match=f"{name} .* make photo"):
            own_model(name)
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "model.safetensors").touch()
        assert own_model(name) == tmp_path / place
    assert own_model("testbed") == embedded_model("testbed")


def test_finding_one_imports_no_torch():
    code = "import sys, adafv.pipeline.workers.model; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
