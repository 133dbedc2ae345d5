"""What counts as an answer, when it is right, how gold is written, and the verifier's own test."""

import json
import math
import random
from decimal import Decimal

import pytest

from posttrain import answers, tags
from posttrain.errors import ScoringError


def tagged(text: str) -> str:
    return f"<answer>{text}</answer>"


def judge(completion: str, gold: float) -> bool:
    """Judge as scoring does by default."""
    answer = tags.parse(completion)
    return answer is not None and answers.is_correct(answer, gold, 0.05, 1e-9)


ACCEPTED = {
    "6000": 6000.0,
    "-6.25": -6.25,
    "+0.125": 0.125,
    "007": 7.0,
    "0": 0.0,
    "1e3": 1000.0,
    "2.5E-007": 2.5e-7,
    "1e-999": 0.0,
    "1e+308": 1e308,
}
REFUSED = {
    "nothing": ["", " ", "+", "-", "e3", "kg"],
    "blanks": [" 6", "6 ", "\t6", "6\n", "6\u00a0"],
    "not a number": ["nan", "NaN", "-nan", "inf", "Infinity"],
    "not finite": ["1e309", "1e400", "-1e999", "9" * 400],
    "separators": ["1_000", "1,000", "1 000", "1'000", "0,5"],
    "a unit": ["5 kg", "5kg", "$5", "5%"],
    "half a number": ["5.", ".5", "5.e3", "1e", "1e+", "1e3.5", "1.2.3"],
    "too long an exponent": ["1e0003", "1e-1000"],
    "two signs": ["+-5", "--5", "1e--3"],
    "other scripts": ["٦٠٠٠", "６０００", "६", "6²", "½", "−5"],  # noqa: RUF001
    "an expression": ["6*1000", "1/2", "0x10", "0b1", "(6)"],
    "a tag inside": ["<answer>6", "6<b>", "6</ans"],
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_a_plain_decimal_is_an_answer(text):
    assert tags.parse(f" 6 kg * 1000. {tagged(text)} and on") == ACCEPTED[text]


@pytest.mark.parametrize("text", [text for texts in REFUSED.values() for text in texts])
def test_anything_else_is_none(text):
    assert tags.parse(tagged(text)) is None


def test_pythons_own_float_would_accept_much_of_what_is_refused():
    """The fault that the strict rule is there for: without it these would be scored."""
    lenient = [" 6", "nan", "inf", "1_000", "5.", ".5", "1e0003", "٦٠٠٠", "６０００"]  # noqa: RUF001
    assert all(isinstance(float(text), float) for text in lenient)
    assert {text for texts in REFUSED.values() for text in texts} >= set(lenient)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("6000", None),
        ("<answer>6000", None),
        ("6000</answer>", None),
        ("<answer>6000<answer>", None),
        ("</answer><answer>6000", None),
        ("</answer><answer>6000</answer>", 6000.0),
        ("<answer>1</answer><answer>2</answer>", 1.0),
        ("<answer>one</answer><answer>2</answer>", None),
        ("<answer><answer>2</answer></answer>", None),
        ("<Answer>2</Answer>", None),
        ("<answer >2</answer>", None),
    ],
)
def test_the_first_pair_of_tags_holds_the_answer(completion, answer):
    assert tags.parse(completion) == answer


def is_decimal_by_hand(text: str) -> bool:
    """Say by cutting, not by a pattern, whether `text` is what the rule calls a decimal."""

    def is_digits(part: str) -> bool:
        return part != "" and all(char in "0123456789" for char in part)

    def unsigned(part: str) -> str:
        return part[1:] if part[:1] in ("+", "-") else part

    mantissa, has_exponent, exponent = text.replace("E", "e").partition("e")
    whole, has_point, fraction = unsigned(mantissa).partition(".")
    exponent = unsigned(exponent)
    return (
        is_digits(whole)
        and (is_digits(fraction) or not has_point)
        and ((is_digits(exponent) and len(exponent) <= 3) or not has_exponent)
    )


def test_random_texts_are_answers_exactly_if_they_are_decimals():
    draw = random.Random(0)
    pieces = ["0", "1", "23", "456", ".", "+", "-", "e", "E", "_", ",", " ", "٣", "nan", "\ud800"]
    accepted = 0
    for _ in range(20_000):
        text = "".join(
            draw.choices(pieces, weights=[4] * 4 + [2] * 5 + [1] * 6, k=draw.randint(0, 7))
        )
        answer = tags.parse(tagged(text))
        expected = float(text) if is_decimal_by_hand(text) else math.inf
        assert answer == (expected if math.isfinite(expected) else None), text
        accepted += answer is not None
    assert 2_000 < accepted < 18_000, "the draw no longer meets both sides of the rule"


@pytest.mark.parametrize(
    ("answer", "gold", "correct"),
    [
        (6000, 6000, True),
        (6300, 6000, True),
        (5700, 6000, True),
        (6301, 6000, False),
        (5699, 6000, False),
        (-6000, 6000, False),
        (-6300, -6000, True),
        (-6301, -6000, False),
        (0, 6000, False),
        (0.0, 0.0, True),
        (-0.0, 0.0, True),
        (1e-9, 0.0, True),
        (-1e-9, 0.0, True),
        (2e-9, 0.0, False),
        (2e-10, 1e-10, False),  # the absolute tolerance is for a gold of 0 alone
        (1e308, -1e308, False),
        (0.0, 5e-324, False),
    ],
)
def test_right_is_within_a_share_of_gold_or_for_zero_within_a_distance(answer, gold, correct):
    assert answers.is_correct(answer, gold, 0.05, 1e-9) is correct


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (20870.982787499997, 4, "20870"),
        (0.125, 4, "0.125"),
        (6000.0, 4, "6000"),
        (2999.9999999999995, 4, "3000"),
        (1e-9, 4, "0.000000001"),
        (123456789.0, 4, "123500000"),
        (1e22, 4, "1" + "0" * 22),
        (-39.370078740157474, 4, "-39.37"),
        (0.0, 4, "0"),
        (-0.0, 4, "0"),
        (9.9999, 4, "10"),
        (99.5, 2, "100"),
        (2.5, 1, "2"),  # ties to the even digit
        (3.5, 1, "4"),
        (1.0015, 4, "1.002"),  # a tie as it is printed, though its binary digits are below
        (100.0, 4, "100"),
        (100.05, 4, "100"),
        (7, 4, "7"),
        (0.1, 17, "0.1"),
    ],
)
def test_numbers_are_written_in_plain_decimal(value, digits, text):
    assert answers.formatted(value, digits) == text


def test_whatever_is_written_reads_back_within_half_a_unit_of_its_last_digit():
    draw = random.Random(1)
    for _ in range(5_000):
        value = draw.uniform(-10, 10) * 10.0 ** draw.randint(-12, 12)
        digits = draw.randint(1, 17)
        text = answers.formatted(value, digits)
        assert answers.formatted(float(text), digits) == text
        assert tags.parse(tagged(text)) == float(text)
        assert set(text) <= set("-.0123456789")
        assert len(text.replace("-", "").replace(".", "").strip("0")) <= digits
        assert not ("." in text and text.endswith(("0", ".")))
        last_digit = Decimal(10) ** (Decimal(repr(value)).adjusted() - digits + 1)
        assert abs(Decimal(text) - Decimal(repr(value))) <= last_digit / 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_has_no_decimal_form_is_not_written(value):
    with pytest.raises(ValueError, match="no decimal form"):
        answers.formatted(value, 4)


GOLDS = [6000.0, 0.125, -40.0, 20870.982787499997, 2.0, -2.0, 123.0, 0.0, 1e-12, 1e300, 1.7e308]


@pytest.mark.parametrize("digits", [2, 4, 17])
def test_the_verifier_passes_its_own_test(digits):
    tags.self_test(judge, GOLDS, digits)
    tags.self_test(judge, [], digits)


def test_the_verifier_passes_on_the_golds_of_a_real_course(test_data):
    rows = json.loads((test_data / "data" / "unit_questions.json").read_text(encoding="utf-8"))
    golds = [gold for _, gold in rows]
    tags.self_test(judge, golds, 4)
    assert all(judge(tagged(answers.formatted(gold, 4)), gold) for gold in golds)


def zero_if_unreadable(completion: str, gold: float) -> bool:
    return answers.is_correct(tags.parse(completion) or 0.0, gold, 0.05, 1e-9)


def last_answer(completion: str, gold: float) -> bool:
    return judge(completion[max(completion.rfind("<answer>"), 0) :], gold)


def without_lower_bound(completion: str, gold: float) -> bool:
    answer = tags.parse(completion)
    return answer is not None and answer * gold >= 0 and abs(answer) <= 1.05 * abs(gold)


def without_tags(completion: str, gold: float) -> bool:
    return judge(completion, gold) or judge(tagged(completion), gold)


TO_ASCII = str.maketrans("٠١٢٣٤٥٦٧٨٩", "0123456789")
BROKEN = {
    "accepts everything": lambda completion, gold: True,
    "accepts nothing": lambda completion, gold: False,
    "reads the unreadable as 0.0": zero_if_unreadable,
    "drops underscores": lambda text, gold: judge(text.replace("_", ""), gold),
    "reads other scripts": lambda text, gold: judge(text.translate(TO_ASCII), gold),
    "drops commas": lambda text, gold: judge(text.replace(",", ""), gold),
    "drops a unit": lambda text, gold: judge(text.replace(" kg", ""), gold),
    "takes the last answer": last_answer,
    "needs no closing tag": lambda text, gold: judge(text, gold) or judge(text + "</answer>", gold),
    "needs no tags": without_tags,
    "ignores the sign": lambda text, gold: judge(text, gold) or judge(text, -gold),
    "has no lower bound": without_lower_bound,
    "accepts nan": lambda text, gold: judge(text, gold) or "nan" in text,
    "gives a number, not a verdict": lambda text, gold: float(judge(text, gold)),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_verifier_turns_its_test_red(fault):
    with pytest.raises(ScoringError, match="the verifier"):
        tags.self_test(BROKEN[fault], GOLDS, 4)
    with pytest.raises(ScoringError, match="the verifier"):
        tags.self_test(BROKEN[fault], [], 4)


def test_a_verifier_that_raises_is_an_error_with_the_input_and_never_a_wrong_answer():
    def raises(completion: str, gold: float) -> bool:
        return answers.is_correct(float(completion[8:-9]), gold, 0.05, 1e-9)

    with pytest.raises(ScoringError, match=r"failed on '<answer></answer>'.*gold.*ValueError"):
        tags.self_test(raises, GOLDS, 4)


def test_too_few_digits_for_the_tolerance_are_named_as_the_cause():
    with pytest.raises(
        ScoringError, match=r"<answer>2</answer> wrong.*1 significant.*answer_digits"
    ):
        tags.self_test(judge, [1.6], 1)
    tags.self_test(judge, [1.6], 2)


def test_the_verifier_is_tried_on_at_most_200_golds_of_all_parts_of_the_data():
    seen = set()

    def recording(completion: str, gold: float) -> bool:
        seen.add(gold)
        return judge(completion, gold)

    tags.self_test(recording, [float(n) for n in range(7_001, 8_000)], 4)
    assert len(seen) <= answers.MOST_GOLDS + len(tags.FIXED_GOLDS)
    ours = sorted(seen - set(tags.FIXED_GOLDS))
    assert len(ours) > 100
    assert ours[0] < 7_100
    assert ours[-1] > 7_900
