"""What is wrong with an option is said as data and in words."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, fields

import pytest

from adafv.option import OptionError, option, require, require_one_of


def test_a_wrong_value_is_named_as_data_and_in_words():
    with pytest.raises(OptionError) as caught:
        require(2 < 1, "top_p", 2.0, "above 0 and at most 1")
    error = caught.value
    assert (error.name, error.value, error.demand) == ("top_p", 2.0, "above 0 and at most 1")
    assert str(error) == "top_p is 2.0; it must be above 0 and at most 1" and isinstance(error, ValueError)


def test_one_of_several():
    require_one_of("dtype", "b", ("a", "b"))
    with pytest.raises(OptionError, match="dtype is 'c'; it must be one of a, b"):
        require_one_of("dtype", "c", ("a", "b"))


def test_errors_travel_between_processes():
    error = OptionError("keep", 0, "above 0")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_field_carries_what_a_command_line_says_of_it():
    @dataclass
    class Made:
        needed: str = option("data", "what is needed", metavar="URI")
        many: int = option("model", "how many", 3, type=int, after="batch_size", formerly=2)

    needed, many = fields(Made)
    assert needed.metadata["help"] == "what is needed" and Made("x").many == 3
    assert (many.metadata["type"], many.metadata["after"], many.metadata["formerly"]) == (int, "batch_size", 2)
    with pytest.raises(TypeError):
        Made()
