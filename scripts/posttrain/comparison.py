"""Models held against each other, and each against itself on questions of one kind and another."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from posttrain.statistics import mcnemar, wilson
from posttrain.units import product_key, ratios

COLUMNS = ("model", "other", "questions", "gained", "lost", "p_value", "verdict")
CHANGE_COLUMNS = ("model", "other", "change", "id", "question", "gold", "parsed", "other_parsed")
BREAKDOWN_COLUMNS = ("model", "group", "value", "questions", "correct", "accuracy", "low", "high")
GROUPS = (
    "all",
    "category",
    "unit_pair",
    "pair_in_training",
    "pair_quantity_in_training",
    "held_out",
)
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
    kept_out: Collection[tuple[str, str]] | None,
) -> list[dict[str, Any]]:
    """Return a row of `BREAKDOWN_COLUMNS` for each model, group of questions and value in it.

    Args: asked and trained, the questions of validation and of training; kept_out, the products
        that pretraining did not read, None where that is not known.
    """
    kinds = dict(zip((row["id"] for row in asked), _kinds(asked, trained, kept_out), strict=True))
    found = []
    for model, lines in said.items():
        counted: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for line in lines:
            for kind in kinds[line["id"]].items():
                counted[kind].append(_is_right(line))
        for group, value in sorted(counted, key=lambda kind: (GROUPS.index(kind[0]), kind[1])):
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


def _kinds(
    asked: Sequence[Row], trained: Sequence[Row], kept_out: Collection[tuple[str, str]] | None
) -> Iterator[dict[str, str]]:
    """Yield for each question its value in each of the groups that it belongs to.

    A question whose units cannot be told belongs to no group of theirs.
    """
    pairs = {(row["from_unit"], row["to_unit"]) for row in trained}
    quantities = {(row["from_unit"], row["to_unit"], row["quantity"]) for row in trained}
    for row in asked:
        kinds = {"all": "all", "category": row["category"] or "not stated"}
        pair = (row["from_unit"], row["to_unit"])
        if None not in pair:
            kinds["unit_pair"] = " to ".join(pair)
            kinds["pair_in_training"] = _yes(pair in pairs)
            kinds["pair_quantity_in_training"] = _yes((*pair, row["quantity"]) in quantities)
            if kept_out is not None:
                key = product_key(ratios()[pair], row["quantity"])
                kinds["held_out"] = _yes(key in kept_out)
        yield kinds


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _is_right(line: Row) -> bool:
    return line["verdict"] == "correct"
