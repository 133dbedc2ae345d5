"""Rollouts as people hand them round, `[[question, answer, reasoning], ...]`, read and written.

The answer is the true one; the reasoning ends in the model's own, in the task's form.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posttrain import artifacts, prompts, scoring
from posttrain.errors import RolloutError
from posttrain.questions import UNFIT, normalised
from posttrain.scoring import is_sound
from posttrain.tasks import Task

ROW = "[question, answer, reasoning]: a text, a number, a text"
SAME = 1e-6  # share by which a row's answer may differ from its question's: a rounding, no more
UNKNOWN, OTHER = "not a training question", "another answer than the training question has"
SET_ASIDE = "a question set aside to choose a round by"
REASONS = (
    UNKNOWN,
    SET_ASIDE,
    OTHER,
    *(verdict for verdict in scoring.VERDICTS if verdict != "correct"),
    *(f"correct with {trace} trace" for trace in scoring.TRACES if trace != "right"),
)
COLUMNS = ("reason", "rows", "first_row")


class Triple(NamedTuple):
    """One row of such a file."""

    question: str
    answer: float
    reasoning: str


class Written(NamedTuple):
    """A completion from elsewhere, for the verifier; how it ended is not known."""

    text: str
    finish: None = None


class Judged(NamedTuple):
    """The rollouts of a file; number and reason of each unsound row; how many went on too long."""

    rollouts: list[dict[str, Any]]
    refused: list[tuple[int, str]]
    cut: int


def read(path: str | Path, task: Task) -> list[Triple]:
    """Read the triples in `path`; `task` has an example of what to write.

    Raises: RolloutError, one line, with the file, the first bad row, and what to write.
    """
    example = json.dumps(task.EXAMPLE)
    try:
        # Whole numbers as floats: Python refuses an int of more than 4300 digits.
        rows = json.loads(artifacts.read_bytes(path).decode("utf-8-sig"), parse_int=float)
    except OSError as error:
        raise RolloutError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RolloutError(
            f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise RolloutError(
            f"{path} line {error.lineno}, column {error.colno} is not JSON ({error.msg}); "
            f"write [{example}, ...]"
        ) from error
    except RecursionError as error:
        raise RolloutError(f"{path} is nested too deeply; write [{example}, ...]") from error
    if not isinstance(rows, list) or not rows:
        raise RolloutError(f"{path} is no list of rows; write [{example}, ...]")
    for number, row in enumerate(rows, start=1):
        if not _is_triple(row):
            raise RolloutError(
                f"{path} row {number} is {json.dumps(row)[:120]}, not {ROW}; write {example}"
            )
    return [Triple(*row) for row in rows]


def _is_triple(row: Any) -> bool:
    match row:
        case [str(question), float(answer), str(reasoning)]:
            are_plain = not any(UNFIT.search(text) for text in (question, reasoning))
            return are_plain and bool(question.strip()) and math.isfinite(answer)
    return False


def judged(
    triples: Sequence[Triple],
    questions: Sequence[Mapping[str, Any]],
    tolerances: Mapping[str, float],
    task: Task,
    set_aside: Collection[str] = (),
) -> Judged:
    """Return the rollouts that `triples` are, judged as sampled ones, in their own order.

    A row whose question is not among the training `questions`, case and spacing aside, has another
    answer there, or is one of `set_aside`, by its id, becomes no rollout; others are written with
    their verdicts. What follows the first answer is left out where a sampled completion ends there,
    at the task's `AFTER`.
    Raises: RolloutError if no row becomes a rollout.
    """
    asked = {normalised(question["question"]): question for question in questions}
    samples: Counter[str] = Counter()
    rollouts, refused, cut = [], [], 0
    for number, triple in enumerate(triples, start=1):
        question = asked.get(normalised(triple.question))
        if question is None:
            refused.append((number, UNKNOWN))
            continue
        if question["id"] in set_aside:
            refused.append((number, SET_ASIDE))
            continue
        if not math.isclose(triple.answer, question["answer"], rel_tol=SAME):
            refused.append((number, OTHER))
            continue
        text = triple.reasoning
        if task.AFTER:
            reasoning, close, beyond = text.partition(task.AFTER)
            cut, text = cut + bool(beyond.strip()), reasoning + close
        completion = Written(text.strip())
        rollout = {
            "question_id": question["id"],
            "question": question["question"],
            "gold": question["answer"],
            "sft_verdict": None,
            "sft_parsed": None,
            "chunk": None,
            "seed": None,
            "sample": samples[question["id"]],
            "completion": completion.text,
            "tokens": None,
            "finish": None,
            **scoring.judge_reasoned(completion, question["answer"], tolerances, task),
        }
        samples[question["id"]] += 1
        rollouts.append(rollout)
        if not is_sound(rollout):
            is_wrong = rollout["verdict"] != "correct"
            why = rollout["verdict"] if is_wrong else f"correct with {rollout['trace']} trace"
            refused.append((number, why))
    if not rollouts:
        raise RolloutError(
            f"none of the {len(triples)} rows is about a training question with its answer, row 1 "
            f"asks {triples[0].question[:200]!r} and is {refused[0][1]}; name the questions that "
            "the rollouts were made from as data.train"
        )
    return Judged(rollouts, refused, cut)


def counted(refused: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """Return a row of `COLUMNS` for each of `REASONS`: how many rows, and the first of them."""
    by_reason = {reason: [n for n, why in refused if why == reason] for reason in REASONS}
    return [
        {"reason": reason, "rows": len(rows), "first_row": min(rows, default=None)}
        for reason, rows in by_reason.items()
    ]


def of_kept(
    kept: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]], task: Task
) -> list[Triple]:
    """Return the kept rollouts, as `selection.rows_kept` gives them, as triples; no gold rows."""
    golds = {question["id"]: question["answer"] for question in questions}
    return [
        Triple(
            row["question"],
            golds[row["question_id"]],
            prompts.completion(task, row["answer"], row["reasoning"]),
        )
        for row in kept
        if row["reasoning"] is not None
    ]
