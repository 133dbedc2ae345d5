"""Verdicts, figures and what is kept: from a completion to a row of results or of training data."""

import random
from collections import Counter
from itertools import combinations_with_replacement

import pytest
import torch
from models_for_tests import llama, parrot
from tokenizers_for_tests import build

from posttrain import artifacts, evaluation, rollouts, scoring, selection, task_units, traces
from posttrain.errors import ScoringError
from posttrain.sampling import Completion
from posttrain.statistics import mcnemar, wilson

TOLERANCES = {"relative_tolerance": 0.05, "absolute_tolerance": 1e-9}
PROMPTS = {
    "system": None,
    "answer": "Question: {question}\nAnswer:",
    "reasoning": "Question: {question}\nReasoning:",
    "examples": [],
}
RECIPE = {
    **TOLERANCES,
    "task": "units",
    "seed": 0,
    "round": 1,
    "prompts": PROMPTS,
    "answer_digits": 4,
    "max_new_tokens": 16,
    "batch_size": 16,
    "temperature": 1.0,
    "samples_per_question": 5,
    "samples_when_sft_is_right": 2,
    "extra_samples": 0,
    "style": "worked",
    "questions_per_chunk": 4,
}
QUESTIONS = [
    {"id": f"train-{n:04d}", "question": f"How many g in {n} kg?", "answer": 1000.0 * n}
    for n in range(1, 11)
]


def judged(text, gold=6000.0, finish="answer"):
    return scoring.judge(Completion(text, 9, finish), gold, TOLERANCES, task_units)["verdict"]


@pytest.mark.parametrize(
    ("text", "finish", "verdict"),
    [
        ("6 * 1000 = 6000. <answer>6000</answer>", "answer", "correct"),
        ("<answer>6299</answer>", "answer", "correct"),
        ("<answer>6301</answer>", "answer", "wrong"),
        ("<answer>-6000</answer>", "answer", "wrong"),
        ("<answer>6,000</answer>", "answer", "unparseable"),
        ("<answer>6000 g</answer>", "answer", "unparseable"),
        ("<answer>nan</answer>", "answer", "unparseable"),
        ("6000", "stop", "unparseable"),
        ("", "stop", "unparseable"),
        ("6 * 1000 = 6000. <answer>6000", "length", "truncated"),
        ("6 * 1000 = 6000. <answer>6000</answer", "length", "truncated"),
    ],
)
def test_a_completion_has_one_verdict(text, finish, verdict):
    assert judged(text, finish=finish) == verdict
    assert verdict in scoring.VERDICTS


@pytest.mark.parametrize(
    ("text", "trace", "steps"),
    [
        ("1 kg = 1000 gram. 6 * 1000 = 6000. <answer>6000</answer>", "right", 2),
        ("1 kg = 100 gram. 6 * 1000 = 6000. <answer>6000</answer>", "wrong", 2),
        ("6 % 1000 = 6000. <answer>6000</answer>", "unreadable", 1),
        ("1 kg = 100 gram. 6 % 1000 = 6000. <answer>6000</answer>", "wrong", 2),
        ("It is six thousand. <answer>6000</answer>", "none", 0),
        ("<answer>6000</answer>", "none", 0),
        ("", "none", 0),
    ],
)
def test_a_trace_is_worth_its_worst_equation(text, trace, steps):
    found = scoring.judge_trace(text, task_units)
    assert found["trace"] == trace
    assert len(found["path"]) == steps


def test_figures_have_the_stated_columns_and_add_up():
    assert ", ".join(scoring.COLUMNS) == (
        "model, adapter_sha256, questions, answered, correct, accuracy, accuracy_low, "
        "accuracy_high, answer_rate, unparseable, truncated"
    )
    for n in range(1, 6):
        for verdicts in combinations_with_replacement(scoring.VERDICTS, n):
            row = scoring.summarised("sft", "ab12", verdicts)
            assert tuple(row) == scoring.COLUMNS
            assert row["questions"] == n
            unanswered = row["unparseable"] + row["truncated"] + verdicts.count("error")
            assert row["answered"] + unanswered == n
            assert row["answered"] == verdicts.count("correct") + verdicts.count("wrong")
            assert row["accuracy"] == round(verdicts.count("correct") / n, 6)
            assert row["answer_rate"] == round(row["answered"] / n, 6)
            assert 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 1


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_wilsons(hits, trials, low, high):
    """Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3."""
    assert wilson(hits, trials) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="n"):
        wilson(0, 0)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (6, 0, 2 / 2**6), (9, 1, 2 * 11 / 2**10), (1, 9, 2 * 11 / 2**10)],
)
def test_mcnemar_is_exact(gained, lost, p):
    """Two-sided: twice the binomial tail, counted by hand; questions that agree count for none."""
    ours = [True] * gained + [False] * lost + [True, False] * 50
    theirs = [False] * gained + [True] * lost + [True, False] * 50
    assert mcnemar(ours, theirs) == (gained, lost, pytest.approx(p, rel=1e-12))
    with pytest.raises(ValueError, match="zip"):
        mcnemar([True], [])


class Unasked(torch.nn.Module):
    """A model that must not be run."""

    def forward(self, *args, **kwargs):
        raise AssertionError("the model was asked before the verifier was tested")


@pytest.mark.parametrize("fault", ["0.0 for unparseable", "any number", "raises"])
def test_a_faulty_verifier_is_refused_before_any_question_is_asked(fault, monkeypatch):
    """A known failure: what reads the unreadable as 0.0 finds every gold of 0 answered."""
    real = task_units.parse

    def faulty(text):
        if fault == "raises":
            return 1 / 0
        value = real(text)
        if value is None and fault == "any number":
            digits = "".join(char for char in text if char.isdecimal())
            return float(digits) if digits else None
        return value or 0.0

    monkeypatch.setattr(task_units, "parse", faulty)
    if fault != "raises":
        assert judged("no answer at all: 0", gold=0.0) == "correct", "no fault to be seen"
    tokenizer = build("byte_level").tokenizer
    with pytest.raises(ScoringError, match="the verifier"):
        evaluation.predictions(Unasked(), tokenizer, QUESTIONS, "answer", RECIPE)
    with pytest.raises(ScoringError, match="the verifier"):
        rollouts.sample(Unasked(), Unasked(), [tokenizer] * 2, QUESTIONS, RECIPE)


def failing_on(monkeypatch, module, name, marked):
    """Let a function of the verifier fail on texts that are `marked`, and on no other."""
    real = getattr(module, name)

    def failing(text, *more):
        if marked(text):
            raise ZeroDivisionError("of the verifier's own")
        return real(text, *more)

    monkeypatch.setattr(module, name, failing)


SAID = "ZeroDivisionError: of the verifier's own"


def test_a_question_that_the_verifier_fails_on_is_an_error_and_the_others_are_scored(
    tokenizer, monkeypatch
):
    """Neither wrong nor the end of the evaluation: all other figures are as they were."""
    model = llama(len(tokenizer))
    before = evaluation.predictions(model, tokenizer, QUESTIONS, "answer", RECIPE)
    text = before[3]["completion"]
    assert [line["completion"] for line in before].count(text) == 1
    failing_on(monkeypatch, task_units, "parse", lambda given: given == text)
    after = evaluation.predictions(model, tokenizer, QUESTIONS, "answer", RECIPE)
    assert after[3] == before[3] | {"parsed": None, "verdict": "error", "error": SAID}
    assert after[:3] + after[4:] == before[:3] + before[4:]
    row = scoring.summarised("sft", "ab12", [line["verdict"] for line in after])
    assert (row["questions"], row["answered"], row["correct"]) == (10, 0, 0)
    assert row["unparseable"] + row["truncated"] == 9


@pytest.mark.parametrize(("module", "name"), [(task_units, "parse"), (traces, "equations")])
def test_a_sample_that_the_verifier_fails_on_is_counted_and_never_kept(monkeypatch, module, name):
    failing_on(monkeypatch, module, name, lambda text: text.startswith("Look"))
    sampled = [
        rollout("train-0001", 0, "Look: 6 * 1000 = 6000."),
        rollout("train-0001", 1, "6 * 1000 = 6000."),
    ]
    assert [one["verdict"] for one in sampled] == ["error", "correct"]
    assert sampled[0]["error"] == SAID
    assert sampled[0].keys() == sampled[1].keys() | {"error"}
    kept = kept_of(sampled, keep_per_question=9)
    assert [row["id"] for row in kept] == ["train-0001-01"]
    gained = selection.yields(sampled, fates_of(sampled), kept)
    assert (gained["samples"], gained["correct"], gained["error"]) == (2, 1, 1)
    with pytest.raises(ScoringError, match=r"none of 1 samples .* \(1 error with no equations\)"):
        kept_of(sampled[:1])


def test_a_question_whose_first_answer_the_verifier_fails_on_counts_as_hard(
    tokenizer, six, monkeypatch
):
    failing_on(monkeypatch, task_units, "parse", lambda text: text == " <answer>6</answer>")
    asked = [question | {"answer": 6.0} for question in QUESTIONS[:2]]
    found = rollouts.sample(six, llama(len(tokenizer)), [tokenizer] * 2, asked, RECIPE)
    assert len(found) == 2 * RECIPE["samples_per_question"]
    assert {(row["sft_verdict"], row["sft_parsed"], row["sft_error"]) for row in found} == {
        ("error", None, SAID)
    }


def test_gold_that_its_digits_make_wrong_is_refused():
    with pytest.raises(ScoringError, match=r"sft\.answer_digits or evaluate\.relative_tolerance"):
        scoring.self_test([1234.5], 2, TOLERANCES | {"relative_tolerance": 0.001}, task_units)


@pytest.fixture(scope="module")
def tokenizer():
    return build("byte_level").tokenizer


@pytest.fixture(scope="module")
def six(tokenizer):
    """A model that answers 6 to everything: right for one question of ten."""
    ids = tokenizer(" <answer>6</answer>")["input_ids"]
    return parrot(len(tokenizer), tokenizer.eos_token_id, ids)


def test_hard_questions_get_many_samples_and_easy_ones_few(tokenizer, six):
    asked = [question | {"answer": question["answer"] / 1000} for question in QUESTIONS]
    found = rollouts.sample(six, llama(len(tokenizer)), [tokenizer] * 2, asked, RECIPE)
    counts = Counter(row["question_id"] for row in found)
    assert counts == {q["id"]: 2 if q["answer"] == 6 else 5 for q in asked}
    verdicts = {row["question_id"]: row["sft_verdict"] for row in found}
    assert verdicts == {q["id"]: "correct" if q["answer"] == 6 else "wrong" for q in asked}
    assert [row["sample"] for row in found[:5]] == [0, 1, 2, 3, 4]
    assert {row["sft_parsed"] for row in found} == {6.0}
    assert all(row["verdict"] in scoring.VERDICTS for row in found)
    assert all(row["tokens"] <= 16 for row in found)


def test_a_chunk_is_the_same_whatever_was_sampled_before_it(tokenizer):
    """Chunks may be made in any order, or again: nothing crosses them."""
    sampler = llama(len(tokenizer))
    whole = rollouts.sample(sampler, sampler, [tokenizer] * 2, QUESTIONS, RECIPE)
    parts = rollouts.chunks(QUESTIONS, 4)
    assert [len(part) for part in parts] == [4, 4, 2]
    for chunk in (2, 0, 1):
        part = parts[chunk]
        again = rollouts.sample_chunk(sampler, sampler, [tokenizer] * 2, part, chunk, RECIPE)
        assert again == [row for row in whole if row["chunk"] == chunk]
        assert {row["seed"] for row in again} == {rollouts.chunk_seed(0, 1, chunk)}
    seeds = {rollouts.chunk_seed(s, r, c) for s in range(5) for r in (1, 2) for c in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_rollouts_do_not_depend_on_the_number_of_shards(tokenizer, tmp_path):
    """Bytes, as the rules write them; of three chunks, five shards leave two without any."""
    sampler = llama(len(tokenizer))
    written, chunks = {}, {}
    for shards in (1, 2, 5):
        parts = [
            rollouts.sample(
                sampler, sampler, [tokenizer] * 2, QUESTIONS, RECIPE, None, shard, shards
            )
            for shard in range(1, shards + 1)
        ]
        artifacts.write_jsonl(tmp_path / "round1.jsonl", [row for part in parts for row in part])
        written[shards] = (tmp_path / "round1.jsonl").read_bytes()
        chunks[shards] = [sorted({row["chunk"] for row in part}) for part in parts]
    assert chunks == {1: [[0, 1, 2]], 2: [[0], [1, 2]], 5: [[], [0], [], [1], [2]]}
    assert written[1] == written[2] == written[5]
    assert written[1].count(b"\n") == 10 * 5


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 100])
def test_every_chunk_is_in_one_shard_and_shards_are_alike_in_size(shards):
    parts = [rollouts.shard_of(range(23), shard, shards) for shard in range(1, shards + 1)]
    assert [chunk for part in parts for chunk in part] == list(range(23))
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1


def rollout(question, sample, reasoning, answer="6000", gold=6000.0, finish="answer"):
    """Return a rollout judged as the sampling rule judges it."""
    text = f"{reasoning} <answer>{answer}</answer>" if finish == "answer" else reasoning
    return {
        "question_id": question,
        "question": "How many g in 6 kg?",
        "sample": sample,
        "completion": text,
        **scoring.judge_reasoned(Completion(text, 9, finish), gold, TOLERANCES, task_units),
    }


SELECTION = {
    "keep_per_question": 4,
    "keep_tolerance": None,
    "prefer": "first",
    "distinct_paths": True,
    "farthest_apart": False,
}


def fates_of(sampled, states_held_out=lambda path: False, **changed):
    """Return what becomes of the rollouts of a single round."""
    [found] = selection.fates([sampled], SELECTION | changed, states_held_out)
    return found


def kept_of(sampled, **changed):
    """Return the training rows of a single round."""
    return selection.rows_kept([sampled], [fates_of(sampled, **changed)], task_units)


DIRECT = "1 kg = 1000 g. 6 * 1000 = 6000."
OTHERS = ("6 * 1000 = 6000.", "1000 * 6 = 6000.", "12000 / 2 = 6000.", "3 * 2000 = 6000.")


def test_a_path_is_kept_once_and_the_first_of_its_kind():
    alike = [DIRECT, "Well, 1 kg = 1,000 gram; so 6*1000 = 6000", OTHERS[0], DIRECT]
    sampled = [rollout("train-0001", n, text) for n, text in enumerate(alike)]
    kept = kept_of(sampled, keep_per_question=9)
    assert [row["id"] for row in kept] == ["train-0001-00", "train-0001-02"]
    assert kept[0] == {
        "id": "train-0001-00",
        "question_id": "train-0001",
        "question": "How many g in 6 kg?",
        "answer": "6000",
        "reasoning": DIRECT,
    }


def test_no_question_keeps_more_than_its_share():
    sampled = [
        rollout(question, n, text)
        for question in ("train-0001", "train-0002")
        for n, text in enumerate(OTHERS)
    ]
    random.Random(0).shuffle(sampled)
    assert len(kept_of(sampled, keep_per_question=9)) == 8
    kept = kept_of(sampled, keep_per_question=3)
    assert Counter(row["question_id"] for row in kept) == {"train-0001": 3, "train-0002": 3}


UNSOUND = [
    rollout("train-0001", 0, "1 kg = 100 g. 6 * 1000 = 6000."),  # a right answer, a wrong factor
    rollout("train-0001", 1, DIRECT, answer="7000"),
    rollout("train-0001", 2, "6 % 1000 = 6000."),
    rollout("train-0001", 3, "It is known."),
    rollout("train-0001", 4, DIRECT + " <answer>6000", finish="length"),
    rollout("train-0001", 5, DIRECT, answer="6000 g"),
]


def test_only_right_answers_by_right_steps_are_kept():
    sound = rollout("train-0001", 6, DIRECT)
    assert [row["id"] for row in kept_of([*UNSOUND, sound])] == ["train-0001-06"]
    assert [scoring.is_sound(one) for one in UNSOUND] == [False] * 6
    # The answer alone would have let three through that reason wrongly, unreadably or not at all.
    assert sum(one["verdict"] == "correct" for one in UNSOUND) == 3


def test_nothing_to_keep_is_an_error_that_says_what_was_seen():
    with pytest.raises(ScoringError) as caught:
        kept_of(UNSOUND)
    said = str(caught.value)
    assert said.startswith("none of 6 samples can be trained on (")
    for seen in ("1 correct with wrong equations", "1 truncated with right equations"):
        assert seen in said
    assert "1 kg = 100 g. 6 * 1000 = 6000. <answer>6000</answer>" in said
    assert "rollouts.max_new_tokens" in said
    assert "\n" not in said


def test_what_sampling_brought_adds_up():
    sampled = [*UNSOUND, rollout("train-0002", 0, DIRECT), rollout("train-0002", 1, DIRECT)]
    fates = fates_of(sampled)
    gained = selection.yields(sampled, fates, selection.rows_kept([sampled], [fates], task_units))
    assert gained == {
        "questions": 2,
        "solved": 1,
        "share_solved": 0.5,
        "samples": 8,
        "correct": 5,
        "wrong": 1,
        "unparseable": 1,
        "truncated": 1,
        "error": 0,
        "correct_with_right_trace": 2,
        "correct_with_wrong_trace": 1,
        "correct_with_unreadable_trace": 1,
        "correct_with_unrelated_trace": 0,
        "correct_with_none_trace": 1,
        "held_out": 0,
        "inexact": 0,
        "same_path": 1,
        "over_cap": 0,
        "kept": 1,
        "gold_rows": 0,
        "kept_so_far": 1,
        "solved_so_far": 1,
    }
    sound = sum(gained[fate] for fate in (selection.KEPT, *selection.LEFT_OUT))
    assert sound == gained["correct_with_right_trace"]
    assert sum(gained[verdict] for verdict in scoring.VERDICTS) == gained["samples"]
    assert sum(n for key, n in gained.items() if key.startswith("correct_")) == gained["correct"]


def test_predictions_say_what_was_asked_written_and_made_of_it(tokenizer, six):
    asked = [question | {"answer": question["answer"] / 1000} for question in QUESTIONS]
    lines = evaluation.predictions(six, tokenizer, asked, "answer", RECIPE)
    assert [line["id"] for line in lines] == [question["id"] for question in asked]
    assert lines[5] == {
        "id": "train-0006",
        "question": "How many g in 6 kg?",
        "prompt": "Question: How many g in 6 kg?\nAnswer:",
        "completion": " <answer>6</answer>",
        "parsed": 6.0,
        "gold": 6.0,
        "verdict": "correct",
        "tokens": len(tokenizer(" <answer>6</answer>")["input_ids"]),
        "finish": "answer",
    }
    assert [line["verdict"] for line in lines].count("wrong") == 9


def test_an_evaluation_without_its_one_row_is_not_gathered():
    row = dict.fromkeys(scoring.COLUMNS, "1")
    assert scoring.gathered({"a.csv": [row], "b.csv": [row]}) == [row, row]
    for rows in ([], [row, row], [{"model": "rft"}]):
        with pytest.raises(ScoringError, match=r"b\.csv is not the one row"):
            scoring.gathered({"a.csv": [row], "b.csv": rows})
    with pytest.raises(ScoringError, match=r"remove results/sweeps/a/sft_eval\.csv and run the sw"):
        scoring.gathered({"results/sweeps/a/sft_eval.csv": []})


def test_a_right_answer_that_its_trace_does_not_come_to_is_luck():
    for text in ("5 * 7 = 35.", "6 * 1000 = 6000. 1 kg = 2.205 pound."):
        lucky = rollout("train-0001", 0, text)
        assert (lucky["verdict"], lucky["trace"]) == ("correct", "unrelated")
        assert not scoring.is_sound(lucky)
    below = rollout("train-0001", 0, "2 - 8 = -6.", answer="-6", gold=-6.0)
    assert scoring.is_sound(below)
    near = rollout("train-0001", 0, "1 kg = 1000 gram, so 6 kg = 6 * 1000 gram = 5990 gram.")
    assert scoring.is_sound(near)
