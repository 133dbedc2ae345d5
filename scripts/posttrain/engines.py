"""Who completes prompts: the model at hand, or a server that has proven to hold the same one.

A server cannot be held against a sha256. What proves it is what it writes: before it may stand in
for a model, the greedy completions of some of the questions at hand are asked of both, and the
share that differs, the flip rate, is stated and limited. So a served model is known as far as its
answers show; and where two sets of weights answer alike, so do the figures.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from posttrain import sampling
from posttrain.errors import EngineError
from posttrain.logs import log
from posttrain.prompts import Style, fed
from posttrain.sampling import Completion
from posttrain.servers import Asked, Server
from posttrain.tasks import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHOWN = 60  # characters of each of two texts from where they part


@dataclass(frozen=True)
class Served:
    """A model of a server, by its name there, and what it has shown of itself."""

    server: Server
    name: str
    stops: tuple[int, ...]  # ids of the tokens that end a completion
    concurrency: int  # requests at once, at most
    proof: dict[str, Any] = field(default_factory=dict)


Model: TypeAlias = "PreTrainedModel | Served"


def complete(
    model: Model,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    samples: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    closing: str,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[list[Completion]]:
    """Yield, prompt by prompt, `samples[i]` completions of `prompts[i]`.

    The same call gives the same completions; of a server that holds as far as it heeds seeds.

    Args: prompts, token ids as `masking.prompt_ids` gives them; batch_size, rows generated at once
        by a model at hand; closing, the text after which a completion ends, empty where the model's
        stop token alone ends it; temperature 0 is greedy, else `seed` is that of the random stream.
    Raises: what `sampling.complete` does, or EngineError.
    """
    if isinstance(model, Served):
        return _ask(model, tokenizer, prompts, samples, max_new_tokens, closing, temperature, seed)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed) if temperature else None
    return sampling.complete(
        model,
        tokenizer,
        prompts,
        samples,
        max_new_tokens,
        batch_size,
        closing,
        temperature,
        generator,
    )


def opened(
    role: str,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    style: Style,
    questions: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    connection: Mapping[str, Any],
    key: str | None,
) -> Model:
    """Return what completes in the place of `model`: a server once it is proven, or it itself.

    Args: role, under which the recipe's `engine` may name a served model; questions, of which some
        are asked of both, in `style`; connection, how the server is asked, if there is one; key,
        which it may want, and which no file or log ever holds.
    Raises: EngineError if too many completions differ.
    """
    engine = recipe.get("engine", {})
    if role not in engine.get("models", {}):
        return model
    limits = (connection["timeout"], connection["retries"])
    served = Served(
        Server(engine["server"], engine["url"], *limits, key),
        engine["models"][role],
        tuple(sorted(sampling.stop_tokens(model, tokenizer))),
        connection["concurrency"],
    )
    proof = {"server": engine["server"], "url": served.server.url, "model": served.name}
    proof |= {"listed": served.server.listed(served.name)}
    proof |= _flips(served, model, tokenizer, style, questions, recipe)
    log.info("engine: %(url)s %(model)s: %(flips)d of %(prompts)d greedy completions differ", proof)
    if proof["flip_rate"] > engine["most_flips"]:
        raise _refusal(proof, engine["most_flips"], model)
    return replace(served, proof=proof)


def stated(**models: Model) -> dict[str, Any]:
    """Return what a receipt's `computed` says of those of `models` that are a server's, by role."""
    proofs = {role: model.proof for role, model in models.items() if isinstance(model, Served)}
    return {"engines": proofs} if proofs else {}


def _flips(
    served: Served,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    style: Style,
    questions: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
) -> dict[str, Any]:
    """Return how many of a few greedy completions differ, and where the first does."""
    count = min(recipe["engine"]["check_prompts"], len(questions))
    spread = [questions[i * len(questions) // count] for i in range(count)]
    task = task_of(recipe["task"])
    asked = [ids for _, ids in fed(tokenizer, spread, style, recipe["prompts"], task)]
    limits = (recipe["max_new_tokens"], recipe["batch_size"], task.AFTER)
    there, here = (  # the server first: one that is down is to cost nothing
        [one.text.strip() for [one] in complete(who, tokenizer, asked, [1] * count, *limits)]
        for who in (served, model)
    )
    flips = [i for i in range(count) if here[i] != there[i]]
    first = None
    if flips:
        own, other = here[flips[0]], there[flips[0]]
        parts = (i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b)
        alike = next(parts, min(len(own), len(other)))
        first = {"question": spread[flips[0]]["id"], "character": alike}
        first |= {"here": own[alike:][:SHOWN], "there": other[alike:][:SHOWN]}
    rate = len(flips) / count
    return {"prompts": count, "flips": len(flips), "flip_rate": rate, "first_flip": first}


def _refusal(proof: Mapping[str, Any], limit: float, model: "PreTrainedModel") -> EngineError:
    """Return what is said of a served model that is another than the one here."""
    first, dtype = proof["first_flip"], str(model.dtype).removeprefix("torch.")
    return EngineError(
        f"engine: {proof['url']} does not serve under {proof['model']!r} the model that is here: "
        f"{proof['flips']} of {proof['prompts']} greedy completions differ (flip rate "
        f"{proof['flip_rate']:.3f}, at most {limit:g}), first that of {first['question']}, from "
        f"character {first['character']} on: {first['here']!r} here, {first['there']!r} there; see "
        "that the server has this very model or adapter, merged or loaded, its tokenizer, the "
        f"precision that is used here ({dtype}) and no quantised weights; where that cannot be, "
        "raise engine.most_flips"
    )


def _ask(
    served: Served,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    samples: Sequence[int],
    max_new_tokens: int,
    closing: str,
    temperature: float,
    seed: int,
) -> Iterator[list[Completion]]:
    """Yield the completions of a served model: a request each, in order, however they come."""
    takes_ids = served.server.kind.takes_ids
    sent = [ids if takes_ids else _text_of(tokenizer, ids) for ids in prompts]
    asked = [
        Asked(sent[i], len(ids), max_new_tokens, closing, temperature, _seed(seed, i, sample))
        for i, ids in enumerate(prompts)
        for sample in range(samples[i])
    ]
    stopped = threading.Event()
    with ThreadPoolExecutor(served.concurrency) as pool:
        try:
            waiting = deque(
                pool.submit(served.server.complete, served.name, one, served.stops, stopped)
                for one in asked
            )
            for count in samples:
                answers = [waiting.popleft().result() for _ in range(count)]
                yield [_completion(tokenizer, served.stops, closing, *answer) for answer in answers]
        finally:  # also where one failed or nobody wants the rest
            stopped.set()
            pool.shutdown(cancel_futures=True)


def _seed(seed: int, prompt: int, sample: int) -> int:
    """Return the seed of one completion: 31 bits, which every server takes."""
    digest = hashlib.sha256(f"{seed} {prompt} {sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _text_of(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    """Return the text that a server, tokenizing as transformers does, reads as exactly `ids`.

    Raises: EngineError if there is none: the model would be asked another prompt.
    """
    added = tokenizer("")["input_ids"]  # such as BOS, which the server puts in front again
    start = len(added) if ids[: len(added)] == added else 0
    text = tokenizer.decode(
        ids[start:], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    if tokenizer(text)["input_ids"] != ids:
        raise EngineError(
            f"engine: a server of this kind takes prompts as text, and reads {text[:SHOWN]!r}... "
            "as other tokens than the model was trained on; use one that takes token ids "
            "(engine.server: vllm, sglang or llama.cpp)"
        )
    return text


def _completion(
    tokenizer: "PreTrainedTokenizerBase",
    stops: Sequence[int],
    closing: str,
    text: str,
    finish: str,
) -> Completion:
    """Return what a server wrote as the model at hand would have ended it.

    Its tokens are those that our tokenizer makes of the text.
    """
    if closing and closing in text:
        text, finish = text[: text.index(closing) + len(closing)], "answer"
    elif finish == "stop":
        spelt = [tokenizer.decode([stop], skip_special_tokens=False) for stop in stops]
        text = next((text.removesuffix(stop) for stop in spelt if text.endswith(stop)), text)
    tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    return Completion(text, tokens, finish)
