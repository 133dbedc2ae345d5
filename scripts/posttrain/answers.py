"""The verifier: what counts as an answer, when it is right, how gold is written, its own test."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import ROUND_HALF_EVEN, Context

from posttrain.errors import ScoringError

OPEN, CLOSE = "<answer>", "</answer>"
# Possessive (++): without a way back, no text can make the match take more than linear time.
NUMBER = re.compile(r"[+-]?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]{1,3})?")
ARABIC_INDIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
MOST_GOLDS = 200
FIXED_GOLDS = (0.0, 6000.0, -20.0)


def parse(completion: str) -> float | None:
    """Return the answer that a completion gives, or None where it gives none.

    The answer is the text after the first `<answer>` up to the next `</answer>`, if that text is
    wholly an ASCII decimal, `[+-]?digits[.digits]` with an optional exponent of at most three
    digits, and its value is finite. Wholly means that blanks inside the tags are not forgiven:
    one text, one reading, for every program that reads the predictions later. So `nan`, `1_000`,
    `1,000`, `5 kg`, ` 5`, `5.`, `.5`, `1e400` and digits of other scripts are no answers, and
    neither is anything that was cut off before `</answer>`. Time is linear in the length.
    """
    opened = completion.find(OPEN)
    begin = opened + len(OPEN)
    end = completion.find(CLOSE, begin)
    if opened < 0 or end < 0 or not NUMBER.fullmatch(completion, begin, end):
        return None
    value = float(completion[begin:end])
    return value if math.isfinite(value) else None


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


def self_test(judge: Callable[[str, float], bool], golds: Sequence[float], digits: int) -> None:
    """Show `judge` right and wrong answers, before any score, and refuse it if it errs.

    Every gold, written with `digits` significant digits as in training, must be judged right, and
    every corruption of it wrong. At most 200 golds are tried, evenly spread, and three fixed ones
    with them, one of which is 0: a verifier that reads the unreadable as 0.0 is right there.
    It presumes tolerances that no verifier of sense exceeds: relative below 0.5, absolute below 1.

    Args: judge(completion, gold), True where the completion's answer is right.
    Raises: ScoringError with the completion and the gold, if a verdict is wrong or `judge` raises.
    """
    for gold in (*FIXED_GOLDS, *tried(golds)):
        exact = f"{OPEN}{formatted(gold, 17)}{CLOSE}"
        written = f"{OPEN}{formatted(gold, digits)}{CLOSE}"
        expect(judge, exact, gold, True, "the answer itself")
        if _verdict(judge, written, gold) is not True:
            raise ScoringError(
                f"the verifier counts {written} wrong for the gold answer {gold!r}: {digits} "
                "significant digits are too few for its tolerance; write a larger "
                "sft.answer_digits or evaluate.relative_tolerance"
            )
        for fault, completion in _corruptions(gold):
            expect(judge, completion, gold, False, fault)


def _corruptions(gold: float) -> Iterator[tuple[str, str]]:
    """Yield (what is wrong, completion), none of which answers `gold`."""
    text = formatted(gold, 17)
    sign, number = ("-", text[1:]) if text[0] == "-" else ("", text)
    whole, point, fraction = number.partition(".")
    whole = whole.zfill(4)
    inside = {
        "empty": "",
        "no number": "nan",
        "a unit appended": f"{text} kg",
        "a thousands comma": f"{sign}{whole[:-3]},{whole[-3:]}{point}{fraction}",
        "an underscore": f"{sign}{whole[:-3]}_{whole[-3:]}{point}{fraction}",
        "digits of another script": text.translate(ARABIC_INDIC),
    }
    too_large = gold * 1.5 + math.copysign(1.0, gold)
    if math.isfinite(too_large):
        inside["too large"] = formatted(too_large, 17)
    if gold != 0:
        inside["too small"] = formatted(gold / 3, 17)
        inside["the wrong sign"] = formatted(-gold, 17)
    for fault, content in inside.items():
        yield fault, f"{OPEN}{content}{CLOSE}"
    yield "cut off", f"{OPEN}{text}"
    yield "no tags", text
    yield "right at the second try", f"{OPEN}no{CLOSE} {OPEN}{text}{CLOSE}"


def _verdict(judge: Callable[[str, float], bool], completion: str, gold: float) -> bool:
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
    if (verdict := _verdict(judge, completion, gold)) is not right:
        raise ScoringError(
            f"the verifier says {verdict!r}, not {right}, to {completion!r} ({what}) for the gold "
            f"answer {gold!r}; no score of it can be trusted"
        )
