"""Rounds and what each keeps: every setting of the selection, and the choice of a round."""

import random
import time
from collections import Counter, defaultdict
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import parrot
from test_selection import (
    DIRECT,
    OTHERS,
    QUESTIONS,
    RECIPE,
    SELECTION,
    TOLERANCES,
    fates_of,
    kept_of,
    rollout,
)
from tokenizers_for_tests import build

from posttrain import (
    ancestry,
    arithmetic,
    artifacts,
    distance,
    prompts,
    rollouts,
    rounds,
    scoring,
    selection,
    task_arithmetic,
    task_units,
    triples,
    units,
)
from posttrain.checkpoints import Checkpoints
from posttrain.errors import QuestionError, ScoringError
from posttrain.sampling import Completion


def of_texts(*texts, question="train-0001", number=1, **more):
    """Return sound rollouts of one question in a round."""
    sampled = [rollout(question, n, text) for n, text in enumerate(texts)]
    return [row | {"gold": 6000.0} | ({"round": number} if number > 1 else {}) for row in sampled]


# Over several rounds


def test_a_later_round_adds_new_paths_and_takes_none_back():
    first = of_texts(OTHERS[0], DIRECT, OTHERS[0])
    second = of_texts(DIRECT, OTHERS[1], OTHERS[2], OTHERS[3], number=2)
    found = selection.fates([first, second], SELECTION, lambda path: False)
    assert found == [
        ["kept", "kept", "same_path"],
        ["same_path", "kept", "kept", "over_cap"],
    ]
    rows = selection.rows_kept([first, second], found, task_units)
    ids = ["train-0001-00", "train-0001-01", "train-0001-r2-01", "train-0001-r2-02"]
    assert [row["id"] for row in rows] == ids
    assert [ancestry._id(row) for row in second[1:3]] == ids[2:]
    assert selection.left_out(second, found[1]) == [
        {"id": "train-0001-r2-00", "question_id": "train-0001", "why": "same_path"},
        {"id": "train-0001-r2-03", "question_id": "train-0001", "why": "over_cap"},
    ]
    gained = selection.yields(second, found[1], rows)
    counts = ("kept", "same_path", "over_cap", "kept_so_far", "solved_so_far")
    assert [gained[name] for name in counts] == [2, 1, 1, 4, 1]


PATHS = ["6 * 1000 = 6000.", "1000 * 6 = 6000.", "12000 / 2 = 6000.", "3 * 2000 = 6000.", "6 / 0 ="]
SAMPLED = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["train-0001", "train-0002"]),
            st.lists(st.sampled_from(PATHS), min_size=1, max_size=3),
            st.sampled_from(["6000", "5990", "5800", "1"]),
        ),
        max_size=12,
    ),
    min_size=1,
    max_size=3,
)
RULES = st.fixed_dictionaries(
    {
        "keep_per_question": st.integers(1, 4),
        "keep_tolerance": st.sampled_from([None, 0.0, 0.01]),
        "prefer": st.sampled_from(["first", "shortest"]),
        "distinct_paths": st.just(True),
        "farthest_apart": st.booleans(),
    }
)


@given(SAMPLED, RULES)
def test_whatever_is_sampled_the_cap_holds_and_no_path_is_kept_twice(sampled, recipe):
    every = []
    for number, samples in enumerate(sampled, start=1):
        counts: Counter[str] = Counter()
        every.append([])
        for question, steps, answer in samples:
            row = rollout(question, counts[question], " ".join(steps), answer=answer)
            every[-1].append(row | {"gold": 6000.0, "round": number})
            counts[question] += 1

    def is_secret(path):
        return path[0].startswith("12000")

    found = selection.fates(every, recipe, is_secret)
    assert found == selection.fates(every, recipe, is_secret)
    kept, fit = defaultdict(list), defaultdict(set)
    for rows, fates in zip(every, found, strict=True):
        for row, fate in zip(rows, fates, strict=True):
            path = tuple(row["path"])
            assert (fate == selection.UNSOUND) == (not scoring.is_sound(row))
            if fate == selection.HELD_OUT:
                assert is_secret(path)
            if fate in (selection.KEPT, selection.SAME_PATH, selection.OVER_CAP):
                assert not is_secret(path)
                fit[row["question_id"]].add(path)
            if fate == selection.KEPT:
                assert selection.is_exact(row, recipe["keep_tolerance"])
                kept[row["question_id"]].append(path)
    for question, paths in fit.items():
        assert len(set(kept[question])) == len(kept[question])
        assert len(kept[question]) == min(len(paths), recipe["keep_per_question"])
    # What a round keeps does not depend on the rounds after it.
    assert selection.fates(every[:1], recipe, is_secret) == found[:1]


# Each setting


def test_an_answer_may_be_right_and_yet_too_far_off_to_be_learnt():
    sampled = of_texts(DIRECT) + [
        rollout("train-0001", n, f"6 * {1000 * share} = {6000 * share}.", answer=6000 * share)
        | {"gold": 6000.0}
        for n, share in ((1, 0.999), (2, 0.97))
    ]
    assert all(map(scoring.is_sound, sampled))
    assert fates_of(sampled) == ["kept"] * 3
    assert fates_of(sampled, keep_tolerance=0.01) == ["kept", "kept", "inexact"]
    assert fates_of(sampled, keep_tolerance=0.0) == ["kept", "inexact", "inexact"]
    zero = rollout("train-0002", 0, "6 - 6 = 0.", answer="0", gold=0.0) | {"gold": 0.0}
    assert fates_of([zero], keep_tolerance=0.0) == ["kept"]


def test_the_shortest_text_stands_for_its_path_and_goes_first():
    long, short = "Let us see. 6 * 1000 = 6000.", "6 * 1000 = 6000."
    sampled = of_texts(long, DIRECT, short)
    assert fates_of(sampled) == ["kept", "kept", "same_path"]
    assert fates_of(sampled, prefer="shortest") == ["same_path", "kept", "kept"]
    assert fates_of(sampled, prefer="shortest", keep_per_question=1) == [
        "same_path",
        "over_cap",
        "kept",
    ]
    # In the order of sampling all the same.
    ids = [row["id"] for row in kept_of(sampled, prefer="shortest")]
    assert ids == ["train-0001-01", "train-0001-02"]


def test_on_request_samples_of_one_path_are_all_kept_up_to_the_cap():
    sampled = of_texts(DIRECT, f"Let us see. {DIRECT}", DIRECT)
    assert fates_of(sampled) == ["kept", "same_path", "same_path"]
    assert fates_of(sampled, distinct_paths=False) == ["kept"] * 3
    few = {"distinct_paths": False, "keep_per_question": 2}
    assert fates_of(sampled, **few) == ["kept", "kept", "over_cap"]
    # The cap is that of all rounds together.
    later = of_texts(DIRECT, DIRECT, number=2)
    found = selection.fates([sampled[:1], later], SELECTION | few, lambda path: False)
    assert found == [["kept"], ["kept", "over_cap"]]


def test_under_the_cap_the_paths_farthest_apart_are_kept():
    near, far = "1 kg = 1000 g. 1000 * 6 = 6000.", "12000 / 2 = 6000."
    sampled = of_texts(DIRECT, near, far)
    assert fates_of(sampled, keep_per_question=2) == ["kept", "kept", "over_cap"]
    spread = {"keep_per_question": 2, "farthest_apart": True}
    assert fates_of(sampled, **spread) == ["kept", "over_cap", "kept"]
    # The first round's path counts: what is near it waits.
    later = of_texts(near, far, number=2)
    found = selection.fates([of_texts(DIRECT), later], SELECTION | spread, lambda path: False)
    assert found == [["kept"], ["over_cap", "kept"]]


WORDS = st.lists(st.sampled_from("abc"), max_size=6)


@given(WORDS, WORDS, WORDS)
def test_edits_are_a_distance(a, b, c):
    assert distance.edits(a, b) == distance.edits(b, a)
    assert (distance.edits(a, b) == 0) == (a == b)
    assert distance.edits(a, c) <= distance.edits(a, b) + distance.edits(b, c)
    assert abs(len(a) - len(b)) <= distance.edits(a, b) <= max(len(a), len(b))


def test_edits_counted_by_hand():
    assert distance.edits("kitten", "sitting") == 3
    assert distance.apart(("6 * 2 = 12",), ("6 * 2 = 12", "12 * 2 = 24")) == pytest.approx(6 / 11)
    assert distance.apart((), ()) == 0.0


@given(st.sets(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=7), st.integers(1, 5))
def test_the_greedy_choice_is_at_least_half_as_far_apart_as_the_best(texts, count):
    paths = [tuple(" ".join(text).split()) for text in sorted(texts)]
    taken = distance.farthest_apart(paths, [], count)
    assert taken[0] == paths[0]
    assert len(taken) == len(set(taken)) == min(count, len(paths))
    assert set(taken) <= set(paths)

    def smallest(chosen):
        return min((distance.apart(*pair) for pair in combinations(chosen, 2)), default=1.0)

    # Of all choices with the first path; the share of edits is no distance to the letter.
    best = max(
        smallest((paths[0], *others))
        for others in combinations(paths[1:], min(count, len(paths)) - 1)
    )
    assert smallest(taken) >= best / 4


def test_gold_rows_are_the_bare_answers_of_unsolved_questions():
    sampled = of_texts(DIRECT)
    for n in range(2, 12):
        failed = rollout(f"train-{n:04d}", 0, "It is known.", answer="1")
        sampled.append(failed | {"gold": 20870.982787499997})
    kept = kept_of(sampled)
    recipe = {"seed": 0, "answer_digits": 4, "gold_rows": 0.0}
    assert selection.gold_rows([sampled], kept, recipe, task_units) == []
    rows = selection.gold_rows([sampled], kept, recipe | {"gold_rows": 0.5}, task_units)
    assert len(rows) == 5
    assert rows == selection.gold_rows([sampled], kept, recipe | {"gold_rows": 0.5}, task_units)
    assert rows != selection.gold_rows(
        [sampled], kept, recipe | {"gold_rows": 0.5, "seed": 1}, task_units
    )
    assert {(row["answer"], row["reasoning"]) for row in rows} == {("20870", None)}
    assert "train-0001" not in {row["question_id"] for row in rows}
    assert all(row["id"] == f"{row['question_id']}-gold" for row in rows)
    whole = selection.gold_rows([sampled], kept, recipe | {"gold_rows": 1.0}, task_units)
    assert [row["question_id"] for row in whole] == [f"train-{n:04d}" for n in range(2, 12)]
    tokenizer = build("byte_level").tokenizer
    pair = prompts.training_pair(tokenizer, rows[0], "reasoning", RECIPE)
    assert pair[1] == " <answer>20870</answer>"
    gained = selection.yields(sampled, fates_of(sampled), kept + rows)
    assert (gained["kept"], gained["gold_rows"], gained["kept_so_far"]) == (1, 5, 1)
    asked = [{"id": row["question_id"], "answer": row["gold"]} for row in sampled]
    assert len(triples.of_kept(kept + rows, asked, task_units)) == 1


# Held-out products


def path_of(text):
    return scoring.judge_trace(f"{text} <answer>1</answer>", task_units)["path"]


@pytest.mark.parametrize(
    "text",
    [
        "7 * 1000 = 7000.",
        "1 kg = 1000 gram. 7 * 1000 = 7000.",
        "1000 * 7 = 7000.",
        "7000 / 7 = 1000.",
        "7000 / 1000 = 7.",
        "7000 * 0.001 = 7.",
        "7 kg = 7000 gram.",
        "7000 gram = 7 kg.",
        "1 kg = 1000 gram, so 7 kg = 7 * 1000 gram = 7000 gram.",
        "7 * 1000 * 2 = 14000.",
        "(7 * 1000) + 1 = 7001.",
        "7 km = 7000 m.",
    ],
)
def test_a_held_out_product_is_seen_however_it_is_stated(text):
    facts = {units.fact_of(1000.0, 7)}
    assert facts == {("1000", "7")}
    assert units.states(path_of(text), facts)
    assert not units.states(path_of(text), {("1000", "8")})


@pytest.mark.parametrize(
    "text",
    [
        "1 kg = 1000 gram. 8 * 1000 = 8000.",
        "7 * 100 = 700.",
        "7 + 1000 = 1007.",
        "7 - 1000 = -993.",
        "7 kg = 7 kg.",
        "0 * 7 = 0. 7 / 0 = 1. 0 / 7 = 0.",
        "1e300 * 1e300 = 1e300. 1e-300 * 1e-300 = 1e-300. 1e-200 / 1e200 = 0.",
        "7 divided by 1000 = 0.007.",
        "It is known.",
    ],
)
def test_what_does_not_state_a_held_out_product_is_let_through(text):
    assert not units.states(path_of(text), {("1000", "7")})


def test_a_fact_is_held_out_whichever_way_it_is_asked():
    """8 pints are 4 quarts: as 8 * 0.5, as 8 / 2 and as 4 * 2."""
    facts = {units.fact_of(0.5, 8)}
    for text in (
        "8 * 0.5 = 4.",
        "8 / 2 = 4.",
        "4 * 2 = 8.",
        "8 pint = 4 quart.",
        "4 quart = 8 pints.",
    ):
        assert units.states(path_of(text), facts), text


def test_the_facts_are_those_behind_the_held_out_products():
    facts, keys = units.held_out_facts(0, 0.05), units.held_out(0, 0.05)
    for (one, other), ratio in units.ratios().items():
        for n in units.QUANTITIES:
            is_kept_out = units.product_key(ratio, n) in keys
            assert (units.fact_of(ratio, n) in facts) == is_kept_out, (one, other, n)
            if is_kept_out:
                text = f"{n} * {ratio:.4g} = {n * ratio:.4g}."
                assert units.states(path_of(text), facts), text


def test_no_question_of_training_asks_for_a_held_out_fact_but_a_persons_own_may():
    facts = units.held_out_facts(0, 0.05)
    splits = units.questions(0, 500, 500, units.held_out(0, 0.05))
    asked = {
        split: units.facts_asked({**row, "gold": row["answer"]} for row in rows)
        for split, rows in splits.items()
    }
    assert not facts & asked["train"]
    assert facts & asked["valid"], "this test no longer sees facts that are asked"


def test_a_trace_with_a_held_out_product_is_not_kept_and_is_counted():
    sampled = of_texts("6 * 1000 = 6000.", "7 * 1000 = 7000. 7000 - 1000 = 6000.")
    assert fates_of(sampled) == ["kept", "kept"], "without the check it would be learnt"
    facts = {("1000", "7")}
    fates = fates_of(sampled, lambda path: units.states(path, facts))
    assert fates == ["kept", "held_out"]
    rows = selection.rows_kept([sampled], [fates], task_units)
    assert selection.yields(sampled, fates, rows)["held_out"] == 1


def in_one(steps):
    """Write steps as one expression, each in the place of a number that it comes to."""
    done = {}
    for step in steps:
        left, right = (done.pop(number, number) for number in (step.left, step.right))
        done[step.value] = f"({left} {step.sign} {right})"
    return f"{done[step.value]} = {step.value}."


def in_a_row(steps):
    return " ".join(f"{s.left} {s.sign} {s.right} = {s.value}." for s in steps)


@pytest.mark.parametrize("written", [in_a_row, in_one])
def test_a_word_problems_trace_tells_of_held_out_steps_that_lead_to_each_other(written):
    chance, kept_out = random.Random(0), task_arithmetic.held_out(0, 0.2)
    tells = task_arithmetic.held_out_teller(0, 0.2, [])
    told = Counter()
    for _ in range(300):
        problem = arithmetic.drawn(chance)
        text = f"{written(problem.steps)}\n#### {problem.answer}"
        judged = scoring.judge_trace(text, task_arithmetic)
        assert judged["trace"] == "right"
        path = judged["path"]
        assert len(path) == (1 if written is in_one else len(problem.steps))
        assert tells(path) == (not arithmetic.is_open(problem.steps, kept_out)), path
        told[tells(path)] += 1
    assert told[True] > 30
    assert told[False] > 100


@pytest.mark.parametrize(
    ("expression", "sums"),
    [
        ("5 * 6 - 4", "5 * 6 = 30, 30 - 4 = 26"),
        ("40 - 2 * 3 - 4", "2 * 3 = 6, 40 - 6 = 34, 34 - 4 = 30"),
        ("( 10 + 20 ) / ( 7 - 2 )", "10 + 20 = 30, 7 - 2 = 5, 30 / 5 = 6"),
        ("5 / 2 * 4 + 1", "10 + 1 = 11"),  # the others are no sums of whole numbers
        ("- 4 + 6 * - ( 2 + 1 )", "2 + 1 = 3, 6 * -3 = -18, -4 + -18 = -22"),
        ("1e+12 + 2.5", ""),
        ("26", ""),
        ("", ""),
        ("5 / 0 + 1", ""),
        ("5 + 6 )", ""),
        ("5 * 6 %", ""),
    ],
)
def test_an_expression_is_worked_out_in_sums(expression, sums):
    steps = arithmetic.worked_out(expression)
    assert ", ".join(f"{s.left} {s.sign} {s.right} = {s.value}" for s in steps) == sums


def test_an_expression_however_deep_is_worked_out():
    assert len(arithmetic.worked_out("( 1 + " * 5000 + "1" + " )" * 5000)) == 5000
    assert arithmetic.worked_out("- " * 5001 + "4 + 5") == [arithmetic.Step(-4, "+", 5, 1)]


class Asked(set):
    """Holds nothing out, and remembers what was asked for."""

    def __contains__(self, fact):
        self.add(fact)
        return False


def linked(steps):
    """Return the facts of all twos and threes of steps that lead to one, of all that there are."""
    found = set()
    for some in (c for many in (2, 3) for c in combinations(steps, many)):
        ends = [a for a in some if not any(a.value in b[::2] for b in some if b is not a)]
        if len(ends) <= 1:
            found.add(arithmetic.fact(some))
    return found


def steps_of_chance(chance, most, largest):
    found = []
    while len(found) < most:
        left, right = chance.randint(1, largest), chance.randint(1, largest)
        found += arithmetic.worked_out(f"{left} {chance.choice('+-*/')} {right}")
    return found


def test_the_steps_that_are_looked_at_are_all_that_lead_to_each_other():
    chance = random.Random(0)
    paths = [arithmetic.drawn(chance).steps for _ in range(500)]
    paths += [steps_of_chance(chance, chance.randint(0, 9), size) for size in (3, 9, 30) * 150]
    for steps in paths:
        asked = Asked()
        assert arithmetic.is_open(steps, asked)
        assert set(asked) == linked(steps), steps
    assert sum(len(linked(steps)) > 10 for steps in paths) > 50


@pytest.mark.parametrize(
    "steps",
    [
        arithmetic.worked_out(" + ".join(["7"] * 501)),
        [step for _ in range(250) for step in arithmetic.worked_out("5 * 6 - 4")],
        steps_of_chance(random.Random(0), 500, 99),
    ],
    ids=["one leads to the next", "a loop", "of chance"],
)
def test_many_steps_are_looked_at_in_no_time(steps):
    assert len(steps) == 500
    began = time.process_time()
    arithmetic.is_open(steps, frozenset())
    arithmetic.is_open(steps, task_arithmetic.held_out(0, 0.05))
    assert time.process_time() - began < 5  # all threes take hundreds


# Further samples


@pytest.fixture(scope="module")
def tokenizer():
    return build("byte_level").tokenizer


@pytest.fixture(scope="module")
def six(tokenizer):
    """A model that reasons its way to 6, whatever is asked: sound for one question of ten."""
    ids = tokenizer(" 6 * 1 = 6. <answer>6</answer>")["input_ids"]
    return parrot(len(tokenizer), tokenizer.eos_token_id, ids)


ASKED = [question | {"answer": question["answer"] / 1000} for question in QUESTIONS]
FEW = {"samples_per_question": 3, "samples_when_sft_is_right": 2, "max_new_tokens": 40}
FEW |= {"extra_below": 1}


def sampled_by(model, tokenizer, *place, kept=None, **changed):
    recipe = RECIPE | FEW | changed
    return rollouts.sample(model, model, [tokenizer] * 2, ASKED, recipe, kept, *place)


def test_questions_that_stay_unsolved_get_further_samples_up_to_the_budget(tokenizer, six):
    plain = sampled_by(six, tokenizer)
    found = sampled_by(six, tokenizer, extra_samples=4)
    counts = Counter(row["question_id"] for row in found)
    assert counts == {q["id"]: 2 if q["answer"] == 6 else 3 + 4 for q in ASKED}
    for question in ASKED:
        own = [row for row in found if row["question_id"] == question["id"]]
        assert [row["sample"] for row in own] == list(range(len(own)))
    assert plain == [row for row in found if row["sample"] < (2 if row["gold"] == 6 else 3)]
    more = sampled_by(six, tokenizer, extra_samples=4, extra_below=3)
    assert Counter(row["question_id"] for row in more)["train-0006"] == 5


def test_further_samples_go_where_too_few_are_sound_and_never_over_the_budget():
    sound = {"verdict": "correct", "trace": "right"}
    lucky = {"verdict": "correct", "trace": "wrong"}
    found = [[sound, lucky], [lucky, lucky], [sound, sound], [lucky] * 9]
    assert rollouts.further_samples(found, [10] * 4, 16, 1) == {1: 8, 3: 1}
    assert rollouts.further_samples(found, [10] * 4, 4, 2) == {0: 4, 1: 4, 3: 1}
    assert rollouts.further_samples(found, [2] * 4, 4, 2) == {}


def test_further_samples_depend_on_neither_shards_nor_a_stop(tokenizer, six, tmp_path):
    more = {"extra_samples": 4}
    whole = sampled_by(six, tokenizer, **more)
    parts = [sampled_by(six, tokenizer, shard, 3, **more) for shard in (1, 2, 3)]
    assert [row for part in parts for row in part] == whole
    kept = Checkpoints("rule", {}, tmp_path)
    sampled_by(six, tokenizer, kept=kept, **more)
    (kept.folder / "chunk00001.safetensors").unlink()
    again = sampled_by(six, tokenizer, kept=Checkpoints("rule", {}, tmp_path), **more)
    written = []
    for name, rows in {"whole": whole, "again": again}.items():
        artifacts.write_jsonl(tmp_path / name, rows)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_a_later_round_has_its_own_random_stream_and_is_named_in_its_rollouts(tokenizer, six):
    first, second = (sampled_by(six, tokenizer, round=number) for number in (1, 2))
    assert not {row["seed"] for row in first} & {row["seed"] for row in second}
    assert not any("round" in row for row in first)
    assert {row["round"] for row in second} == {2}


# The choice of a round


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_questions_set_aside_are_a_seeded_share_and_all_others_remain(share):
    train, held_out = rounds.split(QUESTIONS * 10, 0, share)
    assert len(held_out) == 100 * share
    assert len(train) + len(held_out) == 100
    ids = [row["id"] for row in QUESTIONS]
    train, held_out = rounds.split(QUESTIONS, 0, 0.3)
    for part in (train, held_out):
        assert [row["id"] for row in part] == [i for i in ids if i in {r["id"] for r in part}]
    assert sorted(row["id"] for row in train + held_out) == ids
    assert rounds.split(QUESTIONS, 0, 0.3) == (train, held_out)
    assert any(rounds.split(QUESTIONS, seed, 0.3)[1] != held_out for seed in range(1, 5))


def test_too_few_questions_to_set_some_aside_is_an_error_that_says_what_to_write():
    with pytest.raises(QuestionError, match=r"sets 0 of 2 .* rft: \{rounds: 1\}"):
        rounds.split(QUESTIONS[:2], 0, 0.1)


def evaluated(correct):
    judged = [
        scoring.judge(
            Completion(f"<answer>{1 if n < correct else 5}</answer>", 1, "answer"),
            1.0,
            TOLERANCES,
            task_units,
        )
        for n in range(10)
    ]
    row = scoring.summarised("rft_round1", "ab12", [one["verdict"] for one in judged])
    return {name: str(value) for name, value in row.items()}


@pytest.mark.parametrize(
    ("correct", "place"),
    [((5, 7, 6), 1), ((7, 7), 0), ((3, 9, 9), 1), ((0, 0, 0), 0), ((9, 10), 1)],
)
def test_the_round_that_answers_most_is_chosen_and_the_earlier_of_two_alike(correct, place):
    evaluations = [evaluated(count) for count in correct]
    assert rounds.best(evaluations) == place
    yields = [{"kept_so_far": str(10 * n), "solved_so_far": str(n)} for n in range(len(correct))]
    rows = rounds.table(evaluations, yields, place)
    assert {tuple(row) for row in rows} == {rounds.COLUMNS}
    assert [row["chosen"] for row in rows].index("yes") == place
    assert [row["chosen"] for row in rows].count("yes") == 1
    assert [row["round"] for row in rows] == list(range(1, len(correct) + 1))
    assert [row["accuracy"] for row in rows] == [str(count / 10) for count in correct]
    assert all(float(row["accuracy_low"]) <= float(row["accuracy"]) for row in rows)


def test_no_round_is_chosen_by_an_answer_that_the_verifier_failed_on():
    right = {"id": "train-0001", "verdict": "correct"}
    failed = {"id": "train-0002", "verdict": "error", "error": "ZeroDivisionError: its own"}
    rounds.refuse_errors([])
    rounds.refuse_errors([[right, right], [right, right | {"verdict": "wrong"}]])
    said = r"failed on 1 of 2 answers of round 2 .* to train-0002: 'ZeroDivisionError: its own'"
    with pytest.raises(ScoringError, match=said):
        rounds.refuse_errors([[right, right], [right, failed]])


def test_a_single_round_is_chosen_without_an_evaluation():
    assert rounds.best([]) == 0
    [row] = rounds.table([], [{"kept_so_far": "12", "solved_so_far": "7"}], 0)
    assert (row["chosen"], row["accuracy"], row["kept"]) == ("yes", None, "12")
