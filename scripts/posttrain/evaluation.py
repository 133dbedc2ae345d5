"""Evaluation: each question asked once, greedily, and what came of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain import adapters, artifacts, devices, engines, lineage, models, scoring
from posttrain.logs import Progress
from posttrain.masking import IGNORE
from posttrain.prompts import Style, fed
from posttrain.tasks import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "qxzqxz"  # no prompt holds it, and no tokenizer's normaliser alters it


@dataclass(frozen=True)
class Evaluated:
    """A model that is ready to be asked its questions, and what its receipt will state of it."""

    origin: dict[str, Any]
    loaded: adapters.Loaded
    model: engines.Model
    tokenizer: "PreTrainedTokenizerBase"
    questions: list[dict[str, Any]]
    style: Style
    recipe: dict[str, Any]

    @property
    def told(self) -> tuple[Any, ...]:
        """What `predictions` takes."""
        return self.model, self.tokenizer, self.questions, self.style, self.recipe

    def receipt(self, outputs: Mapping[str, str | Iterable[str]]) -> dict[str, Any]:
        """Return the receipt, once all else of `outputs` is written: with the adapter's label.

        Raises: ScoringError, AdapterError if what was read has changed meanwhile.
        """
        adapters.refuse_changed(self.loaded)
        computed = self.origin["computed"] | engines.stated(model=self.model)
        alike = asked_as_trained(self.tokenizer, self.loaded.receipt, self.style, self.recipe)
        found = {"adapter": self.loaded.label, "asked_as_trained": alike}
        return lineage.receipt(self.origin | {"computed": computed}, outputs, found)


def opened(job: Any, key: str | None) -> Evaluated:
    """Return the model that a rule is to evaluate; `job` has what Snakemake gives its scripts.

    Args: key, of the server that serves it, if one does.
    Raises: as `adapters.load_any` and `engines.opened` do.
    """
    recipe, style = job.params.recipe | job.params.engine, job.params.style
    devices.use_threads(job.threads)
    computed = devices.describe(job.threads)
    origin = lineage.origin_of_rule(job, recipe | {"style": style}, computed)
    loaded = adapters.load_any(job.input.base, job.input.adapter)
    # Of a folder that was held against its manifest just now, for its model.
    tokenizer = models.load_tokenizer(Path(job.input.base).parent)
    questions = artifacts.read_jsonl(job.input.questions)[: recipe["limit"]]
    told = (tokenizer, style, questions, recipe, job.params.connection, key)
    model = engines.opened("model", adapters.ready(loaded), *told)
    return Evaluated(origin, loaded, model, tokenizer, questions, style, recipe)


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
