"""The unit task: its facts, its questions, what is held out, what a person's question is about."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from units_for_tests import DEFINITIONS, exact_ratio

from posttrain import units
from posttrain.errors import QuestionError
from posttrain.questions import normalised

DOMAINS = {"time", "mass", "length", "speed", "data", "volume"}
# As they stand in tables, digit by digit; the traps among them first.
PUBLISHED = {
    ("tonne", "kilogram"): 1000,
    ("tonne", "pound"): 2204.6226218487757,
    ("ounce", "gram"): 28.349523125,
    ("fluid ounce", "milliliter"): 29.5735295625,
    ("gallon", "liter"): 3.785411784,
    ("quart", "liter"): 0.946352946,
    ("pint", "milliliter"): 473.176473,
    ("gallon", "fluid ounce"): 128,
    ("kilobyte", "byte"): 1000,
    ("megabyte", "kilobyte"): 1000,
    ("gigabyte", "megabyte"): 1000,
    ("byte", "bit"): 8,
    ("year", "day"): 365.242199,
    ("year", "month"): 12,
    ("month", "day"): 30.436849916666667,
    ("century", "week"): 5217.7457,
    ("decade", "year"): 10,
    ("week", "hour"): 168,
    ("hour", "second"): 3600,
    ("pound", "gram"): 453.59237,
    ("pound", "ounce"): 16,
    ("kilogram", "pound"): 2.2046226218487757,
    ("inch", "centimeter"): 2.54,
    ("foot", "meter"): 0.3048,
    ("yard", "meter"): 0.9144,
    ("mile", "meter"): 1609.344,
    ("mile", "yard"): 1760,
    ("kilometer", "mile"): 0.621371192237334,
    ("meter per second", "kilometer per hour"): 3.6,
    ("mile per hour", "meter per second"): 0.44704,
    ("mile per hour", "kilometer per hour"): 1.609344,
    ("liter", "cubic centimeter"): 1000,
    ("cubic meter", "liter"): 1000,
    ("liter", "gallon"): 0.26417205235814845,
}


@pytest.fixture(scope="module")
def kept_out():
    return units.held_out(seed=0, share=0.05)


@pytest.fixture(scope="module")
def splits(kept_out):
    return units.questions(0, 1000, 1000, kept_out)


def pair_of(row):
    return row["from_unit"], row["to_unit"]


def key_of(row):
    return units.product_key(units.ratios()[pair_of(row)], row["quantity"])


def test_every_factor_is_the_one_that_the_definitions_give():
    assert set(units.UNITS) == set(DEFINITIONS)
    assert {name: unit.domain for name, unit in units.UNITS.items()} == {
        name: domain for name, (domain, _) in DEFINITIONS.items()
    }
    assert len(units.ratios()) >= 116
    for (one, other), ratio in units.ratios().items():
        assert ratio == pytest.approx(float(exact_ratio(one, other)), rel=1e-14), (one, other)


@pytest.mark.parametrize(("pair", "factor"), PUBLISHED.items())
def test_published_factors(pair, factor):
    assert units.ratios()[pair] == pytest.approx(factor, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "meanings"),
    [
        ("ounce", {"mass", "volume"}),
        ("ounces", {"mass", "volume"}),
        ("oz", {"mass", "volume"}),
        ("fluid ounce", {"volume"}),
        ("ton", {"mass"}),
        ("m", {"length"}),
        ("M", {"data"}),
        ("min", {"time"}),
        ("m/s", {"speed"}),
        ("m**3", {"volume"}),
        ("furlong", set()),
        ("", set()),
    ],
)
def test_a_name_means_all_that_it_may_mean(name, meanings):
    assert {domain for domain, _ in units.unit_of(name)} == meanings


def test_names_compare_in_base_units():
    def scale(name):
        [(_, found)] = units.unit_of(name)
        return found

    assert scale("M") == scale("MB") == pytest.approx(1000 * scale("KB"))
    assert scale("G") == scale("GB") == pytest.approx(1000 * scale("MB"))
    assert (
        scale("ton") == scale("tonne") == scale("metric ton") == pytest.approx(1000 * scale("kg"))
    )
    assert scale("gallons") == pytest.approx(4 * scale("quart")) == pytest.approx(8 * scale("pint"))
    ounces = dict(units.unit_of("oz"))
    assert ounces["mass"] == pytest.approx(scale("lb") / 16)
    assert ounces["volume"] == pytest.approx(scale("gallon") / 128)


def test_a_courses_questions_are_understood(test_data):
    """1000 questions that this generator did not write, with the answers of their authors."""
    asked = json.loads((test_data / "data" / "unit_questions.json").read_text(encoding="utf-8"))
    told = 0
    for question, answer in asked:
        about = units.about(question, answer)
        if about["category"] is None:
            continue
        told += 1
        one, other = about["from_unit"], about["to_unit"]
        # `about` allows a thousandth, so this is no echo of it. Their century is 1e-9 shorter.
        assert about["quantity"] * units.ratios()[one, other] == pytest.approx(answer, rel=1e-9)
        assert about["category"] == DEFINITIONS[one][0]
        bare = re.sub(r"\S+[\^*]+3", "", question)
        assert re.findall(r"\b\d+\b", bare) == [str(about["quantity"])]
        for unit in (one, other):
            assert any(
                f" {name} " in f"{question.rstrip('?.')} " for name in units.UNITS[unit].names
            )
    assert told >= 0.98 * len(asked)


@pytest.mark.parametrize(
    ("question", "answer", "quantity", "pair"),
    [
        ("How many gram are there per 6 kg?", 6000, 6, ("kilogram", "gram")),
        ("How many g is 2 ounces?", 56.69904625, 2, ("ounce", "gram")),
        ("How many ml is 2 ounces?", 59.147059, 2, ("fluid ounce", "milliliter")),
        ("Convert 5 cc to ml.", 5, 5, ("cubic centimeter", "milliliter")),
        ("Convert 5 ml to cc.", 5, 5, ("milliliter", "cubic centimeter")),
        (
            "What is the conversion from ml to cm^3 for 5 units?",
            5,
            5,
            ("milliliter", "cubic centimeter"),
        ),
        ("Express 3 metric ton as a quantity of kg.", 3000, 3, ("tonne", "kilogram")),
        ("Tell me how many M there are in 4 GB.", 4000, 4, ("gigabyte", "megabyte")),
    ],
)
def test_what_a_question_is_about(question, answer, quantity, pair):
    told = units.about(question, answer)
    assert (told["quantity"], pair_of(told)) == (quantity, pair)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How many gram are there per 6 kg?", 6100),  # the answer is another's
        ("How many gram are there in a kg?", 1000),
        ("How many gram are there in 6 or 7 kg?", 6000),
        ("How many gram are there per 6 miles?", 6000),
        ("What is the capital of France?", 0),
        ("", 1),
    ],
)
def test_what_cannot_be_told_is_left_open(question, answer):
    assert set(units.about(question, answer).values()) == {None}


def test_questions_are_as_many_as_asked_and_in_many_phrasings(splits):
    assert len(set(units.PHRASINGS)) == len(units.PHRASINGS) >= 20
    frames = [re.escape(p).replace(r"\{n\}", r"\d+") for p in units.PHRASINGS]
    frames = [re.compile(re.sub(r"\\{[ab]\\}", "(.+)", frame)) for frame in frames]
    for split, rows in splits.items():
        assert [row["id"] for row in rows] == [f"{split}-{n:04d}" for n in range(1, 1001)]
        used = {
            n for n, frame in enumerate(frames) for row in rows if frame.fullmatch(row["question"])
        }
        assert len(used) == len(frames)
        assert set(Counter(row["category"] for row in rows)) == DOMAINS
        assert {row["quantity"] for row in rows} == set(range(1, 11))


def test_questions_say_what_their_fields_say_and_answers_are_not_rounded(splits):
    rows = splits["train"] + splits["valid"]
    for row in rows:
        exact = row["quantity"] * exact_ratio(*pair_of(row))
        assert row["answer"] == pytest.approx(float(exact), rel=1e-14)
        told = units.about(row["question"], row["answer"])
        assert told == {key: row[key] for key in ("category", "quantity", "from_unit", "to_unit")}
    assert sum(len(repr(row["answer"])) > 12 for row in rows) > len(rows) / 4


def test_train_and_valid_are_disjoint_and_no_question_stands_twice(splits):
    asked = [normalised(row["question"]) for rows in splits.values() for row in rows]
    assert len(set(asked)) == len(asked) == 2000


def test_a_seed_gives_its_questions_in_any_process(splits, kept_out):
    assert units.questions(0, 1000, 1000, kept_out) == splits
    others = {row["question"] for row in units.questions(1, 1000, 1000, kept_out)["train"]}
    assert len(others & {row["question"] for row in splits["train"]}) < 100
    code = (
        "import hashlib, json; from posttrain import units; "
        "rows = units.questions(0, 1000, 1000, units.held_out(0, 0.05)); "
        "print(hashlib.sha256(json.dumps(rows).encode()).hexdigest())"
    )
    env = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == hashlib.sha256(json.dumps(splits).encode()).hexdigest()


def test_held_out_products_stand_in_valid_alone(splits, kept_out):
    assert not [row for row in splits["train"] if key_of(row) in kept_out]
    assert len({key_of(row) for row in splits["valid"]} & kept_out) > 10
    assert units.held_out(0, 0.0) == frozenset()
    assert units.held_out(0, 0.05) == kept_out != units.held_out(1, 0.05)


def facts(rows):
    """Return what the rows state, whichever way they ask: {(count, unit), (count, unit)}."""
    return {
        frozenset(
            {(str(row["quantity"]), row["from_unit"]), (f"{row['answer']:.4g}", row["to_unit"])}
        )
        for row in rows
    }


def test_no_training_question_states_a_held_out_one_the_other_way_round():
    """8 pints are 4 quarts, 4 quarts are 8 pints: to have met one is to have met the other."""
    kept = units.held_out(0, 0.5)
    splits = units.questions(0, 3000, 3000, kept)
    unseen = facts(row for row in splits["valid"] if key_of(row) in kept)
    assert unseen
    assert not unseen & facts(splits["train"])

    singles = frozenset(key for n, key in enumerate(sorted(kept)) if n % 2)
    splits = units.questions(0, 3000, 3000, singles)
    unseen = facts(row for row in splits["valid"] if key_of(row) in singles)
    assert unseen & facts(splits["train"]), "this test no longer sees keys held out one by one"


def test_a_factor_itself_is_never_held_out():
    kept = units.held_out(0, 0.5)
    for row in units.questions(0, 1, 5000, kept)["valid"]:
        if row["quantity"] == 1 or row["answer"] == pytest.approx(1):
            assert key_of(row) not in kept, row["question"]


def test_more_questions_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setattr(units, "PHRASINGS", ("{n} {a} in {b}",))
    monkeypatch.setattr(units, "QUANTITIES", range(1, 2))
    with pytest.raises(
        QuestionError, match=r"ran out .* lower data\.train_size or data\.valid_size"
    ):
        units.questions(0, 4000, 10, frozenset())
