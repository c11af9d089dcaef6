"""The vLLM back end against transformers' own `generate` and against our loop. What needs vLLM is skipped where it is
not installed; `make test-vllm` installs it, for CPUs, into an environment of its own.
"""

from __future__ import annotations

import copy
import gc
import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, LlamaConfig, Qwen2Config

from adafv.embedded import embedded_model
from adafv.engine import Engine, EngineOptions, Preparer, is_out_of_memory, vllm
from adafv.engine.generation import Generator
from adafv.engine.grammar import Grammar
from adafv.engine.vllm import VllmGenerator
from adafv.models import load_adapter, load_processing
from adafv.turn import Turn
from tests import tiny_qwen
from tests.engine.answers import STEPS, batch, check_draws, check_stock, prompts_for
from tests.engine.test_grammar import SCHEMAS
from tests.models.conftest import picture
from tests.tiny_models import Shape, build

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; make test-vllm installs it")

SHAPE = Shape(hidden=128, layers=3)  # heads of 32 channels: vLLM's kernels for CPUs know no smaller ones


def options(**changes) -> EngineOptions:
    return EngineOptions(**{"max_new_tokens": STEPS, "backend": "vllm", "device": "cpu"} | changes)


def front(path: str):
    """The adapter that the back end gets: without the language model."""
    return load_adapter(path, load_processing(path), torch.device("cpu"), torch.float32, language_model=False)


def whole(path: str):
    return load_adapter(path, load_processing(path), torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(build(tmp_path_factory.mktemp("model"), SHAPE))


@pytest.fixture(scope="module")
def generator(model):
    yield VllmGenerator(model, front(model), options())
    gc.collect()  # vLLM ends what it has begun when its engine is forgotten, for the next one to begin


@pytest.fixture(scope="module")
def stock(model):
    return whole(model)


@pytest.fixture
def config(generator, stock):
    """The generation configs of both, to be changed together; put back after."""
    adapters = [generator._adapter, stock]
    before = [adapter.model.generation_config for adapter in adapters]
    together = type(before[0])()
    for adapter in adapters:
        adapter.model.generation_config = together
    yield together
    for adapter, kept in zip(adapters, before, strict=True):
        adapter.model.generation_config = kept


@pytest.fixture(scope="module")
def prompts(stock):
    return prompts_for(stock)


def ask(generator, prompts, seeds=None, on_prefilled=lambda: None, on_step=lambda: None):
    return generator(batch(prompts), seeds or [0] * len(prompts), on_prefilled, on_step)


@needs_vllm
@pytest.mark.slow
class TestWithVllm:
    def test_equals_stock(self, generator, stock, prompts, config):
        answers = ask(generator.with_options(options()), prompts)
        check_stock(answers, stock, prompts, tolerance=1e-4)
        assert {answer.finish_reason for answer in answers} == {"length"}

    def test_answers_end_at_an_end_token(self, generator, stock, prompts, config):
        free = ask(generator.with_options(options()), prompts)
        config.eos_token_id, config.pad_token_id = [free[0].ids[0], free[1].ids[5]], 0
        answers = ask(generator.with_options(options()), prompts)
        check_stock(answers, stock, prompts, tolerance=1e-4)
        assert {1, 6} <= {len(answer.ids) for answer in answers}, "some end early"
        for answer in answers:
            assert (answer.finish_reason == "stop") == (answer.ids[-1] in config.eos_token_id)

    def test_an_end_token_at_the_last_step_is_a_stop(self, generator, prompts, config):
        free = ask(generator.with_options(options(max_new_tokens=3)), prompts[:1])
        config.eos_token_id = free[0].ids[2]
        (answer,) = ask(generator.with_options(options(max_new_tokens=3)), prompts[:1])
        assert (answer.ids, answer.finish_reason) == (free[0].ids, "stop")

    def test_neighbours_change_nothing(self, generator, prompts):
        together = ask(generator, prompts)
        for prompt, answer in zip(prompts, together, strict=True):
            (alone,) = ask(generator, [prompt])
            assert alone.ids == answer.ids
            assert alone.mean_logprob == pytest.approx(answer.mean_logprob, abs=1e-4)

    def test_a_sample_draws_the_same_in_every_batch(self, generator, prompts, config):
        sampling = generator.with_options(options(temperature=1.5, top_p=0.9))
        seeds = [-1, 2**63 - 1, -(2**63), 3, 4, 5, 6, 7]
        together = ask(sampling, prompts, seeds)
        for prompt, seed, answer in zip(prompts, seeds, together, strict=True):
            assert ask(sampling, [prompt], [seed])[0].ids == answer.ids
        others = ask(sampling, prompts, [seed // 2 + 100 for seed in seeds])
        assert [answer.ids for answer in others] != [answer.ids for answer in together]

    def test_tokens_are_drawn_as_often_as_they_are_probable(self, generator, stock, prompts, config):
        """First tokens of one prompt; those that `top_p` leaves out never come, and log-probabilities are unwarped."""
        draws, temperature, top_p = 1000, 0.7, 0.6
        sampling = generator.with_options(options(max_new_tokens=1, temperature=temperature, top_p=top_p))
        answers = ask(sampling, [prompts[0]] * draws, list(range(draws)))
        check_draws(answers, stock, prompts[0], temperature, top_p, most=0.07)  # four standard deviations

    def test_each_step_is_reported_and_the_end_of_prefill_once(self, generator, prompts, config):
        seen: list[str] = []
        ask(
            generator.with_options(options()),
            prompts,
            on_prefilled=lambda: seen.append("prefilled"),
            on_step=lambda: seen.append("step"),
        )
        assert seen.count("prefilled") == 1 and seen.count("step") >= STEPS
        assert seen.index("prefilled") <= 2, "all prompts fit into the first step"

    def test_after_too_little_memory_the_next_batch_is_answered(self, generator, prompts, monkeypatch):
        before = ask(generator, prompts)
        runner = generator._engine.model_executor.driver_worker.worker.model_runner
        forward, calls = runner.model.forward, []

        def fail(*arguments, **more):
            calls.append(1)
            if len(calls) == 3:
                raise torch.OutOfMemoryError("no more")
            return forward(*arguments, **more)

        monkeypatch.setattr(runner.model, "forward", fail)
        with pytest.raises(Exception) as raised:
            ask(generator, prompts)
        assert is_out_of_memory(raised.value)
        assert ask(generator, prompts[:4]) == before[:4]
        assert ask(generator, prompts) == before

    def test_a_checkpoint_that_defaults_to_sampling_does_not_sample_here(self, generator, prompts, config):
        plain = ask(generator.with_options(options()), prompts)
        config.do_sample, config.top_k, config.temperature = True, 7, 0.3
        assert ask(generator.with_options(options()), prompts) == plain

    def test_the_language_model_is_in_memory_once(self, generator):
        ours = generator._adapter.model
        assert not [name for name, _ in ours.named_modules() if "language_model.layers.0" in name or "lm_head" in name]


def renamed(path: Path) -> Path:
    """The checkpoint with weights named as transformers names them in memory, in two files."""
    from transformers import LlavaForConditionalGeneration

    names = LlavaForConditionalGeneration.from_pretrained(path).state_dict()
    (path / "model.safetensors").unlink()
    save_file({name: weight.contiguous() for name, weight in names.items()}, path / "model.safetensors")
    assert "model.language_model.embed_tokens.weight" in load_file(path / "model.safetensors")
    return path


@needs_vllm
@pytest.mark.slow
def test_newer_names_of_weights_are_known_and_prompts_wait_for_room(tmp_path, monkeypatch):
    """In the room of two whole contexts vLLM reads seven of the eight short prompts at a time."""
    monkeypatch.setattr("adafv.engine.vllm._CPU_CONTEXTS", 2)
    path = str(renamed(build(tmp_path, Shape(family="llava", hidden=128, seed=3))))
    adapter, steps, prefilled = whole(path), [], []
    generator = VllmGenerator(path, front(path), options())
    adapter.model.generation_config.eos_token_id = generator._adapter.model.generation_config.eos_token_id = None
    answers = ask(
        generator.with_options(options()),
        prompts_for(adapter),
        on_prefilled=lambda: prefilled.append(len(steps)),
        on_step=lambda: steps.append(1),
    )
    check_stock(answers, adapter, prompts_for(adapter), tolerance=1e-4)
    assert len(steps) > 1.5 * STEPS
    assert len(prefilled) == 1 and prefilled[0] >= STEPS, "the eighth began when others had ended"


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("positions", ["compact", "kept"])
def test_labels_are_those_of_the_other_back_end(positions):
    """The testbed's model, whose head is its embeddings; through the engine, with pruning, in batches."""
    path = str(embedded_model("testbed"))
    labels = {}
    for backend in ("transformers", "vllm"):
        chosen = options(backend=backend, keep=0.2, positions=positions, escalate=1.0, escalate_below=-0.022)
        preparer, engine = Preparer.load(path, chosen), Engine.load(path, chosen)
        engine.try_out()
        samples = [preparer.prepare(f"id-{i}", picture((60 + 9 * i, 90), i), "what is left of it ?") for i in range(9)]
        labels[backend] = engine.label(samples[:5]) + engine.label(samples[5:])
    for one, other in zip(*labels.values(), strict=True):
        assert one.answer == other.answer and one.finish_reason == other.finish_reason
        assert (one.looks, one.first_answer) == (other.looks, other.first_answer)
        assert one.kept_indices.tolist() == other.kept_indices.tolist()
        assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-3)
        assert (one.prompt_tokens, one.output_tokens) == (other.prompt_tokens, other.output_tokens)
        assert other.prefill_ms > 0 and other.decode_ms > 0
    assert {label.looks for label in labels["vllm"]} == {1, 2}


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True], ids=["weights as saved today", "as published"])
def test_kept_tokens_of_qwen_stand_where_they_stood(tmp_path, published):
    """Unpruned, pruned and asked again; several images, and none; in batches."""
    path = tiny_qwen.build(tmp_path, tiny_qwen.QwenShape(hidden=128))
    if published:
        weights = load_file(path / "model.safetensors")
        names = {name: name.replace("model.language_model.", "model.") for name in weights}
        save_file(
            {names[name]: weight for name, weight in weights.items()}, path / "model.safetensors", {"format": "pt"}
        )
    labels = {}
    for backend in ("transformers", "vllm"):
        found = []
        for changes in ({"strategy": "none"}, {"keep": 0.2}, {"keep": 0.2, "escalate": 1.0, "escalate_below": 0.0}):
            chosen = options(backend=backend, **changes)
            preparer, engine = Preparer.load(str(path), chosen), Engine.load(str(path), chosen)
            engine.try_out()
            sizes = [(64, 64), (30, 61), (8, 48), (97, 33)]
            samples = [preparer.prepare(str(i), picture(size, i), f"w{i} w7") for i, size in enumerate(sizes)]
            both = [picture((45, 64)), picture((64, 30))]
            samples.append(preparer.converse("two", both, (Turn("user", ("w1", None, "w2", None, "w3")),)))
            samples.append(preparer.converse("none", [], (Turn.asking("w4 w5", 0),)))
            found += engine.label(samples[:4]) + engine.label(samples[4:])
            del engine
            gc.collect()
        labels[backend] = found
    for one, other in zip(*labels.values(), strict=True):
        assert (one.answer, one.finish_reason, one.looks) == (other.answer, other.finish_reason, other.looks)
        assert one.kept_indices.tolist() == other.kept_indices.tolist()
        assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)
    assert {label.looks for label in labels["vllm"]} == {1, 2}


@needs_vllm
def test_ids_say_where_tokens_stand():
    """Text, an image of which a few tokens are kept, the first one alone, and text behind its unpruned extent."""
    from adafv.engine.vllm_positions import ids_of, positions_of

    text = [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    for image in ([[3, 3, 3], [3, 5, 40], [3, 9, 3]], [[3], [3], [3]], [[3, 3], [3, 3], [3, 4]]):
        places = torch.tensor([[*a, *b, 44, 45] for a, b in zip(text, image, strict=True)])
        found, delta = positions_of(ids_of(places, 46))
        assert torch.equal(found, places) and delta == 46 - places.shape[1]
    with pytest.raises(ValueError, match="can't be told these positions"):
        ids_of(places, 47)
    assert positions_of([*range(9)])[1] == 0, "vLLM's own trial prompts"


def test_positions_that_vllm_cannot_keep_are_refused():
    """Where they are scaled; on a GPU those of models that vLLM compiles for one dimension."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    scaled = LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})
    for text, device in ((scaled, cpu), (LlamaConfig(), gpu)):
        with pytest.raises(
            ValueError, match=r"can't keep the positions of a llama language model with (linear|default)"
        ):
            vllm._in_three_dimensions(text, device)
    for text, device in ((LlamaConfig(), cpu), (Qwen2Config(), gpu)):
        assert vllm._in_three_dimensions(text, device)["mrope_section"][1:] == [0, 0]


@needs_vllm
def test_heads_that_vllm_has_no_kernels_for_are_refused(tmp_path):
    path = str(build(tmp_path, Shape(hidden=64)))
    with pytest.raises(ValueError, match="attention heads have 16 channels; on a CPU vLLM can only do 32, 64"):
        VllmGenerator(path, front(path), options())


SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "dark blue"]}, "name": {"type": "string", "maxLength": 5}},
    "required": ["colour", "name"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A model that writes letter by letter, its processing, and vLLM with it, ready for scores to be changed."""
    path = str(build(tmp_path_factory.mktemp("letters"), Shape(hidden=128, layers=3, letters=True)))
    processing = load_processing(path)
    yield whole(path), processing, VllmGenerator(path, front(path), options(repetition_penalty=1.1), processing)
    gc.collect()


def both(letters, **asked):
    """Both back ends, decoding by the same options."""
    adapter, processing, generator = letters
    told = options(**asked)
    grammar = Grammar(processing, told, [2], adapter.vocabulary) if told.has_grammar else None
    other = copy.copy(generator)
    other.grammar = grammar
    return Generator(adapter, told, processing, grammar), other.with_options(told)


@needs_vllm
@pytest.mark.slow
class TestControls:
    @pytest.mark.parametrize(
        "asked",
        [
            {"repetition_penalty": 1.7, "no_repeat_ngram": 2},
            {"banned_words": ["a", "Q", "xy"], "min_new_tokens": 9},
            {"stop": [*"abcdefgh"], "min_new_tokens": 4},
            {"repetition_penalty": 1.3, "stop": [*"xyz012"], "answer_prefix": "x1"},
            {"schema": SCHEMA, "max_new_tokens": 60},
            {"regex": r"[a-c]{3}/\d", "repetition_penalty": 1.3},
        ],
        ids=lambda asked: "+".join(asked),
    )
    def test_are_those_of_the_other_back_end(self, letters, asked):
        prompts, ids = prompts_for(letters[0]), [torch.arange(9 + row, 20 + row).numpy() for row in range(8)]
        ours, theirs = both(letters, **asked)
        nothing = lambda: None  # noqa: E731
        expected = ours(batch(prompts), [0] * 8, nothing, nothing, ids)
        for size in (8, 3):
            found = []
            for start in range(0, 8, size):
                some = slice(start, start + size)
                found += theirs(batch(prompts[some]), [0] * len(prompts[some]), nothing, nothing, ids[some])
            for one, other in zip(found, expected, strict=True):
                assert (one.ids, one.finish_reason) == (other.ids, other.finish_reason)
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)

    def test_are_what_a_checkpoint_asks_for(self, letters):
        asked = {"repetition_penalty": 1.5, "suppress_tokens": [*range(11, 60)], "eos_token_id": [2, 90, 91, 92]}
        adapters = [letters[0], letters[2]._adapter]
        before = [adapter.model.generation_config for adapter in adapters]
        for adapter in adapters:
            adapter.model.generation_config = GenerationConfig(**asked)
        try:
            self.test_are_those_of_the_other_back_end(letters, {"no_repeat_ngram": 3})
        finally:
            for adapter, kept in zip(adapters, before, strict=True):
                adapter.model.generation_config = kept

    def test_several_answers_are_those_of_their_seeds(self, letters):
        prompts = prompts_for(letters[0])[:3]
        _, theirs = both(letters, temperature=1.5, stop=[*"abc"])
        together = ask(theirs, prompts, [7, 8, 17, 18, 27, 28])
        single = [ask(theirs, prompts, [first, first + 10, first + 20]) for first in (7, 8)]
        for place, answer in enumerate(together):
            assert answer.ids == single[place % 2][place // 2].ids
        assert len({tuple(answer.ids) for answer in together}) == 6

    def test_random_schemas_validate(self, letters):
        prompts = prompts_for(letters[0])

        @settings(max_examples=8)
        @given(SCHEMAS, st.sampled_from([0.0, 1.5]), st.sampled_from([1, 3, 8]))
        def check(schema, temperature, size):
            _, theirs = both(letters, max_new_tokens=90, schema=schema, temperature=temperature)
            for answer in ask(theirs, prompts[:size], [*range(size)]):
                text, fulfilled = theirs.grammar.text(answer.ids)
                assert fulfilled or answer.finish_reason == "length"
                if fulfilled:
                    jsonschema.validate(json.loads(text), schema)

        check()

    def test_labels_are_those_of_the_other_back_end(self, letters):
        """Through the engine, with second looks, whose answers are constrained as well."""
        adapter, processing, _ = letters
        labels = []
        for generator in both(letters, schema=SCHEMA, max_new_tokens=60):
            asked = {"schema": SCHEMA, "max_new_tokens": 60, "keep": 0.2, "escalate": 1.0, "escalate_below": 0.0}
            chosen = options(**asked, positions="compact")
            engine, preparer = Engine(adapter, processing, chosen, generator=generator), Preparer(processing, chosen)
            engine.try_out()
            labels.append(engine.label([preparer.prepare(f"{i}", picture((64, 60), i), f"w{i}") for i in range(4)]))
        for one, other in zip(*labels, strict=True):
            assert (one.answer, one.error, one.first_answer) == (other.answer, other.error, other.first_answer)
            jsonschema.validate(json.loads(one.answer), SCHEMA)


def test_controls_are_refused_where_vllm_has_several_processes(model):
    for asked, adapter in (({"repetition_penalty": 1.5}, front(model)), ({}, front(model))):
        adapter.model.generation_config.suppress_tokens = None if asked else [3]
        with pytest.raises(ValueError, match="give tensor_parallel 1"):
            VllmGenerator(model, adapter, options(tensor_parallel=2, **asked))


@needs_vllm
def test_a_vllm_for_another_device_is_refused():
    from adafv.engine.vllm import _check_device

    with pytest.raises(ValueError, match="installed is for cpu, and the device is cuda:0"):
        _check_device(torch.device("cuda:0"), 1)


def test_where_vllm_is_not_installed_that_is_said(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match="needs vLLM, which isn't installed"):
        VllmGenerator(model, front(model), options())


@pytest.fixture
def stub(monkeypatch):
    """Modules that stand for vLLM on a machine with four GPUs; its engine is what it is given."""
    names = ("vllm", "vllm.platforms", "vllm.model_executor", "vllm.model_executor.model_loader")
    modules = {name: ModuleType(name) for name in (*names, "vllm.model_executor.model_loader.default_loader")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    modules["vllm"].EngineArgs = SimpleNamespace
    modules["vllm"].LLMEngine = SimpleNamespace(from_engine_args=lambda given: given)
    modules["vllm.platforms"].current_platform = SimpleNamespace(device_type="cuda")
    modules["vllm.model_executor.model_loader"].register_model_loader = lambda name: lambda loader: loader
    modules["vllm.model_executor.model_loader.default_loader"].DefaultModelLoader = object
    monkeypatch.delitem(sys.modules, "adafv.engine.vllm_weights", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8, 10))
    yield
    sys.modules.pop("adafv.engine.vllm_weights", None)


def start(path: str, gpus: int):
    device = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16)
    return vllm._start(path, device, 0.5, options(tensor_parallel=gpus), change_scores=False)


def test_a_language_model_is_spread_over_gpus(model, stub):
    given = start(model, 4)
    assert (given.tensor_parallel_size, given.distributed_executor_backend) == (4, "mp")
    module, _, name = given.worker_extension_cls.rpartition(".")
    assert hasattr(import_module(module), name) and given.gpu_memory_utilization == pytest.approx(0.4)
    alone = start(model, 1)
    assert not hasattr(alone, "tensor_parallel_size") and not hasattr(alone, "worker_extension_cls")
    with pytest.raises(ValueError, match="tensor_parallel is 8, and of GPUs this process sees 4"):
        start(model, 8)


class Scripted:
    """Stands for vLLM's engine: an answer of two tokens, of which the model is the surer the longer the prompt is."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self._waiting: dict[str, int] = {}

    def add_request(self, name, prompt, sampling) -> None:
        self._waiting[name] = len(prompt)

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting)

    def step(self):
        self.batches.append(sorted(self._waiting))
        outputs = [
            SimpleNamespace(
                token_ids=[7, 2], finish_reason="stop", logprobs=[{7: self._chosen(count)}, {2: self._chosen(count)}]
            )
            for count in self._waiting.values()
        ]
        names, self._waiting = [*self._waiting], {}
        return [SimpleNamespace(request_id=name, outputs=[each]) for name, each in zip(names, outputs, strict=True)]

    @staticmethod
    def _chosen(count: int):
        return SimpleNamespace(logprob=-1 / count)


def test_unsure_answers_are_asked_again_in_a_batch_of_their_own(model, stub, monkeypatch):
    for name, parts in {
        "vllm.inputs": {},
        "vllm.inputs.engine": {"embeds_input": lambda embeds: embeds},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(DELTA=0)},
    }.items():
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update(parts)
    sys.modules["vllm"].SamplingParams = SimpleNamespace
    scripted = Scripted()
    monkeypatch.setattr(vllm, "_start", lambda *given: scripted)
    chosen = options(keep=0.1, escalate=1.0, escalate_below=-1 / 20)
    preparer, engine = Preparer.load(model, chosen), Engine.load(model, chosen)
    words = [1, 30, 2, 40]  # with eight visual tokens, more or fewer than twenty in all
    samples = [preparer.prepare(str(n), picture((64, 64), n), " ".join(["w1"] * n)) for n in words]
    labels = engine.label(samples)
    assert scripted.batches == [["0", "1", "2", "3"], ["0", "1"]]
    assert [label.looks for label in labels] == [2, 1, 2, 1]
    for label in labels:
        assert label.confidence == pytest.approx(-1 / label.prompt_tokens)
        assert label.keep == (1.0 if label.looks == 2 else 0.1)
