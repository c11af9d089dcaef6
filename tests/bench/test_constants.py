"""The choice of constants: the largest sum of mean and worst lead, and no look at the world that judges."""

from __future__ import annotations

import json

import numpy as np
import pytest

from adafv.bench import constants
from adafv.bench.command import main
from adafv.bench.constants import MEASURES, RIVALS, SPACE, Trial, choose
from adafv.pruning.adafv_plus import Constants


def trial(*leads: float) -> Trial:
    """One budget at which each set leads by so much, in every measure that there is."""
    sets = np.full((1, len(SPACE), len(MEASURES)), 50.0)
    sets[0, : len(leads)] += np.array(leads)[:, None]
    sets[0, len(leads) :] -= 40
    rivals = np.full((1, len(RIVALS), len(MEASURES)), 40.0)
    rivals[0, 0] = 50.0
    return Trial(world="w", rivals=rivals, sets=sets, unpruned=np.full(len(MEASURES), 60.0))


@pytest.mark.parametrize(
    ("worlds", "chosen"),
    [
        ([(1, 2, 0)], 1),
        ([(4, 2, 0), (-3, 1, 1)], 1),  # means 0.5, 1.5, 0.5; worst -3, 1, 0
        ([(6, 2, 0), (1, 1, 1)], 0),  # the same worst
        ([(1, 1, 1)], 0),  # the first of equals
    ],
)
def test_mean_and_worst_decide(worlds, chosen):
    assert choose([trial(*leads) for leads in worlds]) == SPACE[chosen]


def test_a_measure_without_questions_is_left_out():
    one = trial(1, 2)
    one.sets[:, :, 1], one.rivals[:, :, 1] = np.nan, np.nan
    assert choose([one]) == SPACE[1]


def test_the_choice_for_a_world_has_not_seen_it(monkeypatch):
    seen: list[tuple[str, int]] = []
    by_world = {"testbed": trial(9, 0, 0), "testbed-emerged": trial(0, 9, 0), "third": trial(0, 0, 9)}

    def ask(job, world, scenes, keeps, seed, sets):
        seen.append((world.name, seed))
        return by_world[world.name]

    worlds = [type("World", (), {"name": name, "missing": lambda self: None})() for name in by_world]
    monkeypatch.setattr(constants, "trial", ask)
    monkeypatch.setattr(constants, "choose", lambda trials: [each for each in by_world.values() if each in trials])
    monkeypatch.setattr(constants, "asdict", lambda chosen: {"from": [id(each) for each in chosen]})
    rows, _ = constants.run(None, worlds, 5, [0.1], 7)
    for row in rows:
        assert row["from"] == [id(each) for name, each in by_world.items() if name != row["world"]]
    assert {seed for _, seed in seen[:3]} == {7}
    assert {seed for _, seed in seen[3:]} == {7 + constants.JUDGED}


def test_on_a_scene(one_core, tmp_path, monkeypatch, capsys):
    """The rows are what the strategies score there; with the default's constants the choice is the default."""
    monkeypatch.setattr(constants, "SPACE", (Constants(),))
    monkeypatch.setattr(constants, "RIVALS", ("random", "adafv"))
    file = tmp_path / "constants.json"
    assert main(["constants", "--worlds", "testbed", "--scenes", "1", "--keep", "0.1", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["constants"]
    assert [row["measure"] for row in rows] == list(MEASURES)
    assert all(row["chosen"] == row["default"] and row["best"] >= row["random"] for row in rows)
    assert "chosen on all worlds: Constants(" in capsys.readouterr().out


def test_a_world_that_is_not_built_is_no_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ADAFV_CACHE", str(tmp_path))
    assert main(["constants", "--worlds", "photo"]) == 2
    assert "world photo is skipped" in capsys.readouterr().err
