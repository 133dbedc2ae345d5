"""Answers as numbers: when one is right, how one is written; and what tries a task's verifier."""

import math
import re
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_EVEN, Context

from posttrain.errors import ScoringError

# Possessive (++): without a way back, no text can make the match take more than linear time.
NUMBER = re.compile(r"[+-]?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]{1,3})?")
ARABIC_INDIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
MOST_GOLDS = 200


def is_correct(
    answer: float, gold: float, relative_tolerance: float, absolute_tolerance: float
) -> bool:
    """Tell whether `answer` is within `relative_tolerance` of `gold`, its share of |gold|.

    No share of 0 is above 0, so for a gold of 0 alone `absolute_tolerance` holds instead.
    """
    allowed = absolute_tolerance if gold == 0 else relative_tolerance * abs(gold)
    return bool(abs(answer - gold) <= allowed)


def formatted(value: float, digits: int) -> str:
    """Write `value` with `digits` significant digits as a plain decimal: 20870.98 as 20870.

    No exponent, no zeros at the end of a fraction, no -0; ties go to the even digit, judged on
    the shortest decimal that stands for `value` (what Python prints), not on its binary digits.

    Raises: ValueError for nan and the infinities, and for `digits` below 1.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} has no decimal form")
    rounding = Context(prec=digits, rounding=ROUND_HALF_EVEN)
    text = f"{rounding.create_decimal(repr(float(value))):f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def tried(golds: Sequence[float]) -> Sequence[float]:
    """Return at most 200 of the golds, evenly spread: so many a verifier is tested on."""
    return golds[:: -(-len(golds) // MOST_GOLDS) or 1]


def verdict_of(judge: Callable[[str, float], bool], completion: str, gold: float) -> bool:
    """Return what `judge` says. Raises: ScoringError with the completion if it raises."""
    try:
        return judge(completion, gold)
    except Exception as error:
        raise ScoringError(
            f"the verifier failed on {completion!r} with the gold answer {gold!r}: "
            f"{type(error).__name__}: {error}"
        ) from error


def expect(
    judge: Callable[[str, float], bool], completion: str, gold: float, right: bool, what: str
) -> None:
    """Raise ScoringError unless `judge` finds the completion, which is `what`, `right` or not."""
    if (verdict := verdict_of(judge, completion, gold)) is not right:
        raise ScoringError(
            f"the verifier says {verdict!r}, not {right}, to {completion!r} ({what}) for the gold "
            f"answer {gold!r}; no score of it can be trusted"
        )
