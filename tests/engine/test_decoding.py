"""What decoding can be told: when to stop, what to leave out, what to begin with."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from adafv.engine import Engine, EngineOptions, Preparer, load_model
from adafv.engine.controls import Stops, _spellings, generation_config
from adafv.turn import Turn
from tests.engine.test_engine import crowd
from tests.models.conftest import picture


@pytest.fixture(scope="module")
def loaded(model):
    adapter, processing = load_model(model, EngineOptions())
    return adapter, processing, crowd(Preparer(processing, EngineOptions()), 9)


def labels_of(loaded, size: int = 9, **options):
    adapter, processing, samples = loaded
    engine = Engine(adapter, processing, EngineOptions(**{"max_new_tokens": 12, "keep": 0.15} | options))
    return [label for start in range(0, 9, size) for label in engine.label(samples[start : start + size])]


def test_without_options_the_config_is_the_checkpoints(loaded):
    adapter, *_ = loaded
    plain, given = adapter.model.generation_config, generation_config(adapter, EngineOptions())
    for name in ("repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "bad_words_ids"):
        assert getattr(given, name) == getattr(plain, name)


@pytest.mark.parametrize("size", [1, 4])
def test_an_answer_ends_before_the_first_text_that_stops(loaded, size):
    plain = labels_of(loaded)
    words = plain[0].answer.split()
    stop = [words[4], f"{words[2]} {words[3]}"]
    for label, free in zip(labels_of(loaded, size, stop=stop), plain, strict=True):
        places = [at for one in stop if (at := free.answer.find(one)) >= 0]
        assert label.answer == free.answer[: min(places, default=None)].rstrip()
        assert (label.finish_reason == "stop") == (bool(places) or free.finish_reason == "stop")
    stopped = labels_of(loaded, size, stop=stop)[0]
    assert stopped.answer == " ".join(words[:2]) and 4 <= stopped.output_tokens < 12


def test_rows_that_have_stopped_leave(loaded, spy):
    adapter, *_ = loaded
    words = labels_of(loaded)[0].answer.split()
    forward = spy(type(adapter), "forward")
    [label] = labels_of((adapter, loaded[1], loaded[2][:1]), stop=[words[3]])
    steps = [call.args[1].shape[1] for call in forward.call_args_list].count(1)
    assert steps == label.output_tokens - 1 < 11, "no step behind that token"


def test_stops_are_found_wherever_tokens_are_cut(loaded):
    stops = Stops(EngineOptions(stop=["w2 w3", "w9"]), loaded[1])
    ids = loaded[1].tokenizer("w1 w2 w3 w4 w9", add_special_tokens=False)["input_ids"]
    assert stops.length(ids) == 3 and stops.length(ids[:2]) is None and stops.length(ids[3:]) == 2
    assert stops.text(ids) == "w1"


@pytest.mark.parametrize("size", [1, 4])
def test_a_text_stops_an_answer_only_after_so_many_tokens(loaded, size):
    free = labels_of(loaded)
    # An answer without special tokens, which stand between words and aren't seen.
    row, words = next((i, w) for i, one in enumerate(free) if len(w := one.answer.split()) == one.output_tokens)
    place = next(i for i in range(4, 12) if words[i] not in words[4:i])
    label = labels_of(loaded, size, stop=[*{words[1], words[place]}], min_new_tokens=4)[row]
    end = next(i for i in range(4, 12) if words[i] in (words[1], words[place]))
    assert label.answer.split() == words[:end] and label.output_tokens == end + 1 and label.finish_reason == "stop"
    assert labels_of(loaded, size, stop=[*{words[1], words[place]}])[row].output_tokens == 1 + min(
        1, words.index(words[1])
    )


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 9), max_size=12),
    st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
    st.integers(0, 6),
)
def test_stops_count_behind_the_least_length(loaded, said, stop, least):
    ids = loaded[1].tokenizer(" ".join(f"w{n}" for n in said), add_special_tokens=False)["input_ids"]
    texts = [f"w{n}" for n in stop]
    stops = Stops(EngineOptions(stop=texts, **({"min_new_tokens": least} if least else {})), loaded[1])
    found = [place for place, n in enumerate(said) if place >= least and n in stop]
    assert stops.length(ids) == (found[0] + 1 if found else None)
    assert stops.text(ids) == " ".join(f"w{n}" for n in (said[: found[0]] if found else said))


def test_a_special_token_stops_an_answer(loaded):
    """It isn't in an answer's text; and it doesn't come before the least length."""
    [free] = [one for one in labels_of(loaded) if "ASSISTANT:" in one.answer.split()[:1]]
    tokenizer, adapter = copy.deepcopy(loaded[1].tokenizer), loaded[0]
    tokenizer.add_tokens(["ASSISTANT:"], special_tokens=True)
    processing = copy.copy(loaded[1])
    processing.tokenizer = tokenizer
    stopped = [one for one in labels_of((adapter, processing, loaded[2]), stop=["ASSISTANT:"]) if one.id == free.id]
    assert [(one.answer, one.finish_reason, one.output_tokens) for one in stopped] == [("", "stop", 1)]
    for label in labels_of((adapter, processing, loaded[2]), stop=["ASSISTANT:"], min_new_tokens=12):
        assert label.output_tokens == 12


def test_a_text_stops_answers_of_a_model_without_an_end_token(loaded, monkeypatch):
    monkeypatch.setattr(loaded[0].model, "generation_config", GenerationConfig())
    free = labels_of(loaded)[0].answer
    word = free.split()[3]
    stopped = labels_of(loaded, stop=[word])[0]
    assert (stopped.answer, stopped.finish_reason) == (free[: free.find(word)].rstrip(), "stop")


def test_a_stop_counts_behind_a_letter_of_which_the_least_length_has_a_part(loaded):
    """With tokens of bytes, as Llama 2 has them."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    core = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    processing = copy.copy(loaded[1])
    processing.tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    ids = processing.tokenizer("\U0001f600.x", add_special_tokens=False)["input_ids"]
    assert len(ids) == 6, "a letter of four bytes"
    for least in range(1, 5):
        stops = Stops(EngineOptions(stop=["."], min_new_tokens=least), processing)
        assert (stops.length(ids), stops.text(ids)) == (5, "\U0001f600"), least


def test_banned_words_are_in_no_answer(loaded):
    plain = labels_of(loaded)
    words = {word for label in plain for word in label.answer.split() if word.startswith("w")}
    banned = sorted(words)[:6]
    held = labels_of(loaded, banned_words=[banned[0].upper(), *banned[1:]])
    assert not any(word in label.answer.split() for label in held for word in banned)
    assert [label.answer for label in held] != [label.answer for label in plain]


def test_a_word_is_banned_wherever_it_begins(loaded):
    """With tokens as Llama 2's: one behind a space is another than one behind a quotation mark or a line break."""
    pieces = ["▁photo", "photo", "▁Photo", "Photo", "▁", "\n"]
    core = Tokenizer(models.Unigram([("<unk>", 0.0), *((piece, -1.0) for piece in pieces)], unk_id=0))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Replace("▁", " ")
    processing = copy.copy(loaded[1])
    processing.tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    banned = processing.tokenizer.batch_decode(_spellings(processing, ["photo"]))
    assert {"photo", "Photo", " photo", " Photo"} <= {*banned}


def test_of_several_tokens_only_the_last_is_kept_from_an_answer(loaded):
    """The first may stand, and so may the last behind another."""
    free = labels_of(loaded)
    # An answer without special tokens, which stand between words and aren't seen.
    row, words = next((i, w) for i, one in enumerate(free) if len(w := one.answer.split()) == one.output_tokens)
    pair = next(f"{a} {b}" for a, b in pairwise(words) if a[0] == b[0] == "w")
    others = labels_of(loaded, banned_words=[pair])
    first, plain = others.pop(row), [one for i, one in enumerate(free) if i != row]
    assert pair not in first.answer and pair.split()[0] in first.answer.split()
    assert [one.answer for one, free in zip(others, plain, strict=True) if pair not in free.answer] == [
        free.answer for free in plain if pair not in free.answer
    ]


def test_no_ngram_stands_twice(loaded):
    for label in labels_of(loaded, no_repeat_ngram=1, max_new_tokens=30):
        words = label.answer.split()
        assert len(words) == len(set(words))


def test_what_may_not_stand_in_a_row_may_begin_in_the_prefix(loaded):
    def answers(prefix: str, **options) -> list[list[str]]:
        begun = crowd(Preparer(loaded[1], EngineOptions(answer_prefix=prefix)), 9)
        labels = labels_of((*loaded[:2], begun), answer_prefix=prefix, **options)
        return [label.answer.split() for label in labels]

    row, word = next((row, said[2]) for row, said in enumerate(answers("w1 w2")) if said[2][0] == "w")
    assert answers("w1 w2", banned_words=[f"w2 {word}"])[row][2] != word
    prefix = "w1 w163 w168 w102 w151"
    assert any(len(said) > len({*said}) for said in answers(prefix, max_new_tokens=1)), "one is repeated"
    for said in answers(prefix, no_repeat_ngram=1):
        assert len(said) == len({*said})


def test_a_penalty_and_a_least_length(loaded):
    plain = labels_of(loaded)
    assert [one.answer for one in labels_of(loaded, repetition_penalty=3.0)] != [one.answer for one in plain]
    assert [one.answer for one in labels_of(loaded, repetition_penalty=1.0)] == [one.answer for one in plain]
    ended = min(label.output_tokens for label in labels_of(loaded, temperature=3.0, max_new_tokens=60))
    assert ended < 60, "some answer ends by itself"
    assert (
        min(one.output_tokens for one in labels_of(loaded, temperature=3.0, max_new_tokens=60, min_new_tokens=60)) == 60
    )


def test_of_one_token_the_first_is_drawn(loaded):
    greedy = labels_of(loaded)
    assert [one.answer for one in labels_of(loaded, temperature=5.0, top_k=1)] == [one.answer for one in greedy]
    assert [one.answer for one in labels_of(loaded, temperature=5.0, top_k=40)] != [one.answer for one in greedy]


@pytest.mark.parametrize("size", [1, 4, 9])
def test_samples_are_the_answers_of_seeds_one_after_the_other(loaded, size):
    options = {"temperature": 1.5, "top_p": 0.9, "stop": ["w1"]}
    single = [labels_of(loaded, seed=seed, **options) for seed in (7, 8, 9)]
    for row, label in enumerate(labels_of(loaded, size, seed=7, samples=3, **options)):
        alone = [labels[row] for labels in single]
        assert [one.answer for one in label.samples] == [one.answer for one in alone]
        assert [one.mean_logprob for one in label.samples] == pytest.approx([one.mean_logprob for one in alone])
        best = max(alone, key=lambda one: one.mean_logprob)
        assert (label.answer, label.finish_reason, label.flags) == (best.answer, best.finish_reason, best.flags)
        assert label.mean_logprob == max(one.mean_logprob for one in label.samples)
        assert label.output_tokens == sum(one.output_tokens for one in label.samples)
        assert [one.output_tokens for one in label.samples] == [one.output_tokens for one in alone]
    assert any(len({one.answer for one in label.samples}) == 3 for label in labels_of(loaded, samples=3, **options))


def test_second_looks_and_audits_sample_as_well(loaded):
    options = {"temperature": 1.5, "samples": 2}
    wide = labels_of(loaded, **options, strategy="none")
    for label, other in zip(
        labels_of(loaded, **options, escalate=1.0, escalate_below=0.0, audit=1.0), wide, strict=True
    ):
        assert label.looks == 2 and [one.answer for one in label.samples] == [one.answer for one in other.samples]
        assert label.audit_answer == label.answer == other.answer


def test_without_samples_there_are_none(loaded):
    assert {label.samples for label in labels_of(loaded, temperature=1.5)} == {None}


def test_an_answer_begins_as_it_is_told(loaded):
    adapter, processing, _ = loaded
    options = EngineOptions(answer_prefix="w1 w2", max_new_tokens=5, keep=0.15)
    preparer = Preparer(processing, options)
    sample = preparer.prepare("a", picture((64, 64)), "w7 w8")
    plain = Preparer(processing, EngineOptions()).prepare("a", picture((64, 64)), "w7 w8")
    prefix = processing.answer_ids("w1 w2")
    assert (
        sample.input_ids.tolist() == [*plain.input_ids, *prefix]
        and sample.question_places.tolist() == plain.question_places.tolist()
    )
    [label] = Engine(adapter, processing, options).label([sample])
    assert label.answer.startswith("w1 w2 ") and len(label.answer.split()) == 2 + label.output_tokens
    choices = EngineOptions(answer_prefix="w1 w2", choices=["w3", "w4"])
    [label] = Engine(adapter, processing, choices).label(
        [Preparer(processing, choices).prepare("a", picture((64, 64)), "w7")]
    )
    assert label.answer in ("w3", "w4")


def test_nothing_said_after_the_prefix_is_flagged(loaded):
    samples = crowd(Preparer(loaded[1], EngineOptions(answer_prefix="w1 w2")), 9)
    begun = (*loaded[:2], samples)
    word = labels_of(begun, answer_prefix="w1 w2")[0].answer.split()[2]
    label = labels_of(begun, answer_prefix="w1 w2", stop=[word])[0]
    assert (label.answer, label.flags) == ("w1 w2", ("empty",))


def test_a_system_turn_stands_first(loaded):
    _, processing, _ = loaded
    preparer = Preparer(processing, EngineOptions())
    turns = (Turn("system", ("w5 w6",)), Turn.asking("w7"))
    sample = preparer.converse("a", [picture((64, 64))], turns)
    text = processing.tokenizer.decode(sample.input_ids)
    assert text.index("w5 w6") < text.index("USER:") < text.index("w7")
    asked = [int(sample.input_ids[place]) for place in sample.question_places]
    assert processing.tokenizer.decode(asked) == "w7" and preparer.takes_system
