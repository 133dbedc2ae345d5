"""The task the workflow ships with: unit conversion, "How many gram are there per 6 kg?".

Facts come from pint. Six domains, the names that people use for one unit, and the traps among them:
`ton` is the metric one, `ounce` is fluid among volumes and a mass among masses, gallon, quart and
pint are US liquid ones, KB, MB and GB are decimal, `M` and `G` stand for MB and GB, and a year has
365.242199 days.
"""

import math
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, permutations, product
from typing import Any

from posttrain.answers import formatted
from posttrain.errors import QuestionError

QUANTITIES = range(1, 11)
# A pair is asked where one unit holds from a tenth to ten thousand of the other: people do not ask
# for the millimetres in a mile.
FACTORS = (0.1, 9000.0)
# Factors are written, multiplied and compared at this precision, in questions and in traces.
DIGITS = 4
# Of two numbers so written, their product and quotient are off by at most this share; two factors
# that are different are further apart.
ROUNDING = 1e-3
YEAR = "365.242199 day"


@dataclass(frozen=True)
class Unit:
    """A unit: its domain, its definition in pint's words, and the names that questions use."""

    domain: str
    definition: str
    names: tuple[str, ...]


UNITS = {
    "second": Unit("time", "second", ("s", "sec", "second", "seconds")),
    "minute": Unit("time", "minute", ("min", "minute", "minutes")),
    "hour": Unit("time", "hour", ("h", "hour", "hours")),
    "day": Unit("time", "day", ("day", "days")),
    "week": Unit("time", "week", ("week", "weeks")),
    "month": Unit("time", f"{YEAR} / 12", ("month", "months")),
    "year": Unit("time", YEAR, ("year", "years")),
    "decade": Unit("time", f"{YEAR} * 10", ("decade", "decades")),
    "century": Unit("time", f"{YEAR} * 100", ("century", "centuries")),
    "gram": Unit("mass", "gram", ("g", "gram", "grams")),
    "kilogram": Unit("mass", "kilogram", ("kg", "kilogram", "kilograms")),
    "tonne": Unit("mass", "tonne", ("ton", "tonne", "metric ton")),
    "pound": Unit("mass", "pound", ("pound", "pounds", "lb")),
    "ounce": Unit("mass", "ounce", ("ounce", "ounces", "oz")),
    "millimeter": Unit("length", "millimeter", ("mm", "millimeter")),
    "centimeter": Unit("length", "centimeter", ("cm", "centimeter")),
    "meter": Unit("length", "meter", ("m", "meter", "meters")),
    "kilometer": Unit("length", "kilometer", ("km", "kilometer")),
    "inch": Unit("length", "inch", ("in", "inch", "inches")),
    "foot": Unit("length", "foot", ("ft", "foot", "feet")),
    "yard": Unit("length", "yard", ("yd", "yard", "yards")),
    "mile": Unit("length", "mile", ("mi", "mile", "miles")),
    "meter per second": Unit("speed", "meter / second", ("m/s",)),
    "kilometer per hour": Unit("speed", "kilometer / hour", ("km/h", "kmh")),
    "mile per hour": Unit("speed", "mile / hour", ("mi/h", "mph")),
    "foot per second": Unit("speed", "foot / second", ("ft/s",)),
    "inch per second": Unit("speed", "inch / second", ("in/s",)),
    "bit": Unit("data", "bit", ("bit", "bits")),
    "byte": Unit("data", "byte", ("B", "byte", "bytes")),
    "kilobyte": Unit("data", "kilobyte", ("KB", "kB")),
    "megabyte": Unit("data", "megabyte", ("MB", "M")),
    "gigabyte": Unit("data", "gigabyte", ("GB", "G")),
    "cubic millimeter": Unit("volume", "millimeter ** 3", ("mm^3", "mm**3")),
    "cubic centimeter": Unit("volume", "centimeter ** 3", ("cm^3", "cm**3", "cc")),
    "milliliter": Unit("volume", "milliliter", ("ml", "mL", "milliliter", "millilitre")),
    "liter": Unit("volume", "liter", ("l", "L", "liter", "litre")),
    "cubic meter": Unit("volume", "meter ** 3", ("m^3", "m**3")),
    "fluid ounce": Unit("volume", "fluid_ounce", ("fluid ounce", "ounce", "ounces", "oz")),
    "pint": Unit("volume", "pint", ("pint", "pints")),
    "quart": Unit("volume", "quart", ("quart", "quarts")),
    "gallon": Unit("volume", "gallon", ("gallon", "gallons")),
}

# {n} of {a} are asked for in {b}.
PHRASINGS = (
    "How many {b} are there in {n} {a}?",
    "How many {b} are there per {n} {a}?",
    "How many {b} is {n} {a}?",
    "How many {b} make up {n} {a}?",
    "How much is {n} {a} in {b}?",
    "How much is {n} {a} when converted to {b}?",
    "What is {n} {a} in {b}?",
    "What is {n} {a} expressed in {b}?",
    "What is the conversion of {n} {a} to {b}?",
    "What is the conversion from {a} to {b} for {n} units?",
    "What is the equivalent of {n} {a} in {b}?",
    "What does {n} {a} equal in {b}?",
    "Convert {n} {a} to {b}.",
    "Convert {n} {a} into {b}.",
    "Please convert {n} {a} into {b}.",
    "Could you convert {n} {a} to {b}?",
    "Can you change {n} {a} to its equivalent in {b}?",
    "Could you give the conversion from {a} to {b} for {n} units?",
    "Express {n} {a} in {b}.",
    "Express {n} {a} as a quantity of {b}.",
    "How do we express {n} {a} in terms of {b}?",
    "How does {n} {a} measure up in terms of {b}?",
    "Tell me how many {b} there are in {n} {a}.",
    "Give the value of {n} {a} in {b}.",
)


@cache
def scales() -> dict[str, tuple[str, float]]:
    """Return unit -> (domain, how many of the domain's pint base units it holds)."""
    import pint

    registry = pint.UnitRegistry()
    return {
        name: (unit.domain, registry(unit.definition).to_base_units().magnitude)
        for name, unit in UNITS.items()
    }


@cache
def ratios() -> dict[tuple[str, str], float]:
    """Return (from, to) -> how many `to` one `from` holds, for the pairs that are asked.

    Through pint's own conversion of one unit into the other, so that its rounding is theirs.
    """
    import pint

    registry = pint.UnitRegistry()
    found = {}
    for one, other in permutations(UNITS, 2):
        if UNITS[one].domain == UNITS[other].domain:
            many = registry(UNITS[one].definition).to(registry(UNITS[other].definition).units)
            ratio = (many / registry(UNITS[other].definition)).to("").magnitude
            if FACTORS[0] <= ratio <= FACTORS[1]:
                found[one, other] = float(ratio)
    return found


@cache
def units_by_name() -> dict[str, tuple[str, ...]]:
    """Return name -> the units it may mean; two for `ounce`, one for any other."""
    found: dict[str, tuple[str, ...]] = {}
    for unit, entry in UNITS.items():
        for name in entry.names:
            found[name] = (*found.get(name, ()), unit)
    return found


def unit_of(name: str) -> list[tuple[str, float]]:
    """Return what `name` may mean as (domain, scale in base units); empty if it is no unit."""
    return [scales()[unit] for unit in units_by_name().get(name, ())]


def product_key(ratio: float, quantity: float) -> tuple[str, str]:
    """Return the written product `ratio * quantity` that a conversion comes down to, either way.

    Gram per kilogram and metre per kilometre are the same product: what is held out is the product,
    so that a question "never seen" cannot be read off another pair's.
    """
    one, other = sorted((formatted(ratio, DIGITS), formatted(quantity, DIGITS)))
    return one, other


def held_out(seed: int, share: float) -> frozenset[tuple[str, str]]:
    """Return the products kept out of training and pretraining, a seeded `share` of all.

    Those that state one fact go together: 8 pints are 4 quarts whichever of the two is asked for.
    What comes down to the factor itself, as 1 week or 7 days does, has to be known: it stays.
    """
    return frozenset(key for fact in held_out_facts(seed, share) for key in _facts()[fact])


def held_out_facts(seed: int, share: float) -> frozenset[tuple[str, str]]:
    """Return the facts (see `fact_of`) behind the products of `held_out`."""
    ordered = sorted(_facts())
    random.Random(f"held out {seed}").shuffle(ordered)
    return frozenset(ordered[: round(share * len(ordered))])


def fact_of(ratio: float, quantity: float) -> tuple[str, str]:
    """Return the product with a factor of at least 1 that the conversion states, asked either way.

    8 pints are 4 quarts: 8 * 0.5 = 4 and 4 * 2 = 8 are one fact, 2 * 4.
    """
    return product_key(ratio, quantity) if ratio >= 1 else product_key(1 / ratio, ratio * quantity)


@cache
def _facts() -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Return fact -> the products that state it, of those that can be asked and held out."""
    facts: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for ratio, n in product(ratios().values(), QUANTITIES):
        fact = fact_of(ratio, n)
        if n > 1 and "1" not in fact:
            facts[fact].add(product_key(ratio, n))
    return facts


def facts_asked(rows: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Return the facts that questions, given with their true answers as `gold`, ask for.

    Questions of a person's own may ask what the generator would hold out: no secret any more.
    """
    golds = {row["question"]: row["gold"] for row in rows}
    told = (about(question, gold) for question, gold in golds.items())
    return {
        fact_of(ratios()[one["from_unit"], one["to_unit"]], one["quantity"])
        for one in told
        if one["from_unit"] is not None
    }


def states(path: Sequence[str], facts: Collection[tuple[str, str]]) -> bool:
    """Tell whether equations, in the normal form of `traces`, state one of `facts`.

    As a product, as a quotient (28 / 4 = 7 states 4 * 7), or as a conversion (4 quart = 8 pint).
    Numbers are those of a fact within `ROUNDING`.
    """
    numbers = [tuple(map(float, fact)) for fact in facts]
    return any(
        (_is_near(one, a) and _is_near(other, b)) or (_is_near(one, b) and _is_near(other, a))
        for equation in path
        for x, y in _products(equation)
        for one, other in ((x, y), (1 / x, x * y), (1 / y, x * y))
        for a, b in numbers
    )


def _is_near(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= ROUNDING * wanted


def _products(equation: str) -> Iterator[tuple[float, float]]:
    """Yield the factors, none of them 0, of each product that an equation works out or states.

    Read from left to right, without regard to parentheses: 2 * 3 * 4 has the products 2 * 3 and
    6 * 4. Of 28 / 4 the factors are 4 and 7.
    """
    sides = [side.split() for side in equation.split(" = ")]
    for words in sides:
        last, sign = 0.0, ""
        for word in words:
            if word in ("(", ")"):
                continue
            value = _number(word)
            if value is None:  # a sign; or a unit, which takes the one before it along
                last, sign = (last, word) if ":" not in word else (last, "")
                continue
            is_product = last and value and sign in ("*", "/")
            result = (last * value if sign == "*" else last / value) if is_product else value
            if is_product and result and math.isfinite(result):
                yield (last, value) if sign == "*" else (value, result)
            last = result
            sign = ""
    if [len(words) for words in sides] == [2, 2] and all(":" in words[1] for words in sides):
        n, units = _number(sides[0][0]), [words[1].split("|") for words in sides]
        for one, other in product(*units):
            (domain, scale), (other_domain, other_scale) = one.split(":"), other.split(":")
            if n and domain == other_domain:
                yield float(scale) / float(other_scale), n


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def stream(rng: random.Random) -> Iterator[dict]:
    """Yield endless questions as (question, answer, category, quantity, from_unit, to_unit)."""
    asked = sorted(ratios())
    while True:
        one, other = rng.choice(asked)
        quantity = rng.choice(QUANTITIES)
        text = rng.choice(PHRASINGS).format(
            n=quantity, a=rng.choice(UNITS[one].names), b=rng.choice(UNITS[other].names)
        )
        yield {
            "question": text,
            "answer": quantity * ratios()[one, other],
            "category": UNITS[one].domain,
            "quantity": quantity,
            "from_unit": one,
            "to_unit": other,
        }


def questions(
    seed: int, train_size: int, valid_size: int, kept_out: frozenset[tuple[str, str]]
) -> dict[str, list[dict]]:
    """Return `train` and `valid` rows, disjoint; `kept_out` products stand in `valid` alone.

    Raises: QuestionError if so many different questions cannot be asked.
    """
    rng = random.Random(f"questions {seed}")
    seen: set[str] = set()
    splits: dict[str, list[dict]] = {"train": [], "valid": []}
    wanted = {"train": train_size, "valid": valid_size}
    barren = 0
    for row in stream(rng):
        split = "train" if len(splits["train"]) < train_size else "valid"
        if len(splits[split]) == wanted[split]:
            return splits
        is_new = row["question"].casefold() not in seen
        key = product_key(ratios()[row["from_unit"], row["to_unit"]], row["quantity"])
        if is_new and (split == "valid" or key not in kept_out):
            seen.add(row["question"].casefold())
            splits[split].append({"id": f"{split}-{len(splits[split]) + 1:04d}", **row})
            barren = 0
        elif (barren := barren + 1) > 100_000:
            raise QuestionError(
                f"the generator ran out of new questions at {len(seen)}, where {train_size} + "
                f"{valid_size} were asked for; lower data.train_size or data.valid_size"
            )
    raise AssertionError("the stream of questions is endless")


def about(question: str, answer: float) -> dict:
    """Return what a person's own question is about: category, quantity, from_unit, to_unit.

    Reads the one number in it and tries every pair of unit names it holds, keeping the pair whose
    factor gives the answer; all None where that does not settle it.
    """
    nothing = {"category": None, "quantity": None, "from_unit": None, "to_unit": None}
    words = question.rstrip("?.! ").split()
    numbers = [word for word in words if word.isascii() and word.isdecimal()]
    if len(numbers) != 1:
        return nothing
    quantity = int(numbers[0])
    spans = words + [f"{one} {two}" for one, two in pairwise(words)]
    units = {unit for span in spans for unit in units_by_name().get(span, ())}
    fitting = {
        pair
        for pair in permutations(sorted(units), 2)
        if pair in ratios() and abs(quantity * ratios()[pair] - answer) <= 1e-3 * abs(answer)
    }
    # A factor of 1 fits both ways round: the quantity stands before the unit it is of.
    if len(fitting) > 1:
        named = {pair for pair in fitting if _is_quantity_of(question, quantity, pair[0])}
        fitting = named or fitting
    if len(fitting) != 1:
        return nothing
    [(one, other)] = fitting
    return {
        "category": UNITS[one].domain,
        "quantity": quantity,
        "from_unit": one,
        "to_unit": other,
    }


def _is_quantity_of(question: str, quantity: int, unit: str) -> bool:
    names = UNITS[unit].names
    return any(f" {quantity} {name} " in f" {question.rstrip('?.!')} " for name in names) or any(
        f" from {name} to " in question for name in names
    )
