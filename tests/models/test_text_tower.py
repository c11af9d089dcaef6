"""The text tower against stock CLIP classes, one question at a time; and the towers that are refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    SiglipConfig,
)

from adafv.models import check_text_tower, load_adapter, load_processing, load_text_tower
from tests.models.conftest import picture
from tests.tiny_clip import build_clip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return build_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def processing(checkpoints):
    return load_processing(str(checkpoints("next")))


@pytest.fixture(scope="module")
def tower(clip, processing):
    return load_text_tower(str(clip), processing, CPU)


def stock(clip: Path, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The pooled embedding and all projected states of one text, as transformers gives them."""
    model, tokenizer = CLIPTextModelWithProjection.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
    with torch.inference_mode():
        out = model(**tokenizer(text, return_tensors="pt"))
        return out.text_embeds[0], model.text_projection(out.last_hidden_state)[0]


@pytest.mark.parametrize("text", ["w", "w17 what w3?", "w" * 75])
def test_a_question_is_read_as_stock_clip_reads_it(tower, clip, text):
    (features,) = tower.features([text])
    pooled, states = stock(clip, text)
    torch.testing.assert_close(features.whole, pooled / pooled.norm())
    torch.testing.assert_close(features.words, states[1:-1], msg="neither the start token nor the end token")


def test_a_long_question_is_read_in_segments_of_75(tower, clip):
    """Each as if it were a question by itself: 75, 75 and 10 characters."""
    text = "".join("abcdefg"[i % 7] for i in range(160))
    (features,) = tower.features([text])
    # A letter in mid-word is another token than one that ends a word, so the segments are not words of their own.
    ids = AutoTokenizer.from_pretrained(clip)(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 160
    model = CLIPTextModelWithProjection.from_pretrained(clip).eval()
    start, end = model.config.bos_token_id, model.config.eos_token_id
    units, words = [], []
    with torch.inference_mode():
        for first in (0, 75, 150):
            out = model(input_ids=torch.tensor([[start, *ids[first : first + 75], end]]))
            units.append(out.text_embeds[0] / out.text_embeds[0].norm())
            words.append(model.text_projection(out.last_hidden_state)[0, 1:-1])
    torch.testing.assert_close(features.whole, (units[0] + units[1] + units[2]) / 3)
    torch.testing.assert_close(features.words, torch.cat(words))
    assert features.words.shape == (160, 16)


def test_a_question_without_words_has_its_end_token(tower, clip):
    (features,) = tower.features([""])
    pooled, _ = stock(clip, "")
    torch.testing.assert_close(features.words, pooled[None])


def test_texts_read_together_are_read_as_alone(tower):
    texts = ["w1", "", "what is left of w1 ?" * 9, "w2 w3"]
    for text, together in zip(texts, tower.features(texts), strict=True):
        (alone,) = tower.features([text])
        torch.testing.assert_close(together.whole, alone.whole)
        torch.testing.assert_close(together.words, alone.words)


@pytest.mark.parametrize("name", ["next", "llava"])
def test_patches_are_led_into_clips_space_by_clips_own_norm_and_projection(checkpoints, clip, name):
    """At the feature layer, and in float32 also where the model is in bfloat16."""
    processing = load_processing(str(checkpoints(name)))
    crops = torch.from_numpy(processing.crops(picture((64, 64))))
    stock_clip = CLIPVisionModelWithProjection.from_pretrained(clip)
    for dtype in (torch.float32, torch.bfloat16):
        adapter = load_adapter(str(checkpoints(name)), processing, CPU, dtype)
        assert adapter.encode(crops, also=("clip_visual",)).clip_visual is None, "there is no tower yet"
        adapter.text_tower = load_text_tower(str(clip), processing, CPU)
        encoded = adapter.encode(crops, also=("clip_visual", "hidden"))
        with torch.no_grad():
            normed = stock_clip.vision_model.post_layernorm(encoded.hidden.float())
            torch.testing.assert_close(encoded.clip_visual, stock_clip.visual_projection(normed))
        assert adapter.encode(crops).clip_visual is None, "nobody asked"


def broken(clip: Path, to: Path, **values: object) -> Path:
    """A copy of the CLIP model with other values in its configuration."""
    shutil.copytree(clip, to)
    path = to / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return to


def test_a_tower_of_another_width_is_refused(processing, checkpoints, clip, tmp_path):
    from tests.tiny_models import Shape

    other = build_clip(tmp_path / "wide", Shape(hidden=64))
    with pytest.raises(ValueError, match=r"doesn't fit the model: its vision model has 64 channels, .* have 32"):
        check_text_tower(str(other), processing)
    with pytest.raises(ValueError, match=r"has 32 channels, .* have 64"):  # two feature layers, side by side
        check_text_tower(str(clip), load_processing(str(checkpoints("next-two-layers"))))


def test_siglip_is_refused(processing, tmp_path):
    SiglipConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="SigLIP model, which isn't supported"):
        check_text_tower(str(tmp_path), processing)


@pytest.mark.parametrize("half", [CLIPTextModelWithProjection, CLIPVisionModelWithProjection])
def test_half_a_clip_model_is_refused(processing, clip, tmp_path, half):
    half.from_pretrained(clip).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a whole CLIP model"):
        check_text_tower(str(tmp_path), processing)


@pytest.mark.parametrize("part", ["text_model", "visual_projection", "text_projection", "vision_model.post_layernorm"])
def test_weights_that_lack_a_part_are_refused(processing, clip, tmp_path, part):
    """transformers would fill them with random numbers and go on."""
    model = CLIPModel.from_pretrained(clip)
    rest = {name: weight for name, weight in model.state_dict().items() if not name.startswith(part)}
    model.save_pretrained(tmp_path, state_dict=rest)
    AutoTokenizer.from_pretrained(clip).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"lacks {part}.* more weights; a whole CLIP model"):
        load_text_tower(str(tmp_path), processing, CPU)


def test_a_missing_tokenizer_is_noticed(processing, clip, tmp_path):
    copy = broken(clip, tmp_path / "clip")
    for path in copy.glob("*token*"):
        path.unlink()
    with pytest.raises((ValueError, OSError), match="tokenizer"):
        check_text_tower(str(copy), processing)


def test_pickled_weights_and_strange_code_are_refused(processing, clip, tmp_path):
    copy = broken(clip, tmp_path / "clip", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
    (copy / "code.py").write_text("raise SystemExit('it ran')")
    load_text_tower(str(copy), processing, CPU)
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(OSError, match="safetensors"):
        load_text_tower(str(copy), processing, CPU)


def test_there_is_no_such_tower(processing, tmp_path):
    with pytest.raises((OSError, ValueError), match="nowhere"):
        check_text_tower(str(tmp_path / "nowhere"), processing)
