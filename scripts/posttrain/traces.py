"""Equations in a reasoning trace: found, read and checked, in linear time, without `eval`.

The text becomes tokens. Every `=` stands between a left side, the last run of expression tokens
before it, and a right side, the first run after it. Words of prose and punctuation end a run. What
may be mathematics but is not understood (`%`, `^`, two numbers side by side) makes its side
unreadable, since a guess would call a wrong step right, or a right one wrong.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise, product
from operator import add, mul, sub, truediv
from typing import Literal, NamedTuple

Verdict = Literal["right", "wrong", "unreadable"]
# A unit's name -> all that it may mean, each as (dimension, factor to the dimension's base unit);
# empty for what is no unit. `ounce` means a mass or a volume. Asked for single words ("gram"), two
# words ("fluid ounce") and symbols as they are written ("m/s", "cm^3", "m**3").
UnitOf = Callable[[str], Sequence[tuple[str, float]]]
Meanings = Mapping[str, Sequence[tuple[str, float]]]

DIGITS = frozenset("0123456789")
SIGNS = {sign: sign for sign in "+-*/"} | {
    "\N{MINUS SIGN}": "-",
    "\N{MULTIPLICATION SIGN}": "*",
    "\N{MIDDLE DOT}": "*",
    "\N{DOT OPERATOR}": "*",
    "\N{DIVISION SIGN}": "/",
}
SPOKEN = {"x": "*", "X": "*", "times": "*"}
HEDGES = frozenset(("about", "approximately", "around", "roughly"))
DASHES_AND_QUOTES = "\u2013\u2014\u2018\u2019\u201c\u201d\u2022\u2026"  # also bullet, ellipsis
PUNCTUATION = frozenset(".,;:!?\"'`[]{}<>|" + DASHES_AND_QUOTES)
RANK = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "negate": 3}
ARITHMETIC = {"+": add, "-": sub, "*": mul, "/": truediv}
MOST_READINGS = 16  # of one equation: four names with two meanings each
LONGEST_NAME = 32  # characters of a unit

# Possessive (++): a pattern never goes back, so no text makes it take more than linear time.
BLANKS = re.compile(r"\s++")
INNER_BLANKS = re.compile(r"[^\S\r\n]*+")
WORD = re.compile(r"[^\W\d]++")
NUMBER = re.compile(
    r"(?:[0-9]{1,3}+(?:,[0-9]{3})++|[0-9]++)?+(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+"
)
RATIO = re.compile(r"[^\W\d]++/[^\W\d]++")
NAMES = (re.compile(r"[^\W\d]++(?:\^|\*\*)[0-9]"), re.compile(r"[^\W\d]++ [^\W\d]++"), WORD)


@dataclass(frozen=True)
class Equation:
    """One `=` of a trace.

    text: as it stands there. sides: the normal form of both, "" where there is nothing to read.
    verdict: right, wrong, or unreadable where a side is no expression or has no value.
    """

    text: str
    sides: tuple[str, str]
    verdict: Verdict

    @property
    def canonical(self) -> str:
        """The equation without what is the writer's taste: blanks, commas, names of units."""
        return " = ".join(self.sides)


def equations(
    text: str, unit_of: UnitOf, tolerance: float = 0.005, mark: str = ""
) -> list[Equation]:
    """Return every equation of `text` in order; `a = b = c` gives `a = b` and `b = c`.

    Read are decimals (`6,000`, `.5`, `1e3`), `+ - * /` and the signs of print for them, `x` and
    `times` after a number, parentheses, a minus, and units directly after a number, joined by `/`
    or `*` (`1000 g/kg`); `≈` and `~=` are `=`. A full stop, the end of a line, a bullet and a word
    of prose end a side.

    With units on both sides, the sides are compared in base units: wrong where the dimensions
    differ, right where any meaning of ambiguous names makes them agree. Where one side alone has
    units, the numbers are compared as shown: `6 * 1000 = 6000 gram` is right.

    Args:
        text: a completion; every string is allowed, and time is linear in its length.
        unit_of: see `UnitOf`.
        tolerance: how far the sides may differ, as a share of the larger. Steps show factors with
            4 significant digits, each up to 0.05 % off, and multiply what they show: 0.5 % leaves
            room for ten of those or for one with 3 digits, and tells 1000 from 1024 (2.4 %).
        mark: what begins an answer, passed over behind `=`: the answer is the right side then.
    """
    reader = _Reader(text, unit_of, mark)
    tokens = _without_stray_parentheses(reader.tokens)
    equals = [token for token in tokens if token.kind == "="]
    found = []
    for equal, ((_, left), (right, _)) in zip(equals, pairwise(_outer_runs(tokens)), strict=True):
        begin = left[0].begin if left else equal.begin
        end = right[-1].end if right else equal.end
        sides = (_normal_form(left, reader.meanings), _normal_form(right, reader.meanings))
        verdict = _verdict(left, right, reader.meanings, tolerance)
        found.append(Equation(text[begin:end], sides, verdict))
    return found


class _Token(NamedTuple):
    """kind: number, operator, negate, (, ), =, break and line (both end a run), or unknown."""

    kind: str
    begin: int
    end: int
    form: str  # in the normal form; an operator's is its name in RANK
    value: float = 0.0
    units: tuple[tuple[str, int], ...] = ()  # behind a number: name, and -1 where it divides


class _Quantity(NamedTuple):
    """A value as shown, the same in base units, and the powers of its dimensions, none 0."""

    shown: float
    base: float
    powers: Mapping[str, int]


class _UnreadableError(Exception):
    """A run of tokens is no expression, or one without a value."""


class _Reader:
    """Cuts a text into `tokens`; `meanings` holds the units that it met."""

    def __init__(self, text: str, unit_of: UnitOf, mark: str) -> None:
        self.text, self.unit_of, self.mark = text, cache(unit_of), mark
        self.tokens: list[_Token] = []
        self.meanings: dict[str, Sequence[tuple[str, float]]] = {}
        at = 0
        while at < len(text):
            at = self._read(at, self.tokens[-1].kind if self.tokens else "line")

    def _read(self, at: int, last: str) -> int:
        """Read what begins at `at`, behind a token of kind `last`; return where it ends."""
        char, after = self.text[at], self.text[at + 1 : at + 2]
        if char.isspace():
            return self._read_blanks(at, last)
        if char in DIGITS or (char == "." and after in DIGITS):
            return self._read_number(at, last)
        if char.isalpha() or char == "_":
            return self._read_word(at, last)
        if char in "=≈" or char + after == "~=":
            end = at + 1 + (char == "~")
            while self.text.startswith("=", end):
                end += 1
            return self._add("=", at, end, "=")
        if last == "=" and char == "~":
            return at + 1
        if last == "=" and self.mark and self.text.startswith(self.mark, at):
            return at + len(self.mark)
        if char in SIGNS:
            return self._read_sign(at, last, is_glued=bool(after) and not after.isspace())
        if char in "()":
            return self._add(char, at, at + 1, char)
        is_decimal_comma = char == "," and after in DIGITS and self.text[at - 1 : at] in DIGITS
        is_break = char in PUNCTUATION and not is_decimal_comma
        return self._add("break" if is_break else "unknown", at, at + 1, char)

    def _add(self, kind: str, begin: int, end: int, form: str) -> int:
        self.tokens.append(_Token(kind, begin, end, form))
        return end

    def _read_blanks(self, at: int, last: str) -> int:
        end = BLANKS.match(self.text, at).end()
        has_line_end = any(char in "\r\n" for char in self.text[at:end])
        if has_line_end and last != "=" and not self.text.startswith(("=", "≈"), end):
            self._add("line", at, end, "")
        return end

    def _read_number(self, at: int, last: str) -> int:
        end = NUMBER.match(self.text, at).end()
        value = float(self.text[at:end].replace(",", ""))
        before = self.text[at - 1 : at]
        is_in_a_name = last != "operator" and (before == "_" or before.isalpha())
        if is_in_a_name or math.isinf(value):
            return self._add("unknown", at, end, self.text[at:end])
        units, behind = self._units_at(end)
        self.tokens.append(_Token("number", at, behind, f"{value:.12g}", value, units))
        return behind

    def _units_at(self, end: int) -> tuple[tuple[tuple[str, int], ...], int]:
        """Return the units behind a number that ends at `end`, and where they end themselves."""
        units: list[tuple[str, int]] = []
        begin, power = end, 1
        while name := self._unit_at(begin, (RATIO, *NAMES) if not units else NAMES):
            units.append((name[0], power))
            end = name[1]
            sign = INNER_BLANKS.match(self.text, end).end()
            joint = SIGNS.get(self.text[sign : sign + 1])
            if joint not in ("*", "/"):
                break
            begin, power = sign + 1, 1 if joint == "*" else -1
        return tuple(units), end

    def _unit_at(self, at: int, patterns: Sequence[re.Pattern[str]]) -> tuple[str, int] | None:
        """Return the first name of a unit that `patterns` find at `at`, and where it ends."""
        begin = INNER_BLANKS.match(self.text, at).end()
        for pattern in patterns:
            found = pattern.match(self.text, begin)
            name = found[0] if found else ""
            if 0 < len(name) <= LONGEST_NAME and (meanings := self.unit_of(name)):
                self.meanings[name] = meanings
                return name, found.end()
        return None

    def _read_word(self, at: int, last: str) -> int:
        end = WORD.match(self.text, at).end()
        word = self.text[at:end]
        if last in ("number", ")") and word in SPOKEN:
            return self._add("operator", at, end, SPOKEN[word])
        if last == "=" and word in HEDGES:
            return end
        # "6 divided by 2 = 3" must not be read as 2 = 3.
        return self._add("unknown" if word == "by" else "break", at, end, word)

    def _read_sign(self, at: int, last: str, is_glued: bool) -> int:
        sign = SIGNS[self.text[at]]
        if self.text.startswith("**", at):
            return self._add("unknown", at, at + 2, "**")
        if last in ("number", ")"):
            return self._add("operator", at, at + 1, sign)
        if last == "line" and not is_glued:
            return self._add("break", at, at + 1, sign)  # a bullet
        if sign == "-" and is_glued and not self.text[at - 1 : at].isalnum():
            return self._add("negate", at, at + 1, "negate")
        return self._add("unknown", at, at + 1, sign)


def _without_stray_parentheses(tokens: Sequence[_Token]) -> list[_Token]:
    """Turn each parenthesis without a partner in its run into prose, or, by an operator, unknown.

    "(so 6 * 2 = 12)" and "1) 6 * 2 = 12" are prose around an equation; "2 * (3 = 6" is a fault.
    """
    result = list(tokens)
    opened: list[int] = []

    def close_run() -> None:
        for index in opened:
            before = result[index - 1].kind if index else "line"
            is_fault = before in ("operator", "negate", "unknown")
            result[index] = result[index]._replace(kind="unknown" if is_fault else "break")
        opened.clear()

    for index, token in enumerate(tokens):
        if token.kind in ("break", "line", "="):
            close_run()
        elif token.kind == "(":
            opened.append(index)
        elif token.kind == ")" and opened:
            opened.pop()
        elif token.kind == ")":
            is_fault = index + 1 < len(tokens) and tokens[index + 1].kind == "operator"
            result[index] = token._replace(kind="unknown" if is_fault else "break")
    close_run()
    return result


def _outer_runs(tokens: Sequence[_Token]) -> Iterator[tuple[list[_Token], list[_Token]]]:
    """Yield the first and the last run of tokens before, between and after the equals signs."""
    first: list[_Token] | None = None
    run: list[_Token] = []
    for token in tokens:
        if token.kind == "=":
            yield (run if first is None else first), run
            first, run = None, []
        elif token.kind in ("break", "line"):
            first, run = (run if first is None else first), []
        else:
            run.append(token)
    yield (run if first is None else first), run


def _normal_form(run: Sequence[_Token], meanings: Meanings) -> str:
    parts = []
    for token in run:
        parts.append("-" if token.kind == "negate" else token.form)
        for index, (name, power) in enumerate(token.units):
            parts += ["/" if power < 0 else "*"] if index else []
            parts.append("|".join(f"{what}:{factor:.12g}" for what, factor in meanings[name]))
    return " ".join(parts)


def _verdict(
    left: Sequence[_Token], right: Sequence[_Token], meanings: Meanings, tolerance: float
) -> Verdict:
    """Return the best verdict over all that the names of units in the equation may mean."""
    names = list(dict.fromkeys(name for token in (*left, *right) for name, _ in token.units))
    verdicts = set()
    for readings in islice(product(*(meanings[name] for name in names)), MOST_READINGS):
        unit = dict(zip(names, readings, strict=True))
        try:
            verdicts.add(_comparison(_value(left, unit), _value(right, unit), tolerance))
        except _UnreadableError:
            verdicts.add("unreadable")
    return next(verdict for verdict in ("right", "wrong", "unreadable") if verdict in verdicts)


def _comparison(left: _Quantity, right: _Quantity, tolerance: float) -> Verdict:
    if left.powers and right.powers:
        if left.powers != right.powers:
            is_plain = [*left.powers.values()] == [*right.powers.values()] == [1]
            return "wrong" if is_plain else "unreadable"  # length per time may be a speed
        a, b = left.base, right.base
    else:
        a, b = (side.shown if side.powers else side.base for side in (left, right))
    return "right" if abs(a - b) <= tolerance * max(abs(a), abs(b)) else "wrong"


def _value(run: Sequence[_Token], unit: Mapping[str, tuple[str, float]]) -> _Quantity:
    """Evaluate a side, with stacks of our own: a trace may nest deeper than Python does.

    Args: unit, the meaning of each name of a unit.
    Raises: _UnreadableError if `run` is no expression, divides by 0, adds unlike things, or is
        too large for a float.
    """
    values: list[_Quantity] = []
    operators: list[str] = []
    wants_operand = True
    for token in run:
        if (token.kind in ("number", "(", "negate")) is not wants_operand:
            raise _UnreadableError
        if token.kind == "number":
            values.append(_quantity(token, unit))
            wants_operand = False
        elif token.kind in ("(", "negate"):
            operators.append(token.form)
        elif token.kind == "operator":
            while operators and RANK[operators[-1]] >= RANK[token.form]:
                _apply(operators.pop(), values)
            operators.append(token.form)
            wants_operand = True
        elif token.kind == ")":
            while (operator := operators.pop()) != "(":
                _apply(operator, values)
        else:
            raise _UnreadableError
    if wants_operand:
        raise _UnreadableError
    while operators:
        _apply(operators.pop(), values)
    if not (math.isfinite(values[0].shown) and math.isfinite(values[0].base)):
        raise _UnreadableError
    return values[0]


def _quantity(token: _Token, unit: Mapping[str, tuple[str, float]]) -> _Quantity:
    base, powers = token.value, {}
    for name, power in token.units:
        dimension, factor = unit[name]
        base = base * factor if power > 0 else base / factor
        powers = _multiplied(powers, {dimension: 1}, power)
    return _Quantity(token.value, base, powers)


def _multiplied(a: Mapping[str, int], b: Mapping[str, int], sign: int) -> Mapping[str, int]:
    """Return the powers of a * b, or with a `sign` of -1 of a / b, without zeros."""
    powers = {what: a.get(what, 0) + sign * b.get(what, 0) for what in {**a, **b}}
    return {what: power for what, power in powers.items() if power}


def _apply(operator: str, values: list[_Quantity]) -> None:
    """Replace the two last values, or to negate the last one, by the operator's result."""
    b = values.pop()
    if operator == "negate":
        values.append(_Quantity(-b.shown, -b.base, b.powers))
        return
    a = values.pop()
    if operator == "/" and not (b.shown and b.base):
        raise _UnreadableError
    if operator in ("*", "/"):
        powers = _multiplied(a.powers, b.powers, 1 if operator == "*" else -1)
    elif a.powers == b.powers:
        powers = a.powers
    else:
        raise _UnreadableError
    work = ARITHMETIC[operator]
    values.append(_Quantity(work(a.shown, b.shown), work(a.base, b.base), powers))
