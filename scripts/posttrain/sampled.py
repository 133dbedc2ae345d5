"""Sampled evaluation: each question asked many times over, at a temperature."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from posttrain import engines, scoring
from posttrain.errors import ScoringError
from posttrain.logs import Progress
from posttrain.prompts import Style, fed
from posttrain.rollouts import chunk_seed, chunks
from posttrain.statistics import sampled
from posttrain.tasks import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("model", "k", "questions", "pass_at_k", "majority_at_k")
ROUND = 0  # rollouts draw their random streams for rounds from 1 up


def completions(
    model: engines.Model,
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[Mapping[str, Any]],
    style: Style,
    recipe: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return a line a sample, `recipe["samples"]` to a question: completion, parsed, gold, verdict.

    A chunk of questions has a random stream of its own, as in the rollouts, and nothing crosses it.
    Raises: ScoringError if the verifier fails its own test, before any question is asked.
    """
    task, golds = task_of(recipe["task"]), [question["answer"] for question in questions]
    scoring.self_test(golds, recipe["answer_digits"], recipe, task)
    lines = []
    with Progress(len(questions), "sampling", "questions") as progress:
        for chunk, members in enumerate(chunks(questions, recipe["questions_per_chunk"])):
            seed = chunk_seed(recipe["seed"], ROUND, chunk)
            found = engines.complete(
                model,
                tokenizer,
                [ids for _, ids in fed(tokenizer, members, style, recipe["prompts"], task)],
                [recipe["samples"]] * len(members),
                recipe["max_new_tokens"],
                recipe["batch_size"],
                task.AFTER,
                recipe["temperature"],
                seed,
            )
            lines += [
                {
                    "id": question["id"],
                    "question": question["question"],
                    "gold": question["answer"],
                    "sample": sample,
                    "completion": completion.text,
                    "tokens": completion.tokens,
                    "finish": completion.finish,
                    **scoring.judge(completion, question["answer"], recipe, task),
                }
                for question, samples in zip(members, found, strict=True)
                for sample, completion in enumerate(samples)
            ]
            progress.advance(len(members))
    return lines


def table(model: str, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row of `COLUMNS` for each k up to the number of samples, from `completions`.

    Raises: ScoringError if the verifier failed on one: it is neither right nor wrong.
    """
    if failed := [line for line in lines if line["verdict"] == "error"]:
        raise ScoringError(
            f"the verifier failed on {len(failed)} of {len(lines)} samples, first on sample "
            f"{failed[0]['sample']} of {failed[0]['id']}: {failed[0]['error']!r}"
        )
    asked = groupby(lines, key=lambda line: line["id"])
    answers = [
        [(line["parsed"], line["verdict"] == "correct") for line in samples] for _, samples in asked
    ]
    return [{"model": model, **row} for row in sampled(answers)]
