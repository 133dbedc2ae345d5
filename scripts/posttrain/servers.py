"""Servers of the OpenAI completions API: asked one completion at a time, again where that helps.

Each kind of server takes more than the API has and has defaults of its own, some of which would
narrow what is sampled without a word. So a request says all of it, in the words of its kind, and an
answer that is not exactly what was asked for ends the run.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from posttrain.errors import EngineError
from posttrain.logs import log

if TYPE_CHECKING:
    import httpx2

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before a request is made again; each doubles it
# What `/models` may say of a model that is the same tomorrow.
LISTED = ("id", "root", "parent", "owned_by", "max_model_len")
EXCERPT = 200  # characters of a server's own words that a message repeats


@dataclass(frozen=True)
class Asked:
    """One completion to be written: `prompt` as ids, or as text for a server that takes no ids.

    `closing` is the text after which it ends, empty where the model's stop token alone ends it.
    """

    prompt: list[int] | str
    prompt_tokens: int
    max_new_tokens: int
    closing: str
    temperature: float
    seed: int


@dataclass(frozen=True)
class Kind:
    """What sets one kind of server apart.

    `extra` returns, for what is asked and the ids of the stop tokens, what a request says beside
    the API's own fields: sample from all tokens, penalise none, and, where the server can be told
    to leave it in the text, stop behind the closing tag. A server that would cut the tag off says
    "stop" for the tag and for a stop token alike, and is left to write on.
    """

    takes_ids: bool
    extra: Callable[[Asked, Sequence[int]], dict[str, Any]]


def _closings(asked: Asked) -> list[str]:
    return [asked.closing] if asked.closing else []


def _vllm(asked: Asked, stops: Sequence[int]) -> dict[str, Any]:
    # vLLM takes what is not given from the model's generation_config.json.
    return {
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": _closings(asked),
        "include_stop_str_in_output": True,
        "stop_token_ids": list(stops),
        "skip_special_tokens": False,
    }


def _sglang(asked: Asked, stops: Sequence[int]) -> dict[str, Any]:
    return {
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop": _closings(asked),
        "no_stop_trim": True,
        "stop_token_ids": list(stops),
        "skip_special_tokens": False,
    }


def _llama_cpp(asked: Asked, stops: Sequence[int]) -> dict[str, Any]:
    # Its own defaults are top_k 40, top_p 0.95, min_p 0.05 and a penalty for repetition.
    return {"top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0}


def _transformers(asked: Asked, stops: Sequence[int]) -> dict[str, Any]:
    # It stays greedy at any temperature, and takes the 50 likeliest, unless told by this.
    config = {
        "do_sample": asked.temperature > 0,
        "eos_token_id": list(stops),
        "pad_token_id": stops[0],
    }
    if asked.temperature > 0:
        config |= {"temperature": asked.temperature, "top_k": 0, "top_p": 1.0}
    return {"generation_config": json.dumps(config), "stop": _closings(asked)}


KINDS = {
    "vllm": Kind(True, _vllm),
    "sglang": Kind(True, _sglang),
    "llama.cpp": Kind(True, _llama_cpp),
    "transformers": Kind(False, _transformers),
}


class Server:
    """A server at `url`, from which several threads may ask.

    Args: kind, a key of `KINDS`; url, such as http://localhost:8000/v1; timeout, seconds that an
        answer may take; retries, how often a request is made again; key, sent as bearer token.
    """

    def __init__(
        self, kind: str, url: str, timeout: float, retries: int, key: str | None = None
    ) -> None:
        import httpx2

        self.kind, self.url = KINDS[kind], url.rstrip("/")
        self.timeout, self.retries, self.key = timeout, retries, (key or "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise EngineError("engine: ENGINE_API_KEY holds a sign that no key has; set it again")
        self.client = httpx2.Client(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=timeout,
            limits=httpx2.Limits(max_connections=None),  # the caller's threads are the limit
            trust_env=not _is_loopback(url),  # a proxy cannot reach what is on this machine
        )
        self._said: set[str] = set()

    def listed(self, model: str) -> dict[str, Any] | None:
        """Return what the server's list of models says of `model`; None without such an entry.

        That proves nothing, so a server that has no list, or fails at it, may do without.
        """
        import httpx2

        try:
            found = self.client.get(f"{self.url}/models").json()["data"]
            [entry] = [entry for entry in found if entry["id"] == model]
            return {name: entry[name] for name in LISTED if entry.get(name) is not None}
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return None
        except (LookupError, TypeError, AttributeError, ValueError):
            return None  # another answer than a list, or none with that entry

    def complete(
        self, model: str, asked: Asked, stops: Sequence[int], stopped: threading.Event
    ) -> tuple[str, str]:
        """Return the text that `model` writes, and "stop" or "length", which ended it.

        Args: stops, the ids of the stop tokens; stopped, set once nobody wants the answer.
        Raises: EngineError, one line, if the server cannot be asked, refuses, or answers anything
            but one completion by `model` of a prompt of so many tokens.
        """
        body = {
            "model": model,
            "prompt": asked.prompt,
            "max_tokens": asked.max_new_tokens,
            "temperature": asked.temperature,
            "top_p": 1.0,
            "seed": asked.seed,
            **self.kind.extra(asked, stops),
        }
        return self._read(self._request(body, stopped), model, asked)

    def _read(self, answer: Any, model: str, asked: Asked) -> tuple[str, str]:
        """Take an answer apart. Raises EngineError if it is not one completion as asked for."""
        try:
            choices, name = answer["choices"], answer["model"]
            tokens = answer["usage"]["prompt_tokens"]
            if len(choices) != 1:
                raise self._fault(f"gives {len(choices)} completions where one was asked for")
            text, finish = choices[0]["text"], choices[0]["finish_reason"]
        except (LookupError, TypeError) as error:
            raise self._fault(
                f"gives no completion of the OpenAI API ({error!r}): {self._excerpt(answer)}"
            ) from error
        # transformers adds the revision to a name.
        if name not in (model, f"{model}@main"):
            raise self._fault(f"answers as {name!r} where {model!r} was asked")
        if not isinstance(text, str) or finish not in ("stop", "length"):
            raise self._fault(f"gives a completion that ended by {finish!r}: {self._excerpt(text)}")
        if tokens != asked.prompt_tokens:
            raise self._fault(
                f"read a prompt of {asked.prompt_tokens} tokens as {tokens}: its tokenizer is "
                "another, or adds tokens of its own; serve the model's own folder"
            )
        return text, finish

    def _request(self, body: dict[str, Any], stopped: threading.Event) -> Any:
        """Return the JSON of an answer; what may be better next time is asked again, ever later."""
        import httpx2

        for attempt in range(self.retries + 1):
            pause = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
            try:
                response = self.client.post(f"{self.url}/completions", json=body)
                if response.status_code == 200:
                    return json.loads(response.content)
                fault = self._refusal(response)
                if response.status_code != 429 and response.status_code < 500:
                    raise self._fault(fault)
                pause = _wanted_pause(response.headers.get("Retry-After"), pause)
            except httpx2.TimeoutException:
                fault = f"gave no answer within {self.timeout:g} s (engine.timeout)"
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                fault = f"cannot be reached ({reason}): start it, or mend engine.url"
            except ValueError:
                fault = f"answers what is no JSON: {self._excerpt(response.text)}"
            if attempt == self.retries:
                break
            if fault not in self._said:  # once each: there may be thousands
                self._said.add(fault)
                log.warning("engine: %s %s; asking again in %.1f s", self.url, fault, pause)
            if stopped.wait(pause):
                break
        raise self._fault(f"{fault}; asked {attempt + 1} times; then run it again")

    def _refusal(self, response: "httpx2.Response") -> str:
        """Say with what status, and in which words of its own, the server refuses."""
        hints = {
            401: "; set ENGINE_API_KEY to its key",
            403: "; set ENGINE_API_KEY to its key",
            404: "; engine.models must name a model that it serves, and engine.url end in /v1",
        }
        status = response.status_code
        return (
            f"answers with status {status}: {self._excerpt(response.text)}{hints.get(status, '')}"
        )

    def _excerpt(self, said: Any) -> str:
        """Return the server's words on one line, without the key, should it repeat that."""
        text = " ".join((said if isinstance(said, str) else json.dumps(said)).split())
        text = text.replace(self.key, "***") if self.key else text
        return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."

    def _fault(self, what: str) -> EngineError:
        return EngineError(f"engine: {self.url} {what}")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _wanted_pause(header: str | None, own: float) -> float:
    """Return the seconds that a Retry-After asks for, as a number or a date, at most a minute."""
    if header and header.isdecimal():
        return min(float(header), LONGEST_PAUSE)
    try:
        wanted = parsedate_to_datetime(header or "").timestamp() - time.time()
    except ValueError:
        return own
    return min(max(wanted, 0.0), LONGEST_PAUSE)
