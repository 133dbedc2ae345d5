"""What a task is: a module `task_<name>`, chosen by the config, that gives all of `Task`.

No other module knows what is asked and answered. Code that loads a task imports this module, and so
its rule's code has the chosen task's module in it, and no other task's: see `imports.code_files`.
"""

import importlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, runtime_checkable

Row = Mapping[str, Any]


def module_of(name: str) -> str:
    """Return the name of the module that is the task `name`."""
    return f"{__package__}.task_{name}"


def task_of(name: str) -> "Task":
    """Load the task that the config calls `name`."""
    return importlib.import_module(module_of(name))  # type: ignore[return-value]


def text_read(task: "Task", recipe: Mapping[str, Any]) -> Iterator[str]:
    """Return the documents that the run's base model may have read; none if it is not embedded.

    More than it read, by `SHORTEST`: rows are packed, and each document has more tokens than that.
    """
    if "text_seed" not in recipe:
        return iter(())
    tokens = recipe["steps"] * recipe["rows_per_step"] * recipe["row_length"]
    kept_out = task.held_out(recipe["data"]["held_out_seed"], recipe["data"]["held_out"])
    return islice(task.documents(recipe["text_seed"], kept_out), tokens // task.SHORTEST)


@runtime_checkable
class Task(Protocol):
    """What a task's module holds.

    An answer stands between `BEFORE` and `AFTER`, and `JOINT` between a reasoning and those. A
    completion may stop at `AFTER`; where that is empty, at the model's stop token alone.
    """

    BEFORE: str
    AFTER: str
    JOINT: str
    EXAMPLE: tuple[str, float, str]  # question, answer, reasoning with the answer: for messages
    COLUMNS: tuple[str, ...]  # what a question's row holds beside id, question, answer, category
    GROUPS: tuple[str, ...]  # of `kinds`, in the order of the breakdown, "all" first
    WORDS: Mapping[str, Mapping[str, str]]  # group -> its values, where they are no words yet
    ROUNDING: float  # share by which the sides of an equation may differ, and it from the answer
    SHORTEST: int  # tokens that the documents have more than, on average, even where a row cuts one

    def questions(
        self, seed: int, train_size: int, valid_size: int, kept_out: Container[Any]
    ) -> dict[str, list[dict[str, Any]]]:
        """Return `train` and `valid` rows, disjoint; facts in `kept_out` stand in `valid` alone.

        A row has id, question, answer, category and `COLUMNS`.
        Raises: QuestionError if so many different questions cannot be asked.
        """

    def about(self, question: str, answer: float) -> dict[str, Any]:
        """Return category and `COLUMNS` of a person's own question, None where they do not show.

        Raises: QuestionError if the task cannot have such an answer.
        """

    def held_out(self, seed: int, share: float) -> Container[Any]:
        """Return the facts kept out of training and pretraining, a seeded `share` of all."""

    def held_out_teller(
        self, seed: int, share: float, asked: Sequence[Row]
    ) -> Callable[[Sequence[str]], bool]:
        """Return what tells whether a reasoning, by its path, states a fact held out.

        A path is a reasoning's equations in the normal form of `traces`. Facts that the questions
        `asked` for rollouts, rows with `question` and `gold`, ask themselves are no secret.
        """

    def kinds(
        self, asked: Sequence[Row], trained: Sequence[Row], kept_out: Container[Any] | None
    ) -> Iterator[dict[str, str]]:
        """Yield for each question asked its value in each of the `GROUPS` that it belongs to.

        `trained` are the questions of training; `kept_out` is None where pretraining is not known.
        """

    def parse(self, completion: str) -> float | None:
        """Return the answer that a completion gives, or None where it gives none."""

    def is_correct(self, answer: float, gold: float, tolerances: Mapping[str, float]) -> bool:
        """Tell whether a parsed answer is right, by the config's tolerances if they apply."""

    def slips(self, question: Row) -> Mapping[str, float]:
        """Return each way to answer a question wrongly that the task knows -> the answer it gives.

        Of a slip that the question does not let tell there is none: see `mistakes`.
        """

    def written(self, answer: float, digits: int) -> str:
        """Write an answer for training, with so many significant digits where it is rounded."""

    def self_test(
        self, judge: Callable[[str, float], bool], golds: Sequence[float], digits: int
    ) -> None:
        """Show `judge` right and wrong answers to `golds`. Raises ScoringError if it errs."""

    def unit_of(self, name: str) -> Sequence[tuple[str, float]]:
        """Return what a name behind a number may mean as a unit: see `traces.UnitOf`."""

    def documents(self, seed: int, kept_out: Container[Any]) -> Iterator[str]:
        """Yield the embedded model's endless pretraining text, without the facts in `kept_out`."""


def marks(task: Task) -> tuple[str, ...]:
    """Return the texts that mark an answer: a reasoning holds none, a tokenizer has one token."""
    return tuple(mark for mark in (task.BEFORE.strip(), task.AFTER.strip()) if mark)


def answered(task: Task, answer: str, reasoning: str | None = None) -> str:
    """Return an answer in its marks, behind the reasoning if there is any."""
    marked = f"{task.BEFORE}{answer}{task.AFTER}"
    return marked if reasoning is None else f"{reasoning.strip()}{task.JOINT}{marked}"


def parted(task: Task, completion: str) -> tuple[str, str]:
    """Return the reasoning and the answer of a completion as they are written."""
    reasoning, _, answer = completion.partition(task.BEFORE)
    return reasoning.strip(), answer.removesuffix(task.AFTER)
