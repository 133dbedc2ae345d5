"""Evaluation: each question asked once, greedily, and what came of it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain import engines, scoring
from posttrain.logs import Progress
from posttrain.masking import IGNORE
from posttrain.prompts import Style, fed
from posttrain.tasks import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "qxzqxz"  # no prompt holds it, and no tokenizer's normaliser alters it


def predictions(
    model: engines.Model,
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[Mapping[str, Any]],
    style: Style,
    recipe: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return a line a question: prompt, completion, parsed, gold, verdict, and an error if any.

    Raises: ScoringError if the verifier fails its own test, before any question is asked.
    """
    task, golds = task_of(recipe["task"]), [question["answer"] for question in questions]
    scoring.self_test(golds, recipe["answer_digits"], recipe, task)
    asked = fed(tokenizer, questions, style, recipe["prompts"], task)
    ids = [ids for _, ids in asked]
    limits = (recipe["max_new_tokens"], recipe["batch_size"], task.AFTER)
    completions = engines.complete(model, tokenizer, ids, [1] * len(ids), *limits)
    lines = []
    with Progress(len(questions), "evaluating", "questions") as progress:
        for question, (prompt, _), [completion] in zip(questions, asked, completions, strict=True):
            verdict = scoring.judge(completion, question["answer"], recipe, task)
            lines.append(
                {
                    "id": question["id"],
                    "question": question["question"],
                    "prompt": prompt,
                    "completion": completion.text,
                    "parsed": verdict.pop("parsed"),
                    "gold": question["answer"],
                    **verdict,
                    "tokens": completion.tokens,
                    "finish": completion.finish,
                }
            )
            progress.advance(1)
    return lines


def asked_as_trained(
    tokenizer: "PreTrainedTokenizerBase",
    receipt: Mapping[str, Any] | None,
    style: Style,
    recipe: Mapping[str, Any],
) -> bool | None:
    """Tell whether an adapter is asked as its training rows were; None without a receipt.

    The receipt's probes are training rows: what is masked of one is the prompt it was trained on.
    """
    if receipt is None:
        return None
    row = receipt["probes"]["rows"][0]
    masked = [
        i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORE
    ]
    marked, task = [{"id": "mark", "question": MARK}], task_of(recipe["task"])
    [(_, now)] = fed(tokenizer, marked, style, recipe["prompts"], task)
    trained, asked = (
        tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for ids in (masked, now)
    )
    before, after = asked.split(MARK)
    is_alike = trained.startswith(before) and trained.endswith(after)
    return is_alike and len(trained) > len(before + after)
