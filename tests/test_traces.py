"""Equations of a reasoning trace: what is found, how it is judged, what is left unread."""

import math
import random
import re
import time
from collections import Counter
from fractions import Fraction
from functools import partial

import pytest

from posttrain import answers, tags, traces

UNITS = {
    "kg": [("mass", 1.0)],
    "g": [("mass", 0.001)],
    "gram": [("mass", 0.001)],
    "pound": [("mass", 0.45359237)],
    "ounce": [("mass", 0.028349523125), ("volume", 2.95735295625e-5)],
    "fluid ounce": [("volume", 2.95735295625e-5)],
    "metric ton": [("mass", 1000.0)],
    "pint": [("volume", 4.73176473e-4)],
    "l": [("volume", 0.001)],
    "cc": [("volume", 1e-6)],
    "cm^3": [("volume", 1e-6)],
    "m**3": [("volume", 1.0)],
    "m": [("length", 1.0)],
    "cm": [("length", 0.01)],
    "km": [("length", 1000.0)],
    "in": [("length", 0.0254)],
    "ft": [("length", 0.3048)],
    "s": [("time", 1.0)],
    "min": [("time", 60.0)],
    "h": [("time", 3600.0)],
    "m/s": [("speed", 1.0)],
    "in/s": [("speed", 0.0254)],
    "kmh": [("speed", 1 / 3.6)],
    "B": [("data", 8.0)],
    "bit": [("data", 1.0)],
}


def unit_of(name: str) -> list[tuple[str, float]]:
    return UNITS.get(name, [])


equations = partial(traces.equations, unit_of=unit_of, mark=tags.OPEN)


def verdicts(text: str) -> list[str]:
    return [equation.verdict for equation in equations(text)]


def sides(text: str) -> list[tuple[str, str]]:
    return [equation.sides for equation in traces.equations(text, unit_of)]


RIGHT = [
    "6 * 1000 = 6000",
    "6*1000=6000",
    "6 \N{MULTIPLICATION SIGN} 1000 = 6,000",
    "6 x 1000 = 6000",
    "6x1000 = 6000",
    "6 X 1000 = 6000.",
    "6 times 1000 = 6000",
    "6 \N{MIDDLE DOT} 1000 = 6e3",
    "7 \N{DIVISION SIGN} 2 = 3.5",
    "1 / 8 = .125",
    "1/8 = 1.25e-1",
    "2 + 3 * 4 = 14",
    "(2 + 3) * 4 = 20",
    "12 / 2 / 3 = 2",
    "10 - 4 - 3 = 3",
    "-5 * -2 = 10",
    "-(2 + 3) = -5",
    "\N{MINUS SIGN}3 + 3 = 0",
    "2 -3 = -1",
    "2 --3 = 5",
    "1,234,567 = 1234567",
    "6 * 3.281 = 19.69",
    "6 * 1000 \N{ALMOST EQUAL TO} 6000",
    "6 * 3.281 ~= 19.7",
    "6 * 1000 == 6000",
    "6 * 1000 = about 6000",
    "6 * 1000 = ~6000",
    "6 * 1000 = <answer>6000</answer>",
    "6 * 1000\n= 6000",
    "6 * 1000 =\n6000",
    "1 kg = 1000 gram",
    "1kg = 1000g",
    "1000 gram = 1 kg",
    "6 * 1000 gram = 6000",
    "6 * 1000 = 6000 gram",
    "1 m/s = 39.37 in/s",
    "36 kmh = 10 m/s",
    "3 cm^3 = 3 cc",
    "1 m**3 = 1000 l",
    "5 metric ton = 5000 kg",
    "10 pint = 160 fluid ounce",
    "1 B = 8 bit",
    "3 ft + 6 in = 42 in",
    "5 kg * 1000 g/kg = 5000 g",
    "8 ft * 12 in / ft = 96 in",
    "8 ft * (12 in / 1 ft) = 96 in",
    "6 kg / 1 g = 6000",
    "so 6 * 1000 = 6000 so",
    "There are 12 in per ft, so 8 * 12 = 96 in total",
    "How many gram are in 6 kg = 6000 gram?",
    "- 6 * 2 = 12",
    "* 6 * 2 = 12",
    "1. 6 * 2 = 12",
    "Step 1: 6 * 2 = 12",
    "1) 6 * 2 = 12",
    "(so 6 * 2 = 12)",
    "6 * 2 = 12 (as 6 kg weigh more)",
]
WRONG = [
    "6 * 1000 = 6100",
    "6 * 1000 = -6000",
    "6 * 1000 = 0",
    "0 = 0.0001",
    "1 kg = 1024 gram",
    "1 kg = 1000 m",
    "1 kg = 1 l",
    "16 fluid ounce = 1 pound",
    "2 h * 60 = 120 min",  # 120 hours
    "6 kg = 6 * 1000",  # one side alone has a unit: the numbers count as shown
    "1 in = 2.5 cm",
    "10 - 4 - 3 = 9",
]
UNREADABLE = [
    "=",
    "6 =",
    "= 6",
    "x = 5",
    "x2 = 2",
    "x+1 = 1",
    "x-1 = -1",
    "apples - 3 = -3",
    "gram = 6 * 1000",
    "kg = 1000 gram",
    "6 apples = 6",
    "6 * apples = 6",
    "6 + = 6",
    "* 6 + = 6",
    "so * 6 = 6",
    "6 * / 2 = 3",
    "2(3) = 6",
    "(2)(3) = 6",
    "() = 0",
    "5 3 = 3",
    "8 ft 3 in = 99 in",
    "12 in 1 ft = 1 ft",
    "2 * (3 = 3",
    "12 = 6 + 6) * 1",
    "6 divided by 2 = 2",
    "5 % = 5",
    "3! = 3",
    "\N{SQUARE ROOT}4 = 4",
    "2\N{SUPERSCRIPT TWO} = 2",
    "10^3 = 3",
    "10**3 = 3",
    "$5 = 5",
    "#5 = 5",
    "1_000 = 0",
    "0,5 = 5",
    "1,00 = 0",
    "1,0000 = 0",
    "1000,000 = 0",
    "1.2.3 = 0.3",
    "\N{ARABIC-INDIC DIGIT SIX} = 6",
    "6 != 6",
    "6 >= 6",
    "6 => 6",
    "6 <= 6",
    "6 / 0 = 6",
    "6 / (3 - 3) = 6",
    "6 / 0 kg = 6 kg",
    "1e999 = 1e999",
    "1e300 * 1e300 = 1e300",
    "9e307 km = 9e307 km",
    "1e300 cm * 1e9 = 6",
    "6 kg + 2 = 8 kg",
    "6 kg + 2 m = 8 kg",
    "10 m / 2 s = 5 m/s",  # a length per time may be a speed or not: units alone do not tell
]


@pytest.mark.parametrize("text", RIGHT)
def test_a_right_equation_is_right(text):
    assert verdicts(text) == ["right"]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_equation_is_wrong(text):
    assert verdicts(text) == ["wrong"]


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_cannot_be_read_is_neither_right_nor_wrong(text):
    assert set(verdicts(text)) == {"unreadable"}


def test_the_mark_of_an_answer_is_passed_over_where_the_task_has_it():
    assert verdicts("6 * 1000 = <answer>6000</answer>") == ["right"]
    (equation,) = traces.equations("6 * 1000 = <answer>6000</answer>", unit_of)
    assert equation.verdict == "unreadable"


@pytest.mark.parametrize("text", ["", "6000", "<answer>6000</answer>", "There are 1000 g per kg."])
def test_a_text_without_an_equation_has_none(text):
    assert traces.equations(text, unit_of) == []


def test_a_wrong_factor_is_seen_though_the_answer_is_right_enough():
    trace = " 1 kg = 1024 gram. 6 * 1024 = 6144. <answer>6144</answer>"
    assert answers.is_correct(tags.parse(trace), 6000.0, 0.05, 1e-9), "no longer the old fault"
    assert verdicts(trace) == ["wrong", "right"]


def test_every_equation_of_a_trace_is_found_with_its_place():
    trace = " 1 kg = 1000 gram. So 6 kg = 6 * 1000 gram = 6,000 gram. <answer>6000</answer>"
    found = traces.equations(trace, unit_of)
    assert [equation.text for equation in found] == [
        "1 kg = 1000 gram",
        "6 kg = 6 * 1000 gram",
        "6 * 1000 gram = 6,000 gram",
    ]
    assert verdicts(trace) == ["right"] * 3


def test_each_link_of_a_chain_is_judged_by_itself():
    assert verdicts("2 * 3 = 6 = 7 = 14 / 2") == ["right", "wrong", "right"]
    assert verdicts("2 * 3 = 6, 7 = 14 / 2") == ["right", "right"]
    assert verdicts("2 * 3 = 6 and 5 = 14 / 2") == ["right", "wrong"]


@pytest.mark.parametrize("text", ["16 ounce = 1 pound", "16 ounce = 1 pint", "2 ounce = 2 ounce"])
def test_an_ambiguous_unit_may_mean_what_makes_the_equation_right(text):
    assert verdicts(text) == ["right"]


def test_an_ambiguous_unit_means_one_thing_throughout_an_equation():
    assert verdicts("16 ounce = 1 pound + 0 ounce") == ["right"]
    assert verdicts("16 ounce = 1 pint + 0 ounce") == ["right"]
    assert verdicts("1 pound / 16 ounce = 1 pint / 16 ounce") == ["wrong"]
    assert verdicts("15 ounce = 1 pound") == ["wrong"]
    assert verdicts("1 ounce = 1 ft") == ["wrong"]


def test_a_word_is_asked_for_as_a_unit_only_behind_a_number():
    asked = []

    def recording(name: str) -> list[tuple[str, float]]:
        asked.append(name)
        return unit_of(name)

    text = (
        "A m in B is a l of in. In 6 kg in m, or 5 kg in m, there are 6 * 1000 in total = 6000 "
        + "k" * 99
    )
    traces.equations(text, recording)
    assert set(asked) == {"kg in", "kg", "in total", "in"}
    assert len(asked) == len(set(asked)), "the same word is looked up twice in one text"


def test_the_normal_form_keeps_numbers_operators_and_the_meaning_of_units():
    assert sides("so 6x1,000 = 6e3.") == [("6 * 1000", "6000")]
    assert sides("-(2+3)/4 = -1.250") == [("- ( 2 + 3 ) / 4", "- 1.25")]
    assert sides("6 kg * 1000 g/kg = ?") == [("6 mass:1 * 1000 mass:0.001 / mass:1", "")]
    assert sides("3 cc = 3 cm^3") == [("3 volume:1e-06", "3 volume:1e-06")]
    assert sides("5 % = 1e999") == [("5 %", "1e999")]
    (equation,) = traces.equations("6x1000=6000", unit_of)
    assert equation.canonical == "6 * 1000 = 6000"


def path_of(text, unit_of):
    return tuple(equation.canonical for equation in traces.equations(text, unit_of))


def test_traces_that_differ_in_prose_alone_share_a_path():
    path = path_of("1 kg = 1000 gram. 6 * 1000 = 6000. <answer>6000</answer>", unit_of)
    assert path == ("1 mass:1 = 1000 mass:0.001", "6 * 1000 = 6000")
    for same in (
        "First, 1kg = 1,000 g\nthen 6x1000=6000.0 and that is it",
        "As 1 kg \N{ALMOST EQUAL TO} 1000 gram, (6 * 1000 = 6e3)",
    ):
        assert path_of(same, unit_of) == path
    for other in (
        "6 * 1000 = 6000. 1 kg = 1000 gram.",
        "1 kg = 1000 gram. 1000 * 6 = 6000.",
        "1 kg = 1000 gram. 6 * 1000 = 6001.",
        "1 kg = 1000 l. 6 * 1000 = 6000.",
        "1 kg = 1000 gram. 6 * 1000 gram = 6000.",
        "1 kg = 1000 gram.",
    ):
        assert path_of(other, unit_of) != path


def test_the_tolerance_takes_rounded_factors_and_refuses_confused_ones():
    assert verdicts("4 * 5217.745 = 20870") == ["right"]
    assert verdicts("1 / 3 = 0.333") == ["right"]
    assert verdicts("1 / 3 = 0.33") == ["wrong"]
    (equation,) = traces.equations("1000 = 1006", unit_of, tolerance=0.01)
    assert equation.verdict == "right"


def random_expression(draw: random.Random, depth: int) -> tuple[str, Fraction]:
    """Return an expression, parentheses only where they are needed or by chance, and its value."""
    if depth == 0 or draw.random() < 0.2:
        number = Fraction(draw.randint(0, 9999), draw.choice([1, 10, 100]))
        text = answers.formatted(float(number), 12)
        return (f"-{text}", -number) if draw.random() < 0.1 else (text, number)
    (a, x), (b, y) = (random_expression(draw, depth - 1) for _ in range(2))
    sign = draw.choice("+-*/")
    if sign == "/" and y == 0:
        sign = "*"
    blank = draw.choice(["", " ", "  "])
    value = {"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else None}[sign]
    written = draw.choice(
        {"*": "*x\N{MULTIPLICATION SIGN}", "/": "/\N{DIVISION SIGN}"}.get(sign, sign)
    )
    return f"({a}){blank}{written}{blank}({b})", value


def test_random_expressions_have_the_value_that_exact_fractions_give():
    draw = random.Random(2)
    judged = 0
    for _ in range(3_000):
        text, value = random_expression(draw, draw.randint(0, 4))
        shown = answers.formatted(float(value), 6)
        assert verdicts(f"so {text} = {shown}.") == ["right"], text
        if value:
            assert verdicts(f"{answers.formatted(float(value) * 1.02, 6)} = {text}") == ["wrong"]
            judged += 1
    assert judged > 2_000


def test_unparenthesised_expressions_follow_the_usual_precedence():
    draw = random.Random(3)
    for _ in range(3_000):
        numbers = [draw.randint(1, 99) for _ in range(draw.randint(1, 8))]
        signs = [draw.choice("+-*/") for _ in numbers[1:]]
        terms = [Fraction(numbers[0])]
        for sign, number in zip(signs, numbers[1:], strict=True):
            if sign in "+-":
                terms.append(Fraction(number if sign == "+" else -number))
            else:
                terms[-1] = terms[-1] * number if sign == "*" else terms[-1] / number
        text = str(numbers[0]) + "".join(
            f" {sign} {number}" for sign, number in zip(signs, numbers[1:], strict=True)
        )
        assert verdicts(f"{text} = {answers.formatted(float(sum(terms)), 12)}") == ["right"], text


def test_deep_parentheses_are_read_without_recursion():
    depth = 50_000
    assert verdicts("(" * depth + "1" + ")" * depth + " = 1") == ["right"]
    assert verdicts("-(" * depth + "1" + ")" * depth + " = 1") == ["right"]
    assert verdicts("2 * (" * depth + "1 = 1") == ["unreadable"]


PIECES = [
    *("0", "1", "6", "1000", ".5", "1,000", "e9", "e999", ".", ",", "٣", "½", "nan"),
    *("=", " = ", "≈", "~", "+", "-", " * ", "/", "x", "(", ")", "^3", "**", "%", "_"),
    *("kg", " g", " ounce", " m/s", " in", " fluid ounce", "so ", "by ", "\n", " ", "\t"),
    *(
        "<answer>",
        "</answer>",
        "\ud800",
        "\x00",
        "\N{NO-BREAK SPACE}",
        "\N{COMBINING ACUTE ACCENT}",
    ),
]
TRACES = [
    " 1 kg = 1000 gram. So 6 kg = 6 * 1000 gram = 6,000 gram. <answer>6000</answer>",
    "8 ft * (12 in / 1 ft) = 96 in, 16 ounce = 1 pound; -5 / 2 = -2.5",
]


def random_text(draw: random.Random) -> str:
    """Return pieces of mathematics, any characters of Unicode, or a real trace with a few hurts."""
    kind = draw.random()
    if kind < 0.5:
        return "".join(draw.choices(PIECES, k=draw.randint(0, 14)))
    if kind < 0.6:
        return "".join(chr(draw.randrange(0x110000)) for _ in range(draw.randint(0, 14)))
    text = draw.choice(TRACES)
    for _ in range(draw.randint(1, 4)):
        at = draw.randint(0, len(text))
        text = text[:at] + draw.choice([*PIECES, ""]) + text[at + draw.randint(0, 2) :]
    return text


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(1_000_000, marks=pytest.mark.fuzz, id="a million")]
)
def test_no_random_text_makes_the_answer_parser_or_the_trace_checker_raise(count):
    draw = random.Random(4)
    seen: Counter[str] = Counter()
    for _ in range(count):
        text = random_text(draw)
        answer = tags.parse(text)
        seen["answered"] += answer is not None
        for equation in equations(text):
            assert equation.text in text
            seen[equation.verdict] += 1
    for kind in ("answered", "right", "wrong", "unreadable"):
        assert seen[kind] > count // 20, f"too few {kind} to prove anything: {seen}"


LINEAR = 24  # growth below this is not quadratic


def growth(work, piece: str, size: int, before: str = "", behind: str = "") -> float:
    """Return how many times longer `work` takes on 8 * size characters of `piece` than on size.

    Linear work gives about 8, quadratic 64. CPU time and the best of three tries, since other
    programs share the machine; a size that is worked off too fast to be timed is doubled first.
    """

    def cpu_s(length: int) -> float:
        text = before + (piece * (length // len(piece) + 1))[:length] + behind
        began = time.process_time()
        work(text)
        return time.process_time() - began

    while cpu_s(size) < 0.002 and size < 125_000:
        size *= 2
    ratio = math.inf
    for _ in range(3):
        ratio = min(ratio, cpu_s(8 * size) / cpu_s(size))
        if ratio < LINEAR:
            break
    return ratio


WORST = [
    *("1=", "=", "= ", "(1=", "1 ounce=", "1 ounce/g=", "=~", "=\n"),
    *("(", ")", "()", "-(", "2 * (", "(1 ounce)*"),
    *("1", "1 ", "1,111", "1,111,", "1.1.", "1e", "0.", ".", ","),
    *("1+", "1x", "-", "- ", "-1", "/", "*", "1/m", "1 kg*kg/", "ounce/g*"),
    *("a", "a ", "a/", "1 a b ", "x", "_", "1 cup^3", "1 " + "ab" * 20),
    *(
        " ",
        "\n",
        "1\n",
        "1    ",
        "~",
        "<",
        "<answer>",
        "<answer>1",
        "</answer>",
        "٣",
        "½",
        "\ud800",
    ),
]


@pytest.mark.parametrize(
    "size", [1_000, pytest.param(125_000, marks=pytest.mark.fuzz, id="to 1 MB")]
)
@pytest.mark.parametrize("piece", WORST)
def test_traces_are_checked_in_linear_time(piece, size):
    assert growth(equations, piece, size) < LINEAR


@pytest.mark.parametrize("piece", [*WORST, "+1", "1_", "1e1"])
@pytest.mark.parametrize("before", ["", "<answer>", "<answer>1", "<answer>1.1", "<answer>1e"])
def test_answers_are_parsed_in_linear_time(piece, before):
    for behind in ("", "</answer>"):
        assert growth(tags.parse, piece, 20_000, before, behind) < LINEAR


def test_growth_tells_linear_from_quadratic():
    """A pattern that is tried anew from every digit: quadratic, and easily written."""
    assert growth(re.compile("[0-9]+=").search, "1", 2_000) > LINEAR
    assert growth(re.compile("[0-9]++").match, "1", 2_000) < LINEAR
