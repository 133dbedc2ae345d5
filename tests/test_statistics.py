"""Figures about models: what k samples would give, who gains on whom, and on which questions."""

from collections import Counter
from itertools import combinations, product

import pytest
from models_for_tests import llama, parrot
from test_selection import QUESTIONS, RECIPE
from tokenizers_for_tests import build

from posttrain import comparison, sampled, statistics, task_units, units
from posttrain.errors import ScoringError

# What k samples would give


def drawn(samples, k):
    """Return (pass@k, majority@k) by looking at each choice of k of the samples."""
    passes, wins = [], []
    for some in combinations(samples, k):
        passes.append(any(is_right for _, is_right in some))
        votes = Counter(one for one in some if one[0] is not None)
        best = [is_right for (_, is_right), n in votes.items() if n == max(votes.values())]
        wins.append(sum(best) / len(best) if best else 0.0)
    return sum(passes) / len(passes), sum(wins) / len(wins)


SAMPLES = ((6.0, True), (6.1, True), (7.0, False), (8.0, False), (None, False))
RIGHT, _, WRONG, _, _ = SAMPLES


def test_rates_at_k_are_the_means_over_every_choice_of_k_samples():
    """All mixes of up to two samples each of two right answers, two wrong ones and none."""
    tried = 0
    for counts in product(range(3), repeat=5):
        samples = [one for one, n in zip(SAMPLES, counts, strict=True) for _ in range(n)]
        if not samples:
            continue
        rows = statistics.sampled([samples])
        assert [row["k"] for row in rows] == list(range(1, len(samples) + 1))
        for row in rows:
            found = (row["pass_at_k"], row["majority_at_k"])
            assert found == pytest.approx(drawn(samples, row["k"]), abs=1e-6), samples
            tried += 1
    assert tried == 1215


def test_pass_at_k_does_not_grow_with_the_samples_it_is_estimated_from():
    """What the estimator is for: 1 - (1 - share)^k, the plain one, gives too little."""
    assert statistics.pass_at_k(200, 100, 2) == pytest.approx(1 - 100 * 99 / (200 * 199))
    assert statistics.pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert 1 - (1 - 2 / 4) ** 2 < 5 / 6
    assert statistics.pass_at_k(5000, 1, 1000) == pytest.approx(0.2)
    for k in (0, 5):
        with pytest.raises(ValueError, match="cannot be drawn from 4"):
            statistics.pass_at_k(4, 2, k)


def test_rates_are_means_over_questions_up_to_the_fewest_samples():
    rows = statistics.sampled([[RIGHT, WRONG, WRONG], [RIGHT, RIGHT]])
    assert rows == [
        {"k": 1, "questions": 2, "pass_at_k": 0.666667, "majority_at_k": 0.666667},
        {"k": 2, "questions": 2, "pass_at_k": 0.833333, "majority_at_k": 0.666667},
    ]


# Models held against each other


def line(number, verdict, parsed=None):
    return {
        "id": f"valid-{number:04d}",
        "question": f"How many g in {number} kg?",
        "gold": 1000.0 * number,
        "parsed": parsed,
        "verdict": verdict,
    }


def said(verdicts):
    """Return predictions: c for correct, w for wrong, t for truncated."""
    names = {"c": "correct", "w": "wrong", "t": "truncated"}
    return [line(n, names[verdict]) for n, verdict in enumerate(verdicts, start=1)]


def test_each_model_is_compared_with_each_before_it():
    models = {"cot": said("w" * 8 + "cc"), "sft": said("c" * 7 + "wtc"), "rft": said("c" * 10)}
    rows = comparison.comparisons(models)
    assert [tuple(row) for row in rows] == [comparison.COLUMNS] * 3
    assert [tuple(row.values()) for row in rows] == [
        ("sft", "cot", 10, 7, 1, 0.0703125, "no significant gain"),
        ("rft", "cot", 10, 8, 0, 0.0078125, "significant gain"),
        ("rft", "sft", 10, 2, 0, 0.5, "no significant gain"),
    ]
    assert comparison.told(rows[0]) == (
        "sft over cot: 7 gained, 1 lost, McNemar p = 0.07: no significant gain"
    )
    [row] = comparison.comparisons({"rft": models["rft"], "cot": models["cot"]})
    assert (row["gained"], row["lost"], row["verdict"]) == (0, 8, "significant loss")
    assert comparison.comparisons({"base": models["cot"]}) == []


def test_models_that_answer_alike_gain_nothing():
    [row] = comparison.comparisons({"sft": said("cwt"), "rft": said("cwt")})
    assert (row["gained"], row["lost"], row["p_value"]) == (0, 0, 1.0)
    assert row["verdict"] == "no significant gain"


def test_the_questions_gained_and_lost_are_those_that_were_counted():
    models = {"cot": said("wwct"), "rft": said("ctwc")}
    [row] = comparison.comparisons(models)
    changes = comparison.changes(models)
    assert [(one["id"][-1], one["change"]) for one in changes] == [
        ("1", "gained"),
        ("3", "lost"),
        ("4", "gained"),
    ]
    assert Counter(one["change"] for one in changes) == {
        "gained": row["gained"],
        "lost": row["lost"],
    }
    assert tuple(changes[0]) == comparison.CHANGE_COLUMNS
    models = {"cot": [line(6, "wrong", 600.0)], "rft": [line(6, "correct", 6000.0)]}
    assert comparison.changes(models) == [
        {
            "model": "rft",
            "other": "cot",
            "change": "gained",
            "id": "valid-0006",
            "question": "How many g in 6 kg?",
            "gold": 6000.0,
            "parsed": 6000.0,
            "other_parsed": 600.0,
        }
    ]


# Models on questions of one kind and another


def about(name, category=None, one=None, other=None, quantity=None):
    return {
        "id": name,
        "category": category,
        "from_unit": one,
        "to_unit": other,
        "quantity": quantity,
    }


ASKED = [
    about("valid-0001", "volume", "gallon", "quart", 6),
    about("valid-0002", "volume", "gallon", "quart", 7),
    about("valid-0003", "volume", "quart", "gallon", 6),
    about("valid-0004"),
    about("valid-0005", "riddles"),
]
TRAINED = [about("train-0001", "volume", "gallon", "quart", 6), about("train-0002")]


def broken_down(verdicts, kept_out=None):
    """Return (group, value) -> (correct, questions)."""
    rows = comparison.breakdown({"rft": said(verdicts)}, ASKED, TRAINED, kept_out, task_units)
    assert {tuple(row) for row in rows} == {comparison.BREAKDOWN_COLUMNS}
    found = {(row["group"], row["value"]): (row["correct"], row["questions"]) for row in rows}
    assert len(found) == len(rows)
    return found


def test_accuracy_is_broken_down_by_what_stood_in_training():
    assert broken_down("cwccw") == {
        ("all", "all"): (3, 5),
        ("category", "volume"): (2, 3),
        ("category", "not stated"): (1, 1),
        ("category", "riddles"): (0, 1),
        ("unit_pair", "gallon to quart"): (1, 2),
        ("unit_pair", "quart to gallon"): (1, 1),
        # The pair is directed, and a question without units is in neither.
        ("pair_in_training", "yes"): (1, 2),
        ("pair_in_training", "no"): (1, 1),
        ("pair_quantity_in_training", "yes"): (1, 1),
        ("pair_quantity_in_training", "no"): (1, 2),
    }


def test_what_pretraining_never_read_is_told_apart():
    """By the product, as it was held out: 7 * 4, whichever units it is asked of."""
    found = broken_down("cwccw", frozenset({units.product_key(4, 7)}))
    assert found["held_out", "yes"] == (0, 1)
    assert found["held_out", "no"] == (2, 2)


def test_groups_of_generated_questions_are_the_generators_own():
    kept_out = units.held_out(0, 0.05)
    splits = units.questions(0, 300, 300, kept_out)
    right = [line(n, "correct") for n in range(1, 301)]
    asked = splits["valid"], splits["train"]
    rows = comparison.breakdown({"rft": right}, *asked, kept_out, task_units)
    sizes = {(row["group"], row["value"]): row["questions"] for row in rows}
    assert sizes["held_out", "yes"] > 0
    assert sizes["held_out", "yes"] <= sizes["pair_quantity_in_training", "no"]
    for group in task_units.GROUPS:
        assert sum(n for (of, _), n in sizes.items() if of == group) == 300
    assert all(row["low"] < row["high"] == row["accuracy"] == 1 for row in rows)


def test_an_evaluation_of_the_first_questions_alone_is_broken_down():
    """Under evaluate.limit there are fewer predictions than questions."""
    assert broken_down("cw")["category", "volume"] == (1, 2)


# Sampled evaluation


@pytest.fixture(scope="module")
def tokenizer():
    return build("byte_level").tokenizer


SAMPLED = RECIPE | {"samples": 3}


def test_each_question_is_sampled_so_often_and_scored(tokenizer):
    ids = tokenizer(" <answer>6000</answer>")["input_ids"]
    six = parrot(len(tokenizer), tokenizer.eos_token_id, ids)
    cold = SAMPLED | {"temperature": 0.01}
    lines = sampled.completions(six, tokenizer, QUESTIONS, "answer", cold)
    assert [(row["id"], row["sample"]) for row in lines] == [
        (question["id"], sample) for question in QUESTIONS for sample in range(3)
    ]
    assert [row["id"] for row in lines if row["verdict"] == "correct"] == ["train-0006"] * 3
    assert {row["parsed"] for row in lines} == {6000.0}
    rows = sampled.table("sft", lines)
    assert [tuple(row) for row in rows] == [sampled.COLUMNS] * 3
    assert [tuple(row.values()) for row in rows] == [("sft", k, 10, 0.1, 0.1) for k in (1, 2, 3)]


def test_samples_differ_and_come_again(tokenizer):
    model = llama(len(tokenizer))
    lines = sampled.completions(model, tokenizer, QUESTIONS, "reasoning", SAMPLED)
    assert lines == sampled.completions(model, tokenizer, QUESTIONS, "reasoning", SAMPLED)
    assert len({row["completion"] for row in lines}) == 30
    other = sampled.completions(model, tokenizer, QUESTIONS, "reasoning", SAMPLED | {"seed": 1})
    assert other != lines
    # A chunk's samples are its own, whatever is asked before or after it.
    first = sampled.completions(model, tokenizer, QUESTIONS[:4], "reasoning", SAMPLED)
    assert first == lines[:12]


def test_a_faulty_verifier_samples_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr("posttrain.task_units.parse", lambda text: 0.0)
    with pytest.raises(ScoringError, match="the verifier"):
        sampled.completions(None, tokenizer, QUESTIONS, "answer", SAMPLED)


def test_a_verifier_that_fails_on_a_sample_gives_no_rates(tokenizer, monkeypatch):
    """It passes its self-test, then fails on what the model wrote."""
    model = llama(len(tokenizer))
    lines = sampled.completions(model, tokenizer, QUESTIONS[:2], "answer", SAMPLED)
    text, real = lines[1]["completion"], task_units.parse
    monkeypatch.setattr(task_units, "parse", lambda said: 1 / 0 if said == text else real(said))
    lines = sampled.completions(model, tokenizer, QUESTIONS[:2], "answer", SAMPLED)
    with pytest.raises(ScoringError, match=r"on 1 of 6 samples, first on sample 1 of train-0001: "):
        sampled.table("sft", lines)
