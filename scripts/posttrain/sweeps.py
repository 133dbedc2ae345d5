"""Several runs side by side: what each changed, what came of it, how far the figures lie apart."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from posttrain import scoring
from posttrain.errors import ScoringError
from posttrain.plots import Point
from posttrain.statistics import mcnemar

FIRST = "first"  # the run in results/
NAME = r"[a-z][a-z0-9_]{0,63}"  # begins the names of a run's rules, and is that of its folder
COLUMNS = (
    "run",
    "changed",
    "value",
    "model",
    *scoring.COLUMNS[2:],  # all but model and adapter
    "passed",
    "gained",
    "lost",
    "p_value",
    "adapter_sha256",
)
SPREAD_COLUMNS = (
    "changed",
    "model",
    "runs",
    "mean",
    "standard_deviation",
    "minimum",
    "maximum",
    "spread",
)

Row = Mapping[str, Any]


def name_faults(runs: Iterable[Any]) -> list[str]:
    """Return what is wrong with the names of `runs`, a line each."""
    found = []
    for run in runs:
        if run == FIRST:
            found.append(
                f"RUNS: {FIRST!r} is the name of the run in results/, which counts as one of them; "
                f"write another, such as {FIRST}_again"
            )
        elif not (isinstance(run, str) and re.fullmatch(NAME, run)):
            found.append(
                f"RUNS: {run!r} is no name for rules and files; write one of small letters, "
                "digits and _, a letter first, up to 64, such as rank4"
            )
    return found


def stated(changes: Row, before: str = "") -> dict[str, Any]:
    """Return dotted key -> value of the settings that a run states."""
    found = {}
    for key, value in changes.items():
        inner = isinstance(value, Mapping)
        found |= stated(value, f"{before}{key}.") if inner else {f"{before}{key}": value}
    return found


def changed(changes: Row, config: Row) -> dict[str, Any]:
    """Return dotted key -> value of the stated settings that differ from `config`."""
    known = stated(config)
    return {key: value for key, value in stated(changes).items() if known.get(key) != value}


def table(
    runs: Mapping[str, Row],
    summaries: Mapping[str, Sequence[Mapping[str, str]]],
    verdicts: Mapping[str, Sequence[Mapping[str, str]]],
    predictions: Mapping[str, Mapping[str, Sequence[Row]]],
    models: Sequence[str],
) -> list[dict[str, Any]]:
    """Return a row of `COLUMNS` for each run and model, the first run's first.

    gained, lost and p_value compare a model with that of the first run (exact McNemar); they are
    None where the two were not asked the same questions.

    Args: runs, run -> what it changed, dotted; the others by run too, predictions then by model.
    Raises: ScoringError if a run lacks a model or a question, if its tables are at odds with its
        predictions, or if its verifier failed on some: no row may stand for less than it says.
    """
    for run in runs:
        _check(run, summaries[run], verdicts[run], predictions[run], models)
    first = predictions[FIRST]
    found = []
    for run, changes in runs.items():
        passed = {row["model"]: row["passed"] for row in verdicts[run]}
        for row in summaries[run]:
            model = row["model"]
            gained, lost, p = _against(predictions[run][model], first[model])
            found.append(
                {column: row[column] for column in scoring.COLUMNS}
                | {
                    "run": run,
                    "changed": " ".join(changes),
                    "value": " ".join(map(json.dumps, changes.values())),
                    "passed": passed[model],
                    "gained": gained,
                    "lost": lost,
                    "p_value": p,
                }
            )
    return found


def spread(rows: Sequence[Row], runs: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Return a row of `SPREAD_COLUMNS` for each set of settings that runs state, and model.

    Over the runs that state just these, and the first run, which has them as configured: one that
    changes two settings and one that states both and has one of them as configured are alike.

    Args: runs, run -> what it states.
    """
    keys = {run: " ".join(sorted(stated(changes))) for run, changes in runs.items()}
    found = []
    for of_runs in dict.fromkeys(keys[run] for run in runs if run != FIRST):
        for model in dict.fromkeys(row["model"] for row in rows):
            values = [
                float(row["accuracy"])
                for row in rows
                if row["model"] == model and (row["run"] == FIRST or keys[row["run"]] == of_runs)
            ]
            found.append(
                {
                    "changed": of_runs,
                    "model": model,
                    "runs": len(values),
                    "mean": round(fmean(values), 6),
                    "standard_deviation": round(stdev(values), 6),
                    "minimum": min(values),
                    "maximum": max(values),
                    "spread": round(max(values) - min(values), 6),
                }
            )
    return found


def told(row: Row) -> str:
    """Return a row of the spread as a line for people."""
    return (
        f"{row['changed']}: {row['model']} {row['mean']:.3f} on average of {row['runs']} runs, "
        f"from {row['minimum']:.3f} to {row['maximum']:.3f}"
    )


def points(rows: Sequence[Row]) -> dict[str, list[Point]]:
    """Return model -> a point a run, for a plot."""
    found: dict[str, list[Point]] = {}
    for row in rows:
        figures = (float(row[name]) for name in ("accuracy", "accuracy_low", "accuracy_high"))
        found.setdefault(row["model"], []).append(Point(row["run"], *figures))
    return found


def _check(
    run: str,
    summary: Sequence[Mapping[str, str]],
    verdicts: Sequence[Mapping[str, str]],
    predictions: Mapping[str, Sequence[Row]],
    models: Sequence[str],
) -> None:
    for name, rows in (("summary.csv", summary), ("verdicts.csv", verdicts)):
        if [row["model"] for row in rows] != list(models):
            raise ScoringError(
                f"run {run}: its {name} has rows of {[row['model'] for row in rows]}, not of "
                f"{list(models)}; make it again"
            )
    for row in summary:
        said = [line["verdict"] for line in predictions[row["model"]]]
        counted = scoring.summarised(row["model"], row["adapter_sha256"], said)
        if {column: str(value) for column, value in counted.items()} != dict(row):
            raise ScoringError(
                f"run {run}: the summary's row of {row['model']} is not what its {len(said)} "
                "predictions come to; make it again"
            )
        if failed := said.count("error"):
            raise ScoringError(
                f"run {run}: the verifier failed on {failed} of {len(said)} answers of "
                f"{row['model']}; its figures cannot be compared"
            )


def _against(
    lines: Sequence[Row], first: Sequence[Row]
) -> tuple[int, int, float] | tuple[None, None, None]:
    asked, before = ([(line["question"], line["gold"]) for line in said] for said in (lines, first))
    if asked != before:
        return None, None, None
    ours, theirs = ([line["verdict"] == "correct" for line in said] for said in (lines, first))
    gained, lost, p = mcnemar(ours, theirs)
    return gained, lost, float(f"{p:.6g}")
