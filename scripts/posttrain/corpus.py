"""The text the embedded base model is pretrained on: unit facts, products, worked conversions.

Its phrasings are not the questions' own, and no held-out product stands in it, neither as a
conversion nor bare.
"""

import random
from collections.abc import Iterator
from functools import cache

from posttrain.answers import formatted
from posttrain.units import DIGITS, QUANTITIES, UNITS, product_key, ratios

# The prompts of config.yaml's defaults; a test holds the two equal.
REASONING = "Question: {question}\nReasoning: {reasoning} <answer>{answer}</answer>"
ANSWER = "Question: {question}\nAnswer: <answer>{answer}</answer>"

# None of these is among `units.PHRASINGS`: {n} of {a} are wanted in {b}.
PHRASINGS = (
    "{n} {a} in {b}?",
    "{n} {a} to {b}",
    "Turn {n} {a} into {b}.",
    "Write {n} {a} in {b}.",
    "Change {n} {a} to {b}.",
    "Work out {n} {a} in {b}.",
    "Say what {n} {a} comes to in {b}.",
    "Rewrite {n} {a} as {b}.",
    "We have {n} {a}. How many {b} do we have?",
    "I measured {n} {a}. Give it in {b}.",
    "In {b}, what would {n} {a} come to?",
    "In terms of {b}, how large is {n} {a}?",
    "Find how many {b} {n} {a} will hold.",
    "Find the number of {b} in {n} {a}.",
    "How many {b} do {n} {a} come to?",
    "How many {b} does one count in {n} {a}?",
    "If you have {n} {a}, how many {b} is that?",
    "From {a} to {b}: {n}",
    "Going from {a} to {b}, what do {n} give?",
    "Given {n} units of {a}, name the {b}.",
    "Do you know the {b} for {n} {a}?",
    "Would you turn {n} {a} into their value in {b}?",
    "Calculate the {b} that equal {n} {a}.",
    "What do {n} {a} amount to when measured in {b}?",
    # The words of the questions, in another order: a word that was never read says nothing.
    "Converted to {b}, {n} {a} give what?",
    "Convert to {b}: {n} {a}.",
    "Express in {b} the quantity of {n} {a}.",
    "What are {n} {a} in {b}?",
    "In {b}, how much is {n} {a}?",
    "In {b}, what does {n} {a} equal?",
    "How much are {n} {a}, expressed in {b}?",
    "Could you tell me the {b} in {n} {a}?",
    "Can you give {n} {a} as {b}?",
    "Please give the number of {b} in {n} {a}.",
    "Tell me the value of {n} {a} in {b}.",
    "Give me {n} {a} in {b}, please.",
    "How do {n} {a} convert to {b}?",
    "What does the conversion of {n} units from {a} to {b} give?",
    "For {n} {a}, what is its equivalent in {b}?",
    "What quantity of {b} is the equivalent of {n} {a}?",
    "Per {n} {a}, how many {b} are there?",
    "There are how many {b} in {n} {a}?",
    "Measure {n} {a} in terms of {b}.",
    "When converted into {b}, what is {n} {a}?",
    "Change {n} units of {a} into the equivalent of {b}.",
    "We express {n} {a} as how many {b}?",
    "Make {n} {a} up of {b}: how many?",
    "Expressed as a quantity of {b}, how much is {n} {a}?",
    "{n} {a}, expressed as a quantity of {b}",
    "Take {n} {a} as a quantity of {b}: which?",
    "Convert {n} units of {a} into {b}.",
    "Convert from {a} to {b}: {n} units.",
    "Could you please convert to {b} these {n} {a}?",
    "How do we write {n} {a} in terms of {b}?",
    "How do {n} {a} measure up when counted in {b}?",
    "How many {b} would make up {n} {a}?",
    "How many {b} equal {n} {a}?",
    "How many {b} are {n} {a}?",
    "What does one call {n} {a} in {b}?",
    "What number of {b} is {n} {a}?",
    "Give the equivalent in {b} for {n} units of {a}.",
    "Tell us how many {b} make {n} {a}.",
)
STATEMENTS = (
    "{n} {a} = {r} {b}.",
    "{n} {a} is {r} {b}.",
    "{n} {a} equals {r} {b}.",
    "{n} {a} makes {r} {b}.",
    "There are {r} {b} in {n} {a}.",
    "{n} {a} can be written as {r} {b}.",
    "In {b}, {n} {a} comes to {r}.",
    "{r} {b} is the same as {n} {a}.",
)
# kind of document -> its share; with a third of worked ones, as much was learned of reasoning that
# RFT had nothing to add
SHARES = {"worked": 0.12, "statement": 0.26, "product": 0.3, "answer": 0.32}


def plain(value: float) -> str:
    """Return `value` as the text writes numbers: `DIGITS` significant digits, plain decimal."""
    return formatted(value, DIGITS)


def digits(number: str) -> str:
    """Return the digits of a written number without the zeros around them: 16 of 0.0160."""
    return number.replace(".", "").strip("0")


@cache
def routes() -> dict[tuple[str, str], tuple[str, ...]]:
    """Return (from, to) -> the units between, through which whole factors lead all the way."""

    def is_whole(pair: tuple[str, str]) -> bool:
        return pair in ratios() and abs(ratios()[pair] - round(ratios()[pair])) < 1e-9

    return {
        (one, other): tuple(
            between
            for between in UNITS
            if is_whole((one, between))
            and is_whole((between, other))
            and ratios()[one, between] > 1
        )
        for one, other in ratios()
    }


class Writer:
    """Writes documents from one random stream. `kept_out` are products never to be written."""

    def __init__(self, rng: random.Random, kept_out: frozenset[tuple[str, str]]) -> None:
        self.rng, self.kept_out = rng, kept_out
        self.pairs = sorted(ratios())
        # Of numbers that are no factor between units: 9 * 1.6 tells what 9 * 16 is.
        self.digits_kept_out = {
            (digits(one), int(other))
            for key in kept_out
            for one, other in (key, key[::-1])
            if other.isdigit()
        }

    def is_open(self, ratio: float, quantity: float) -> bool:
        """Tell whether the product may be written."""
        return product_key(ratio, quantity) not in self.kept_out

    def name(self, unit: str) -> str:
        """Return one of the unit's names at random."""
        return self.rng.choice(UNITS[unit].names)

    def reasoning(self, n: int, pair: tuple[str, str], a: str, b: str) -> str:
        """Return one way to reason from `n` `a` to `b`: what is asked, then equations.

        Asked in few words first, since a model that does not say which way it converts multiplies
        by the factor of the way it has met most.
        """
        ratio = ratios()[pair]
        f, r = plain(ratio), plain(n * ratio)
        ways = [f"1 {a} = {f} {b}. {n} * {f} = {r}."] * 3
        ways.append(f"1 {a} = {f} {b}, so {n} {a} = {n} * {f} {b} = {r} {b}.")
        if ratio < 1 and self.is_open(1 / ratio, n):
            g = plain(1 / ratio)
            ways.append(f"{g} {a} = 1 {b}. {n} / {g} = {r}.")
        for between in routes()[pair]:
            first, second = ratios()[pair[0], between], ratios()[between, pair[1]]
            step = n * first
            if self.is_open(first, n) and self.is_open(second, step):
                by = self.name(between)
                ways.append(
                    f"1 {a} = {plain(first)} {by}. {n} * {plain(first)} = {plain(step)}. "
                    f"1 {by} = {plain(second)} {b}. {plain(step)} * {plain(second)} = {r}."
                )
        return f"{n} {a} to {b}: {self.rng.choice(ways)}"

    def conversion(self) -> tuple[int, tuple[str, str], str, str]:
        """Draw a quantity, a pair that is open with it, and names of its two units."""
        while True:
            n, pair = self.rng.choice(QUANTITIES), self.rng.choice(self.pairs)
            if self.is_open(ratios()[pair], n):
                return n, pair, self.name(pair[0]), self.name(pair[1])

    def product(self) -> str:
        """Return some products with small numbers: of factors between units, and of any numbers.

        Short numbers are as frequent as long ones: on them it can be learned how to multiply.
        """
        lines = []
        while len(lines) < 3:
            n = self.rng.choice(QUANTITIES)
            if self.rng.random() < 0.5:
                factor = ratios()[self.rng.choice(self.pairs)]
                is_open = self.is_open(factor, n)
            else:
                length = self.rng.randint(1, DIGITS)
                whole = self.rng.randint(10 ** (length - 1), 10**length - 1)
                factor = whole / 10 ** self.rng.randint(0, DIGITS)
                is_open = (digits(plain(factor)), n) not in self.digits_kept_out
            if is_open:
                lines.append(f"{n} * {plain(factor)} = {plain(n * float(plain(factor)))}.")
        return " ".join(lines)

    def document(self) -> str:
        """Return one document."""
        kind = self.rng.choices(list(SHARES), list(SHARES.values()))[0]
        if kind == "product":
            return self.product()
        n, pair, a, b = self.conversion()
        r = plain(n * ratios()[pair])
        if kind == "statement":
            return self.rng.choice(STATEMENTS).format(n=n, a=a, b=b, r=r)
        question = self.rng.choice(PHRASINGS).format(n=n, a=a, b=b)
        if kind == "answer":
            return ANSWER.format(question=question, answer=r)
        reasoning = self.reasoning(n, pair, a, b)
        return REASONING.format(question=question, reasoning=reasoning, answer=r)


def documents(seed: int, kept_out: frozenset[tuple[str, str]]) -> Iterator[str]:
    """Yield the endless pretraining text, document by document, the same for the same arguments."""
    writer = Writer(random.Random(f"corpus {seed}"), kept_out)
    while True:
        yield writer.document()
