"""The ledger of a round: counted by hand on a few rollouts, and by every choice of samples."""

from itertools import combinations, product
from statistics import fmean

import pytest
from test_selection import DIRECT, OTHERS, fates_of, rollout

from posttrain import artifacts, ledger, scoring, selection, task_units


def sampled(question, *texts, sft="wrong", seed=5, **given):
    return [
        rollout(question, n, text, **given) | {"gold": 6000.0, "sft_verdict": sft, "seed": seed}
        for n, text in enumerate(texts)
    ]


FALSE = "1 kg = 100 g. 6 * 1000 = 6000."  # a right answer, a wrong factor
QUESTIONS = [
    {"id": "train-0001", "category": "mass"},
    {"id": "train-0002", "category": "mass"},
    {"id": "train-0003", "category": "time"},
    {"id": "train-0004", "category": None},
]
ROLLOUTS = [
    # Three paths, one of them twice; sound, all of them.
    *sampled("train-0001", OTHERS[0], OTHERS[1], OTHERS[0], OTHERS[2], sft="correct"),
    # One path, one sample in four.
    *sampled("train-0002", FALSE, FALSE, DIRECT, FALSE),
    # Right, and never sound; the same twice.
    *sampled("train-0003", FALSE, FALSE),
    # Never right.
    *sampled("train-0004", DIRECT, OTHERS[0], OTHERS[1], answer="7000"),
    *sampled("train-0004", DIRECT, answer="7 000"),
]
FATES = fates_of(ROLLOUTS, keep_per_question=2)
KEPT = selection.rows_kept([ROLLOUTS], [FATES], task_units)
LEFT_OUT = selection.left_out(ROLLOUTS, FATES)


def measured(rollouts=ROLLOUTS, kept=KEPT, questions=QUESTIONS):
    rows = ledger.measures("round2", rollouts, kept, LEFT_OUT, questions)
    assert {tuple(row) for row in rows} == {ledger.COLUMNS}
    assert {row["round"] for row in rows} == {"round2"}
    found = {}
    for row in rows:
        found.setdefault(row["measure"], {})[row["key"]] = row["value"]
    return found


def test_a_ledger_counted_by_hand():
    assert measured() == {
        "questions_by_sound_rate": {
            "0": 2,
            "0.00-0.25": 0,
            "0.25-0.50": 1,
            "0.50-0.75": 0,
            "0.75-1.00": 0,
            "1": 1,
        },
        "questions_by_correct_rate": {
            "0": 1,
            "0.00-0.25": 0,
            "0.25-0.50": 0,
            "0.50-0.75": 0,
            "0.75-1.00": 0,
            "1": 3,
        },
        "questions_by_paths": {0: 2, 1: 1, 2: 0, 3: 1},
        "questions_by_kept": {0: 2, 1: 1, 2: 1},
        "sound_samples": {"kept": 3, "held_out": 0, "inexact": 0, "same_path": 1, "over_cap": 1},
        "questions_by_sft_verdict": {"correct": 1, "wrong": 3}
        | dict.fromkeys(("unparseable", "truncated", "error"), 0),
        "share_solved": {"all": 0.5, "mass": 1.0, "not stated": 0.0, "time": 0.0},
        "diversity": {
            "paths_per_question": 1.0,
            "paths_per_sound_sample": 0.8,
            "completions_per_sample": 0.714286,
        },
    }


def test_a_category_called_all_counts_nothing_twice():
    questions = [
        row | {"category": "all"} if row["category"] == "mass" else row for row in QUESTIONS
    ]
    assert measured(questions=questions)["share_solved"]["all"] == 0.5


def test_rollouts_that_somebody_else_sampled_have_no_sft_verdict():
    given = [row | {"sft_verdict": None} for row in ROLLOUTS]
    assert measured(given)["questions_by_sft_verdict"]["not asked"] == 4


def test_the_ledger_agrees_with_what_the_selection_reports(tmp_path):
    found, counts = measured(), selection.yields(ROLLOUTS, FATES, KEPT)
    assert found["share_solved"]["all"] == counts["share_solved"]
    for measure, table in found.items():
        if measure.startswith("questions_by"):
            assert sum(table.values()) == counts["questions"], measure
    assert sum(n * kept for kept, n in found["questions_by_kept"].items()) == counts["kept"]
    unsolved = ledger.never_solved("round2", ROLLOUTS, QUESTIONS)
    assert len(unsolved) == counts["questions"] - counts["solved"]
    artifacts.write_csv(tmp_path / "never_solved.csv", unsolved, ledger.UNSOLVED_COLUMNS)


def test_every_rate_falls_into_one_bin():
    """Rates of 8 and 16 samples: a quarter belongs to the bin that it opens."""
    for size in (1, 3, 8, 16):
        for hits in range(size + 1):
            bins = ledger._by_rate({"q": hits}, {"q": size})
            [name] = [name for name, count in bins.items() if count]
            low, _, high = name.partition("-")
            rate = hits / size
            assert rate == float(low) if not high else float(low) <= rate < float(high), name
            assert (rate in (0, 1)) == (not high)


def test_the_never_solved_are_listed_with_what_was_answered_instead():
    rows = ledger.never_solved("round1", ROLLOUTS, QUESTIONS)
    assert [tuple(row) for row in rows] == [ledger.UNSOLVED_COLUMNS] * 2
    lucky, wrong = rows
    assert (lucky["question_id"], lucky["correct"], lucky["samples"]) == ("train-0003", 2, 2)
    assert wrong == {
        "round": "round1",
        "question_id": "train-0004",
        "question": "How many g in 6 kg?",
        "category": None,
        "gold": 6000.0,
        "sft_verdict": "wrong",
        "samples": 4,
        "correct": 0,
        "most_common_answer": 7000.0,
    }
    silent = sampled("train-0004", DIRECT, answer="7 000")
    [row] = ledger.never_solved("round1", silent, QUESTIONS)
    assert row["most_common_answer"] is None


def test_fewer_samples_bring_the_mean_over_every_choice_of_them():
    rows = ledger.marginal("round1", ROLLOUTS)
    assert [tuple(row) for row in rows] == [ledger.MARGINAL_COLUMNS] * 4
    asked = {}
    for row in ROLLOUTS:
        asked.setdefault(row["question_id"], []).append(row)
    for k, row in enumerate(rows, start=1):
        solved = distinct = taken = 0.0
        for samples in asked.values():
            choices = list(combinations(samples, min(k, len(samples))))
            paths = [
                {tuple(one["path"]) for one in some if scoring.is_sound(one)} for some in choices
            ]
            taken += min(k, len(samples))
            solved += sum(map(bool, paths)) / len(choices)
            distinct += sum(map(len, paths)) / len(choices)
        assert (row["round"], row["k"], row["samples"]) == ("round1", k, taken)
        assert row["solved"] == pytest.approx(solved, abs=5e-4)
        assert row["distinct_paths"] == pytest.approx(distinct, abs=5e-4)
    assert rows[0]["solved"] == rows[0]["distinct_paths"] == 1.25
    assert (rows[-1]["solved"], rows[-1]["distinct_paths"]) == (2, 4)
    # The answers alone: right in all samples of three questions, in none of the fourth.
    assert [row["pass_at_k"] for row in rows] == [0.75, 0.75, None, None]
    assert [row["majority_at_k"] for row in rows] == [0.75, 0.75, None, None]


def test_further_samples_of_what_failed_bias_no_figure():
    """Over all that can come: half of the samples are right; two more are drawn if both fail."""

    def drawn(hits, seed):
        answers = ["6000" if hit else "7" for hit in hits]
        return [sampled("train-0001", DIRECT, answer=said, seed=seed)[0] for said in answers]

    twice = list(product((True, False), repeat=2))
    found = [
        drawn(first, 5) + ([] if any(first) else drawn(more, 6))
        for first, more in product(twice, twice)
    ]
    tables = [ledger.marginal("round1", rows) for rows in found]
    means = {
        column: [fmean(row[column] for row in rows) for rows in zip(*tables, strict=True)]
        for column in ("samples", "solved", "pass_at_k", "majority_at_k")
    }
    assert means == {
        "samples": [1, 2],
        "solved": [0.5, 0.75],
        "pass_at_k": [0.5, 0.75],
        "majority_at_k": [0.5, 0.5],
    }
    shares = [fmean(row["verdict"] == "correct" for row in rows) for rows in found]
    assert fmean(shares) == 0.5625, "this test no longer sees the old fault"
