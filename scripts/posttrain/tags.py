"""Answers in tags, `<answer>6000</answer>`: what counts as one, and the verifier's own test."""

import math
from collections.abc import Callable, Iterator, Sequence

from posttrain.answers import ARABIC_INDIC, NUMBER, expect, formatted, tried, verdict_of
from posttrain.errors import ScoringError

OPEN, CLOSE = "<answer>", "</answer>"
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
        if verdict_of(judge, written, gold) is not True:
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
