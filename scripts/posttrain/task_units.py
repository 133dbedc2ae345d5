"""The task `units`: unit conversions, `units.py`, answered in tags, `tags.py`."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

from posttrain import answers, units
from posttrain.answers import formatted as written
from posttrain.corpus import documents
from posttrain.tags import CLOSE, OPEN, parse, self_test
from posttrain.units import about, held_out, product_key, questions, ratios, unit_of

__all__ = [
    "AFTER",
    "BEFORE",
    "COLUMNS",
    "EXAMPLE",
    "GROUPS",
    "JOINT",
    "ROUNDING",
    "SHORTEST",
    "WORDS",
    "about",
    "documents",
    "held_out",
    "held_out_teller",
    "is_correct",
    "kinds",
    "parse",
    "questions",
    "self_test",
    "slips",
    "unit_of",
    "written",
]

BEFORE, AFTER, JOINT = OPEN, CLOSE, " "
EXAMPLE = ("How many gram are there per 6 kg?", 6000, "6 * 1000 = 6000. <answer>6000</answer>")
COLUMNS = ("quantity", "from_unit", "to_unit")
GROUPS = (
    "all",
    "category",
    "unit_pair",
    "pair_in_training",
    "pair_quantity_in_training",
    "held_out",
)
WORDS = {
    "pair_in_training": {"no": "unit pair never in training", "yes": "unit pair in training"},
    "pair_quantity_in_training": {
        "no": "unit pair with this quantity never in training",
        "yes": "unit pair with this quantity in training",
    },
    "held_out": {
        "no": "fact met in pretraining, if by chance",
        "yes": "fact kept out of pretraining and training",
    },
}
ROUNDING = 0.005  # see `traces.equations`
SHORTEST = 15  # documents have 19 on average

Row = Mapping[str, Any]


def is_correct(answer: float, gold: float, tolerances: Mapping[str, float]) -> bool:
    """Tell whether `answer` is `gold` within the config's tolerances."""
    return answers.is_correct(
        answer, gold, tolerances["relative_tolerance"], tolerances["absolute_tolerance"]
    )


def slips(question: Row) -> dict[str, float]:
    """Return what comes of not converting, of converting 1 instead, and of the inverse factor.

    Nothing where the quantity cannot be told, or is or comes to 0.
    """
    quantity, gold = question["quantity"], question["answer"]
    factor = gold / quantity if quantity else 0.0
    if not factor:
        return {}
    return {
        "the quantity unconverted": quantity,
        "the factor alone": factor,
        "the factor the wrong way round": quantity / factor,
    }


def held_out_teller(
    seed: int, share: float, asked: Sequence[Row]
) -> Callable[[Sequence[str]], bool]:
    """Return what tells whether a path states a product held out, and not asked for by a person."""
    facts = units.held_out_facts(seed, share) - units.facts_asked(asked)
    return lambda path: units.states(path, facts)


def kinds(
    asked: Sequence[Row], trained: Sequence[Row], kept_out: Container[tuple[str, str]] | None
) -> Iterator[dict[str, str]]:
    """Yield for each question its value in each of the groups that it belongs to.

    A question whose units cannot be told belongs to no group of theirs.
    """
    pairs = {(row["from_unit"], row["to_unit"]) for row in trained}
    quantities = {(row["from_unit"], row["to_unit"], row["quantity"]) for row in trained}
    for row in asked:
        found = {"all": "all", "category": row["category"] or "not stated"}
        pair = (row["from_unit"], row["to_unit"])
        if None not in pair:
            found["unit_pair"] = " to ".join(pair)
            found["pair_in_training"] = _yes(pair in pairs)
            found["pair_quantity_in_training"] = _yes((*pair, row["quantity"]) in quantities)
            if kept_out is not None:
                key = product_key(ratios()[pair], row["quantity"])
                found["held_out"] = _yes(key in kept_out)
        yield found


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
