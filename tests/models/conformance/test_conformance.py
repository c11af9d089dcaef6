"""What every family must do. Each test is a column of the matrix; its docstring's first words are the heading."""

from __future__ import annotations

import logging
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText

from adafv.engine import Engine, EngineOptions, Preparer
from adafv.models import Panel, load_adapter, load_processing
from adafv.pruning import mix, text_similarity
from tests.models.conformance.matrix import RESULTS, documented
from tests.models.conformance.variant import blind
from tests.models.conformance.variants import VARIANTS
from tests.models.conftest import picture

# (height, width): small and large, odd, wider and taller than any grid of crops
SIZES = [(64, 64), (33, 97), (97, 70), (31, 32), (150, 149)]
EXTREME = [(1, 1), (1, 300), (300, 2), (20, 200), (200, 40)]
QUESTION = "w1 w17 what w29 w3"
ASKED = [(size, f"w{7 * i} w{i}" + " w2" * i) for i, size in enumerate(SIZES)]


def test_unpruned_equals_stock_generate(subject, column):
    """`none` is stock: strategy `none` answers as transformers' own processor and greedy `generate` do."""
    for (size, question), label in zip(ASKED, subject.label(ASKED, strategy="none"), strict=True):
        subject.check(label, [size], question)


def test_prompts_and_pixels_are_the_processors(subject, column):
    """processor: token ids and pixel values are those of the family's whole processor, to the bit."""
    processing = subject.processing
    for size, question in ASKED:
        image, geometry = picture(size), processing.geometry(size)
        stock = subject.stock.inputs([image], question)
        ids = processing.expanded(processing.prompt(question, [geometry]).input_ids, [geometry])
        assert ids.tolist() == stock["input_ids"][0].tolist()
        ours = subject.variant.pixels(subject.adapter, torch.from_numpy(processing.crops(image)))
        assert torch.equal(ours, stock["pixel_values"].reshape(ours.shape))


def test_keeping_all_equals_none(subject, column):
    """all kept is `none`: a pruning strategy that is told to keep all tokens answers as `none` does."""
    for strategy in ("adafv-plus", "visionzip"):
        kept = subject.label(ASKED, strategy=strategy, keep=1.0)
        for label, whole in zip(kept, subject.label(ASKED, strategy="none"), strict=True):
            assert (label.answer, label.prompt_tokens) == (whole.answer, whole.prompt_tokens)
            assert label.mean_logprob == pytest.approx(whole.mean_logprob, abs=1e-5)


def test_a_second_look_is_unpruned(subject):
    """Of questions about one and two pictures the less sure are asked again together, and answered as `none` does."""
    asked = [([size] * (1 + number % 2), question) for number, (size, question) in enumerate(ASKED[:4])]
    pruned, whole = (subject.converse(asked, strategy=name, keep=0.2) for name in ("adafv-plus", "none"))
    sure = sorted(label.confidence for label in pruned)
    threshold = (sure[1] + sure[2]) / 2
    again = subject.converse(asked, keep=0.2, escalate=1.0, escalate_below=threshold)
    for label, first, unpruned in zip(again, pruned, whole, strict=True):
        expected = unpruned if first.confidence < threshold else first
        assert label.looks == 1 + (first.confidence < threshold) and label.answer == expected.answer
        assert label.kept_indices.tolist() == expected.kept_indices.tolist()
        assert label.mean_logprob == pytest.approx(expected.mean_logprob, abs=1e-4)


def test_cues_equal_the_slow_way(subject, column):
    """cues: saliency is that of whole attention matrices, similarity an explicit cosine; what is kept follows."""
    adapter, processing = subject.adapter, subject.processing
    labels = subject.label([(size, QUESTION) for size in SIZES], strategy="adafv", keep=0.3, max_new_tokens=1)
    for size, label in zip(SIZES, labels, strict=True):
        image, geometry = picture(size), processing.geometry(size)
        expected = subject.stock.cues(image, QUESTION)
        with torch.inference_mode():
            encoded = adapter.encode(torch.from_numpy(processing.crops(image)), also=("keys", "hidden"))
            table = adapter.arrange(encoded.patches(slice(None)), geometry, size)
            order = torch.from_numpy(geometry.source[geometry.is_token])
            prompt = processing.prompt(QUESTION, [geometry])
            ids = prompt.input_ids[prompt.question_places]
            similarity = text_similarity(adapter.embed(torch.from_numpy(ids))[None], table.tokens[order][None])[0]
        torch.testing.assert_close(table.tokens[order], expected.tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(table.saliency[order], expected.saliency, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(similarity, expected.similarity, rtol=2e-3, atol=1e-6)
        torch.testing.assert_close(adapter.project(encoded.hidden), encoded.tokens, rtol=1e-4, atol=1e-5)
        assert len(table.keys) == len(table.hidden) == len(table.tokens)
        kept = mix(expected.saliency[None], expected.similarity[None], label.kept_tokens).mask[0].nonzero().flatten()
        assert label.kept_indices.tolist() == kept.tolist(), size


def test_geometry_maps_tokens_to_their_pixels(subject, column):
    """geometry: where a token is said to lie, light in the picture changes that token most."""
    model = AutoModelForImageTextToText.from_pretrained(subject.path, attn_implementation="sdpa").eval()
    blind(model)
    processing = subject.processing
    adapter = processing.family(model, processing.normalisation())
    random = np.random.default_rng(0)
    for size in ((128, 128), (96, 200), (190, 100)):
        geometry = processing.geometry(size)
        dark = _tokens(adapter, processing, np.zeros((*size, 3), np.uint8))
        start = 0
        for panel in geometry.panels:
            cells = np.arange(panel.rows * panel.columns)
            for cell in random.permutation(cells)[:3]:
                spot = _spot(panel, int(cell), size)
                if spot is None:
                    continue
                pixels = np.zeros((*size, 3), np.uint8)
                pixels[spot] = 255
                change = (_tokens(adapter, processing, pixels) - dark).norm(dim=1)[start + cells]
                assert int(change.argmax()) == cell, (size, panel, cell)
            start += len(cells)
        assert start == geometry.visual_tokens


def _tokens(adapter, processing, pixels: np.ndarray) -> torch.Tensor:
    """[N, D], in the packed order."""
    size = pixels.shape[:2]
    geometry = processing.geometry(size)
    encoded = adapter.encode(torch.from_numpy(processing.crops(Image.fromarray(pixels)))).patches(slice(None))
    return adapter.arrange(encoded, geometry, size).tokens[torch.from_numpy(geometry.source[geometry.is_token])]


def _spot(panel: Panel, cell: int, size: tuple[int, int]) -> tuple[slice, slice] | None:
    """The middle of a token's rectangle in pixels; None where the rectangle leaves the image."""
    row, column = divmod(cell, panel.columns)
    spans = []
    for at, count, start, end, pixels in (
        (row, panel.rows, panel.top, panel.bottom, size[0]),
        (column, panel.columns, panel.left, panel.right, size[1]),
    ):
        step = (end - start) / count
        first, last = (start + (at + 0.2) * step) * pixels, (start + (at + 0.8) * step) * pixels
        if first < 0 or last > pixels:
            return None
        spans.append(slice(round(first), max(round(last), round(first) + 1)))
    return spans[0], spans[1]


def test_batches_change_nothing(subject, column):
    """batches: a sample's kept tokens and its answer are the same alone as among others."""
    together = subject.label(ASKED, keep=0.25)
    for asked, label in zip(ASKED, together, strict=True):
        (alone,) = subject.label([asked], keep=0.25)
        assert alone.kept_indices.tolist() == label.kept_indices.tolist()
        assert alone.answer == label.answer


@pytest.mark.parametrize("strategy", ["none", "visionzip"])
def test_several_images(subject, column, strategy):
    """several images: of a prompt that shows three, the answer is stock's, also where pruning keeps all."""
    sizes = [(64, 64), (33, 97), (97, 70)]
    (label,) = subject.converse([(sizes, QUESTION)], strategy=strategy, keep=1.0)
    subject.check(label, sizes, QUESTION)
    (pruned, alone) = subject.converse([(sizes, QUESTION), (sizes[:1], QUESTION)], keep=0.3)
    assert [part.visual_tokens for part in pruned.parts] == [part.visual_tokens for part in label.parts]
    assert [part.kept_tokens for part in pruned.parts] == [
        EngineOptions(keep=0.3).kept_of(part.visual_tokens) for part in pruned.parts
    ]
    assert len(alone.parts) == 1


def test_no_image(subject, column):
    """no image: a prompt without one is answered as stock answers it."""
    labels = subject.converse([([], QUESTION), ([(64, 64)], QUESTION)], keep=0.3)
    subject.check(labels[0], [], QUESTION)
    assert labels[0].visual_tokens == 0


def test_wide_and_tall_pictures(subject, column):
    """wide and tall: down to one pixel; unpruned as stock, and pruned to the budget."""
    taken = [size for size in EXTREME if max(size) <= subject.variant.longest * min(size)]
    asked = [(size, QUESTION) for size in taken]
    pruned = subject.label(asked, keep=0.3)
    for size, label, less in zip(taken, subject.label(asked, strategy="none"), pruned, strict=True):
        subject.check(label, [size], QUESTION)
        assert less.kept_tokens == EngineOptions(keep=0.3).kept_of(label.visual_tokens)
    for size in {*EXTREME} - {*taken}:
        with pytest.raises(ValueError, match="aspect ratio"):
            subject.stock.inputs([picture(size)], QUESTION)
        with pytest.raises(ValueError, match="aspect ratio"):
            subject.label([(size, QUESTION)])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(subject, column, dtype):
    """bf16, fp16: both run, pruned and not."""
    adapter = load_adapter(str(subject.path), subject.processing, torch.device("cpu"), getattr(torch, dtype))
    for strategy in ("none", "adafv-plus"):
        options = EngineOptions(strategy=strategy, keep=0.3, max_new_tokens=3)
        preparer, engine = Preparer(subject.processing, options), Engine(adapter, subject.processing, options)
        (label,) = engine.label([preparer.prepare("1", picture((97, 70)), QUESTION)])
        assert label.output_tokens and np.isfinite(label.mean_logprob)


def test_other_names_of_weights(subject, column, tmp_path):
    """names of weights: a checkpoint is the same model under the names that each version of transformers wrote."""
    weights = load_file(subject.path / "model.safetensors")
    assert subject.variant.names
    for i, renaming in enumerate(subject.variant.names):
        path = tmp_path / str(i)
        shutil.copytree(subject.path, path)
        renamed = {_renamed(name, renaming): weight for name, weight in weights.items()}
        assert renamed.keys() != weights.keys() and len(renamed) == len(weights)
        save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})
        processing = load_processing(str(path))
        adapter = load_adapter(str(path), processing, torch.device("cpu"), torch.float32)
        crops = torch.from_numpy(processing.crops(picture((64, 64))))
        assert torch.equal(adapter.encode(crops).tokens, subject.adapter.encode(crops).tokens)
        ids = torch.arange(9)
        assert torch.equal(*(each.score(_read(each, ids)) for each in (adapter, subject.adapter)))
        newlines = [each.newline for each in (adapter, subject.adapter) if each.newline is not None]
        assert not newlines or torch.equal(*newlines)


def _renamed(name: str, renaming: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in renaming:
        name = re.sub(pattern, replacement, name)
    return name


def _read(adapter, ids: torch.Tensor) -> torch.Tensor:
    """The language model's states of some text."""
    return adapter.language_model(inputs_embeds=adapter.embed(ids)[None]).last_hidden_state


def test_the_language_model_can_stay_away(subject, caplog, monkeypatch):
    """For back ends that have their own: what comes before it is the same, and nobody is told of the weights that have
    no place."""
    whole, config = subject.adapter, subject.processing.config.to_dict()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    cpu = torch.device("cpu")
    front = load_adapter(str(subject.path), subject.processing, cpu, torch.float32, language_model=False)
    assert front.language_model is front.model.get_decoder(), "which loading quantises and sets attention of"
    crops = torch.from_numpy(subject.processing.crops(picture((64, 64))))
    assert torch.equal(front.encode(crops).tokens, whole.encode(crops).tokens)
    assert torch.equal(front.embed(torch.arange(9)), whole.embed(torch.arange(9)))
    assert front.newline is None or torch.equal(front.newline, whole.newline)
    assert front.model.generation_config.eos_token_id == whole.model.generation_config.eos_token_id
    assert "UNEXPECTED" not in caplog.text
    assert subject.processing.config.to_dict() == config, "it is shared"
    assert not [
        name for name, _ in front.model.named_modules() if re.search(r"lm_head|(language|text)_model\.layers\.", name)
    ]


def test_encoding_never_asks_the_device(subject):
    """On an accelerator that would stall its queue. What pictures of no common size need is made on the host."""
    if subject.processing.family.sizes_vary:
        pytest.skip("the host's own plan looks the same on a CPU")
    crops = torch.from_numpy(subject.processing.crops(picture((97, 70))))
    with Unasked():
        subject.adapter.encode(crops, also=("keys", "hidden"))


class Unasked(TorchDispatchMode):
    """Refuses what gives the host a value, or a shape that depends on one."""

    ASKING = ("item", "is_nonzero", "_local_scalar_dense", "nonzero", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.ASKING, func
        return func(*args, **(kwargs or {}))


def test_the_docs_have_the_matrix():
    """docs/measurements/models.md says what came out. It is written by `python -m tests.models.conformance.matrix`."""
    columns = [
        "`none` is stock",
        "processor",
        "all kept is `none`",
        "cues",
        "geometry",
        "batches",
        "several images",
        "no image",
        "wide and tall",
        "bf16, fp16",
        "names of weights",
    ]
    if not RESULTS.is_whole([variant.name for variant in VARIANTS], columns):
        pytest.skip("only a part of the suite ran")
    assert documented() == RESULTS.table(), "run python -m tests.models.conformance.matrix"
