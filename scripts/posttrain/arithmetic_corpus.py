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

# None of these is among `arithmetic.SENTENCES`, and every word of those is in these.
SENTENCES: Mapping[str, tuple[str, ...]] = {
    "some": (
        "There are {A} {things} with {N}.",
        "Now {N} has {A} {things}.",
        "{A} {things} is what {N} starts with.",
    ),
    "groups": (
        "{N} gets {a} {boxes}, each with {b} {things}.",
        "In {a} {boxes} {N} has {b} {things} each.",
        "{a} {boxes} of {b} {things} is what {N} buys.",
    ),
    "both": (
        "{N} brings {A} {things} and {M} brings {B}.",
        "{A} {things} and {B} are put together, as {N} and {M} want.",
        "{N} has {A} and {M} has {B} {things}. They put all their {things} in one box.",
    ),
    "less": (
        "{c} {things} are lost.",
        "Then {N} gives {c} {things} away.",
        "{c} of all of them get lost.",
    ),
    "more": (
        "{N} gets {c} more.",
        "{c} more {things} are what {N} finds.",
        "Then {N} buys another {c} of them.",
    ),
    "fewer groups": (
        "Then {c} friends each take {d}.",
        "To each of {c} children {N} gives {d} {things}.",
        "{c} children get {d} of the {things} each, and {M} takes them away.",
    ),
    "more groups": (
        "{M} brings {c} more, packs of {d} {things} each.",
        "Then {N} gets {c} packs with {d} {things} in each.",
        "{c} more packs of {d} are bought.",
    ),
    "count": (
        "In the end, how many {things} is that?",
        "How many {things} does {N} have now?",
        "Now there are how many {things}?",
    ),
    "share": (
        "Among {k} friends they are shared equally. How many {things} for each?",
        "{k} children share them. How many {things} does each one get?",
        "They share equally, {k} in all. Each gets how many {things}?",
    ),
    "price": (
        "All are sold for {k} dollars each. How many dollars is that in all?",
        "One costs {k} dollars. How many dollars do all cost?",
        "{N} sells each for {k} dollars. How many dollars is that?",
    ),
    "times": (
        "{k} times as many is what {M} wants. How many {things} is that?",
        "As many {things}, {k} times, does {M} have. How many are they?",
    ),
}
# kind of document -> its share
SHARES = {"worked": 0.7, "sums": 0.22, "answer": 0.08}
STEPS = (
    1,
    1,
    2,
    2,
    3,
)  # of a problem, each as likely as it stands here: the short ones teach first
SUMS = 5  # in a document of sums
TURNED = 0.1  # share of the sums and products that are written the other way round


def reasoning(steps: Sequence[Step], rng: random.Random) -> str:
    """Return one way to write the steps, each an equation; some are turned round."""

    def written(step: Step) -> str:
        left, right = step.left, step.right
        if step.sign in "+*" and rng.random() < TURNED:
            left, right = right, left
        return f"{left} {step.sign} {right} = {step.value}."

    return " ".join(map(written, steps))


class Writer:
    """Writes documents from one random stream. `kept_out` are facts never to be written."""

    def __init__(self, rng: random.Random, kept_out: Container[tuple[str, ...]]) -> None:
        self.rng, self.kept_out = rng, kept_out

    def problem(self) -> Problem:
        """Draw a problem that may be written."""
        while not is_open((found := drawn(self.rng, STEPS)).steps, self.kept_out):
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
                right, value = self.rng.randint(2, 60), self.rng.randint(2, LARGEST)
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
