"""Types without an adapter of their own: some that stand for the others, and what is refused."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

from adafv.engine import EngineOptions, Preparer
from adafv.models import GeneralAdapter, load_adapter, load_processing, tower_watch
from adafv.models.general_processing import shapes_of, unpacked
from tests.models.conftest import picture
from tests.models.general.tiny import build
from tests.models.general.trial import ASKED, COLUMNS, Trial

# Masks in both directions and a window; positions in three dimensions with deepstack and experts; squares of patches
# with tiles in text; a processor's rows of tokens; layers with states.
SOME = ("gemma3", "qwen3_vl_moe", "aya_vision", "mistral3", "qwen3_5")


@pytest.fixture(scope="module", params=SOME)
def trial(request, tmp_path_factory) -> Trial:
    return Trial(request.param, build(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.mark.parametrize("column", COLUMNS)
def test_a_type(trial, column):
    COLUMNS[column](trial)


def test_saliency_is_found(trial):
    """For each of them; tokens that see more of a picture's middle would say so otherwise."""
    assert trial.adapter.watch.mapping is not None


def test_an_answer_may_hold_the_image_token(trial):
    """As stock reads it; in a prompt a token outside of the vocabulary stands for an image in some models."""
    visual, table = trial.adapter.visual_id, trial.stock.get_input_embeddings()
    with torch.inference_mode():
        embedded = trial.adapter.embed(torch.tensor([visual, len(table.weight)]))
        assert torch.equal(embedded[0], table(torch.tensor(visual)))


def test_a_token_is_made_of_the_patches_that_it_depends_on(trial):
    """Each patch changed by itself, on a picture of another shape."""
    adapter, mapping = trial.adapter, trial.adapter.watch.mapping
    values = unpacked(trial.processing.crops(picture((96, 48))))
    grid = adapter._grid(values)

    def encode() -> torch.Tensor:
        return adapter.visual(adapter.handed_over(values), values["input_ids"])[0][0]

    with adapter.watch.watching():
        tokens = encode()
        valid = [row for call in adapter.watch._calls[mapping.module] for row in call.valid]
    patches = tower_watch._patches(valid, mapping.leading, mapping.merge, len(tokens), grid)
    for one in patches.flatten().tolist():
        chosen = torch.zeros(sum(each.numel() for each in valid), dtype=torch.bool)
        chosen[one] = True
        found = adapter.watch._tried(encode, tokens, mapping.module, chosen)
        assert torch.equal(found, (patches == one).any(dim=1)), one


def test_pictures_of_the_same_shapes_are_encoded_together(trial):
    """On an accelerator; and each is what it is by itself."""
    adapter, sizes = trial.adapter, [(64, 64), (33, 97), (64, 64), (64, 64)]
    images = [torch.from_numpy(trial.processing.crops(picture(size, seed))) for seed, size in enumerate(sizes)]
    called = []
    hook = adapter.language_model.register_forward_pre_hook(lambda *_: called.append(1))
    also = ("keys", "hidden")
    try:
        together = adapter.encode_packed(images, also)
    finally:
        hook.remove()
    one_by_one = trial.model_type == "mistral3"  # its tower sees all pictures as one sequence
    shapes = {shapes_of(unpacked(image)) for image in images}
    assert adapter.together != one_by_one and len(called) == (4 if one_by_one else len(shapes)) > 0
    for image, found in zip(images, together, strict=True):
        for name, value in adapter.encode(image, also).given().items():
            torch.testing.assert_close(found.given()[name], value, rtol=1e-4, atol=1e-5)


def test_saliency_is_that_of_whole_matrices(tmp_path):
    """Of a tower without [CLS]: what each patch receives, the mean of those that are merged."""
    trial = Trial("qwen2_vl", build("qwen2_vl", tmp_path))
    crops = torch.from_numpy(trial.processing.crops(picture((64, 96))).copy())
    found = trial.adapter.encode(crops, also=("keys",))
    values = {}
    trial.stock.set_attn_implementation("eager")
    tower = trial.stock.model.visual
    hook = tower.blocks[-1].attn.register_forward_pre_hook(
        lambda module, args, kwargs: values.update(kwargs, hidden=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    inputs = trial.processor(text=["<|image_pad|>"], images=[picture((64, 96))], return_tensors="pt")
    with torch.inference_mode():
        trial.stock.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        attention, hidden = tower.blocks[-1].attn, values["hidden"]
        query, key, _ = attention.qkv(hidden).reshape(len(hidden), 3, attention.num_heads, -1).permute(1, 2, 0, 3)
        query, key = (_rotated(each, values["position_embeddings"]) for each in (query, key))
        matrix = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    hook.remove()
    expected = matrix.mean(dim=(0, 1)).view(-1, 4).mean(dim=1)
    torch.testing.assert_close(found.saliency[0], expected, rtol=1e-4, atol=1e-6)


def _rotated(states: torch.Tensor, embeddings: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    cos, sin = embeddings
    half = states.shape[-1] // 2
    return states * cos + torch.cat([-states[..., half:], states[..., :half]], dim=-1) * sin


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("mllama", "explain"),  # cross-attention
        ("t5gemma2", "an encoder and a decoder"),
        ("pix2struct", "an encoder and a decoder"),
    ],
)
def test_what_cannot_be_pruned_is_refused_without_weights(model_type, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        Preparer.load(str(build(model_type, tmp_path)), EngineOptions())


def test_states_are_of_a_row_and_of_an_answer(tmp_path):
    """Several answers to a prompt share its prefill, and rows leave the batch when they have ended."""
    trial = Trial("qwen3_5", build("qwen3_5", tmp_path))
    drawn = {"samples": 3, "temperature": 2.0, "keep": 0.25}
    together = trial.label(ASKED, **drawn)
    for count, label in enumerate(together, 1):
        alike = trial.label(ASKED[:count], **drawn)[-1]
        assert [one.answer for one in alike.samples] == [one.answer for one in label.samples]
        assert len({one.answer for one in label.samples}) == 3


def test_choices_where_layers_keep_states_of_convolutions(tmp_path):
    Trial("lfm3_vl", build("lfm3_vl", tmp_path)).choices()


def test_padding_does_not_go_into_states(tmp_path, monkeypatch):
    """The published rule keeps fewer tokens than the budget, so prompts are shorter than their room."""
    trial = Trial("qwen3_5", build("qwen3_5", tmp_path))
    seen: list[torch.Tensor] = []
    forward = trial.adapter.forward
    monkeypatch.setattr(
        trial.adapter, "forward", lambda embeds, *rest: (seen.append(embeds), forward(embeds, *rest))[1]
    )
    labels = trial.label(ASKED, strategy="adafv-paper", keep=0.5)
    prompts = [each.shape[1] for each in seen if each.shape[1] > 1]
    assert prompts == [label.prompt_tokens for label in labels]
    assert any(label.kept_tokens < label.visual_tokens // 2 for label in labels)


class NovelConfig(Gemma3Config):
    model_type = "novel"


class NovelForConditionalGeneration(Gemma3ForConditionalGeneration):
    """Gemma 3 by another name."""

    config_class = NovelConfig


def test_a_model_that_was_never_heard_of(tmp_path, monkeypatch):
    """A type of transformers' parts works; and where it does what nobody expects, a sentence says what."""
    AutoConfig.register("novel", NovelConfig, exist_ok=True)
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.register(NovelConfig, NovelForConditionalGeneration, exist_ok=True)
    parts = Gemma3ForConditionalGeneration.from_pretrained(build("gemma3", tmp_path))
    novel = NovelForConditionalGeneration(NovelConfig(**parts.config.to_dict() | {"model_type": "novel"}))
    novel.load_state_dict(parts.state_dict())
    novel.save_pretrained(tmp_path)
    trial = Trial("gemma3", tmp_path)
    assert trial.processing.config.model_type == "novel"
    trial.none_is_stock()

    def other(self, *args, **kwargs):
        kwargs["position_ids"] = 2 * torch.arange(kwargs["input_ids"].shape[1])[None]
        return Gemma3ForConditionalGeneration.forward(self, *args, **kwargs)

    other.__signature__ = inspect.signature(Gemma3ForConditionalGeneration.forward)
    monkeypatch.setattr(NovelForConditionalGeneration, "forward", other)
    with pytest.raises(ValueError, match="'novel' can't be pruned: it counts positions in a way of its own"):
        load_adapter(str(tmp_path), load_processing(str(tmp_path)), torch.device("cpu"), torch.float32)


def test_what_a_family_does_not_take_runs_all_the_same(tmp_path):
    trial = Trial("llava", build("llava", tmp_path))
    assert isinstance(trial.adapter, GeneralAdapter)
    trial.none_is_stock()
    trial.cues()


def test_settings_of_the_image_processor(tmp_path):
    """What the model's processor always sets can't be set; the rest reaches both the prompt and the model."""
    trial = Trial("qianfan_ocr", build("qianfan_ocr", tmp_path))
    with pytest.raises(ValueError, match="the model's processor always sets 'crop_to_patches' to True"):
        load_processing(str(tmp_path), {"crop_to_patches": False})
    with pytest.raises(ValueError, match="has no setting 'crop'"):
        load_processing(str(tmp_path), {"crop": True})
    counts = [trial.processing.view(picture((64, 128))).geometry.visual_tokens]
    for most in (1, 2):
        trial = Trial("qianfan_ocr", tmp_path)
        trial.processing = load_processing(str(tmp_path), {"crop_to_patches": True, "max_patches": most})
        counts.append(trial.processing.view(picture((64, 128))).geometry.visual_tokens)
        (label,) = trial.label([([(64, 128)], "w1")], strategy="none")
        assert label.visual_tokens == counts[-1]
    assert counts == [36, 4, 12]  # eight tiles and a thumbnail, one tile, two and a thumbnail


def test_vllm_and_text_towers_are_for_adapters_of_their_own(tmp_path):
    path = str(build("gemma3", tmp_path))
    with pytest.raises(ValueError, match=re.escape("backend 'vllm' takes models with an adapter of their own")):
        Preparer.load(path, EngineOptions(backend="vllm"))


def test_places_are_told_by_grids_only(tmp_path: Path):
    """A processor that tells a grid: tokens lie on the whole image; one that tells none: nobody knows where."""
    for model_type, known in (("qwen2_vl", True), ("gemma3", False)):
        processing = load_processing(str(build(model_type, tmp_path / model_type)))
        geometry = processing.view(picture((64, 96))).geometry
        assert bool(geometry.panels) == known and len(geometry.neighbours) == geometry.visual_tokens
        if known:
            [panel] = geometry.panels
            assert panel.rows * panel.columns == geometry.visual_tokens and panel.columns > panel.rows
        else:
            assert (geometry.neighbours[:, 4] == range(geometry.visual_tokens)).all()
            assert (geometry.neighbours >= 0).sum() == geometry.visual_tokens
