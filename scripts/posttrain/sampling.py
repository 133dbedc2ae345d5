"""Completions of prompts, greedy or sampled, stopped at a closing text, a stop token or the limit.

Nothing crosses a call, and each completion has random numbers of its own, drawn from the generator
when the call starts, so the same call gives the same completions.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from posttrain.batches import Batch, Completion, Ends
from posttrain.decoding import is_plain_llama, step_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PART = 512  # rows of a batch that a thread of the CPU writes by itself
AT_A_TIME = 32  # tokens that the parts of a batch write before one waits for another


def complete(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    samples: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    closing: str,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[list[Completion]]:
    """Yield, prompt by prompt, `samples[i]` completions of `prompts[i]`.

    Args: prompts, token ids as `masking.prompt_ids` gives them; batch_size, rows generated at once
        at most; closing, the text that ends a completion, a task's `AFTER`, "" for none;
        temperature 0 is greedy, else `generator` is drawn from.
    Raises: ScoringError if the model gives NaN; ModelError if it keeps no plain key-value cache.
    """
    rows = sum(samples)
    draws: list[torch.Tensor] = []
    if temperature:
        device = generator.device if generator else None
        numbers = torch.rand(rows, max_new_tokens, generator=generator, device=device)
        draws = list(numbers.cpu().split(list(samples)))
    closers = _closing_tokens(tokenizer, closing) if closing else set()
    ends = Ends(tokenizer, stop_tokens(model, tokenizer), closing, closers, max_new_tokens)
    step = step_of(model)
    parts = 1
    if is_plain_llama(model):  # others may change their own state as they read
        parts = min(len(prompts), parts_of(rows, batch_size, model.device))
    batches = []
    for part in range(parts):
        own = slice(part, None, parts)
        batches.append(
            Batch(
                model,
                step,
                ends,
                prompts[own],
                samples[own],
                lines=-(-batch_size // parts),
                temperature=temperature,
                draws=torch.cat(draws[own]) if draws else None,
            )
        )
    first = [0] * parts
    with _each_on_a_thread(parts) as each:
        try:
            for place, count in enumerate(samples):
                part = place % parts
                own = slice(first[part], first[part] + count)
                while None in batches[part].done[own]:
                    list(each(lambda batch: batch.write(AT_A_TIME), batches))
                yield batches[part].done[own]
                first[part] += count
        finally:  # whoever ends it early need not wait until all have written so many
            for batch in batches:
                batch.stop()


def parts_of(rows: int, batch_size: int, device: torch.device) -> int:
    """Return in how many parts a batch is written: on a CPU, of 512 rows at most.

    Two threads write a part each in less time than they write both together, when they wait for
    each other at every small operation. How many threads there are changes no part.
    """
    return max(1, -(-min(rows, batch_size) // PART)) if device.type == "cpu" else 1


@contextmanager
def _each_on_a_thread(parts: int) -> Iterator[Callable[..., Iterator[None]]]:
    """Yield a `map` over the parts, which share the threads that torch has here."""
    threads = torch.get_num_threads()
    workers = min(parts, threads)
    if workers < 2:
        yield map
        return
    try:
        with ThreadPoolExecutor(workers, "", torch.set_num_threads, (threads // workers,)) as pool:
            yield pool.map
    finally:  # once no thread sets its own any more: MKL has but one number for all
        torch.set_num_threads(threads)


def _closing_tokens(tokenizer: "PreTrainedTokenizerBase", closing: str) -> set[int]:
    """Return the ids of the tokens in whose spelling the last character of `closing` stands.

    Every vocabulary spells it as itself; one that falls back on bytes, as <0x3E> too.
    """
    return {i for token, i in tokenizer.get_vocab().items() if closing[-1] in token}


def stop_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Return the tokenizer's stop token and those that the model's generation config adds."""
    extra = model.generation_config.eos_token_id
    listed = extra if isinstance(extra, list) else [extra]
    return {tokenizer.eos_token_id, *(token for token in listed if token is not None)}
