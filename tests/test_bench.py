"""The benchmark's table, and that sides which did other work are never compared."""

import csv
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import commands
import stages
import table

from posttrain import logs
from posttrain.sampling import Completion

ROOT = Path(__file__).parent.parent
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
    assert found["note"] == "1 to 9 against 1 to 100"


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


def test_curves_of_other_work_end_the_benchmark():
    assert stages.largest_gap([2.0, 1.0], [2.0, 1.01]) == pytest.approx(0.01)
    with pytest.raises(stages.UnequalWorkError, match="2 steps against 1"):
        stages.largest_gap([2.0, 1.0], [2.0])
    with pytest.raises(stages.UnequalWorkError, match=r"losses 20.0% apart"):
        stages.largest_gap([2.0, 1.0], [2.0, 1.2])


def test_samples_of_other_work_end_the_benchmark():
    config = {"evaluate": {"relative_tolerance": 0.05, "absolute_tolerance": 1e-9}}
    right = [Completion("<answer>6</answer>", 3, "answer")] * 200
    wrong = [Completion("<answer>7</answer>", 3, "answer")] * 200
    cut = [Completion("<answer>", 3, "length")] * 200
    longer = [Completion("<answer>6</answer>", tokens, "answer") for tokens in (3, 4)] * 100
    golds = [6.0] * 200
    mixed = right[:100] + wrong[:100]
    assert "right 50.0% against 55.0%" in stages.same_statistics(
        mixed, right[:110] + wrong[:90], golds, config
    )
    for other, fault in (
        (right, "right"),
        (wrong[:100] + cut[:100], "right"),
        (wrong[:9], "9 comp"),
        (longer[:100] + wrong[:100], "tokens 3.0 against 3.2"),
    ):
        with pytest.raises(stages.UnequalWorkError, match=fault):
            stages.same_statistics(mixed, other, golds, config)


def test_a_peer_is_measured_at_its_fastest_setting_that_runs():
    def rate(setting):
        if setting == "broken":
            raise RuntimeError("no kernel\nfor this machine")
        return len(setting)

    assert stages.fastest("trl", ["broken", "ab", "abc", "a"], rate)[0] == "abc"
    assert stages.fastest("trl", ["broken"], rate) == (None, "RuntimeError: no kernel")


def test_the_clock_runs_while_the_loop_does_and_is_taken_off_again(monkeypatch):
    ticks = iter([3.0, 10.0])
    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    module = SimpleNamespace(Progress=logs.Progress)
    with stages.loop_clock(module) as seconds:
        assert seconds == [], "no loop, no time"
        with module.Progress(1, "training", "steps"):
            pass
    assert seconds == [7.0]
    assert module.Progress is logs.Progress


def test_the_start_of_every_job_of_a_run_is_counted(tmp_path):
    (tmp_path / "config.yaml").write_bytes((ROOT / "config.yaml").read_bytes())
    command = ["snakemake", "-n", "--directory", tmp_path, "--snakefile", ROOT / "Snakefile"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    [jobs, *_] = re.findall(r"^total +(\d+)$", said.stdout + said.stderr, re.MULTILINE)
    counted = sum(times for _, times in commands.STARTS.values())
    assert counted == int(jobs) - 1, "all but rule all, which has no script"
    assert all((ROOT / "scripts" / name).is_file() for name in commands.STARTS)
