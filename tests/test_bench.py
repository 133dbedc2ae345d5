"""The benchmark's table: its columns, which way a ratio points, medians, one row a key."""

import csv
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import table

KEY = ("train", "embedded", "trl")


def test_the_file_has_exactly_these_columns(tmp_path):
    path = tmp_path / "results.csv"
    table.write(path, [table.row(KEY, "tokens/s", [3.0], [2.0], "a, note")])
    with path.open(newline="") as file:
        header, line = csv.reader(file)
    assert header == ["benchmark", "model", "peer", "ours", "theirs", "unit", "ratio", "note"]
    assert line == ["train", "embedded", "trl", "3", "2", "tokens/s", "1.500", "a, note"]


@pytest.mark.parametrize(
    ("unit", "ours", "theirs", "times"),
    [("completions/s", 10, 5, 2), ("GFLOP/s", 100, 400, 0.25), ("s", 2, 6, 3), ("s", 8, 2, 0.25)],
)
def test_a_ratio_above_one_is_better_than_theirs_whatever_the_unit(unit, ours, theirs, times):
    assert table.ratio(unit, ours, theirs) == times


def test_a_unit_of_unknown_direction_has_no_ratio():
    with pytest.raises(ValueError, match="'tokens' is neither"):
        table.ratio("tokens", 1, 2)


def test_medians_stand_in_the_table_not_means_nor_the_best():
    found = table.row(KEY, "s", ours=[1, 1, 2, 9, 9], theirs=[100, 4, 4, 4, 1])
    assert (found["ours"], found["theirs"], found["ratio"]) == ("2", "4", "2.000")


def test_a_side_that_did_not_run_is_empty_and_so_is_the_ratio():
    found = table.row(KEY, "s", ours=[1], note="trl is not installed")
    assert (found["ours"], found["theirs"], found["ratio"]) == ("1", "", "")


def test_a_key_stands_in_the_table_once(tmp_path):
    rows = [table.row(KEY, "s", [1], [2]), table.row(KEY, "s", [3], [4])]
    with pytest.raises(ValueError, match=r"more than one row for .*'train', 'embedded', 'trl'"):
        table.write(tmp_path / "results.csv", rows)
    assert not (tmp_path / "results.csv").exists()


@pytest.mark.parametrize("key", [("speed", "embedded", "trl"), ("train", "embedded", "me")])
def test_a_key_is_one_of_the_known_names(key):
    with pytest.raises(ValueError, match="is none of"):
        table.row(key, "s")


def test_the_sides_take_turns_and_each_round_begins_with_another():
    order = []
    sides = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    found = table.interleaved(sides, repeats=3)
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}
