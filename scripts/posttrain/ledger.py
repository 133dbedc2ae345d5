"""What sampling brought: which questions were solved, how variedly, and what more samples give."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.scoring import VERDICTS, is_sound
from posttrain.selection import LEFT_OUT
from posttrain.statistics import pass_at_k, sampled

COLUMNS = ("round", "measure", "key", "value")
UNSOLVED_COLUMNS = (
    "round",
    "question_id",
    "question",
    "category",
    "gold",
    "sft_verdict",
    "samples",
    "correct",
    "most_common_answer",
)
MARGINAL_COLUMNS = (
    "round",
    "k",
    "samples",
    "solved",
    "distinct_paths",
    "pass_at_k",
    "majority_at_k",
)

Row = Mapping[str, Any]


def measures(
    name: str,
    rollouts: Sequence[Row],
    kept: Sequence[Row],
    left_out: Sequence[Row],
    questions: Sequence[Row],
) -> list[dict[str, Any]]:
    """Return the ledger of the round `name`, a row of `COLUMNS` a figure.

    A sound sample is one that may be trained on; a question is solved if it has one. Measures:
        questions_by_sound_rate, questions_by_correct_rate: questions by the share of their samples
            that is sound, or answers rightly: 0, quarters (each from its lower end up), 1
        questions_by_paths, questions_by_kept: by the number of distinct paths, of rows kept in
            this and earlier rounds
        sound_samples: how many were kept, and why the others were not
        questions_by_sft_verdict: by what became of the bare answer
        share_solved: of all questions, and by category
        diversity: of the distinct paths, and of the completions that differ in any character
    """
    asked = _by_question(rollouts)
    paths = {question: _paths(samples) for question, samples in asked.items()}
    sound = {question: counted.total() for question, counted in paths.items()}
    sizes = {question: len(samples) for question, samples in asked.items()}
    correct = {question: _correct(samples) for question, samples in asked.items()}
    rows_kept = Counter(row["question_id"] for row in kept if row["reasoning"] is not None)
    why = Counter(row["why"] for row in left_out)
    category = {row["id"]: row["category"] or "not stated" for row in questions}
    solved = defaultdict(list)
    for question in asked:
        for key in {"all", category[question]}:  # a set: people may call a category "all"
            solved[key].append(sound[question] > 0)
    distinct = sum(map(len, paths.values()))
    texts = sum(len({row["completion"] for row in samples}) for samples in asked.values())
    tables: dict[str, Mapping[Any, float]] = {
        "questions_by_sound_rate": _by_rate(sound, sizes),
        "questions_by_correct_rate": _by_rate(correct, sizes),
        "questions_by_paths": _by_number(len(counted) for counted in paths.values()),
        "questions_by_kept": _by_number(rows_kept[question] for question in asked),
        "sound_samples": {"kept": sum(sound.values()) - why.total()}
        | {reason: why[reason] for reason in LEFT_OUT},
        "questions_by_sft_verdict": dict.fromkeys(VERDICTS, 0)
        | Counter(samples[0]["sft_verdict"] or "not asked" for samples in asked.values()),
        "share_solved": {key: _share(sum(said), len(said)) for key, said in sorted(solved.items())},
        "diversity": {
            "paths_per_question": _share(distinct, len(asked)),
            "paths_per_sound_sample": _share(distinct, sum(sound.values())),
            "completions_per_sample": _share(texts, len(rollouts)),
        },
    }
    return [
        {"round": name, "measure": measure, "key": key, "value": value}
        for measure, counts in tables.items()
        for key, value in counts.items()
    ]


def never_solved(
    name: str, rollouts: Sequence[Row], questions: Sequence[Row]
) -> list[dict[str, Any]]:
    """Return a row of `UNSOLVED_COLUMNS` for each question without a sound sample.

    Where `correct` is not 0 the answer was right, and the reasoning was not.
    """
    category = {row["id"]: row["category"] for row in questions}
    found = []
    for question, samples in _by_question(rollouts).items():
        if _paths(samples):
            continue
        answers = Counter(row["parsed"] for row in samples if row["parsed"] is not None)
        found.append(
            {
                "round": name,
                "question_id": question,
                "question": samples[0]["question"],
                "category": category[question],
                "gold": samples[0]["gold"],
                "sft_verdict": samples[0]["sft_verdict"],
                "samples": len(samples),
                "correct": _correct(samples),
                "most_common_answer": answers.most_common(1)[0][0] if answers else None,
            }
        )
    return found


def marginal(name: str, rollouts: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a row of `MARGINAL_COLUMNS` for each k: what at most k samples a question bring.

    Expected over which k of a question's samples are taken, so exact; a question with fewer counts
    with all it has. pass_at_k and majority_at_k, which look at the answer alone, are None where
    a question has fewer than k. Only a question's first samples count, whose number is settled
    before any is drawn: further ones go where those failed, and would bias every figure.
    Source: the estimator of pass@k, for each path as for being solved (`statistics.pass_at_k`).
    """
    asked = [_first_turn(samples) for samples in _by_question(rollouts).values()]
    sizes = [len(samples) for samples in asked]
    paths = [_paths(samples) for samples in asked]
    answers = [[(row["parsed"], row["verdict"] == "correct") for row in rows] for rows in asked]
    at_k = {row["k"]: row for row in sampled(answers)}
    nothing = {"pass_at_k": None, "majority_at_k": None}
    found = []
    for k in range(1, max(sizes) + 1):
        solved = distinct = 0.0
        for size, counted in zip(sizes, paths, strict=True):
            drawn = min(k, size)
            solved += pass_at_k(size, counted.total(), drawn)
            distinct += sum(pass_at_k(size, count, drawn) for count in counted.values())
        rates = at_k.get(k, nothing)
        found.append(
            {
                "round": name,
                "k": k,
                "samples": sum(min(k, size) for size in sizes),
                "solved": round(solved, 3),
                "distinct_paths": round(distinct, 3),
                "pass_at_k": rates["pass_at_k"],
                "majority_at_k": rates["majority_at_k"],
            }
        )
    return found


def _by_question(rollouts: Sequence[Row]) -> dict[str, list[Row]]:
    asked = defaultdict(list)
    for row in rollouts:
        asked[row["question_id"]].append(row)
    return dict(asked)


def _first_turn(samples: Sequence[Row]) -> list[Row]:
    """Return the samples that a question got at first; further turns have seeds of their own."""
    return [row for row in samples if row["seed"] == samples[0]["seed"]]


def _paths(samples: Sequence[Row]) -> Counter[tuple[str, ...]]:
    """Return path -> how many sound samples take it."""
    return Counter(tuple(row["path"]) for row in samples if is_sound(row))


def _correct(samples: Sequence[Row]) -> int:
    return sum(row["verdict"] == "correct" for row in samples)


def _by_rate(hits: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return bin -> questions: none of their samples, quarters without both ends, all of them."""
    bins = ("0", "0.00-0.25", "0.25-0.50", "0.50-0.75", "0.75-1.00", "1")
    found = dict.fromkeys(bins, 0)
    for question, size in sizes.items():
        count = hits[question]
        place = 0 if count == 0 else 5 if count == size else 1 + 4 * count // size
        found[bins[place]] += 1
    return found


def _by_number(numbers: Iterable[int]) -> dict[int, int]:
    """Return number -> how many there are of it, from 0 up, without a gap."""
    counted = Counter(numbers)
    return {number: counted[number] for number in range(max(counted) + 1)}


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0
