"""What Qwen2.5-VL and Qwen3-VL have of their own, against the slow way; the rest is `conformance`."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import torch
from PIL import Image
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

from adafv.counting import Model, Sizes, TokenCounts
from adafv.engine import Engine, EngineOptions, Preparer
from adafv.engine.encoder import Encoder
from adafv.engine.prompt_image import prompt_images
from adafv.engine.sequence import lay_out
from adafv.models import load_adapter, load_processing, qwen2_5_vl, sizes_of
from adafv.pruning import text_similarity
from tests.models.conftest import picture
from tests.models.slow_qwen import SlowQwen
from tests.tiny_qwen import QwenShape, build

QUESTION = "w1 w17 what w99 w3"
# (height, width): of odd aspect ratios, smaller than a token, and at the processor's limits of pixels and of shape
SIZES = [(64, 64), (30, 61), (97, 33), (8, 48), (1, 1), (3, 300), (300, 2), (45, 64)]
SHAPES = {"2.5": QwenShape(), "3": QwenShape(family="qwen3_vl", seed=2)}


@pytest.fixture(scope="module", params=sorted(SHAPES))
def path(request, tmp_path_factory):
    return build(tmp_path_factory.mktemp("qwen"), SHAPES[request.param])


@pytest.fixture(scope="module")
def slow(path):
    return SlowQwen(path)


@pytest.fixture(scope="module")
def processing(path):
    return load_processing(str(path))


@pytest.fixture(scope="module")
def adapter(path, processing):
    return load_adapter(str(path), processing, torch.device("cpu"), torch.float32)


def engine_and_samples(path, questions=None, sizes=SIZES, **options):
    options = EngineOptions(**options)
    preparer, engine = Preparer.load(str(path), options), Engine.load(str(path), options)
    questions = questions or [f"w{7 * i} w{i} " * (i % 4 + 1) for i in range(len(sizes))]
    asked = enumerate(zip(sizes, questions, strict=True))
    return engine, [preparer.prepare(str(i), picture(size), question) for i, (size, question) in asked], questions


@pytest.mark.parametrize("size", SIZES)
def test_tokens_and_cues_equal_the_slow_way(slow, processing, adapter, monkeypatch, size):
    expected = slow.cues(picture(size), QUESTION, monkeypatch)
    with torch.inference_mode():
        crops = torch.from_numpy(processing.crops(picture(size)))
        encoded = adapter.encode(crops, also=("keys", "hidden")).patches(slice(None))
        prompt = processing.prompt(QUESTION, [processing.geometry(size)])
        text = adapter.embed(torch.from_numpy(prompt.input_ids[prompt.question_places]))
        similarity = text_similarity(text[None], encoded.tokens[None])[0]
        projected = adapter.project(encoded.hidden)
    assert len(encoded.tokens) == processing.geometry(size).visual_tokens
    close = {"rtol": 1e-3, "atol": 1e-4}
    for name in ("tokens", "keys", "hidden", "deepstack"):
        torch.testing.assert_close(getattr(encoded, name), getattr(expected, name), **close)
    torch.testing.assert_close(encoded.saliency, expected.saliency, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(similarity, expected.similarity, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(projected, expected.tokens, **close)


def test_saliency_is_of_the_last_layer_that_sees_the_whole_image(processing):
    vision = processing.config.vision_config
    wanted = 3 if hasattr(vision, "fullatt_block_indexes") else vision.depth - 1
    assert processing.family.saliency_layer(processing.config) == wanted


def test_cues_cost_nothing_unless_asked_for(processing, adapter):
    plain = adapter.encode(torch.from_numpy(processing.crops(picture((64, 64)))))
    assert plain.keys is None and plain.hidden is None
    assert (plain.deepstack is None) == (processing.config.model_type == "qwen2_5_vl")


def test_a_published_penalty_is_the_stock_one(tmp_path):
    """Qwen2.5-VL's generation config has a repetition penalty, which is for the prompt's words too, and sampling."""
    generation = (("repetition_penalty", 1.5), ("do_sample", True), ("temperature", 1e-6))
    path = build(tmp_path, QwenShape(generation=generation, seed=4))
    slow = SlowQwen(path)
    engine, samples, questions = engine_and_samples(path, strategy="none", max_new_tokens=16)
    labels = engine.label(samples)
    answers = [slow.generate(picture(size), question, 16) for size, question in zip(SIZES, questions, strict=True)]
    assert [label.answer for label in labels] == [engine._processing.decode(answer) for answer in answers]
    slow.model.generation_config.repetition_penalty = 1.0
    assert slow.generate(picture(SIZES[0]), questions[0], 16) != answers[0], "or it would show nothing"


@pytest.mark.parametrize("strategy", ["adafv", "random"])
def test_pruned_equals_the_slow_way_token_for_token(path, slow, processing, strategy):
    """Kept tokens at their own places, the text behind the image where it was, and what deepstack adds pruned alike."""
    engine, samples, questions = engine_and_samples(path, strategy=strategy, keep=0.3, max_new_tokens=10)
    labels = engine.label(samples)
    for size, question, label in zip(SIZES, questions, labels, strict=True):
        expected = slow.pruned(picture(size), question, torch.from_numpy(label.kept_indices).long(), 10)
        assert label.answer == processing.decode(expected), size
    assert any(label.kept_tokens < label.visual_tokens for label in labels)


def test_answers_that_end_leave_the_others_where_they_were(path, slow, processing):
    engine, samples, questions = engine_and_samples(path, strategy="uniform", keep=0.3, max_new_tokens=8)
    kept = [torch.from_numpy(label.kept_indices).long() for label in engine.label(samples)]
    asked = [*zip([picture(size) for size in SIZES], questions, kept, strict=True)]
    whole = [slow.pruned(*each, 8) for each in asked]
    ends = {answer[1] for answer in whole[::2]}
    cut = [next((at + 1 for at, token in enumerate(answer) if token in ends), 8) for answer in whole]
    assert min(cut) <= 2 < max(cut), "some end early and some later"
    engine._adapter.model.generation_config.eos_token_id = sorted(ends)
    again = Engine(engine._adapter, processing, engine._options)
    for answer, length, label in zip(whole, cut, again.label(samples), strict=True):
        assert label.answer == processing.decode(answer[:length])
        assert label.output_tokens == length


def test_positions_are_the_stock_models(slow, processing, path):
    _, samples, questions = engine_and_samples(path)
    images = prompt_images(samples, processing, EngineOptions(strategy="none"))
    layout = lay_out(
        lengths=[len(sample.input_ids) for sample in samples],
        places=[processing.image_places(sample.input_ids) for sample in samples],
        images=images,
        table_lengths=[image.geometry.visual_tokens for image in images],
        newlines="drop",
        kept=[True] * len(samples),
        device=torch.device("cpu"),
    )
    for row, (size, question) in enumerate(zip(SIZES, questions, strict=True)):
        inputs = slow.inputs(picture(size), question)
        wanted, delta = slow.model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
        )
        length = wanted.shape[2]
        assert torch.equal(layout.positions[:, row, :length], wanted[:, 0]), size
        assert layout.following[row] == length + delta


def test_pictures_of_all_sizes_are_encoded_together_as_alone(path, adapter, monkeypatch):
    needs = frozenset({"keys", "hidden"})
    _, samples, _ = engine_and_samples(path)
    alone, told = Encoder(adapter, needs, together=False)(samples, lambda: None), []
    monkeypatch.setattr("adafv.engine.encoder._PIXELS", 2 * samples[0].images[0].crops.size // 3)
    together = Encoder(adapter, needs, together=True)(samples, lambda: told.append(1))
    assert 1 < len(told) < len(samples), "several pictures a pass, in several passes"
    for one, other in zip(alone, together, strict=True):
        for field in fields(one):
            torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), rtol=1e-4, atol=1e-5)


def test_whole_windows_are_attended_to_at_once(processing, adapter, monkeypatch):
    if processing.config.model_type != "qwen2_5_vl":
        pytest.skip("its tower has no windows")
    shapes = []
    sdpa = qwen2_5_vl.sdpa_with_saliency
    monkeypatch.setattr(
        qwen2_5_vl,
        "sdpa_with_saliency",
        lambda module, query, *rest, **how: (
            shapes.append((query.shape[0], query.shape[2])),
            sdpa(module, query, *rest, **how),
        )[1],
    )
    crops = [torch.from_numpy(processing.crops(picture(size))) for size in [(64, 64), (32, 100)]]
    assert [processing.geometry(size).panels[0].rows for size in [(64, 64), (32, 100)]] == [7, 4]
    adapter.encode_packed(crops)
    # 7 x 7 tokens, and 4 x 12: windows are of 3 x 3 tokens, of four patches each.
    first = [(4, 36), *[(1, 12)] * 4, (1, 4)]
    second = [(4, 36), *[(1, 12)] * 4]
    whole = [(1, 4 * 49), (1, 4 * 48)]
    layers = {False: sorted(first + second), True: sorted(whole)}
    found, expected = sorted(shapes), sorted(3 * layers[False] + 2 * layers[True])
    assert found == expected


@pytest.mark.parametrize("strategy", ["visionzip", "adafv-plus", "eadp"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs(path, dtype, strategy):
    engine, samples, _ = engine_and_samples(path, strategy=strategy, keep=0.2, max_new_tokens=3, dtype=dtype)
    for label in engine.label(samples):
        assert label.kept_tokens == len(label.kept_indices) == max(1, int(0.2 * label.visual_tokens + 0.5))
    assert engine.dtype_name == dtype


def test_pixels_stay_between_the_processors_limits(path, processing):
    images = processing._image_processor
    for size in [*SIZES, (1000, 1500)]:
        geometry, shape = processing.geometry(size), processing.crops(Image.new("RGB", size[::-1])).shape
        side = images.patch_size * 2
        assert shape == (1, 3, geometry.panels[0].rows * side, geometry.panels[0].columns * side)
        assert images.size.shortest_edge <= shape[2] * shape[3] <= images.size.longest_edge
        assert geometry.visual_tokens <= images.size.longest_edge // side**2


def test_a_picture_too_long_for_the_processor_is_refused_by_itself(path):
    preparer = Preparer.load(str(path), EngineOptions())
    with pytest.raises(ValueError, match="aspect ratio must be smaller than 200"):
        preparer.prepare("0", Image.new("RGB", (402, 2)), QUESTION)
    preparer.prepare("1", Image.new("RGB", (400, 2)), QUESTION)


def test_positions_that_pruning_leaves_empty_count_against_the_context(path):
    options = EngineOptions(keep_tokens=1, max_new_tokens=1)
    preparer = Preparer.load(str(path), options)
    extent = preparer._processing.geometry((3, 300)).extent
    frame = len(preparer._processing.prompt("w1", [preparer._processing.geometry((3, 300))]).input_ids) - 2
    words = 512 - 1 - extent - frame
    preparer.prepare("0", picture((3, 300)), "w1 " * words)
    with pytest.raises(ValueError, match="the model's context holds 512"):
        preparer.prepare("0", picture((3, 300)), "w1 " * (words + 1))


def test_files_of_two_models_are_refused(processing):
    config = AutoConfig.for_model(**processing.config.to_dict())
    config.vision_config.patch_size = 14
    with pytest.raises(ValueError, match="the files are of two models"):
        processing.family.geometry(config, processing._image_processor, (64, 64))


@pytest.mark.parametrize(
    ("layers", "message"), [([], "saliency needs a layer"), ([7], "saliency needs a layer of the tower's 5")]
)
def test_a_configuration_that_cannot_be_pruned_is_refused(processing, layers, message):
    if processing.config.model_type != "qwen2_5_vl":
        pytest.skip("every layer of its tower sees the whole image")
    config = AutoConfig.for_model(**processing.config.to_dict())
    config.vision_config.fullatt_block_indexes = layers
    with pytest.raises(ValueError, match=message):
        processing.family.geometry(config, processing._image_processor, (64, 64))


def test_what_the_language_model_does_is_counted_and_encoding_is_not(processing):
    sizes = sizes_of(processing.config)
    with torch.device("meta"):
        model = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(processing.config)](processing.config)
    matrices = [*model.model.language_model.layers.parameters(), *model.lm_head.parameters()]
    assert sum(weight.numel() for weight in matrices if weight.dim() > 1) == sizes.language_weights
    again = Sizes.from_json(json.loads(json.dumps(sizes.as_json())))
    assert again == sizes and again.patches is None
    counts = TokenCounts(positions=40, padded=40, outputs=4, visual=30, kept=6, words=3)
    assert Model(again, 4).prefill([counts]).operations > 0
    with pytest.raises(ValueError, match="what encoding takes is not counted"):
        Model(again, 4).encode(1)


def test_vllm_is_refused_where_features_are_added_behind_layers(path):
    """Before anything is loaded."""
    if "2_5" in load_processing(str(path)).config.model_type:
        Preparer.load(str(path), EngineOptions(backend="vllm"))
        return
    for part in (Preparer, Engine):
        with pytest.raises(ValueError, match="a qwen3_vl model's deepstack features"):
            part.load(str(path), EngineOptions(backend="vllm"))
