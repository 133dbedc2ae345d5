"""Which sampled completions are worth training on."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.errors import ScoringError
from posttrain.scoring import TRACES, VERDICTS
from posttrain.tasks import Task, parted

Rollout = Mapping[str, Any]


def is_sound(rollout: Rollout) -> bool:
    """Tell whether the answer is correct, every equation is right, and they lead to it."""
    return rollout["verdict"] == "correct" and rollout["trace"] == "right"


def select(rollouts: Sequence[Rollout], keep_per_question: int, task: Task) -> list[dict[str, Any]]:
    """Return the training rows: sound rollouts, one for each way to reason, so many a question.

    Two completions reason alike if their equations are the same; the first sampled is kept. Yuan
    et al. 2023 (arXiv 2308.01825) find that distinct paths, not rows, are what training gains by.
    Raises: ScoringError if nothing can be kept, saying what was sampled instead.
    """
    paths: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    kept = []
    for rollout in rollouts:
        known = paths[rollout["question_id"]]
        path = tuple(rollout["path"])
        if is_sound(rollout) and path not in known and len(known) < keep_per_question:
            known.add(path)
            kept.append(_row(rollout, task))
    if not kept:
        shown = {"none": "no equations"}
        seen = Counter(
            f"{r['verdict']} with {shown.get(r['trace'], r['trace'] + ' equations')}"
            for r in rollouts
        )
        listed = ", ".join(f"{count} {what}" for what, count in seen.most_common())
        raise ScoringError(
            f"none of {len(rollouts)} samples can be trained on ({listed}); the first reads "
            f"{rollouts[0]['completion'][:200]!r}; raise rollouts.max_new_tokens if they are cut "
            "off, or give prompts.examples to a model that does not know the format"
        )
    return kept


def _row(rollout: Rollout, task: Task) -> dict[str, Any]:
    reasoning, answer = parted(task, rollout["completion"])
    return {
        "id": f"{rollout['question_id']}-{rollout['sample']:02d}",
        "question_id": rollout["question_id"],
        "question": rollout["question"],
        "answer": answer,
        "reasoning": reasoning,
    }


def yields(
    rollouts: Sequence[Rollout], kept: Sequence[Mapping[str, Any]]
) -> dict[str, int | float]:
    """Return what sampling brought: questions, solved at least once, samples by verdict, kept."""
    by_question = defaultdict(list)
    for rollout in rollouts:
        by_question[rollout["question_id"]].append(is_sound(rollout))
    solved = sum(any(sound) for sound in by_question.values())
    verdicts = Counter(rollout["verdict"] for rollout in rollouts)
    traces = Counter(rollout["trace"] for rollout in rollouts if rollout["verdict"] == "correct")
    return {
        "questions": len(by_question),
        "solved": solved,
        "share_solved": round(solved / len(by_question), 6),
        "samples": len(rollouts),
        **{verdict: verdicts[verdict] for verdict in VERDICTS},
        **{f"correct_with_{trace}_trace": traces[trace] for trace in TRACES},
        "kept": len(kept),
    }
