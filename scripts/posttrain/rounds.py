"""Rounds: questions set aside to choose one by, and the choice.

Each round samples from the adapter of the one before, and trains from the base model again on all
that was kept so far: Gulcehre et al. 2023 (arXiv 2308.08998), Singh et al. 2023 (arXiv 2312.06585).
More of them may do harm, so the best is taken by questions that none was trained on.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.errors import QuestionError, ScoringError

COLUMNS = (
    "round",
    "questions",
    "correct",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "kept",
    "solved",
    "chosen",
)

Row = Mapping[str, Any]


def split(questions: Sequence[Row], seed: int, share: float) -> tuple[list[Row], list[Row]]:
    """Return the questions that rft may learn from, and a seeded `share` of all set aside.

    Both keep their order. Raises: QuestionError if one of the two would be empty.
    """
    count = round(share * len(questions))
    if not 0 < count < len(questions):
        raise QuestionError(
            f"rft.held_out is {share}, which sets {count} of {len(questions)} training questions "
            "aside to choose a round by; both parts need some: give more questions, another share, "
            "or write rft: {rounds: 1}"
        )
    places = set(random.Random(f"choosing a round {seed}").sample(range(len(questions)), count))
    parts = ([], [])
    for place, question in enumerate(questions):
        parts[place in places].append(question)
    return parts


def refuse_errors(predictions: Sequence[Sequence[Row]]) -> None:
    """Raise ScoringError if the verifier failed on an answer: it is neither right nor wrong.

    Args: predictions, of each round those to the questions set aside.
    """
    for number, lines in enumerate(predictions, start=1):
        if failed := [line for line in lines if line["verdict"] == "error"]:
            raise ScoringError(
                f"no round can be chosen: the verifier failed on {len(failed)} of {len(lines)} "
                f"answers of round {number} to the questions set aside, first on that to "
                f"{failed[0]['id']}: {failed[0]['error']!r}"
            )


def best(evaluations: Sequence[Row]) -> int:
    """Return the place of the evaluation with most right answers, the first of those that tie.

    All are of the same questions. Of a single round there is no evaluation: it is the best.
    """
    right = [int(row["correct"]) for row in evaluations] or [0]
    return right.index(max(right))


def table(evaluations: Sequence[Row], yields: Sequence[Row], chosen: int) -> list[dict[str, Any]]:
    """Return a row of `COLUMNS` a round: its figures on the questions set aside, and its data.

    kept and solved count rows and questions of that round and all before it. The figures of a
    single round are None: it was not evaluated.
    """
    figures = COLUMNS[1:6]
    return [
        {
            "round": place + 1,
            **{name: evaluations[place][name] if evaluations else None for name in figures},
            "kept": counts["kept_so_far"],
            "solved": counts["solved_so_far"],
            "chosen": "yes" if place == chosen else "no",
        }
        for place, counts in enumerate(yields)
    ]
