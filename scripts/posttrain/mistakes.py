"""Wrong answers told apart by their numbers: what they are, which need not be why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

CLOSE = 0.005  # a number is taken for another within this share of it, as equations are
NEAR = 0.2
# The first that fits, so that each wrong answer counts once: a factor of 10 the wrong way round is
# off by 100, and counts as that.
KINDS = (
    "off by a power of ten",
    "the other sign",
    "the quantity unconverted",
    "the factor alone",
    "the factor the wrong way round",
    f"within {NEAR:.0%}",
    "another number",
)
CONVERTING = KINDS[2:5]  # which only a question that converts something lets tell

Row = Mapping[str, Any]


def kind(parsed: float, gold: float, quantity: float | None) -> str:
    """Return which of `KINDS` a wrong answer is.

    Args: quantity, what the question converts; None where it converts nothing or that cannot be
        told, and with it three of the kinds cannot.
    """
    if gold and any(_is_close(parsed, gold * 10.0**power) for power in range(-12, 13) if power):
        return KINDS[0]
    if _is_close(parsed, -gold):
        return KINDS[1]
    if quantity and gold:
        factor = gold / quantity
        for found, wrong in zip(CONVERTING, (quantity, factor, quantity / factor), strict=True):
            if _is_close(parsed, wrong):
                return found
    return KINDS[5] if abs(parsed - gold) <= NEAR * abs(gold) else KINDS[6]


def counted(lines: Sequence[Row], questions: Sequence[Row]) -> dict[str, int]:
    """Return kind -> how many of a model's wrong predictions are of it, each that can be told.

    Where no question converts anything, `CONVERTING` cannot: a 0 would say that none was found.
    """
    quantities = {row["id"]: row.get("quantity") for row in questions}
    found = Counter(
        kind(line["parsed"], line["gold"], quantities[line["id"]])
        for line in lines
        if line["verdict"] == "wrong"
    )
    can_tell = any(quantity is not None for quantity in quantities.values())
    return {name: found[name] for name in KINDS if can_tell or name not in CONVERTING}


def _is_close(one: float, other: float) -> bool:
    return abs(one - other) <= CLOSE * abs(other)
