"""Too little memory: batches are halved, nothing is lost, and a giant doesn't slow down those that follow."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch

from adafv.engine import Engine, EngineOptions, Preparer, breaks_device, is_out_of_memory
from adafv.engine.faults import BatchSplitter
from tests.models.conftest import picture
from tests.tiny_models import build


def allocator(capacity, sizes, calls):
    """Labels numbers, each of which takes as much memory as `sizes` says."""

    def label(part):
        calls.append(len(part))
        if sum(sizes.get(number, 1) for number in part) > capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return [f"label {number}" for number in part]

    return label


def test_a_batch_that_does_not_fit_is_halved_and_the_size_is_kept():
    splitter, calls = BatchSplitter(), []
    label = allocator(3, {}, calls)
    assert splitter.label(range(10), label) == [f"label {number}" for number in range(10)]
    assert calls == [10, 5, 2, 2, 2, 2, 2]
    calls.clear()
    assert len(splitter.label(range(5), label)) == 5
    assert calls == [2, 2, 1]


def test_a_limit_grows_again_and_goes_back_to_what_fitted():
    """Thirty fit: from 100 it takes two halvings; 25 become 38, which is too many; larger parts are tried ever less."""
    splitter, calls = BatchSplitter(), []
    splitter.label(range(100), allocator(30, {}, calls))
    assert calls == [100, 50, *[25] * 4]
    for _ in range(100):
        splitter.label(range(100), allocator(30, {}, calls))
    tries = [place for place, size in enumerate(calls) if size == 38]
    assert set(calls) == {100, 50, 38, 25} and 3 <= len(tries) <= 5
    waits = [after - before for before, after in itertools.pairwise(tries)]
    assert all(after > 1.5 * before for before, after in itertools.pairwise(waits))
    splitter.label(range(20000), allocator(60, {}, calls := []))
    assert max(calls) > 30, "what others held of the memory is free again"


def test_a_sample_that_does_not_fit_alone_is_the_callers_business_and_changes_nothing():
    splitter, calls = BatchSplitter(), []
    splitter.limit = 8
    with pytest.raises(torch.OutOfMemoryError):
        splitter.label(range(8), allocator(16, {5: 99}, calls))
    assert splitter.limit == 8
    splitter.label(range(100), allocator(16, {}, calls := []))
    assert 12 in calls[:9], "a larger one is tried as soon as ever"


def test_samples_that_do_not_fit_alone_may_be_left_out():
    misfits = []
    labels = BatchSplitter().label(range(6), allocator(4, {1: 99, 5: 99}, []), misfits)
    assert (labels, misfits) == ([f"label {number}" for number in (0, 2, 3, 4)], [1, 5])


def test_other_errors_pass_through():
    def label(part):
        raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        BatchSplitter().label(range(4), label)


def test_which_errors_mean_what():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: not enough memory"))
    assert is_out_of_memory(RuntimeError("could not create a primitive")), "oneDNN's way to say so"
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))
    assert breaks_device(torch.AcceleratorError("CUDA error: device-side assert triggered"))
    assert breaks_device(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"))
    assert breaks_device(RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"))
    assert not breaks_device(torch.OutOfMemoryError("CUDA out of memory"))
    assert not breaks_device(RuntimeError("shapes differ"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(build(tmp_path_factory.mktemp("model")))


def test_the_engine_labels_in_parts_what_its_allocator_refuses_at_once(model, monkeypatch):
    """The language model's input of more than 3 samples doesn't fit; the labels are those of a device where it does."""
    options = EngineOptions(keep=0.2, max_new_tokens=4)
    preparer = Preparer.load(model, options)
    samples = [preparer.prepare(str(i), picture((64, 64), i), f"w{i}") for i in range(8)]
    roomy = Engine.load(model, options).label(samples)
    engine = Engine.load(model, options)
    assemble = Engine._assemble

    def assemble_in_little_memory(self, part, *rest, **more):
        if len(part) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return assemble(self, part, *rest, **more)

    monkeypatch.setattr(Engine, "_assemble", assemble_in_little_memory)
    tight = engine.label(samples)
    assert [(label.id, label.answer, label.kept_indices.tolist()) for label in tight] == [
        (label.id, label.answer, label.kept_indices.tolist()) for label in roomy
    ]
    assert {label.batch_size for label in tight} == {2} and {label.batch_size for label in roomy} == {8}


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mapped memory on Linux only")
def test_memory_that_really_runs_out(model):
    """A process that may take 8 MB more than it has: 700 samples don't fit at once, and all are labelled. With plain
    layers: oneDNN makes new kernels for each shape, for which so little leaves no room, however small the batch.
    """
    code = f"""if True:
        import resource
        import adafv.onednn
        adafv.onednn.is_packable = lambda matrix: False
        from adafv.engine import Engine, EngineOptions, Preparer
        from tests.models.conftest import picture
        options = EngineOptions(keep=0.2, max_new_tokens=2)
        preparer, engine = Preparer.load({model!r}, options), Engine.load({model!r}, options)
        samples = [preparer.prepare(str(i), picture((64, 64), i % 5), f"w{{i % 200}}") for i in range(700)]
        engine.label(samples[:4])
        [used] = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")]
        resource.setrlimit(resource.RLIMIT_DATA, ((used + 8 * 1024) * 1024, -1))
        labels = engine.label(samples)
        assert [label.id for label in labels] == [sample.id for sample in samples]
        print(max(label.batch_size for label in labels))
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) < 700


def test_progress_is_reported_for_each_image_prompt_and_token(model):
    options = EngineOptions(keep=0.2, max_new_tokens=4)
    preparer, engine = Preparer.load(model, options), Engine.load(model, options)
    questions = ("w1", "w2", " ".join(["w3"] * 30))  # the last is too long to be read with the others
    samples = [preparer.prepare(str(i), picture((64, 64), i), question) for i, question in enumerate(questions)]
    steps = []
    labels = engine.label(samples, on_progress=lambda: steps.append(1))
    assert len(steps) == 3 + 2 + max(label.output_tokens for label in labels)


def test_try_out_asks_one_token_and_leaves_nothing_behind(model, monkeypatch):
    engine = Engine.load(model, EngineOptions(keep=0.2, max_new_tokens=4))
    engine.try_out()
    monkeypatch.setattr(type(engine._adapter), "encode", lambda self, crops, **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.try_out()
