"""Word problems of two or three steps with small whole numbers, as the task `arithmetic` asks them.

A problem is a plot, such as `groups, less, share`, and the numbers in it. Each part of a plot is a
sentence or two: "Ann has 5 bags with 6 pens in each. Ann gives away 4 of them. 2 friends share them
equally. How many pens does each get?" Which sentences is up to who tells it: questions have some,
the pretraining text has others.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from operator import add, floordiv, mul, sub
from typing import NamedTuple

NAMES = ("Ann", "Ben", "Cara", "Dan", "Eva", "Finn", "Gina", "Hugo")
THINGS = ("pens", "cards", "apples", "coins", "books", "shells", "stamps", "cups")
BOXES = ("boxes", "bags", "jars")
LARGEST = 99  # of all numbers in a problem
RANGES = {"A": range(10, 41), "B": range(10, 41)} | dict.fromkeys("abcdk", range(2, 10))
WORK = {"+": add, "-": sub, "*": mul, "/": floordiv}
RANK = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "negate": 3}  # the higher, the sooner worked out

# Part of a plot -> its steps, on the numbers that its sentence tells (a letter each), on v, what
# there is by then, and on p, what a step before it came to.
STARTS: Mapping[str, tuple[str, ...]] = {
    "some": ("v = A",),
    "groups": ("v = a * b",),
    "both": ("v = A + B",),
}
TURNS: Mapping[str, tuple[str, ...]] = {
    "less": ("v = v - c",),
    "more": ("v = v + c",),
    "fewer groups": ("p = c * d", "v = v - p"),
    "more groups": ("p = c * d", "v = v + p"),
}
ENDS: Mapping[str, tuple[str, ...]] = {
    "count": (),
    "share": ("v = v / k",),
    "price": ("v = v * k",),
    "times": ("v = v * k",),
}
PARTS = {**STARTS, **TURNS, **ENDS}

# Part of a plot -> the sentences that a question may tell it in; N and M are names. Numbers stand
# in the order in which they are needed.
SENTENCES: Mapping[str, tuple[str, ...]] = {
    "some": ("{N} has {A} {things}.", "{N} starts with {A} {things}."),
    "groups": (
        "{N} has {a} {boxes} with {b} {things} in each.",
        "{N} buys {a} {boxes} of {b} {things} each.",
    ),
    "both": (
        "{N} has {A} {things} and {M} has {B}. They put them together.",
        "{N} and {M} put their {A} and {B} {things} together.",
    ),
    "less": ("{N} gives away {c} of them.", "Then {c} {things} get lost."),
    "more": ("{N} buys {c} more.", "Then {N} finds another {c} {things}."),
    "fewer groups": (
        "{c} friends take {d} of them each.",
        "Each of {c} children takes {d} {things}.",
    ),
    "more groups": (
        "{N} buys {c} more packs of {d}.",
        "Then {M} brings {c} packs of {d} {things} each.",
    ),
    "count": ("How many {things} are there now?", "How many {things} is that in the end?"),
    "share": (
        "{k} friends share them equally. How many {things} does each get?",
        "They are shared equally among {k} children. How many {things} is that for each?",
    ),
    "price": (
        "Each one costs {k} dollars. How many dollars do they cost in all?",
        "{N} sells them all for {k} dollars each. How many dollars does {N} get?",
    ),
    "times": (
        "{M} has {k} times as many. How many {things} does {M} have?",
        "{M} wants {k} times as many. How many {things} does {M} want?",
    ),
}


class Step(NamedTuple):
    """One sum of a problem: two numbers, the sign between them, and what they come to."""

    left: int
    sign: str
    right: int
    value: int

    @property
    def form(self) -> str:
        """The sum without its value; of a sum or product that can be turned, the smaller first."""
        turns = self.sign in "+*" and self.left > self.right
        left, right = (self.right, self.left) if turns else (self.left, self.right)
        return f"{left} {self.sign} {right}"


@dataclass(frozen=True)
class Problem:
    """A plot with its numbers, one mapping of letters a part, and the steps that they lead to."""

    plot: tuple[str, ...]
    numbers: tuple[Mapping[str, int], ...]
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        """What the last step comes to."""
        return self.steps[-1].value


def fact(steps: Sequence[Step]) -> tuple[str, ...]:
    """Return what makes two problems the same sum, whatever is told of it and in what order."""
    return tuple(sorted(step.form for step in steps))


def is_open(steps: Sequence[Step], kept_out: Container[tuple[str, ...]]) -> bool:
    """Tell whether no two or three of the steps, one leading to the other, are kept out."""
    return not any(fact(chosen) in kept_out for chosen in _linked(steps))


def _linked(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Yield the twos and threes, all but one of which come to a number that another works with.

    Found from step to step, since a text has too many threes to look at each. Some come twice.
    """
    steps = _without_repeats(steps)
    makers, users = defaultdict(set), defaultdict(set)  # number -> places of steps
    for place, step in enumerate(steps):
        makers[step.value].add(place)
        for number in (step.left, step.right):
            users[number].add(place)
    for many in (2, 3):
        for one, first in enumerate(steps):
            for other in users[first.value] - {one}:
                second = steps[other]
                if many == 2:
                    yield [first, second]
                    continue
                thirds = users[second.value].union(
                    *(makers[number] for number in (*first[::2], *second[::2]))
                )
                if second.value in first[::2]:  # each leads to the other: any may be the last
                    thirds = set(range(len(steps)))
                for third in thirds - {one, other}:
                    yield [first, second, steps[third]]


def _without_repeats(steps: Sequence[Step]) -> list[Step]:
    """Return the steps without a fourth of a kind: no three differ by it, and a loop has many."""
    seen: Counter[tuple[str, int]] = Counter()
    found = []
    for step in steps:
        seen[step.form, step.value] += 1
        if seen[step.form, step.value] <= 3:
            found.append(step)
    return found


def worked_out(expression: str) -> list[Step]:
    """Return the sums of whole numbers by which an expression is worked out, the first one first.

    By precedence and from left to right: of 5 * 6 - 4, they are 5 * 6 = 30 and 30 - 4 = 26. What
    has no value has none.

    Args: expression, in the normal form of `traces`; time is linear in its length.
    """
    values: list[float] = []
    signs: list[str] = []
    steps: list[Step] = []
    last = "("
    try:
        for token in expression.split():
            if token == "-" and last in RANK:
                token = "negate"
            if token in ("(", "negate"):
                signs.append(token)
            elif token == ")":
                while (sign := signs.pop()) != "(":
                    _work(sign, values, steps)
            elif token in RANK:
                while signs and RANK[signs[-1]] >= RANK[token]:
                    _work(signs.pop(), values, steps)
                signs.append(token)
            else:
                values.append(float(token))
            last = token
        while signs:
            _work(signs.pop(), values, steps)
    except (IndexError, ValueError, ZeroDivisionError):
        return []
    return steps


def _work(sign: str, values: list[float], steps: list[Step]) -> None:
    """Replace the two last values by what they come to, and note the step if all are whole."""
    right = values.pop()
    if sign == "negate":
        values.append(-right)
        return
    left = values.pop()
    value = left / right if sign == "/" else WORK[sign](left, right)
    values.append(value)
    if left.is_integer() and right.is_integer() and value.is_integer():
        steps.append(Step(int(left), sign, int(right), int(value)))


@cache
def plots(steps: int) -> tuple[tuple[str, ...], ...]:
    """Return every plot of so many steps: a start, up to two turns, an end."""
    turns = [(), *((turn,) for turn in TURNS), *product(("less", "more"), repeat=2)]
    every = ((start, *middle, end) for start in STARTS for middle in turns for end in ENDS)
    return tuple(plot for plot in every if len(_sums(plot)) == steps)


def _sums(plot: Sequence[str]) -> list[str]:
    return [step for part in plot for step in PARTS[part] if len(step.split()) == 5]


def drawn(rng: random.Random, steps: Sequence[int] = (2, 3)) -> Problem:
    """Draw a problem of some of the numbers of `steps`, whose every step is whole and small."""
    plot = rng.choice(plots(rng.choice(steps)))
    while True:
        numbers = tuple(_numbers(part, rng) for part in plot)
        if steps := _worked(plot, numbers):
            return Problem(plot, numbers, steps)


def _numbers(part: str, rng: random.Random) -> dict[str, int]:
    return {letter: rng.choice(RANGES[letter]) for letter in _letters(part)}


@cache
def _letters(part: str) -> list[str]:
    return sorted({letter for step in PARTS[part] for letter in step if letter in RANGES})


def _worked(plot: Sequence[str], numbers: Sequence[Mapping[str, int]]) -> tuple[Step, ...] | None:
    """Return the steps, or None where one comes to no whole number from 2 to `LARGEST`."""
    known: dict[str, int] = {}
    steps = []
    for part, own in zip(plot, numbers, strict=True):
        known |= own
        for text in PARTS[part]:
            target, _, left, *sum_ = text.split()
            if not sum_:
                known[target] = known[left]
                continue
            sign, right = sum_[0], known[sum_[1]]
            value = WORK[sign](known[left], right)
            is_whole = sign != "/" or value * right == known[left]
            if not is_whole or not 1 < value <= LARGEST:
                return None
            steps.append(Step(known[left], sign, right, value))
            known[target] = value
    return tuple(steps)


def told(problem: Problem, sentences: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """Tell a problem in some of the sentences, with names and things of chance."""
    name, other = rng.sample(NAMES, 2)
    words = {"N": name, "M": other, "things": rng.choice(THINGS), "boxes": rng.choice(BOXES)}
    return " ".join(
        rng.choice(sentences[part]).format(**words, **numbers)
        for part, numbers in zip(problem.plot, problem.numbers, strict=True)
    )
