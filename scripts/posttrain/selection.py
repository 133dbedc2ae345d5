"""Which sampled completions are worth training on, and why the others are not.

Each round's rollouts are looked at after those of the rounds before: what was kept stays, and a new
one has to be a new path.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain import distance
from posttrain.errors import ScoringError
from posttrain.scoring import TRACES, VERDICTS, is_sound
from posttrain.tasks import Task, parted

UNSOUND, KEPT = "unsound", "kept"
HELD_OUT, INEXACT, SAME_PATH, OVER_CAP = "held_out", "inexact", "same_path", "over_cap"
LEFT_OUT = (HELD_OUT, INEXACT, SAME_PATH, OVER_CAP)  # what becomes of a sound one that is not kept
LEFT_OUT_COLUMNS = ("id", "question_id", "why")

Rollout = Mapping[str, Any]
Path = distance.Path
StatesHeldOut = Callable[[Sequence[str]], bool]


def rollout_id(rollout: Rollout) -> str:
    """Return the id of a rollout as a training row: question and sample, later rounds by number."""
    number = rollout.get("round", 1)
    of_round = f"r{number}-" if number > 1 else ""
    return f"{rollout['question_id']}-{of_round}{rollout['sample']:02d}"


def fates(
    rounds: Sequence[Sequence[Rollout]],
    recipe: Mapping[str, Any],
    states_held_out: StatesHeldOut,
) -> list[list[str]]:
    """Return what becomes of each rollout of each round: `UNSOUND`, `KEPT`, or one of `LEFT_OUT`.

    Two completions reason alike if their equations are the same; of `distinct_paths` one of them is
    kept. `keep_per_question` holds for all rounds together.

    Args: recipe, with `keep_per_question`, `keep_tolerance`, `prefer`, `distinct_paths` and
        `farthest_apart`; states_held_out, whether a path states what nobody may learn.
    """
    known: dict[str, list[Path]] = defaultdict(list)
    found = []
    for rollouts in rounds:
        fate = [_first_look(rollout, recipe, states_held_out) for rollout in rollouts]
        fit = defaultdict(list)
        for place, rollout in enumerate(rollouts):
            if fate[place] == KEPT:
                fit[rollout["question_id"]].append(place)
        for question, places in fit.items():
            samples = [rollouts[place] for place in places]
            for place, become in zip(
                places, _chosen(samples, known[question], recipe), strict=True
            ):
                fate[place] = become
        found.append(fate)
    return found


def _first_look(rollout: Rollout, recipe: Mapping[str, Any], states_held_out: StatesHeldOut) -> str:
    """Return what becomes of a rollout by itself; `KEPT` if nothing speaks against it."""
    if not is_sound(rollout):
        return UNSOUND
    if states_held_out(rollout["path"]):
        return HELD_OUT
    return KEPT if is_exact(rollout, recipe["keep_tolerance"]) else INEXACT


def is_exact(rollout: Rollout, tolerance: float | None) -> bool:
    """Tell whether a correct answer is within `tolerance`, a share of the true one; None: it is.

    To be counted is one thing, to be learnt from another. A true one of 0 has no shares.
    """
    if tolerance is None or rollout["gold"] == 0:
        return True
    return abs(rollout["parsed"] - rollout["gold"]) <= tolerance * abs(rollout["gold"])


def _chosen(samples: Sequence[Rollout], known: list[Path], recipe: Mapping[str, Any]) -> list[str]:
    """Return what becomes of a question's fit samples; the paths kept are added to `known`."""
    paths: dict[int, Path] = {}  # of the samples that may be kept, the preferred ones first
    for place in preferred(samples, recipe["prefer"]):
        path = tuple(samples[place]["path"])
        if not (recipe["distinct_paths"] and (path in known or path in paths.values())):
            paths[place] = path
    room = recipe["keep_per_question"] - len(known)
    if recipe["farthest_apart"]:
        far = distance.farthest_apart(list(paths.values()), known, room)
        taken = [place for place, path in paths.items() if path in far]
    else:
        taken = list(paths)[:room]
    known += [paths[place] for place in taken]
    found = [SAME_PATH] * len(samples)
    for place in paths:
        found[place] = KEPT if place in taken else OVER_CAP
    return found


def preferred(samples: Sequence[Rollout], prefer: str) -> list[int]:
    """Return the places of `samples`, best first: as sampled, or the shortest text first."""
    places = range(len(samples))
    if prefer == "shortest":
        return sorted(places, key=lambda place: len(samples[place]["completion"]))
    return list(places)


def rows_kept(
    rounds: Sequence[Sequence[Rollout]], fates: Sequence[Sequence[str]], task: Task
) -> list[dict[str, Any]]:
    """Return the training rows of all rounds, in the order of sampling.

    Raises: ScoringError if there are none, saying what was sampled instead.
    """
    pairs = [
        pair
        for rollouts, fate in zip(rounds, fates, strict=True)
        for pair in zip(rollouts, fate, strict=True)
    ]
    rows = [_row(rollout, task) for rollout, fate in pairs if fate == KEPT]
    if not rows:
        seen = Counter(_seen(rollout, fate) for rollout, fate in pairs)
        listed = ", ".join(f"{count} {what}" for what, count in seen.most_common())
        raise ScoringError(
            f"none of {len(pairs)} samples can be trained on ({listed}); the first reads "
            f"{pairs[0][0]['completion'][:200]!r}; raise rollouts.max_new_tokens if they are cut "
            "off, or give prompts.examples to a model that does not know the format"
        )
    return rows


def _seen(rollout: Rollout, fate: str) -> str:
    trace = "no" if rollout["trace"] == "none" else rollout["trace"]
    but = "" if fate == UNSOUND else f", {fate.replace('_', ' ')}"
    return f"{rollout['verdict']} with {trace} equations{but}"


def _row(rollout: Rollout, task: Task) -> dict[str, Any]:
    reasoning, answer = parted(task, rollout["completion"])
    return {
        "id": rollout_id(rollout),
        "question_id": rollout["question_id"],
        "question": rollout["question"],
        "answer": answer,
        "reasoning": reasoning,
    }


def gold_rows(
    rounds: Sequence[Sequence[Rollout]],
    rows: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    task: Task,
) -> list[dict[str, Any]]:
    """Return the true answer, without reasoning, of a share of the questions that kept no rollout.

    Args: recipe, with `gold_rows`, the share, drawn by `seed`; and `answer_digits` of the answer.
    """
    solved = {row["question_id"] for row in rows}
    sampled = {rollout["question_id"]: rollout for rollouts in rounds for rollout in rollouts}
    unsolved = [rollout for question, rollout in sampled.items() if question not in solved]
    count = round(recipe["gold_rows"] * len(unsolved))
    drawn = random.Random(f"gold rows {recipe['seed']}").sample(range(len(unsolved)), count)
    return [
        {
            "id": f"{unsolved[place]['question_id']}-gold",
            "question_id": unsolved[place]["question_id"],
            "question": unsolved[place]["question"],
            "answer": task.written(unsolved[place]["gold"], recipe["answer_digits"]),
            "reasoning": None,
        }
        for place in sorted(drawn)
    ]


def left_out(rollouts: Sequence[Rollout], fate: Sequence[str]) -> list[dict[str, str]]:
    """Return a row of `LEFT_OUT_COLUMNS` for each sound rollout of a round that was not kept."""
    return [
        {"id": rollout_id(rollout), "question_id": rollout["question_id"], "why": why}
        for rollout, why in zip(rollouts, fate, strict=True)
        if why in LEFT_OUT
    ]


def yields(
    rollouts: Sequence[Rollout], fate: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, int | float]:
    """Return what a round brought: questions, solved at least once, samples by verdict and fate.

    Args: rollouts and fate, of this round; rows, all that it is trained on.
    Returns: kept, and why a sound sample was not, count this round's; gold_rows, kept_so_far and
        solved_so_far (questions with a rollout kept) the rows of all rounds so far.
    """
    by_question = defaultdict(list)
    for rollout in rollouts:
        by_question[rollout["question_id"]].append(is_sound(rollout))
    solved = sum(any(sound) for sound in by_question.values())
    verdicts = Counter(rollout["verdict"] for rollout in rollouts)
    traces = Counter(rollout["trace"] for rollout in rollouts if rollout["verdict"] == "correct")
    fates = Counter(fate)
    reasoned = [row["question_id"] for row in rows if row["reasoning"] is not None]
    return {
        "questions": len(by_question),
        "solved": solved,
        "share_solved": round(solved / len(by_question), 6),
        "samples": len(rollouts),
        **{verdict: verdicts[verdict] for verdict in VERDICTS},
        **{f"correct_with_{trace}_trace": traces[trace] for trace in TRACES},
        **{why: fates[why] for why in LEFT_OUT},
        "kept": fates[KEPT],
        "gold_rows": len(rows) - len(reasoned),
        "kept_so_far": len(reasoned),
        "solved_so_far": len(set(reasoned)),
    }
