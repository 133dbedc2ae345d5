"""The task `arithmetic`: word problems, `arithmetic.py`, answered as GSM8K's are, in a last line.

    5 * 6 = 30. 30 - 4 = 26.
    #### 26

An answer is a whole number in a line of its own, the last, behind the only `####`. It is right if
it is the true one, an equation if its sides are equal: no tolerance of the config applies.
"""

import hashlib
import math
import random
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain import answers, arithmetic, arithmetic_corpus
from posttrain.errors import PromptError, QuestionError

BEFORE, AFTER, JOINT = "#### ", "", "\n"
EXAMPLE = (
    "Ann has 5 bags with 6 pens in each. Ann gives away 4 of them. How many pens are there now?",
    26,
    "5 * 6 = 30. 30 - 4 = 26.\n#### 26",
)
COLUMNS = ("plot", "steps")
GROUPS = ("all", "category", "steps", "plot", "steps_in_training", "held_out")
WORDS = {
    "held_out": {
        "no": "fact met in pretraining, if by chance",
        "yes": "fact kept out of pretraining and training",
    },
}
ROUNDING = 1e-9  # whole numbers, held as floats
SHORTEST = 20  # documents have 60 on average
# Possessive (++), for linear time; of 15 digits every whole number is a float of its own.
WHOLE = re.compile(r"[+-]?[0-9]{1,15}+")
FIXED_GOLDS = (0.0, 42.0, -7.0, 6000.0)

Row = Mapping[str, Any]
documents = arithmetic_corpus.documents


@dataclass(frozen=True)
class HeldOut:
    """A seeded share of all facts there may be, told by their hash: too many to be listed."""

    seed: int
    share: float

    def __contains__(self, fact: object) -> bool:
        digest = hashlib.sha256(f"held out {self.seed} {fact}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2**64


def held_out(seed: int, share: float) -> HeldOut:
    """Return the facts kept out of training and pretraining: see `arithmetic.fact`."""
    return HeldOut(seed, share)


def held_out_teller(
    seed: int, share: float, asked: Sequence[Row]
) -> Callable[[Sequence[str]], bool]:
    """Return what tells whether a path has steps, one leading to the other, that are held out.

    They may stand in one equation: 5 * 6 - 4 = 26 has those of 5 * 6 = 30 and 30 - 4 = 26.
    What a person's own questions ask is not known here: with them, a share of 0 holds nothing out.
    """
    kept_out = held_out(seed, share)

    def tells(path: Sequence[str]) -> bool:
        sides = (side for equation in path for side in equation.split(" = "))
        steps = [step for side in sides for step in arithmetic.worked_out(side)]
        return not arithmetic.is_open(steps, kept_out)

    return tells


def questions(
    seed: int, train_size: int, valid_size: int, kept_out: Container[tuple[str, ...]]
) -> dict[str, list[dict[str, Any]]]:
    """Return `train` and `valid` rows, disjoint; facts in `kept_out` stand in `valid` alone.

    Neither stand they in training as some of a problem's steps.
    Raises: QuestionError if so many different questions cannot be asked.
    """
    rng = random.Random(f"arithmetic questions {seed}")
    seen: set[str] = set()
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    for split, wanted in (("train", train_size), ("valid", valid_size)):
        barren = 0
        while len(splits[split]) < wanted:
            problem = arithmetic.drawn(rng)
            text = arithmetic.told(problem, arithmetic.SENTENCES, rng)
            may_stand = split == "valid" or arithmetic.is_open(problem.steps, kept_out)
            if may_stand and text not in seen:
                seen.add(text)
                splits[split].append(_row(f"{split}-{len(splits[split]) + 1:04d}", text, problem))
                barren = 0
            elif (barren := barren + 1) > 100_000:
                raise QuestionError(
                    f"the generator ran out of new questions at {len(seen)}, where {train_size} + "
                    f"{valid_size} were asked for; lower data.train_size or data.valid_size"
                )
    return splits


def _row(name: str, text: str, problem: arithmetic.Problem) -> dict[str, Any]:
    return {
        "id": name,
        "question": text,
        "answer": float(problem.answer),
        "category": problem.plot[-1],
        "plot": ", ".join(problem.plot),
        "steps": "; ".join(arithmetic.fact(problem.steps)),
    }


def about(question: str, answer: float) -> dict[str, Any]:
    """Return nothing of a person's own question but the names of what is not known of it.

    Raises: QuestionError if the answer is not whole, or has more than 15 digits.
    """
    _refuse_unfit(answer, QuestionError)
    return {"category": None, "plot": None, "steps": None}


def _refuse_unfit(answer: float, error: type[QuestionError | PromptError]) -> None:
    if not (float(answer).is_integer() and abs(answer) < 1e15):
        raise error(
            f"the answer {answer!r} is not whole, or has more than 15 digits, as no answer of the "
            "task arithmetic may; leave it out, or choose another task"
        )


def kinds(
    asked: Sequence[Row], trained: Sequence[Row], kept_out: Container[tuple[str, ...]] | None
) -> Iterator[dict[str, str]]:
    """Yield for each question its value in each of the groups that it belongs to.

    A question whose steps are not known belongs to no group of theirs.
    """
    known = {row["steps"] for row in trained}
    for row in asked:
        found = {"all": "all", "category": row["category"] or "not stated"}
        if row["steps"]:
            steps = tuple(row["steps"].split("; "))
            found |= {"steps": str(len(steps)), "plot": row["plot"]}
            found["steps_in_training"] = _yes(row["steps"] in known)
            if kept_out is not None:
                found["held_out"] = _yes(steps in kept_out)
        yield found


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def parse(completion: str) -> float | None:
    """Return the answer that a completion gives, or None where it gives none.

    It is the whole number behind `#### ` in the last line, of at most 15 ASCII digits and a sign if
    wanted, with nothing else in that line and no other `####` before it: two answers are none, and
    so is one that is followed by anything but blanks. `1,000`, `42.0`, `42.`, `5 pens`, `##### 42`
    and digits of other scripts are no answers. Time is linear in the length.
    """
    text = completion.strip()
    before, _, last = text.rpartition("\n")
    number = last.removeprefix(BEFORE)
    if last == number or BEFORE.strip() in before or not WHOLE.fullmatch(number):
        return None
    return float(number)


def is_correct(answer: float, gold: float, tolerances: Mapping[str, float]) -> bool:
    """Tell whether `answer` is `gold`: there is nothing near a right whole number."""
    return answer == gold


def slips(question: Row) -> dict[str, float]:
    """Return nothing: of a step left out no more is known than that the number is another."""
    return {}


def written(answer: float, digits: int) -> str:
    """Write a whole number, in full: rounding to some digits would make it another.

    Raises: PromptError if it is none.
    """
    _refuse_unfit(answer, PromptError)
    return str(int(answer))


def unit_of(name: str) -> tuple[()]:
    """Return nothing: words behind a number are prose."""
    return ()


def self_test(judge: Callable[[str, float], bool], golds: Sequence[float], digits: int) -> None:
    """Show `judge` every gold, with and without reasoning, and its corruptions, as `answers` does.

    Raises: ScoringError with the completion and the gold, if a verdict is wrong or `judge` raises.
    """
    for gold in (*FIXED_GOLDS, *answers.tried(golds)):
        marked = f"{BEFORE}{written(gold, digits)}"
        for completion in (marked, f" {marked}\n", f" 1 + 1 = 2.\n{marked}"):
            answers.expect(judge, completion, gold, True, "the answer itself")
        for fault, completion in _corruptions(gold):
            answers.expect(judge, completion, gold, False, fault)


def _corruptions(gold: float) -> Iterator[tuple[str, str]]:
    """Yield (what is wrong, completion), none of which answers `gold`."""
    text = written(gold, 0)
    sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text)
    padded = digits.zfill(4)
    endings = {
        "empty": "",
        "no number": "nan",
        "a word appended": f"{text} pens",
        "a fraction": f"{text}.0",
        "a full stop": f"{text}.",
        "a thousands comma": f"{sign}{padded[:-3]},{padded[-3:]}",
        "an underscore": f"{sign}{padded[:-3]}_{padded[-3:]}",
        "digits of another script": text.translate(answers.ARABIC_INDIC),
        "one too many": written(gold + math.copysign(1, gold), 0),
        "text behind it": f"{text}\nThat is all.",
        "a second answer": f"{text}\n{BEFORE}{text}",
    }
    if gold != 0:
        endings["the wrong sign"] = written(-gold, 0)
    for fault, ending in endings.items():
        yield fault, f"1 + 1 = 2.\n{BEFORE}{ending}"
    yield "no mark", f"1 + 1 = 2.\n{text}"
    yield "a mark too long", f"1 + 1 = 2.\n#{BEFORE}{text}"
    yield "not in a line of its own", f"1 + 1 = 2. {BEFORE}{text}"
