"""Wrong answers told apart by their numbers: what they are, which need not be why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.tasks import Task

CLOSE = 0.005  # a number is taken for another within this share of it, as equations are
NEAR = 0.2
# The first that fits, so that each wrong answer counts once. Between the two stand the task's own
# slips: one that is off by a power of ten counts as that.
FIRST = ("off by a power of ten", "the other sign")
LAST = (f"within {NEAR:.0%}", "another number")

Row = Mapping[str, Any]


def kind(parsed: float, gold: float, slips: Mapping[str, float]) -> str:
    """Return what a wrong answer is: one of `FIRST`, of `slips` or of `LAST`.

    Args: slips, of the question, as `Task.slips` gives them.
    """
    if gold and any(_is_close(parsed, gold * 10.0**power) for power in range(-12, 13) if power):
        return FIRST[0]
    if _is_close(parsed, -gold):
        return FIRST[1]
    for found, wrong in slips.items():
        if _is_close(parsed, wrong):
            return found
    return LAST[0] if abs(parsed - gold) <= NEAR * abs(gold) else LAST[1]


def named(lines: Sequence[Row], questions: Sequence[Row], task: "Task") -> list[dict[str, Any]]:
    """Return a model's wrong predictions, each with its `kind`."""
    slips = {row["id"]: task.slips(row) for row in questions}
    return [
        {**line, "kind": kind(line["parsed"], line["gold"], slips[line["id"]])}
        for line in lines
        if line["verdict"] == "wrong"
    ]


def counted(lines: Sequence[Row], questions: Sequence[Row], task: "Task") -> dict[str, int]:
    """Return kind -> how many of a model's wrong predictions are of it, each that can be told.

    Slips that no question lets tell are left out: a 0 would say that none was found.
    """
    found = Counter(line["kind"] for line in named(lines, questions, task))
    slips = dict.fromkeys(slip for row in questions for slip in task.slips(row))
    return {name: found[name] for name in (*FIRST, *slips, *LAST)}


def _is_close(one: float, other: float) -> bool:
    return abs(one - other) <= CLOSE * abs(other)
