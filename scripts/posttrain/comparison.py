"""Models held against each other, and each against itself on questions of one kind and another."""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from posttrain.statistics import mcnemar, wilson

if TYPE_CHECKING:
    from posttrain.tasks import Task

COLUMNS = ("model", "other", "questions", "gained", "lost", "p_value", "verdict")
CHANGE_COLUMNS = ("model", "other", "change", "id", "question", "gold", "parsed", "other_parsed")
BREAKDOWN_COLUMNS = ("model", "group", "value", "questions", "correct", "accuracy", "low", "high")
SIGNIFICANT = 0.05  # of each test by itself: nothing is taken off for there being several

Row = Mapping[str, Any]
Said = Mapping[str, Sequence[Row]]  # model -> its predictions, all on the same questions


def comparisons(said: Said) -> list[dict[str, Any]]:
    """Return a row of `COLUMNS` for each model against each before it: exact McNemar, two-sided.

    gained counts the questions that `model` answers rightly and `other` does not.
    """
    right = {model: [_is_right(line) for line in lines] for model, lines in said.items()}
    found = []
    for other, model in combinations(right, 2):
        gained, lost, p = mcnemar(right[model], right[other])
        if p >= SIGNIFICANT:
            verdict = "no significant gain"
        else:
            verdict = "significant gain" if gained > lost else "significant loss"
        counts = (model, other, len(right[model]), gained, lost, float(f"{p:.6g}"), verdict)
        found.append(dict(zip(COLUMNS, counts, strict=True)))
    return found


def told(row: Row) -> str:
    """Return a comparison as a line for people."""
    counts = f"{row['gained']} gained, {row['lost']} lost, McNemar p = {row['p_value']:.2g}"
    return f"{row['model']} over {row['other']}: {counts}: {row['verdict']}"


def changes(said: Said) -> list[dict[str, Any]]:
    """Return a row of `CHANGE_COLUMNS` for each question that `model` gained or lost on `other`."""
    return [
        {
            "model": model,
            "other": other,
            "change": "gained" if _is_right(ours) else "lost",
            "id": ours["id"],
            "question": ours["question"],
            "gold": ours["gold"],
            "parsed": ours["parsed"],
            "other_parsed": theirs["parsed"],
        }
        for other, model in combinations(said, 2)
        for ours, theirs in zip(said[model], said[other], strict=True)
        if _is_right(ours) != _is_right(theirs)
    ]


def breakdown(
    said: Said,
    asked: Sequence[Row],
    trained: Sequence[Row],
    kept_out: Container[Any] | None,
    task: "Task",
) -> list[dict[str, Any]]:
    """Return a row of `BREAKDOWN_COLUMNS` for each model, group of questions and value in it.

    Args: asked and trained, the questions of validation and of training; kept_out, the facts that
        pretraining did not read, None where that is not known.
    """
    ids = (row["id"] for row in asked)
    kinds = dict(zip(ids, task.kinds(asked, trained, kept_out), strict=True))
    found = []
    for model, lines in said.items():
        counted: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for line in lines:
            for kind in kinds[line["id"]].items():
                counted[kind].append(_is_right(line))
        for group, value in sorted(counted, key=lambda kind: (task.GROUPS.index(kind[0]), kind[1])):
            right = counted[group, value]
            low, high = wilson(sum(right), len(right))
            found.append(
                {
                    "model": model,
                    "group": group,
                    "value": value,
                    "questions": len(right),
                    "correct": sum(right),
                    "accuracy": round(sum(right) / len(right), 6),
                    "low": round(low, 6),
                    "high": round(high, 6),
                }
            )
    return found


def _is_right(line: Row) -> bool:
    return line["verdict"] == "correct"
