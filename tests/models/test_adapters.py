"""Every adapter against the slow way: same tokens, same cues, same geometry, same kept indices, same answers."""

from __future__ import annotations

import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Dinov2Config,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from adafv import onednn
from adafv.engine import Engine, EngineOptions, Preparer
from adafv.models import Panel, load_adapter, load_processing, vision_attention
from adafv.models.llava import LlavaAdapter
from adafv.models.llava_next import LlavaNextAdapter
from adafv.models.llava_onevision import LlavaOnevisionAdapter
from adafv.option import OptionError
from adafv.pruning import mix, text_similarity
from tests.models.conftest import SHAPES, SIZES, picture
from tests.models.slow_way import SlowModel

QUESTION = "w1 w17 what w99 w3"


@pytest.fixture(scope="module", params=sorted(SHAPES))
def pair(request, checkpoints):
    path = checkpoints(request.param)
    processing = load_processing(str(path))
    adapter = load_adapter(str(path), processing, torch.device("cpu"), torch.float32)
    return path, SlowModel(path), processing, adapter


@pytest.mark.parametrize("size", SIZES)
def test_tokens_and_cues_equal_the_slow_way(pair, size):
    _, slow, processing, adapter = pair
    image = picture(size)
    expected = slow.cues(image, QUESTION)
    geometry = processing.geometry(size)
    with torch.inference_mode():
        encoded = adapter.encode(torch.from_numpy(processing.crops(image)), also=("keys", "hidden"))
        order = torch.from_numpy(geometry.source[geometry.is_token])
        image = encoded.patches(slice(None))
        tokens, saliency, keys, hidden = (
            each[order] for each in (image.tokens, image.saliency, image.keys, image.hidden)
        )
        prompt = processing.prompt(QUESTION, [geometry])
        text = adapter.embed(torch.from_numpy(prompt.input_ids[prompt.question_places]))
        similarity = text_similarity(text[None], tokens[None])[0]
    torch.testing.assert_close(tokens, expected.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(saliency, expected.saliency, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(similarity, expected.similarity, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(keys, expected.keys, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hidden, expected.hidden, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(adapter.project(hidden), expected.tokens, rtol=1e-4, atol=1e-5)


def test_long_crops_are_encoded_alike(pair, monkeypatch):
    """From so many patches on a CPU takes another way through attention."""
    _, _, processing, adapter = pair
    crops = torch.from_numpy(processing.crops(picture((64, 64))))
    wanted = adapter.encode(crops)
    monkeypatch.setattr(sys.modules["adafv.onednn.attention"], "is_intel", lambda: False)
    ran = Mock(wraps=onednn.attention)
    monkeypatch.setattr(vision_attention, "attention", ran)
    monkeypatch.setattr(vision_attention, "_LONG", 1)
    got = adapter.encode(crops)
    torch.testing.assert_close(got.tokens, wanted.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.saliency, wanted.saliency, rtol=1e-4, atol=1e-6)
    assert ran.called == onednn.is_packable(got.tokens)


def test_keys_and_hidden_states_cost_nothing_unless_asked_for(pair):
    _, _, processing, adapter = pair
    crops = torch.from_numpy(processing.crops(picture((64, 64))))
    assert adapter.encode(crops, also=("keys", "hidden")).keys is not None
    plain = adapter.encode(crops)
    assert plain.keys is None and plain.hidden is None


def test_kept_indices_equal_the_slow_way(pair):
    path, slow, _, _ = pair
    options = EngineOptions(strategy="adafv", keep=0.2, max_new_tokens=1)
    preparer, engine = Preparer.load(str(path), options), Engine.load(str(path), options)
    samples = [preparer.prepare(str(i), picture(size), QUESTION) for i, size in enumerate(SIZES)]
    for size, label in zip(SIZES, engine.label(samples), strict=True):
        cues = slow.cues(picture(size), QUESTION)
        expected = mix(cues.saliency[None], cues.similarity[None], label.kept_tokens)
        assert label.visual_tokens == len(cues.saliency)
        assert label.kept_indices.tolist() == expected.mask[0].nonzero().flatten().tolist(), size
        assert (label.from_text, label.from_saliency) == (int(expected.from_text), int(expected.from_saliency))
        cues = expected.by_text.int() + 2 * expected.by_saliency.int()
        assert label.kept_cues.tolist() == cues[expected.mask].tolist()


@pytest.mark.parametrize("keep_all", ["none", "adafv", "visionzip"])
def test_unpruned_equals_stock_generate_token_for_token(pair, keep_all):
    """`none`, and every pruning strategy that is told to keep all, newline embeddings included."""
    path, slow, processing, _ = pair
    options = EngineOptions(strategy=keep_all, keep=1.0, max_new_tokens=12)
    preparer, engine = Preparer.load(str(path), options), Engine.load(str(path), options)
    questions = [f"w{7 * i} w{i} " * (i % 4 + 1) for i in range(len(SIZES))]
    samples = [preparer.prepare(str(i), picture(s), q) for i, (s, q) in enumerate(zip(SIZES, questions, strict=True))]
    for size, question, label in zip(SIZES, questions, engine.label(samples), strict=True):
        expected = slow.generate(picture(size), question, 12)
        assert label.answer == processing.decode(expected), size
        assert label.output_tokens == len(expected)
        assert label.finish_reason == ("stop" if expected[-1] == 2 else "length")
        assert label.prompt_tokens == slow.inputs(picture(size), question)["input_ids"].shape[1]


@pytest.mark.parametrize("size", [s for s in SIZES if min(s) > 8])
def test_geometry_maps_tokens_to_the_right_pixels(pair, size):
    """Light up one spot of a black picture: the token that sees most of it lies there, by the panels' word."""
    _, _, processing, _ = pair
    height, width = size
    geometry = processing.geometry(size)
    for y, x in ((0.3, 0.4), (0.5, 0.5), (0.7, 0.6)):
        pixels = np.zeros((height, width, 3), np.uint8)
        row, column = int(y * height), int(x * width)
        pixels[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = 255
        light = _patch_means(processing, pixels)[geometry.source[geometry.is_token]]
        start = 0
        for panel in geometry.panels:
            tokens = light[start : start + panel.rows * panel.columns].reshape(panel.rows, panel.columns)
            start += tokens.size
            if not (panel.top < y < panel.bottom and panel.left < x < panel.right):
                assert tokens.max() < 128, "the spot was cropped away"
                continue
            at = np.unravel_index(tokens.argmax(), tokens.shape)
            tall, wide = (panel.bottom - panel.top) / panel.rows, (panel.right - panel.left) / panel.columns
            seen_y, seen_x = panel.top + (at[0] + 0.5) * tall, panel.left + (at[1] + 0.5) * wide
            spot = 3 / height, 3 / width
            assert abs(seen_y - (row + 0.5) / height) <= tall / 2 + spot[0]
            assert abs(seen_x - (column + 0.5) / width) <= wide / 2 + spot[1]


def test_pixels_behind_the_last_whole_patch_are_no_tokens():
    """SigLIP's 384 pixels are 27 patches of 14 and 6 pixels more, at the right and at the bottom."""
    vision = SiglipVisionConfig(image_size=384, patch_size=14)
    config = LlavaConfig(vision_config=vision, vision_feature_select_strategy="full")
    images = SiglipImageProcessorPil(size={"height": 384, "width": 384})
    (panel,) = LlavaAdapter.geometry(config, images, (500, 300)).panels
    assert panel == Panel(rows=27, columns=27, top=0.0, left=0.0, bottom=378 / 384, right=378 / 384)


def test_dinov2_has_as_many_patches_as_the_processor_makes():
    """Positions for 37 x 37 patches, crops of 24 x 24."""
    config = LlavaConfig(vision_config=Dinov2Config(image_size=518, patch_size=14))
    images = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    (panel,) = LlavaAdapter.geometry(config, images, (400, 400)).panels
    assert panel == Panel(rows=24, columns=24, top=0.0, left=0.0, bottom=1.0, right=1.0)


@pytest.mark.parametrize("size", [(5, 8), (8, 5), (6, 8), (7, 7)])
def test_a_picture_that_is_padded_lies_where_the_processor_puts_it(size):
    images = LlavaImageProcessorPil(do_pad=True, do_resize=False, do_center_crop=False, image_mean=[0.0, 0.0, 0.0])
    raw = {"do_rescale": False, "do_normalize": False}
    pixels = np.asarray(images(Image.new("RGB", size[::-1], "white"), **raw)["pixel_values"][0]).max(axis=0)
    (panel,) = LlavaAdapter.geometry(LlavaConfig(), images, size).panels
    for axis, (start, end) in enumerate([(panel.top, panel.bottom), (panel.left, panel.right)]):
        shown = np.flatnonzero(pixels.max(axis=1 - axis))
        assert start == -shown[0] / size[axis] and end == (max(size) - shown[0]) / size[axis]


@pytest.mark.parametrize(
    ("adapter", "config", "images"),
    [
        (LlavaNextAdapter, LlavaNextConfig, LlavaNextImageProcessorPil),
        (LlavaOnevisionAdapter, LlavaOnevisionConfig, LlavaOnevisionImageProcessorPil),
    ],
)
def test_crops_are_of_the_grids_by_which_the_model_packs_them(adapter, config, images):
    """As many crops of another grid would lie elsewhere."""
    known = config().image_grid_pinpoints
    adapter.geometry(config(), images(image_grid_pinpoints=known), (500, 300))
    with pytest.raises(ValueError, match=r"image_grid_pinpoints \[\[336, 672\]\]"):
        adapter.geometry(config(), images(image_grid_pinpoints=[[336, 672]]), (500, 300))


def test_grids_are_no_setting_of_the_image_processor_alone(checkpoints):
    options = EngineOptions(image_options={"image_grid_pinpoints": [[64, 32]]})
    with pytest.raises(OptionError, match="image_grid_pinpoints"):
        Preparer.load(str(checkpoints("next")), options)


def _patch_means(processing, pixels: np.ndarray) -> np.ndarray:
    """float [C * P]: the mean brightness of every patch of every crop."""
    crops = processing.crops(Image.fromarray(pixels))
    patch = processing.config.vision_config.patch_size
    side = crops.shape[-1] // patch
    return crops.reshape(len(crops), 3, side, patch, side, patch).mean(axis=(1, 3, 5)).ravel()


def test_layers_after_the_feature_layer_are_gone(checkpoints):
    processing = load_processing(str(checkpoints("next")))
    adapter = load_adapter(str(checkpoints("next")), processing, torch.device("cpu"), torch.float32)
    assert len(adapter.model.model.vision_tower.encoder.layers) == 2, "of three, with feature layer -2"


def test_an_unsupported_family_is_named(tmp_path):
    CLIPVisionConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'clip_vision_model' is not supported; supported are llava, llava_next"):
        load_processing(str(tmp_path))


def test_a_configuration_that_cannot_be_pruned_is_refused(checkpoints):
    processing = load_processing(str(checkpoints("next")))
    model = AutoModelForImageTextToText.from_pretrained(checkpoints("next"))
    model.config.vision_feature_layer = -9
    with pytest.raises(ValueError, match="vision_feature_layer is"):
        processing.family(model, processing.normalisation())
