"""Rollouts: the SFT model's verdict on each question, then as many samples as that asks for.

The unit is a chunk, a fixed run of consecutive questions with a random stream of its own: nothing
crosses it, so chunks may be made in any order, again, or elsewhere, and give the same bytes.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain import engines, scoring
from posttrain.checkpoints import Checkpoints
from posttrain.logs import Progress, log
from posttrain.prompts import fed
from posttrain.tasks import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Question = Mapping[str, Any]


def chunks(questions: Sequence[Question], size: int) -> list[Sequence[Question]]:
    """Return runs of `size` consecutive questions; the last may be shorter."""
    return [questions[start : start + size] for start in range(0, len(questions), size)]


def shard_of(items: Sequence[Any], shard: int, shards: int) -> Sequence[Any]:
    """Return part `shard`, from 1 on, of `items` cut in order into `shards` parts alike in size."""
    return items[len(items) * (shard - 1) // shards : len(items) * shard // shards]


def chunk_seed(seed: int, round_number: int, chunk: int, turn: int = 0) -> int:
    """Return the seed of a chunk's random stream: 63 bits, unlike that of any other chunk.

    Where hard questions are sampled again, each turn after the first has a stream of its own.
    """
    again = f" {turn}" if turn else ""
    digest = hashlib.sha256(f"rollouts {seed} {round_number} {chunk}{again}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def sample_chunk(
    sft: engines.Model,
    sampler: engines.Model,
    tokenizers: Sequence["PreTrainedTokenizerBase"],
    questions: Sequence[Question],
    chunk: int,
    recipe: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return every sampled completion of a chunk with its verdicts, question by question.

    A question that `sft` answers rightly gets few samples, another many: they pay where it is
    hard. Then those with fewer than `extra_below` sound samples get as many again, and again, up
    to `extra_samples` more each. `sampler` is asked for its reasoning in the style of the recipe.
    Each is asked through its own of the two `tokenizers`.
    """
    tokenizer, own = tokenizers
    task, wording = task_of(recipe["task"]), recipe["prompts"]
    asked = [ids for _, ids in fed(tokenizer, questions, "answer", wording, task)]
    limits = (recipe["max_new_tokens"], recipe["batch_size"], task.AFTER)
    bare = engines.complete(sft, tokenizer, asked, [1] * len(asked), *limits)
    first = [
        scoring.judge(answer, question["answer"], recipe, task)
        for question, [answer] in zip(questions, bare, strict=True)
    ]
    few, many = recipe["samples_when_sft_is_right"], recipe["samples_per_question"]
    counts = {
        place: few if verdict["verdict"] == "correct" else many
        for place, verdict in enumerate(first)
    }
    most = [count + recipe["extra_samples"] for count in counts.values()]
    enough = recipe["extra_below"] if recipe["extra_samples"] else 0
    asked = [ids for _, ids in fed(own, questions, recipe["style"], wording, task)]
    rows: list[list[dict[str, Any]]] = [[] for _ in questions]
    for turn in itertools.count():
        seed = chunk_seed(recipe["seed"], recipe["round"], chunk, turn)
        sampled = engines.complete(
            sampler,
            own,
            [asked[place] for place in counts],
            list(counts.values()),
            *limits,
            recipe["temperature"],
            seed,
        )
        for place, completions in zip(counts, sampled, strict=True):
            rows[place] += [
                {
                    "chunk": chunk,
                    "seed": seed,
                    "sample": sample,
                    "completion": completion.text.strip(),
                    "tokens": completion.tokens,
                    "finish": completion.finish,
                    **scoring.judge_reasoned(completion, questions[place]["answer"], recipe, task),
                }
                for sample, completion in enumerate(completions, start=len(rows[place]))
            ]
        if not (counts := further_samples(rows, most, many, enough)):
            break
    # Rounds are told apart from the second on.
    number = {"round": recipe["round"]} if recipe["round"] > 1 else {}
    return [
        {
            "question_id": question["id"],
            "question": question["question"],
            "gold": question["answer"],
            **{f"sft_{key}": value for key, value in verdict.items()},
            **number,
            **row,
        }
        for question, verdict, samples in zip(questions, first, rows, strict=True)
        for row in samples
    ]


def further_samples(
    verdicts: Sequence[Sequence[Mapping[str, Any]]],
    most: Sequence[int],
    at_once: int,
    enough: int,
) -> dict[int, int]:
    """Return the places of the questions to be sampled further, and how often each.

    Args: verdicts and most, of each question those of its samples, and how many it may have in
        all; at_once, how many it gets at most; enough, the sound samples that need no further.
    Source: Tong et al. 2024 (arXiv 2407.13690) give hard questions more trials, by how often the
        sampler itself solves them.
    """
    return {
        place: min(at_once, limit - len(judged))
        for place, (judged, limit) in enumerate(zip(verdicts, most, strict=True))
        if len(judged) < limit and sum(map(scoring.is_sound, judged)) < enough
    }


def sample(
    sft: engines.Model,
    sampler: engines.Model,
    tokenizers: Sequence["PreTrainedTokenizerBase"],
    questions: Sequence[Question],
    recipe: Mapping[str, Any],
    kept: Checkpoints | None = None,
    shard: int = 1,
    shards: int = 1,
) -> list[dict[str, Any]]:
    """Return the rollouts of a shard, chunk by chunk; all shards, in order, make the whole.

    Args: kept, the chunks that a job before this one has sampled.
    Raises: ScoringError if the verifier fails its own test, before anything is sampled.
    """
    golds = [question["answer"] for question in questions]
    scoring.self_test(golds, recipe["answer_digits"], recipe, task_of(recipe["task"]))
    found = []
    every = list(enumerate(chunks(questions, recipe["questions_per_chunk"])))
    own = shard_of(every, shard, shards)
    log.info("shard %d of %d: %d of %d chunks", shard, shards, len(own), len(every))
    with Progress(sum(len(members) for _, members in own), "sampling", "questions") as progress:
        for chunk, members in own:
            name = f"chunk{chunk:05d}"
            if kept and (done := kept.load(name)):
                _, rows = done
            else:
                rows = sample_chunk(sft, sampler, tokenizers, members, chunk, recipe)
                if kept:
                    kept.save(name, {}, rows)
            found += rows
            progress.advance(len(members), f"{len(found)} samples")
    return found
