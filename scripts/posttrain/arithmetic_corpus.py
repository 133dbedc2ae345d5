"""The text that the embedded base model is pretrained on for the task `arithmetic`.

Sums, told steps and worked problems, in sentences that no question has; no fact that is held out
stands in it, not even among the steps of another. The bare answer it shows rarely.
"""

import random
from collections.abc import Container, Iterator, Mapping, Sequence

from posttrain.arithmetic import LARGEST, WORK, Problem, Step, drawn, is_open, told

# The prompts of config.yaml's defaults; a test holds the two equal.
REASONING = "Question: {question}\nReasoning: {reasoning}\n#### {answer}"
ANSWER = "Question: {question}\nAnswer: #### {answer}"

# None of these is among `arithmetic.SENTENCES`.
SENTENCES: Mapping[str, tuple[str, ...]] = {
    "some": (
        "{N} owns {A} {things}.",
        "Today {N} has {A} {things}.",
        "{N} found {A} {things}.",
        "At first {N} holds {A} {things}.",
    ),
    "groups": (
        "There are {b} {things} in each of the {a} {boxes} of {N}.",
        "{N} owns {a} {boxes}, each with {b} {things}.",
        "{N} fills {a} {boxes} with {b} {things} each.",
        "{N} gets {a} {boxes} of {b} {things}.",
    ),
    "both": (
        "{N} brings {A} {things} and {M} brings {B}.",
        "{N} has {A} {things}, {M} has {B}, and they join them.",
        "The {A} {things} of {N} and the {B} of {M} are put in one pile.",
    ),
    "less": (
        "{N} then gives {c} {things} to {M}.",
        "{c} of the {things} are lost.",
        "{N} sells {c} of them.",
        "{N} uses up {c} {things}.",
    ),
    "more": (
        "{M} gives {N} {c} more {things}.",
        "{N} gets another {c}.",
        "{N} finds {c} more of them.",
        "Then {N} buys {c} {things} more.",
    ),
    "fewer groups": (
        "{c} friends of {N} take {d} {things} each.",
        "{N} hands {d} {things} to each of {c} children.",
        "Each of the {c} children is given {d} of them.",
    ),
    "more groups": (
        "{N} gets {c} more packs with {d} {things} each.",
        "Then {c} packs of {d} {things} are added.",
        "{M} has {c} packs of {d} and adds them.",
    ),
    "count": (
        "How many {things} is that?",
        "How many {things} are left with {N}?",
        "How many {things} does {N} have at last?",
        "Count the {things} now.",
    ),
    "share": (
        "{N} divides them among {k} friends. How many {things} per friend?",
        "They make {k} equal heaps. How many {things} are in each heap?",
        "{k} children get the same number each. How many {things} for one child?",
    ),
    "price": (
        "At {k} dollars each, how many dollars are they worth?",
        "One of them costs {k} dollars. How many dollars for all?",
        "{M} pays {k} dollars for each of them. How many dollars are paid in all?",
    ),
    "times": (
        "{M} owns {k} times that number. How many {things} does {M} own?",
        "A friend has {k} times as many as that. How many {things} are those?",
    ),
}
# kind of document -> its share
SHARES = {"worked": 0.6, "sums": 0.3, "answer": 0.1}
SUMS = 5  # in a document of sums


def reasoning(steps: Sequence[Step], rng: random.Random) -> str:
    """Return one way to write the steps, each an equation."""
    turns = rng.random() < 0.2

    def written(step: Step) -> str:
        left, right = step.left, step.right
        if turns and step.sign in "+*":
            left, right = right, left
        return f"{left} {step.sign} {right} = {step.value}."

    joint = rng.choice((" ", " ", " Then ", " So "))
    return joint.join(written(step) for step in steps)


class Writer:
    """Writes documents from one random stream. `kept_out` are facts never to be written."""

    def __init__(self, rng: random.Random, kept_out: Container[tuple[str, ...]]) -> None:
        self.rng, self.kept_out = rng, kept_out

    def problem(self) -> Problem:
        """Draw a problem that may be written."""
        while not is_open((found := drawn(self.rng)).steps, self.kept_out):
            pass
        return found

    def sums(self) -> str:
        """Return some sums of the kinds that problems are made of."""
        while True:
            steps = [self.step() for _ in range(SUMS)]
            if is_open(steps, self.kept_out):
                return " ".join(f"{s.left} {s.sign} {s.right} = {s.value}." for s in steps)

    def step(self) -> Step:
        """Draw one sum."""
        sign = self.rng.choice(tuple(WORK))
        while True:
            if sign in "*/":
                right, value = self.rng.randint(2, 9), self.rng.randint(2, LARGEST // 2)
            else:
                right, value = self.rng.randint(2, 81), self.rng.randint(2, LARGEST)
            left = {"+": value - right, "-": value + right, "/": value * right}.get(sign, value)
            value = left * right if sign == "*" else value
            if 1 < left <= LARGEST and value <= LARGEST:
                return Step(left, sign, right, value)

    def document(self) -> str:
        """Return one document."""
        kind = self.rng.choices(list(SHARES), list(SHARES.values()))[0]
        if kind == "sums":
            return self.sums()
        problem = self.problem()
        question = told(problem, SENTENCES, self.rng)
        if kind == "answer":
            return ANSWER.format(question=question, answer=problem.answer)
        worked = reasoning(problem.steps, self.rng)
        return REASONING.format(question=question, reasoning=worked, answer=problem.answer)


def documents(seed: int, kept_out: Container[tuple[str, ...]]) -> Iterator[str]:
    """Yield the endless pretraining text, document by document, the same for the same arguments."""
    writer = Writer(random.Random(f"arithmetic corpus {seed}"), kept_out)
    while True:
        yield writer.document()
