"""What a completion is worth: one verdict, for rollouts and evaluation alike."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain import answers, lineage, traces
from posttrain.errors import ScoringError
from posttrain.statistics import wilson

if TYPE_CHECKING:
    from posttrain.sampling import Completion
    from posttrain.tasks import Task

VERDICTS = ("correct", "wrong", "unparseable", "truncated", "error")
TRACES = ("right", "wrong", "unreadable", "unrelated", "none")
COLUMNS = (
    "model",
    "adapter_sha256",
    "questions",
    "answered",
    "correct",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "answer_rate",
    "unparseable",
    "truncated",
)


def is_right(completion: str, gold: float, tolerances: Mapping[str, float], task: "Task") -> bool:
    """Tell whether the completion's answer is `gold`, within the tolerances of config and task."""
    parsed = task.parse(completion)
    return parsed is not None and task.is_correct(parsed, gold, tolerances)


def self_test(
    golds: Sequence[float], digits: int, tolerances: Mapping[str, float], task: "Task"
) -> None:
    """Try the verifier on known answers before it scores. Raises ScoringError if it errs."""
    task.self_test(lambda text, gold: is_right(text, gold, tolerances, task), golds, digits)


def judge(
    completion: "Completion", gold: float, tolerances: Mapping[str, float], task: "Task"
) -> dict[str, Any]:
    """Return `parsed`, the answer as a number or None, and `verdict`, one of `VERDICTS`.

    `truncated` is a completion that reached its limit of tokens before an answer; `error` one that
    the verifier itself failed on, with what it raised under a key of that name.
    """
    return _or_error(lambda: _judged(completion, gold, tolerances, task), {"parsed": None})


def judge_reasoned(
    completion: "Completion", gold: float, tolerances: Mapping[str, float], task: "Task"
) -> dict[str, Any]:
    """Return what `judge` and `judge_trace` do of a sampled completion; `error` if either fails."""
    return _or_error(
        lambda: _judged(completion, gold, tolerances, task) | judge_trace(completion.text, task),
        {"parsed": None, "trace": "none", "path": []},
    )


def _or_error(judged: Callable[[], dict[str, Any]], nothing: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `judged` does, or where it raises `nothing`, the verdict `error` and its text."""
    try:
        return judged()
    except Exception as error:  # of one completion: the others are scored, and the gate fails
        said = f"{type(error).__name__}: {error}"
        return {**nothing, "verdict": "error", "error": said}


def _judged(
    completion: "Completion", gold: float, tolerances: Mapping[str, float], task: "Task"
) -> dict[str, Any]:
    parsed = task.parse(completion.text)
    if parsed is None:
        verdict = "truncated" if completion.finish == "length" else "unparseable"
    else:
        verdict = "correct" if task.is_correct(parsed, gold, tolerances) else "wrong"
    return {"parsed": parsed, "verdict": verdict}


def judge_trace(completion: str, task: "Task") -> dict[str, Any]:
    """Return `trace`, what the reasoning is worth, and `path`, its equations in normal form.

    `trace` is wrong or unreadable where an equation is; none where there is no equation; unrelated
    where the last one does not come to the answer; else right.
    """
    # An answer in a line of its own is no equation's right side.
    mark = "" if "\n" in task.JOINT else task.BEFORE
    found = traces.equations(completion, task.unit_of, task.ROUNDING, mark)
    verdicts = {equation.verdict for equation in found}
    trace = next((v for v in ("wrong", "unreadable", "right") if v in verdicts), "none")
    answer = task.parse(completion)
    if trace == "right" and answer is not None:
        is_led_to = _leads_to(found[-1].sides[1], answer, task.ROUNDING)
        trace = "right" if is_led_to else "unrelated"
    return {"trace": trace, "path": [equation.canonical for equation in found]}


def is_sound(rollout: Mapping[str, Any]) -> bool:
    """Tell whether the answer is correct, every equation is right, and they lead to it."""
    return rollout["verdict"] == "correct" and rollout["trace"] == "right"


def _leads_to(side: str, answer: float, rounding: float) -> bool:
    """Tell whether an equation's right side, in normal form, comes to the answer."""
    try:
        value = float(side.replace("- ", "-", 1).split(" ", 1)[0])
    except ValueError:  # an expression: nothing was worked out
        return False
    return answers.is_correct(answer, value, rounding, rounding)


def summarised(model: str, adapter: str, verdicts: Sequence[str]) -> dict[str, Any]:
    """Return the one row of `COLUMNS` that says how `model` did; intervals are Wilson's, 95 %."""
    counts = Counter(verdicts)
    questions = len(verdicts)
    answered = counts["correct"] + counts["wrong"]
    low, high = wilson(counts["correct"], questions)
    return {
        "model": model,
        "adapter_sha256": adapter,
        "questions": questions,
        "answered": answered,
        "correct": counts["correct"],
        "accuracy": round(counts["correct"] / questions, 6),
        "accuracy_low": round(low, 6),
        "accuracy_high": round(high, 6),
        "answer_rate": round(answered / questions, 6),
        "unparseable": counts["unparseable"],
        "truncated": counts["truncated"],
    }


def gathered(tables: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Mapping[str, str]]:
    """Return the one row of each evaluation's CSV, given by its path.

    Raises: ScoringError if one has no row, several, or other columns: a gap must not go unseen.
    """
    for path, rows in tables.items():
        if [tuple(row) for row in rows] != [COLUMNS]:
            raise ScoringError(
                f"{path} is not the one row that an evaluation writes; {lineage.made_again(path)}"
            )
    return [row for rows in tables.values() for row in rows]
