"""Runs side by side: what each changed, what came of it, and no gap that goes unseen."""

import pytest
from test_report import predictions

from posttrain import scoring, sweeps
from posttrain.errors import ScoringError

CONFIG = {"seed": 0, "rft": {"lora": {"r": 16, "alpha": 32}, "epochs": 5}}
STATED = {"first": {}, "seed1": {"seed": 1}, "rank8": {"rft": {"lora": {"r": 8}}}}
RUNS = {run: sweeps.changed(changes, CONFIG) for run, changes in STATED.items()}
MODELS = ["sft", "rft"]


def run(sft: int, rft: int, last: str = "unparseable"):
    """Predictions of a run in which two models answer so many questions rightly."""
    return {"sft": predictions("sft", sft), "rft": predictions("rft", rft, last)}


PREDICTIONS = {"first": run(4, 8), "seed1": run(5, 9), "rank8": run(4, 3)}
for lines in PREDICTIONS["seed1"].values():  # of other questions
    for line in lines:
        line["question"] += "?"


def summary(said):
    rows = [scoring.summarised(m, "none", [line["verdict"] for line in said[m]]) for m in said]
    return [{key: str(value) for key, value in row.items()} for row in rows]


def tabulated(predictions=PREDICTIONS, **others):
    given = {
        "summaries": {name: summary(said) for name, said in predictions.items()},
        "verdicts": {name: [{"model": m, "passed": "yes"} for m in MODELS] for name in predictions},
        **others,
    }
    return sweeps.table(RUNS, given["summaries"], given["verdicts"], predictions, MODELS)


@pytest.mark.parametrize("name", ["a b", "a/b", "../x", "{x}", "", "4ranks", "rank-4", "A", 1])
def test_a_name_that_rules_or_files_cannot_have_is_said_in_one_line(name):
    [line] = sweeps.name_faults(["seed1", name, "learning_rate_0001"])
    assert line.startswith(f"RUNS: {name!r} is no name for rules and files; write one of ")


def test_the_name_of_the_run_in_results_is_taken():
    assert sweeps.name_faults(RUNS) == [
        "RUNS: 'first' is the name of the run in results/, which counts as one of them; "
        "write another, such as first_again"
    ]


def test_what_a_run_changed_is_told_by_dotted_keys():
    changes = {"seed": 0, "rft": {"lora": {"r": 8, "alpha": 32}, "epochs": 3}}
    assert sweeps.changed(changes, CONFIG) == {"rft.lora.r": 8, "rft.epochs": 3}
    assert sweeps.changed({}, CONFIG) == {}


def test_a_row_for_each_run_and_model_held_against_the_first():
    rows = tabulated()
    assert [tuple(sorted(row)) for row in rows] == [tuple(sorted(sweeps.COLUMNS))] * 6
    keys = ("run", "changed", "value", "model", "accuracy", "gained", "lost")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("first", "", "", "sft", "0.333333", 0, 0),
        ("first", "", "", "rft", "0.666667", 0, 0),
        ("seed1", "seed", "1", "sft", "0.416667", None, None),
        ("seed1", "seed", "1", "rft", "0.75", None, None),
        ("rank8", "rft.lora.r", "8", "sft", "0.333333", 0, 0),
        ("rank8", "rft.lora.r", "8", "rft", "0.25", 0, 5),
    ]
    assert rows[-1]["p_value"] == 0.0625


def test_spread_is_over_the_runs_of_one_setting_and_the_first():
    rows = {(row["changed"], row["model"]): row for row in sweeps.spread(tabulated(), STATED)}
    assert list(rows) == [(key, m) for key in ("seed", "rft.lora.r") for m in MODELS]
    seed = rows["seed", "rft"]
    assert (seed["runs"], seed["minimum"], seed["maximum"]) == (2, 0.666667, 0.75)
    assert (seed["mean"], seed["spread"]) == (0.708333, 0.083333)
    assert seed["standard_deviation"] == pytest.approx(0.083333 / 2**0.5, abs=1e-6)
    assert sweeps.told(seed) == "seed: rft 0.708 on average of 2 runs, from 0.667 to 0.750"


def test_runs_that_state_the_same_settings_are_spread_together():
    """Also where one of them has a setting as the first run does, or all of them."""
    lora = ({"r": 4, "alpha": 64}, {"alpha": 32, "r": 8}, {"r": 16, "alpha": 32})
    names = ("both", "one", "none")
    states = {"first": {}} | {n: {"rft": {"lora": one}} for n, one in zip(names, lora, strict=True)}
    changes = [" ".join(sweeps.changed(stated, CONFIG)) for stated in states.values()]
    assert changes == ["", "rft.lora.r rft.lora.alpha", "rft.lora.r", ""]
    rows = [
        {"run": run, "changed": what, "model": "rft", "accuracy": accuracy}
        for run, what, accuracy in zip(states, changes, (0.5, 0.6, 0.7, 0.5), strict=True)
    ]
    [found] = sweeps.spread(rows, states)
    assert (found["changed"], found["runs"]) == ("rft.lora.alpha rft.lora.r", 4)
    assert (found["mean"], found["spread"]) == (0.575, 0.2)


def test_a_missing_model_is_refused():
    summaries = {name: summary(said) for name, said in PREDICTIONS.items()}
    summaries["rank8"].pop()
    with pytest.raises(ScoringError, match=r"run rank8: its summary.csv has rows of \['sft'\]"):
        tabulated(summaries=summaries)
    verdicts = {name: [{"model": "sft", "passed": "yes"}] for name in PREDICTIONS}
    with pytest.raises(ScoringError, match=r"run first: its verdicts.csv has rows of \['sft'\]"):
        tabulated(verdicts=verdicts)


def test_a_missing_prediction_is_refused():
    short = PREDICTIONS | {"seed1": {m: said[:-1] for m, said in PREDICTIONS["seed1"].items()}}
    summaries = {name: summary(said) for name, said in PREDICTIONS.items()}
    with pytest.raises(ScoringError, match=r"run seed1: .* of sft is not what its 11 predictions"):
        tabulated(short, summaries=summaries)


def test_answers_that_the_verifier_failed_on_are_refused():
    failed = PREDICTIONS | {"rank8": run(4, 3, "error")}
    with pytest.raises(ScoringError, match="run rank8: the verifier failed on 1 of 12 answers"):
        tabulated(failed)
