"""The comparison of strategies: what it counts, that it is repeatable, and what it prints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from adafv.bench import exam
from adafv.bench.bootstrap import Bootstrap
from adafv.bench.exam import Answered, Contender, Examiner, Results, Setting, hold, processes
from adafv.bench.examples import LabelledData, Scenes, Skipped
from adafv.bench.quality import Contest, Entry, contenders, entries, in_worlds, job_in, run, summary, table
from adafv.engine import Engine, EngineOptions
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.store.storage import Storage
from adafv.worlds.registry import WORLDS
from tests.tiny_clip import build_clip
from tests.tiny_models import Shape

JOB = JobOptions(input=("-",), output="-")
OPTIONS = EngineOptions(max_new_tokens=24, device="cpu")
RIVALS = contenders(OPTIONS, ["random", "adafv"], [0.5, 0.1])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def setting(rivals=RIVALS, batch_size=32) -> Setting:
    return Setting(JOB, tuple(rivals), batch_size, Storage())


@pytest.fixture(scope="module")
def results() -> Results:
    return hold(setting(), Scenes(2, 7000).examples())


def essence(results: Results):
    """All but times."""
    return results.points.tolist(), results.agrees.tolist(), results.kept_tokens.tolist(), results.clusters


def answered(types, cluster, points, agrees=(1, 1)):
    return Answered(types, cluster, list(points), list(agrees), [1.0, 3.0], [100, 10])


def test_the_answers_are_those_of_each_engine_alone(results):
    """What is shared, encoded images and batches above all, changes no answer."""
    examiner = Examiner(setting())
    chunk = list(Scenes(2, 7000).examples())
    fit, samples, _ = examiner._prepared(chunk)
    for column, rival in enumerate(RIVALS):
        labels = Engine.load(exam.resolve_model("testbed", Storage()), rival.options).label(samples)
        points = [example.score(label.answer) for example, label in zip(fit, labels, strict=True)]
        whole = ~(results.of_type("hallucinated") | results.of_type("recalled"))  # one row for each question
        assert points == results.points[whole, column].tolist()
        assert [label.kept_tokens for label in labels] == results.kept_tokens[whole, column].tolist()


def test_neither_batches_nor_processes_change_an_answer(results):
    assert essence(hold(setting(batch_size=5), Scenes(2, 7000).examples())) == essence(results)


@pytest.mark.slow
@pytest.mark.nightly
def test_processes_change_no_answer():
    """Two questions to a batch, so that either process gets some."""
    one, two = (hold(setting(RIVALS[:2], batch_size=2), Scenes(1, 7000).examples(), count) for count in (1, 2))
    assert essence(one) == essence(two)


def test_each_image_is_encoded_once(monkeypatch):
    examiner, encoded = Examiner(setting(RIVALS[:2])), []
    inner = examiner._memory._encode
    monkeypatch.setattr(examiner._memory, "_encode", lambda crops, also: (encoded.append(1), inner(crops, also))[1])
    chunk = list(Scenes(2, 7000).examples())
    examiner(chunk)
    assert len(encoded) == 2
    examiner(list(Scenes(1, 7500).examples()))
    examiner(chunk)
    assert len(encoded) == 5, "it forgets between chunks, so that memory is bounded"


def test_figures_of_answers_worked_out_by_hand():
    """Four questions on two scenes: unpruned right, right, wrong, right; pruned right, wrong, wrong, wrong."""
    results = Results(
        [
            answered(("all", "small", "kind"), "a", (1, 1)),
            answered(("all", "small", "kind"), "a", (1, 0), (1, 0)),
            answered(("all", "large", "main"), "b", (0, 0)),
            answered(("all", "large", "main"), "b", (1, 0), (1, 0)),
            answered(("caption",), "b", (1.0, 0.25), (1, 0)),
        ],
        [],
    )
    rivals = (Contender("none", replace(OPTIONS, strategy="none", keep=1.0)), Contender("x", OPTIONS))
    found = {(one.strategy, one.question_type): one for one in entries(results, rivals, seed=0)}
    assert [type_ for name, type_ in found if name == "x"] == ["all", "small", "large", "kind", "main", "caption"]
    assert found["none", "all"].accuracy == 0.75 and found["x", "all"].accuracy == 0.25
    one = found["x", "all"]
    assert (one.keep, one.n, one.agreement, one.select_ms, one.kept_tokens) == (0.1, 4, 0.5, 3.0, 10.0)
    assert (one.difference, one.difference_low, one.difference_high) == (-0.5, -0.5, -0.5)  # in either scene
    assert (one.low, one.high) == (0.0, 0.5)  # scene b alone, scene a alone
    assert found["x", "caption"].accuracy == 0.25 and found["x", "caption"].n == 1
    assert found["none", "all"].keep == 1.0 and found["none", "all"].agreement == 1.0
    assert "x" in table(list(found.values()), lambda type_: "right")


def test_more_hallucinated_is_worse():
    results = Results([answered(("hallucinated",), "a", (0.2, 0.5)), answered(("recalled",), "a", (0.5, 0.9))], [])
    rivals = (Contender("none", replace(OPTIONS, strategy="none", keep=1.0)), Contender("x", OPTIONS))
    found = {(one.strategy, one.question_type): one for one in entries(results, rivals, seed=0)}
    assert [found["x", type_].is_worse for type_ in ("hallucinated", "recalled")] == [True, False]
    assert "50.0 [50.0, 50.0]*" in table(list(found.values()), lambda type_: "share")
    source = Contest(source=Scenes(1, 0), model="testbed", entries=list(found.values()), skipped=[])
    others = [replace(one, strategy="y", accuracy=0.3) for (name, _), one in found.items() if name == "x"]
    lines = [line.split() for line in summary([replace(source, entries=[*source.entries, *others])]).splitlines()]
    assert [line[1:] for line in lines if line[:1] == ["x"]] == [
        ["-20.0;", "-20.0", "testbed"],
        ["0.0;", "0.0", "testbed"],
    ]


def test_over_worlds_each_strategy_has_its_mean_and_its_worst():
    """In b a strategy that is 20 points behind in a is 10 points ahead."""
    accuracy = {"testbed": {"none": 1.0, "x": 0.7, "y": 0.9}, "testbed-emerged": {"none": 0.5, "x": 0.4, "y": 0.3}}
    found = [
        Contest(
            source=Scenes(1, 0, WORLDS[world]),
            model=world,
            entries=[
                Entry(name, 0.1 if name != "none" else 1.0, "all", 9, value, 0, 1, 0, 0, 0, 1, 1, 1)
                for name, value in values.items()
            ],
            skipped=[],
        )
        for world, values in accuracy.items()
    ]
    x, y = summary(found).splitlines()[-2:]
    assert x.split() == ["x", "-10.0;", "-20.0", "testbed"]
    assert y.split() == ["y", "-5.0;", "-10.0", "testbed-emerged"]
    assert [(row["world"], row["model"]) for row in found[1].rows()] == [("testbed-emerged", "testbed-emerged")] * 3


def test_without_a_world_there_is_nothing_to_compare_in(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAFV_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"no world to compare in\nworld photo is skipped: .* make photo"):
        next(in_worlds(JOB, [WORLDS["photo"]], 1, ["random"], [0.1], 0))


def test_a_world_has_its_own_model_and_dtype():
    world = replace(WORLDS["photo"], dtype="bfloat16")
    photo = job_in(world, JOB)
    assert (photo.model, photo.engine.dtype) == ("testbed-photo", "bfloat16")
    assert job_in(world, JOB.changed(dtype="float32")).engine.dtype == "float32"
    assert job_in(WORLDS["testbed"], JOB).engine.dtype == "auto"


def test_intervals_are_of_scenes_not_of_questions(results):
    (one,) = [one for one in entries(results, RIVALS, 0) if (one.strategy, one.keep) == ("random", 0.1)][:1]
    chosen = results.of_type("all")
    other = Bootstrap(results.clusters, 0).mean(results.points[:, 2], chosen)
    assert (one.low, one.high) == (other.low, other.high)
    assert len(set(results.clusters)) == 2 and chosen.sum() > 20


def test_figures_are_repeatable(results):
    once, again = (entries(results, RIVALS, 3) for _ in range(2))
    assert once == again


def test_pruning_costs_what_it_must(results):
    """On the real testbed: more kept is better, and at random it costs."""
    accuracy = {
        (one.strategy, one.keep): one.accuracy for one in entries(results, RIVALS, 0) if one.question_type == "all"
    }
    assert accuracy["none", 1.0] > 0.8 > accuracy["random", 0.1]
    assert accuracy["random", 0.5] > accuracy["random", 0.1]
    assert np.allclose(results.agrees[:, 0], 1)


def test_skipped_rows_are_counted_by_error():
    skipped = [
        Skipped("r7", "image_corrupt", "truncated"),
        Skipped("r9", "image_corrupt", "other"),
        Skipped("r8", "bad_row", "x"),
    ]
    lines = Results([answered(("all",), "a", (1, 1))], skipped).skipped_lines()
    assert lines == [
        "skipped 1 rows: bad_row, such as 'r8': x",
        "skipped 2 rows: image_corrupt, such as 'r7': truncated",
    ]


def test_processes_are_for_the_testbed_on_cpus(monkeypatch):
    data = LabelledData(JOB, "answer", None, "vqa")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2})
    for there, expected in ((False, 3), (True, 1)):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert (processes(JOB, Scenes(1, 0)), processes(JOB, data)) == (expected, 1)
    assert processes(JOB.changed(device="cpu"), Scenes(1, 0)) == 3


def test_without_a_usable_row_there_is_nothing_to_say():
    with pytest.raises(UsageError, match="no row could be asked\nskipped 1 rows: image_missing, such as 'r7'"):
        hold(setting(), [Skipped("r7", "image_missing", "null")])


def test_a_model_that_is_not_there():
    with pytest.raises(UsageError, match="--model /nowhere can't be loaded"):
        hold(replace(setting(), job=replace(JOB, model="/nowhere")), Scenes(1, 0).examples())


def test_a_text_tower_is_for_those_that_read_it(tmp_path):
    tower = str(build_clip(tmp_path / "clip", Shape(hidden=128, layers=4, heads=4, image=48, patch=8)))
    without = contenders(OPTIONS, ["adafv", "cdpruner"], [0.1])
    rivals = contenders(OPTIONS, ["adafv", "cdpruner"], [0.1], tower)
    assert [one.options.text_tower for one in rivals] == [None, None, tower]
    plain, guided = (hold(setting(each), Scenes(1, 7000).examples()) for each in (without, rivals))
    assert (plain.points[:, :2] == guided.points[:, :2]).all()
    assert (plain.points[:, 2] != guided.points[:, 2]).any()  # a random tower misleads


def test_a_text_tower_that_is_of_no_use(tmp_path):
    with pytest.raises(UsageError, match="--text-tower is read by cdpruner, eadp only"):
        run(JOB, Scenes(1, 0), ["adafv"], [0.1], 0, "/nowhere")
    with pytest.raises(UsageError, match="--text-tower /nowhere can't be loaded"):
        run(JOB, Scenes(1, 0), ["cdpruner"], [0.1], 0, "/nowhere")


def test_the_unpruned_model_comes_first_and_once():
    assert [(one.name, one.options.keep) for one in RIVALS] == [
        ("none", 1.0), ("random", 0.5), ("random", 0.1), ("adafv", 0.5), ("adafv", 0.1),
    ]  # fmt: skip
    assert {one.options.max_new_tokens for one in RIVALS} == {24}
