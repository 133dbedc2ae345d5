"""Why a model is under its bar: what its predictions and receipts say it looks like."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain import lineage
from posttrain.errors import ScoringError

FAILINGS = ("wrong", "unparseable", "truncated", "error")
COLUMNS = (
    "model",
    "passed",
    "accuracy",
    "required_accuracy",
    "answer_rate",
    "required_answer_rate",
    *FAILINGS,
    "looks_like",
    "evidence",
)
# A trained model that still answers almost every question as its base does has not been trained.
SAME_AS_BASE = 0.95
TWIN = {"answer": "base", "worked": "cot", "reasoning": "cot"}
# How else an adapter of a person's own can be asked, and what it was trained to do if so.
OTHER = {"answer": ("reasoning", "reason first"), "reasoning": ("answer", "answer at once")}


def verdicts(
    summary: str,
    rows: Sequence[Mapping[str, str]],
    predictions: Sequence[Sequence[Mapping[str, Any]]],
    receipts: Sequence[Mapping[str, Any]],
    models: Sequence[str],
    require: Mapping[str, Mapping[str, float]],
) -> list[dict[str, Any]]:
    """Return one row of `COLUMNS` a model: its bar, whether it passed, and what it looks like.

    Args: summary, its path; for each of `models` in the same order, its row of the summary
        (text), its predictions, and the receipt of its evaluation; require, model -> accuracy and
        answer_rate, a bar left out is 0.
    Raises: ScoringError if the rows are not of `models`.
    """
    if [row["model"] for row in rows] != list(models):
        raise ScoringError(
            f"{summary} has rows of {[row['model'] for row in rows]}, not of {list(models)}; "
            f"{lineage.made_again(summary)}"
        )
    said = {row["model"]: lines for row, lines in zip(rows, predictions, strict=True)}
    found = []
    for row, lines, receipt in zip(rows, predictions, receipts, strict=True):
        bar = require.get(row["model"], {})
        accuracy, rate = float(row["accuracy"]), float(row["answer_rate"])
        least, least_rate = bar.get("accuracy", 0), bar.get("answer_rate", 0)
        counts = Counter(line["verdict"] for line in lines)
        # A mistake at any accuracy: an adapter asked otherwise than it was trained, or a verifier
        # that fails on what it should judge.
        is_sound = receipt["asked_as_trained"] is not False and not counts["error"]
        passed = accuracy >= least and rate >= least_rate and is_sound
        twin = said.get(TWIN[receipt["settings"]["style"]], ())
        told = (row["model"], lines, twin, receipt, least_rate)
        looks_like, evidence = ("", "") if passed else diagnose(*told)
        found.append(
            {
                "model": row["model"],
                "passed": "yes" if passed else "no",
                "accuracy": accuracy,
                "required_accuracy": least,
                "answer_rate": rate,
                "required_answer_rate": least_rate,
                **{verdict: counts[verdict] for verdict in FAILINGS},
                "looks_like": looks_like,
                "evidence": evidence,
            }
        )
    return found


def diagnose(
    model: str,
    lines: Sequence[Mapping[str, Any]],
    twin: Sequence[Mapping[str, Any]],
    receipt: Mapping[str, Any],
    least_rate: float,
) -> tuple[str, str]:
    """Return what a failing model looks like, and the evidence; the first that fits.

    Args: lines and twin, the predictions of the model and of the base model asked alike; receipt,
        of the model's evaluation; least_rate, the answer_rate that is required of it.
    """
    counts = Counter(line["verdict"] for line in lines)
    if counts["error"]:
        first = next(line for line in lines if line["verdict"] == "error")
        return (
            "error of the verifier",
            f"it failed on {counts['error']} of {len(lines)} completions, first on that of "
            f"{first['id']}: {first['error'][:200]!r}",
        )
    has_adapter = receipt["adapter"] != "none"
    if has_adapter and twin:
        pairs = zip(lines, twin, strict=True)
        same = sum(a["completion"].strip() == b["completion"].strip() for a, b in pairs)
        if same >= SAME_AS_BASE * len(lines):
            return (
                "untrained or wrong adapter",
                f"{same} of {len(lines)} completions are the base model's own",
            )
    if receipt["asked_as_trained"] is False:
        return (
            "prompt differs between training and inference",
            f"asked {lines[0]['prompt']!r}, which is not how its training rows begin; "
            f"{_mend_prompt(model, receipt['settings']['style'])}",
        )
    silent = counts["truncated"] + counts["unparseable"]
    is_too_silent = silent > counts["wrong"] or len(lines) - silent < least_rate * len(lines)
    if is_too_silent and counts["truncated"] >= counts["unparseable"]:
        return (
            "answers cut off",
            f"{counts['truncated']} completions reached evaluate.max_new_tokens before an answer",
        )
    if is_too_silent:
        example = next(line["completion"] for line in lines if line["verdict"] == "unparseable")
        return (
            "format not learnt",
            f"{counts['unparseable']} completions hold no readable answer, as {example[:80]!r}",
        )
    return "simply weak", f"{counts['wrong']} of {len(lines)} answers are readable and wrong"


def _mend_prompt(model: str, style: str) -> str:
    """Return what to write where `model` is asked in a style that it was not trained in."""
    words = "write under prompts the words that it was trained with"
    if model in ("sft", "rft"):
        return words
    prompt, learnt = OTHER[style]
    key = f"evaluate.adapters.{model}.prompt"
    return f"if it was trained to {learnt}, write prompt: {prompt} ({key}); else {words}"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the summary's rows as aligned text, without the hashes."""
    import pandas as pd

    return pd.DataFrame(rows).drop(columns="adapter_sha256").to_string(index=False)


def refuse_failed(found: Sequence[Mapping[str, str]]) -> None:
    """Raise ScoringError, a line for each model that is under its bar."""
    failed = [row for row in found if row["passed"] != "yes"]
    if failed:
        lines = [
            f"{row['model']} does not pass: accuracy {row['accuracy']} (bar "
            f"{row['required_accuracy']}), answer_rate {row['answer_rate']} (bar "
            f"{row['required_answer_rate']}){_but(row)} it looks like: {row['looks_like']}, "
            f"{row['evidence']}"
            for row in failed
        ]
        hint = "all results are written; bars stand in the config under evaluate.require"
        raise ScoringError("\n".join([*lines, hint]))


def _but(row: Mapping[str, str]) -> str:
    """Return what leads from a failed row's figures to the reason: they may be good enough."""
    bars = ("accuracy", "answer_rate")
    meets = all(float(row[bar]) >= float(row[f"required_{bar}"]) for bar in bars)
    return ", enough, and yet it fails at any figures:" if meets else ";"
