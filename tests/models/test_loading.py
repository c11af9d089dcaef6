"""A model folder may come from a stranger: what is in it is read, never run."""

from __future__ import annotations

import json
import pickle
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adafv.models.loading import load_adapter, load_processing
from adafv.turn import Turn
from tests.tiny_models import TEMPLATE, build

CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor, PreTrainedTokenizerFast
class Config(LlavaNextConfig): pass
class Model(LlavaNextForConditionalGeneration): pass
class Processor(LlavaNextProcessor): pass
class Tokenizer(PreTrainedTokenizerFast): pass
"""
AUTO_MAP = {
    "AutoConfig": "code.Config",
    "AutoModel": "code.Model",
    "AutoModelForImageTextToText": "code.Model",
    "AutoProcessor": "code.Processor",
    "AutoImageProcessor": "code.Processor",
    "AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"],
}


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return build(tmp_path / "model")


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def load(path: Path) -> None:
    load_adapter(str(path), load_processing(str(path)), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "model.pt"])
def test_pickled_weights_are_refused(model, name):
    """And not unpickled to find out."""
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps({"x": Payload(model / "ran")}))
    with pytest.raises(OSError, match="safetensors"):
        load(model)
    assert not (model / "ran").exists()


def test_pickles_beside_safetensors_are_left_alone(model):
    for name in ("pytorch_model.bin", "training_args.bin", "tokenizer.bin", "vocab.pkl"):
        (model / name).write_bytes(pickle.dumps(Payload(model / "ran")))
    load(model)
    assert not (model / "ran").exists()


@pytest.mark.parametrize(
    ("lacking", "refused"),
    [
        ("language_model.model.layers.1.mlp.up_proj.weight", True),
        ("language_model.lm_head.weight", True),
        ("multi_modal_projector.linear_1.bias", True),
        ("vision_tower.encoder.layers.0.self_attn.q_proj.weight", True),
        ("vision_tower.post_layernorm.weight", False),
    ],
)
def test_missing_weights_are_refused(model, lacking, refused):
    """transformers would fill them with random numbers, other ones in every worker, and go on."""
    weights = load_file(model / "model.safetensors")
    del weights[lacking]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="and 0 more weights") if refused else nullcontext():
        load(model)


def test_code_in_the_folder_is_not_run(model):
    """A known model type loads by transformers' own classes."""
    (model / "code.py").write_text(CODE)
    for path in model.glob("*config*.json"):
        change(path, auto_map=AUTO_MAP)
    load(model)
    assert not list(model.rglob("ran"))


@pytest.mark.parametrize("model_type", ["code", "bert"])
def test_other_model_types_are_refused(model, model_type):
    (model / "code.py").write_text(CODE)
    change(model / "config.json", model_type=model_type, auto_map=AUTO_MAP)
    with pytest.raises(ValueError, match=r"model type|custom code"):
        load(model)
    assert not list(model.rglob("ran"))


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.clear() }}",
        "{{ raise_exception('no') }}",
        "{% if %}",
    ],
)
def test_chat_templates_are_confined(model, template):
    """They are Jinja, which transformers runs in a sandbox: what leaves it is an error that names the template."""
    shutil.rmtree(model / "additional_chat_templates", ignore_errors=True)
    for path in model.glob("*.jinja"):
        path.write_text(template)
    with pytest.raises(ValueError, match="chat template"):
        load_processing(str(model))


TEXTS = "{% for message in messages %}{{ '[' + message['content'] + ']' }}{% endfor %}:"  # takes no parts


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (TEMPLATE, ["USER: <image> w1 ASSISTANT:", "USER: w1 ASSISTANT:"]),
        ({"default": TEMPLATE, "tool_use": "w9"}, ["USER: <image> w1 ASSISTANT:", "USER: w1 ASSISTANT:"]),
        (TEXTS, ["[<image>\nw1]:", "[w1]:"]),
    ],
)
def test_a_template_may_be_in_the_tokenizers_settings_alone(model, template, written):
    """As in checkpoints made before processors had any."""
    for path in model.glob("*.jinja"):
        path.unlink()
    named = template if isinstance(template, str) else [{"name": k, "template": v} for k, v in template.items()]
    change(model / "tokenizer_config.json", chat_template=named)
    processing = load_processing(str(model))
    assert [processing.rendered((Turn.asking("w1", count),)) for count in (1, 0)] == written
    prompt = processing.prompt("w1 w2", [processing.geometry((64, 64))])
    assert prompt.placeholders == 1 and len(prompt.question_places)
