"""The engine's promises: neighbours change nothing, images are encoded once, times add up, words are the model's."""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from adafv.engine import Engine, EngineOptions, Preparer
from adafv.engine.prompt_image import prompt_images
from adafv.engine.pruner import Pruner
from adafv.hardware import cpu_name
from adafv.models import TextTower, load_adapter, load_processing
from adafv.pruning import STRATEGIES, WITH_TEXT_TOWER
from tests.engine.answers import assembled
from tests.engine.conftest import SHAPE
from tests.models.conftest import picture
from tests.pruning import oracle
from tests.tiny_clip import build_clip
from tests.tiny_models import Shape, build

SIZES = [(64, 64), (30, 61), (97, 33), (1, 300), (45, 64)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(build_clip(tmp_path_factory.mktemp("clip"), SHAPE))


def load(model: str, **options):
    options = EngineOptions(**{"keep": 0.15, "max_new_tokens": 8} | options)
    return Preparer.load(model, options), Engine.load(model, options)


def crowd(preparer: Preparer, count: int):
    """Samples of different image sizes and question lengths; every third shares an image with the one before."""
    words = random.Random(0)
    samples = []
    for i in range(count):
        seed = i - 1 if i % 3 == 2 else i
        question = " ".join(f"w{words.randrange(200)}" for _ in range(1 + words.randrange(30)))
        samples.append(preparer.prepare(f"id-{i}", picture(SIZES[seed % len(SIZES)], seed), question))
    return samples


def essence(label):
    return (
        label.id,
        label.kept_indices.tolist(),
        label.kept_cues.tolist(),
        label.from_text,
        label.from_saliency,
        label.answer,
        label.output_tokens,
    )


@pytest.mark.parametrize(
    ("strategy", "tower"),
    [*((name, False) for name in sorted(STRATEGIES)), *((name, True) for name in sorted(WITH_TEXT_TOWER))],
)
def test_batch_size_order_and_neighbours_change_nothing(model, clip, strategy, tower):
    preparer, engine = load(model, strategy=strategy, text_tower=clip if tower else None)
    samples = crowd(preparer, 16)
    alone = {label.id: label for sample in samples for label in engine.label([sample])}
    shuffled = random.Random(1).sample(samples, len(samples))
    for order in (samples, shuffled):
        for size in (3, 16):
            for start in range(0, len(order), size):
                for label in engine.label(order[start : start + size]):
                    assert essence(label) == essence(alone[label.id]), f"in a batch of {size}"
                    assert label.mean_logprob == pytest.approx(alone[label.id].mean_logprob, abs=1e-4)


def test_neighbours_change_nothing_where_positions_beyond_some_are_seen_otherwise(tmp_path):
    """As with Phi-3's rotary embeddings, whose frequencies depend on how long a sequence is."""
    config = build(tmp_path / "model", Shape(family="llava", hidden=64)) / "config.json"
    values = json.loads(config.read_text())
    values["text_config"]["rope_parameters"] = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 60,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0 + channel for channel in range(8)],
    }
    config.write_text(json.dumps(values))
    preparer, engine = load(str(config.parent))
    samples = [preparer.prepare(str(n), picture((64, 64)), " ".join(["w1"] * n)) for n in (3, 35, 37, 38, 39, 90)]
    alone = [engine.label([sample])[0] for sample in samples]
    for label, one in zip(engine.label(samples), alone, strict=True):
        assert essence(label) == essence(one) and abs(label.mean_logprob - one.mean_logprob) < 1e-4


def test_on_a_cpu_images_and_questions_are_pruned_by_themselves(model, spy):
    """What makes kept indices the same bits in every batch: no matrix product ever spans two of them."""
    preparer, engine = load(model, strategy="adafv")
    encode, cues = spy(type(engine._adapter), "encode"), spy(Pruner, "_cues")
    samples = [preparer.prepare(str(i), picture((64, 64), i), "w1") for i in range(4)]
    engine.label(samples)
    assert [len(call.args[1]) for call in encode.call_args_list] == [5, 5, 5, 5]
    assert [len(call.args[1]) for call in cues.call_args_list] == [1, 1, 1, 1]


@pytest.mark.parametrize("newlines", ["rows", "drop"])
def test_newlines_follow_the_option(model, newlines):
    """A picture of 8 rows behind the base crop: `rows` keeps one newline for each row that keeps a token."""
    preparer, engine = load(model, strategy="saliency", keep_tokens=24, newlines=newlines)
    sample = preparer.prepare("a", picture((64, 64)), "w1 w2")
    (label,) = engine.label([sample])
    base, picture_panel = label.grid
    later = label.kept_indices[label.kept_indices >= base.rows * base.columns] - base.rows * base.columns
    rows = len(set((later // picture_panel.columns).tolist())) if newlines == "rows" else 0
    assert label.prompt_tokens == len(sample.input_ids) - 1 + 24 + rows
    assert newlines == "drop" or rows > 1


def test_what_the_language_model_reads_is_the_kept_embeddings_in_place(model):
    """Take the pruned sequence apart by hand and generate from it with the stock loop."""
    preparer, engine = load(model, strategy="adafv", newlines="drop", positions="compact")
    sample = preparer.prepare("a", picture((64, 64)), "w1 w2 w3")
    (label,) = engine.label([sample])
    adapter, geometry = engine._adapter, engine._processing.geometry(sample.images[0].size)
    with torch.inference_mode():
        tokens = adapter.encode(torch.from_numpy(sample.images[0].crops)).tokens.flatten(0, 1)
        kept = tokens[torch.from_numpy(geometry.source[geometry.is_token][label.kept_indices])]
        text = adapter.embed(torch.from_numpy(sample.input_ids))
        at = sample.input_ids.tolist().index(engine._processing.config.image_token_id)
        embeds = torch.cat([text[:at], kept, text[at + 1 :]])[None]
        out = adapter.model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(1, embeds.shape[1], dtype=torch.int64),
            max_new_tokens=8,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert label.answer == engine._processing.decode(out.sequences[0].tolist())
    assert label.prompt_tokens == embeds.shape[1]
    steps = [step.log_softmax(-1)[0, token] for step, token in zip(out.logits, out.sequences[0], strict=True)]
    assert label.mean_logprob == pytest.approx(float(torch.stack(steps).mean()), abs=1e-5)


def test_kept_positions_are_those_of_the_unpruned_prompt(model):
    """Generate by hand from the pruned sequence, each embedding at the place where it stood before pruning."""
    preparer, engine = load(model, strategy="adafv")
    samples = [preparer.prepare(str(i), picture((64, 64 - 16 * i), i), "w1 w2 w3") for i in range(2)]
    labels = engine.label(samples)
    adapter, text_model = engine._adapter, engine._adapter.model.model.language_model
    for sample, label in zip(samples, labels, strict=True):
        geometry = engine._processing.geometry(sample.images[0].size)
        with torch.inference_mode():
            tokens = adapter.encode(torch.from_numpy(sample.images[0].crops)).tokens.flatten(0, 1)
            slots = np.flatnonzero(geometry.is_token)[label.kept_indices]
            text = adapter.embed(torch.from_numpy(sample.input_ids))
            at = sample.input_ids.tolist().index(engine._processing.config.image_token_id)
            embeds = torch.cat([text[:at], tokens[torch.from_numpy(geometry.source[slots])], text[at + 1 :]])[None]
            behind = at + len(geometry.source) + np.arange(len(text) - at - 1)
            places = np.concatenate([np.arange(at), at + slots, behind]).tolist()
            ids: list[int] = []
            while len(ids) < label.output_tokens:
                hidden = text_model(inputs_embeds=embeds, position_ids=torch.tensor([places])).last_hidden_state
                ids.append(int(adapter.model.lm_head(hidden[0, -1]).argmax()))
                embeds = torch.cat([embeds, adapter.embed(torch.tensor([ids[-1:]]))], dim=1)
                places.append(places[-1] + 1)
        assert label.answer == engine._processing.decode(ids)


def test_positions_are_counted_anew_where_the_prompt_does_not_fit_unpruned(model):
    """Beside one that keeps its positions, which is answered as alone."""
    prompts = {"long": "w1 " * 430, "short": "w2 w3"}
    answers = {}
    for positions in ("kept", "compact"):
        preparer, engine = load(model, strategy="adafv", keep=0.1, positions=positions)
        samples = {name: preparer.prepare("a", picture((64, 64)), prompt) for name, prompt in prompts.items()}
        assert [sample.fits_unpruned for sample in samples.values()] == [False, True]
        together = engine.label([*samples.values()])
        answers[positions] = [(label.answer, pytest.approx(label.mean_logprob, abs=1e-5)) for label in together]
        alone = [engine.label([sample])[0] for sample in samples.values()]
        assert answers[positions] == [(label.answer, label.mean_logprob) for label in alone]
    long, short = zip(answers["kept"], answers["compact"], strict=True)
    assert long[0][0] == long[1][0]
    assert short[0][1].expected != pytest.approx(short[1][1].expected, abs=1e-3)


def test_positions_make_no_difference_to_an_unpruned_prompt(model):
    answers = {}
    for positions in ("compact", "kept"):
        preparer, engine = load(model, strategy="adafv", keep=1.0, positions=positions)
        samples = [preparer.prepare(str(i), picture((64, 64 - 16 * i), i), "w1 w2") for i in range(3)]
        answers[positions] = [(label.answer, label.mean_logprob) for label in engine.label(samples)]
    assert answers["compact"] == answers["kept"]


def test_merged_tokens_stand_where_their_targets_stood(model):
    """VisionZip by hand, for two questions on one image: hidden states merged, projected, and put in place."""
    preparer, engine = load(model, strategy="visionzip", keep_tokens=24)
    samples = [preparer.prepare(str(i), picture((64, 64)), question) for i, question in enumerate(("w1 w2", "w9"))]
    labels, groups = assembled(engine, samples)
    adapter, geometry = engine._adapter, engine._processing.geometry(samples[0].images[0].size)
    with torch.inference_mode():
        crops = torch.from_numpy(samples[0].images[0].crops)
        image = adapter.encode(crops, also=("keys", "hidden")).patches(slice(None))
        order = torch.from_numpy(geometry.source[geometry.is_token])
        saliency, keys, hidden = (each[order] for each in (image.saliency, image.keys, image.hidden))
        kept, became, _ = oracle.visionzip(saliency.tolist(), keys.tolist(), hidden.tolist(), 24)
        tokens = image.tokens[order]
        for target, merged in became.items():
            tokens[target] = adapter.project(torch.tensor(merged))
    assert 1 <= len(became) <= 4 and labels[0].from_saliency == 20
    read = {row: embeds for group in groups for row, embeds in zip(group.rows, group.embeds, strict=True)}
    for number, (label, sample) in enumerate(zip(labels, samples, strict=True)):
        assert label.kept_indices.tolist() == sorted(kept)
        before = sample.input_ids.tolist().index(engine._processing.config.image_token_id)
        got = read[number][before : before + 24]
        torch.testing.assert_close(got, tokens[sorted(kept)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(WITH_TEXT_TOWER))
def test_relevance_by_the_text_tower_equals_the_slow_way(model, clip, name):
    """Stock CLIP's parts, one question at a time, one of them longer than the text tower reads at once."""
    preparer, engine = load(model, strategy=name, text_tower=clip, keep_tokens=9)
    stock, tokenizer = CLIPModel.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
    questions = ["w1", "w3 w14 w15", " ".join(f"w{i}" for i in range(100, 130))]
    samples = [preparer.prepare(str(i), picture((64, 64), i), text) for i, text in enumerate(questions)]
    labels, compared = engine.label(samples), 0
    for question, sample, label in zip(questions, samples, labels, strict=True):
        (shown,) = sample.images
        geometry = engine._processing.geometry(shown.size)
        order = torch.from_numpy(geometry.source[geometry.is_token])
        with torch.inference_mode():
            image = engine._adapter.encode(torch.from_numpy(shown.crops), also=("hidden",)).patches(slice(None))
            patches = stock.visual_projection(stock.vision_model.post_layernorm(image.hidden))[order]
            ids = tokenizer(question, add_special_tokens=False)["input_ids"]
            ends, words = [], []
            for start in range(0, len(ids), 75):
                segment = [tokenizer.bos_token_id, *ids[start : start + 75], tokenizer.eos_token_id]
                out = stock.get_text_features(torch.tensor([segment]))
                ends.append(out.pooler_output[0].tolist())
                words += stock.text_projection(out.last_hidden_state)[0, 1:-1].tolist()
        visual, away = image.tokens[order].tolist(), (-patches).tolist()
        whole, focused = oracle.mean_cosine(ends, away), oracle.focused_cosine(words, away)
        panels = [(panel.rows, panel.columns) for panel in geometry.panels]
        kept, margin = (
            oracle.cdpruner(visual, whole, 9) if name == "cdpruner" else oracle.eadp(whole, focused, visual, panels, 9)
        )
        assert len(ends) == (2 if len(question) > 75 else 1)
        if margin > 1e-5:  # or rounding may choose
            compared += 1
            assert label.kept_indices.tolist() == sorted(kept)
    assert compared >= 2


def test_a_question_asked_twice_is_read_once(model, clip, spy):
    preparer, engine = load(model, strategy="eadp", text_tower=clip)
    features = spy(TextTower, "features")
    engine.label([preparer.prepare(str(i), picture((64, 64), i), f"w{i % 2} w7") for i in range(4)])
    assert [text for call in features.call_args_list for text in call.args[1]] == ["w0 w7", "w1 w7"]


def test_the_text_tower_reads_what_the_text_scope_names(model, clip, spy):
    preparer, engine = load(model, strategy="cdpruner", text_tower=clip, text_scope="prompt")
    features = spy(TextTower, "features")
    engine.label([preparer.prepare("a", picture((64, 64)), "w1 w7")])
    assert [text for call in features.call_args_list for text in call.args[1]] == ["w1 w7 ASSISTANT:"]


def test_a_text_tower_that_does_not_fit_is_known_without_weights(model, tmp_path):
    narrow = str(build_clip(tmp_path, Shape(hidden=32)))
    with pytest.raises(ValueError, match="doesn't fit the model"):
        Preparer.load(model, EngineOptions(strategy="eadp", text_tower=narrow))
    processing = load_processing(model)
    bare = load_adapter(model, processing, torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="'eadp' needs a text tower here, and the adapter has none"):
        Engine(bare, processing, EngineOptions(strategy="eadp", text_tower=narrow))


def test_each_distinct_image_is_encoded_once(model, spy):
    preparer, engine = load(model)
    encode = spy(type(engine._adapter), "encode")
    samples = [preparer.prepare(f"{i}", picture((64, 64), i // 5), f"w{i}") for i in range(15)]
    engine.label(samples)
    assert encode.call_count == 3
    assert len({sample.images[0].key for sample in samples}) == 3


def test_same_pixels_of_another_size_are_another_image(model):
    preparer, _ = load(model)
    black, wide = picture((64, 64)).point(lambda _: 0), picture((64, 128)).point(lambda _: 0)
    (one,), (other,) = preparer.prepare("a", black, "w1").images, preparer.prepare("b", wide, "w1").images
    assert one.key != other.key


def test_random_keeps_the_same_tokens_on_a_rerun_and_others_for_another_id(model):
    preparer, engine = load(model, strategy="random")
    _, again = load(model, strategy="random")
    samples = [preparer.prepare(i, picture((64, 64)), "w1") for i in ("a", "b")]
    first, other = engine.label(samples)
    assert first.kept_indices.tolist() == again.label(samples[:1])[0].kept_indices.tolist()
    assert first.kept_indices.tolist() != other.kept_indices.tolist()


def test_text_scope_prompt_sees_what_follows_the_image(model):
    """The template ends in ASSISTANT:, which counts for `prompt` and not for `question`."""
    preparer, narrow = load(model, strategy="text", text_scope="question")
    _, broad = load(model, strategy="text", text_scope="prompt")
    sample = preparer.prepare("a", picture((64, 64)), "w1")
    (seen,), (more,) = (prompt_images([sample], one._processing, one._options) for one in (narrow, broad))
    assert seen.text.tolist() == sample.input_ids[sample.question_places].tolist()
    assert more.text.tolist() == sample.input_ids[-2:].tolist(), "not the USER: before the image"
    assert narrow.label([sample])[0].kept_indices.tolist() != broad.label([sample])[0].kept_indices.tolist()


def test_times_are_shares_of_the_batch(model):
    preparer, engine = load(model)
    labels = engine.label(crowd(preparer, 4))
    assert {label.batch_size for label in labels} == {4}
    for stage in ("encode_ms", "prune_ms", "prefill_ms", "decode_ms"):
        values = {getattr(label, stage) for label in labels}
        assert len(values) == 1 and values.pop() > 0


def test_sampling_is_seeded(model):
    preparer, engine = load(model, temperature=1.5, seed=3)
    _, same = load(model, temperature=1.5, seed=3)
    _, other = load(model, temperature=1.5, seed=4)
    samples = crowd(preparer, 6)
    answers = [[label.answer for label in one.label(samples)] for one in (engine, same, other)]
    assert answers[0] == answers[1] != answers[2]


def test_sampling_leaves_the_global_generator_alone(model):
    preparer, engine = load(model, temperature=1.0)
    state = torch.random.get_rng_state()
    engine.label(crowd(preparer, 2))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_batch_leaves_no_tensor_behind(model):
    """Not even until Python next looks for cycles: keys and values of a real batch are gigabytes."""
    preparer, engine = load(model, keep=0.3, max_new_tokens=4)
    samples = crowd(preparer, 3)

    def tensors() -> int:
        return sum(type(each) is torch.Tensor for each in gc.get_objects())

    engine.label(samples)
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        engine.label(samples)
        assert tensors() == before
    finally:
        gc.enable()


def spoil(engine: Engine, word: str, model: str) -> None:
    """Let the language model overflow where it reads a word."""
    [token] = AutoTokenizer.from_pretrained(model)(word, add_special_tokens=False).input_ids
    with torch.no_grad():
        engine._adapter.model.get_input_embeddings().weight[token] = torch.inf


def test_a_row_that_overflows_has_no_answer_and_its_neighbours_have_theirs(model):
    preparer, engine = load(model, strategy="none")
    asked = [preparer.prepare(f"id-{i}", picture(SIZES[i], i), f"w{i} w9") for i in range(4)]
    before = engine.label(asked)
    assert not any(label.problem for label in before)
    spoil(engine, "w2", model)
    after = engine.label(asked)
    assert [bool(label.problem) for label in after] == [False, False, True, False]
    assert "NaN or infinite" in after[2].problem and after[2].answer == ""
    for i in (0, 1, 3):
        assert essence(after[i]) == essence(before[i])


def test_a_model_that_overflows_at_the_trial_says_so(model):
    _, engine = load(model, strategy="none")
    with torch.no_grad():
        engine._adapter.model.get_input_embeddings().weight[:] = torch.nan
    with pytest.raises(ArithmeticError, match=r"NaN or infinite: its numbers don't fit float32$"):
        engine.try_out()


def test_no_samples_no_labels(model):
    assert load(model)[1].label([]) == []


def test_labels_hold_what_the_contract_lists(model):
    preparer, engine = load(model, keep_tokens=7)
    (label,) = engine.label([preparer.prepare("a", picture((64, 64)), "w1")])
    assert label.kept_indices.dtype == np.int32
    assert label.kept_tokens == len(label.kept_indices) == 7
    assert (np.diff(label.kept_indices) > 0).all() and label.kept_indices[-1] < label.visual_tokens
    assert sum(panel.rows * panel.columns for panel in label.grid) == label.visual_tokens
    assert label.finish_reason in ("stop", "length") and 1 <= label.output_tokens <= 8
    assert label.mean_logprob < 0
    assert engine.device_name == cpu_name()


def test_imports_and_labels_where_ray_is_not_installed(model):
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("ray", "pyarrow", "boto3")))  # as if they weren't there
from PIL import Image
from adafv.engine import Engine, EngineOptions, Preparer
from adafv.engine.pruner import Pruner
from adafv.hardware import cpu_name
options = EngineOptions(max_new_tokens=1)
sample = Preparer.load({model!r}, options).prepare("a", Image.new("RGB", (64, 64)), "w1")
assert len(Engine.load({model!r}, options).label([sample])) == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)
