"""Rollouts: the SFT model's verdict on each question, then as many samples as that asks for.

The unit is a chunk, a fixed run of consecutive questions with a random stream of its own: nothing
crosses it, so chunks may be made in any order, again, or elsewhere, and give the same bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain import engines, scoring
from posttrain.checkpoints import Checkpoints
from posttrain.logs import Progress, log
from posttrain.prompts import fed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Question = Mapping[str, Any]


def chunks(questions: Sequence[Question], size: int) -> list[Sequence[Question]]:
    """Return runs of `size` consecutive questions; the last may be shorter."""
    return [questions[start : start + size] for start in range(0, len(questions), size)]


def shard_of(items: Sequence[Any], shard: int, shards: int) -> Sequence[Any]:
    """Return part `shard`, from 1 on, of `items` cut in order into `shards` parts alike in size."""
    return items[len(items) * (shard - 1) // shards : len(items) * shard // shards]


def chunk_seed(seed: int, round_number: int, chunk: int) -> int:
    """Return the seed of a chunk's random stream: 63 bits, unlike that of any other chunk."""
    digest = hashlib.sha256(f"rollouts {seed} {round_number} {chunk}".encode()).digest()
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
    hard. `sampler` is asked for its reasoning, after the worked examples of the config. Each is
    asked through its own of the two `tokenizers`.
    """
    tokenizer, own = tokenizers
    asked = [ids for _, ids in fed(tokenizer, questions, "answer", recipe["prompts"])]
    limits = (recipe["max_new_tokens"], recipe["batch_size"])
    bare = engines.complete(sft, tokenizer, asked, [1] * len(asked), *limits)
    first = [
        scoring.judge(answer, question["answer"], recipe)
        for question, [answer] in zip(questions, bare, strict=True)
    ]
    is_right = [verdict["verdict"] == "correct" for verdict in first]
    counts = [
        recipe["samples_when_sft_is_right"] if right else recipe["samples_per_question"]
        for right in is_right
    ]
    seed = chunk_seed(recipe["seed"], recipe["round"], chunk)
    asked = [ids for _, ids in fed(own, questions, "worked", recipe["prompts"])]
    sampled = engines.complete(sampler, own, asked, counts, *limits, recipe["temperature"], seed)
    return [
        {
            "question_id": question["id"],
            "question": question["question"],
            "gold": question["answer"],
            **{f"sft_{key}": value for key, value in verdict.items()},
            "chunk": chunk,
            "seed": seed,
            "sample": sample,
            "completion": completion.text.strip(),
            "tokens": completion.tokens,
            "finish": completion.finish,
            **scoring.judge_reasoned(completion, question["answer"], recipe),
        }
        for question, verdict, completions in zip(questions, first, sampled, strict=True)
        for sample, completion in enumerate(completions)
    ]


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
    scoring.self_test(golds, recipe["answer_digits"], recipe)
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
