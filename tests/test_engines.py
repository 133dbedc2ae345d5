"""Completions by a server: the same as here, or refused; asked again, or ended in one line."""

import json
import threading
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
import torch
from models_for_tests import llama, parrot
from servers_for_tests import Relay, cached, relaying, serving
from tokenizers_for_tests import BUILDERS, build

from posttrain import engines, models, rollouts, sampled, servers, task_units
from posttrain.errors import EngineError
from posttrain.masking import prompt_ids
from posttrain.prompts import fed
from posttrain.sampling import Completion
from posttrain.tags import CLOSE

# A rule's connections end with its process; here they are left to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

QUESTIONS = [
    {"id": f"valid-{n:04d}", "question": f"How many g in {n} kg?", "answer": 1000.0 * n}
    for n in range(1, 13)
]
RECIPE = {
    "task": "units",
    "style": "worked",
    "extra_samples": 0,
    "extra_below": 1,
    "prompts": {
        "system": None,
        "answer": "Question: {question}\nAnswer:",
        "reasoning": "Question: {question}\nReasoning:",
        "examples": [],
    },
    "max_new_tokens": 16,
    "batch_size": 8,
    "relative_tolerance": 0.05,
    "absolute_tolerance": 1e-9,
    "answer_digits": 4,
    "seed": 0,
    "round": 1,
    "temperature": 1.0,
    "samples": 3,
    "samples_per_question": 3,
    "samples_when_sft_is_right": 2,
    "questions_per_chunk": 4,
}
SAYS = " <answer>6</answer> <answer>6</answer>"


@pytest.fixture(scope="module")
def tokenizer():
    return build("byte_level").tokenizer


@pytest.fixture(scope="module")
def here(tokenizer):
    """The models that the server has too: base, base with an adapter merged, one that says SAYS."""
    base = llama(len(tokenizer))
    base.generation_config.eos_token_id = tokenizer.eos_token_id
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    with torch.no_grad():  # the server leaves special tokens out of its text
        base.lm_head.weight[sorted(special - {tokenizer.eos_token_id})] = 0
    merged = llama(len(tokenizer))
    merged.load_state_dict(base.state_dict())
    merged.generation_config.eos_token_id = tokenizer.eos_token_id
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in merged.named_parameters():
            if name.endswith("proj.weight"):
                down, up = (torch.randn(n, 2, generator=generator) for n in weight.shape[::-1])
                weight += 0.3 * up @ down.T
    says = tokenizer(SAYS, add_special_tokens=False)["input_ids"]
    six = parrot(len(tokenizer), tokenizer.eos_token_id, says)
    return {"tiny/base": base, "tiny/sft": merged, "tiny/six": six}


@pytest.fixture(scope="module")
def port(here, tokenizer, tmp_path_factory):
    cache = tmp_path_factory.mktemp("served") / "hub"
    for name, model in here.items():
        models.save(model, tokenizer, cached(cache, name))
    with serving(cache) as port:
        yield port


@pytest.fixture
def relay(port, monkeypatch):
    """The server, behind what can break its answers; pauses are short."""
    monkeypatch.setattr(servers, "FIRST_PAUSE", 0.01)
    with relaying(port) as relay:
        yield relay


def opened(relay: Relay, model, tokenizer, name="tiny/base", key=None, **told) -> engines.Model:
    engine = {"server": "transformers", "models": {"model": name}, "check_prompts": 6}
    engine |= {"url": relay.url, "most_flips": 0.0}
    connection = {"concurrency": 4, "timeout": 30, "retries": 2}
    connection |= {key: told.pop(key) for key in [*told] if key in connection}
    recipe = RECIPE | {"engine": engine | told}
    return engines.opened("model", model, tokenizer, "answer", QUESTIONS, recipe, connection, key)


def served(relay: Relay, tokenizer, name="tiny/base", retries=2, timeout=30.0, concurrency=4):
    """Return a served model without a proof: what is tested here is the asking."""
    server = servers.Server("transformers", relay.url, timeout, retries)
    return engines.Served(server, name, (tokenizer.eos_token_id,), concurrency)


def asked(tokenizer, count=None):
    return [
        ids for _, ids in fed(tokenizer, QUESTIONS[:count], "answer", RECIPE["prompts"], task_units)
    ]


def completed(model, tokenizer, prompts, samples=1, **told) -> list[list[Completion]]:
    counts = [samples] * len(prompts)
    return list(engines.complete(model, tokenizer, prompts, counts, 16, 8, CLOSE, **told))


# The same model


@pytest.mark.parametrize("name", ["tiny/base", "tiny/sft", "tiny/six"])
def test_a_server_with_the_same_weights_writes_the_same(relay, here, tokenizer, name):
    model = opened(relay, here[name], tokenizer, name)
    assert engines.stated(model=model, other=here[name]) == {
        "engines": {
            "model": {
                "server": "transformers",
                "url": relay.url,
                "model": name,
                "listed": {"id": name, "owned_by": "tiny"},
                "prompts": 6,
                "flips": 0,
                "flip_rate": 0.0,
                "first_flip": None,
            }
        }
    }
    prompts = asked(tokenizer)
    ours = completed(here[name], tokenizer, prompts)
    theirs = completed(model, tokenizer, prompts)
    assert [[(c.text, c.finish) for c in own] for own in theirs] == [
        [(c.text, c.finish) for c in own] for own in ours
    ]
    if name == "tiny/six":
        assert {one.text for [one] in theirs} == {SAYS[: SAYS.index(CLOSE) + len(CLOSE)]}
        assert theirs == ours, "its tokens are those that ours has"
    else:
        assert len({one.text for [one] in ours}) > len(prompts) / 2, "else it proves nothing"


def test_a_server_may_do_without_a_list_of_models(relay):
    assert servers.Server("transformers", relay.url, 30, 0).listed("tiny/nobody") is None
    assert servers.Server("transformers", f"{relay.url}/elsewhere", 30, 0).listed("x") is None
    assert servers.Server("transformers", "http://127.0.0.1:9/v1", 30, 0).listed("x") is None


def test_all_ends_of_a_completion_are_told_apart(relay, here, tokenizer):
    prompts = asked(tokenizer)
    every = [
        one.finish
        for name, model in here.items()
        for [one] in completed(served(relay, tokenizer, name), tokenizer, prompts)
    ]
    assert {"answer", "length"} <= set(every)


def test_a_model_that_nobody_serves_completes_here(tokenizer, here):
    base = here["tiny/base"]
    engine = {"server": "vllm", "models": {"sft": "x"}, "check_prompts": 1, "most_flips": 0.0}
    told = (tokenizer, "answer", QUESTIONS)
    assert engines.opened("model", base, *told, RECIPE, {}, None) is base
    assert engines.opened("model", base, *told, RECIPE | {"engine": engine}, {}, None) is base
    assert engines.stated(model=base) == {}


# Another model


def test_the_base_served_under_the_name_of_the_adapter_is_refused(relay, here, tokenizer):
    """A known failure: the adapter was not loaded, and the base model is scored in its name."""
    with pytest.raises(EngineError) as caught:
        opened(relay, here["tiny/sft"], tokenizer, "tiny/base", most_flips=0.5)
    line = str(caught.value)
    assert "\n" not in line
    assert f"{relay.url} does not serve under 'tiny/base' the model that is here" in line
    assert "of 6 greedy completions differ (flip rate " in line
    assert "first that of valid-0001, from character " in line
    assert "see that the server has this very model or adapter" in line


def test_flips_within_the_limit_are_stated(relay, here, tokenizer):
    model = opened(relay, here["tiny/sft"], tokenizer, "tiny/base", most_flips=1.0)
    assert model.proof["flips"] >= 4
    assert model.proof["flip_rate"] == model.proof["flips"] / 6
    first = model.proof["first_flip"]
    assert first["here"] != first["there"]
    assert first["here"][:1] != first["there"][:1], "from where they part"


def test_the_prompts_of_the_check_are_spread_over_the_questions(relay, here, tokenizer):
    opened(relay, here["tiny/base"], tokenizer, check_prompts=3)
    found = [body["prompt"] for body in relay.asked]
    assert sorted(found) == sorted(
        f"Question: {QUESTIONS[n]['question']}\nAnswer:" for n in (0, 4, 8)
    )
    relay.asked.clear()
    opened(relay, here["tiny/base"], tokenizer, check_prompts=99)
    assert len(relay.asked) == len(QUESTIONS)


# Sampling


def test_samples_differ_and_come_again_where_the_server_heeds_seeds(relay, here, tokenizer):
    """One request at a time: this server has one random stream for all of them."""
    model, prompts = served(relay, tokenizer, concurrency=1), asked(tokenizer, 2)
    first = completed(model, tokenizer, prompts, 4, temperature=1.0, seed=5)
    assert all(len({one.text for one in own}) == 4 for own in first)
    assert completed(model, tokenizer, prompts, 4, temperature=1.0, seed=5) == first
    other = completed(model, tokenizer, prompts, 4, temperature=1.0, seed=6)
    assert not {one.text for own in other for one in own} & {
        one.text for own in first for one in own
    }
    seeds = [body["seed"] for body in relay.asked]
    assert len(set(seeds)) == 16
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_without_its_own_words_this_server_stays_greedy_at_any_temperature(
    relay, here, tokenizer, monkeypatch
):
    """A known failure: `temperature` alone is taken, and changes nothing."""
    silent = servers.Kind(takes_ids=False, extra=lambda temperature, stops: {})
    monkeypatch.setitem(servers.KINDS, "transformers", silent)
    prompts = asked(tokenizer, 1)
    [own] = completed(served(relay, tokenizer), tokenizer, prompts, 4, temperature=1.0)
    [[greedy]] = completed(here["tiny/base"], tokenizer, prompts)
    assert {one.text for one in own} == {greedy.text}, "this test no longer sees the old fault"


def test_samples_follow_the_models_own_probabilities(relay, here, tokenizer, monkeypatch):
    """Of all tokens: with the 50 likeliest alone, which it takes by itself, many never come."""
    [prompt] = asked(tokenizer, 1)
    with torch.inference_mode():
        logits = here["tiny/base"](torch.tensor([prompt])).logits[0, -1].float()
    shares, order = (logits / 3).softmax(-1), logits.argsort(descending=True).tolist()
    head, tail = (
        {tokenizer.decode([token]) for token in part} for part in (order[:50], order[50:])
    )
    tail -= head
    expected = sum(float(shares[i]) for i in order[50:] if tokenizer.decode([i]) in tail)
    assert expected > 0.2
    model = served(relay, tokenizer)

    def in_tail(count=60):
        drawn = engines.complete(model, tokenizer, [prompt], [count], 1, 8, CLOSE, 3.0, seed=1)
        texts = [one.text for [*own] in drawn for one in own]
        return sum(text in tail for text in texts)

    assert in_tail() > 0
    full = servers.KINDS["transformers"]

    def narrow(temperature, stops):
        extra = full.extra(temperature, stops)
        config = json.loads(extra["generation_config"])
        del config["top_k"]
        return extra | {"generation_config": json.dumps(config)}

    monkeypatch.setitem(servers.KINDS, "transformers", servers.Kind(False, narrow))
    model = served(relay, tokenizer)
    assert in_tail() == 0, "this test no longer sees the old fault"


def test_rollouts_and_sampled_answers_are_a_servers_as_well_as_ours(relay, here, tokenizer):
    six, base = served(relay, tokenizer, "tiny/six"), served(relay, tokenizer)
    asked_for = QUESTIONS[:6]
    rows = rollouts.sample(six, base, [tokenizer] * 2, asked_for, RECIPE)
    ours = rollouts.sample(here["tiny/six"], here["tiny/base"], [tokenizer] * 2, asked_for, RECIPE)
    same = ("question_id", "sft_verdict", "sft_parsed", "chunk", "seed", "sample")
    assert [[row[key] for key in same] for row in rows] == [
        [row[key] for key in same] for row in ours
    ]
    assert len({row["completion"] for row in rows}) > len(rows) / 2
    lines = sampled.completions(six, tokenizer, asked_for, "answer", RECIPE)
    assert {line["completion"].strip() for line in lines} == {"<answer>6</answer>"}
    assert len(lines) == 18


# What goes wrong on the way


AGAIN = [
    "429",
    "429 after 0",
    f"429 after {formatdate(0, usegmt=True)}",
    "429 after soon",
    "500",
    "503",
    "reset",
    "cut off",
    "no JSON",
    "silence",
]


@pytest.mark.parametrize("fault", AGAIN)
def test_what_may_be_better_next_time_is_asked_again(relay, here, tokenizer, fault, caplog):
    prompts = asked(tokenizer, 3)
    expected = completed(here["tiny/base"], tokenizer, prompts)
    relay.faults += [fault, fault]
    # The server itself is slow on a busy machine; only its silence is to be cut short.
    model = served(relay, tokenizer, timeout=2.0 if fault == "silence" else 30.0, retries=5)
    found = completed(model, tokenizer, prompts)
    assert [[one.text for one in own] for own in found] == [
        [one.text for one in own] for own in expected
    ]
    assert len(relay.asked) >= 5
    said = [record.message for record in caplog.records if "asking again" in record.message]
    assert said
    assert len(said) <= 2, "each fault is told once"


FATAL = {
    "400": "answers with status 400",
    "401": "set ENGINE_API_KEY to its key",
    "404": "engine.models must name a model that it serves, and engine.url end in /v1",
    "no choice": "gives 0 completions where one was asked for",
    "two choices": "gives 2 completions where one was asked for",
    "no text": "gives no completion of the OpenAI API (KeyError('text'))",
    "text is null": "gives a completion that ended by",
    "aborted": "gives a completion that ended by 'abort'",
    "another model": "answers as 'tiny/another' where 'tiny/base' was asked",
    "no usage": "gives no completion of the OpenAI API (KeyError('usage'))",
    "another prompt": "tokens as 1: its tokenizer is another",
}


@pytest.mark.parametrize("fault", FATAL)
def test_an_answer_that_is_not_what_was_asked_for_ends_it_in_one_line(relay, tokenizer, fault):
    relay.faults += [fault]
    with pytest.raises(EngineError) as caught:
        completed(served(relay, tokenizer), tokenizer, asked(tokenizer, 1))
    assert FATAL[fault] in str(caught.value)
    assert str(caught.value).startswith(f"engine: {relay.url} ")
    assert "\n" not in str(caught.value)
    assert len(relay.asked) == 1, "asking again would help nothing"


def test_a_fault_that_stays_ends_it_in_one_line(relay, tokenizer):
    relay.faults += ["503"] * 99
    with pytest.raises(EngineError, match=r"status 503: .*; asked 3 times; then run it again"):
        completed(served(relay, tokenizer, concurrency=1), tokenizer, asked(tokenizer))
    assert len(relay.asked) <= 5, "the rest is not asked for"


def test_a_server_that_is_not_there_ends_it_in_one_line(tokenizer, here, monkeypatch):
    monkeypatch.setattr(servers, "FIRST_PAUSE", 0.01)
    nobody = Relay(port=9)  # the port of `discard`, where nothing listens
    with pytest.raises(EngineError) as caught:
        opened(nobody, here["tiny/base"], tokenizer)
    line = str(caught.value)
    assert line.startswith("engine: http://127.0.0.1:9/v1 cannot be reached (")
    assert "start it, or mend engine.url; asked 3 times; then run it again" in line


def test_retry_after_is_heeded(relay, tokenizer):
    relay.faults += ["429 after 1"]
    began = time.monotonic()
    completed(served(relay, tokenizer), tokenizer, asked(tokenizer, 1))
    assert time.monotonic() - began >= 1
    assert servers._wanted_pause("9999", 0.5) == servers.LONGEST_PAUSE
    in_ten = servers._wanted_pause(formatdate(time.time() + 10, usegmt=True), 0.5)
    assert 8 < in_ten <= 10
    assert servers._wanted_pause(None, 0.5) == servers._wanted_pause("soon", 0.5) == 0.5


def test_no_more_requests_at_once_than_allowed(relay, tokenizer):
    completed(served(relay, tokenizer, concurrency=3), tokenizer, asked(tokenizer))
    assert 1 < relay.most_at_once <= 3
    assert len(relay.asked) == len(QUESTIONS)


def test_what_nobody_waits_for_is_not_asked(relay, tokenizer):
    prompts = asked(tokenizer)
    found = engines.complete(
        served(relay, tokenizer, concurrency=1),
        tokenizer,
        prompts,
        [1] * len(prompts),
        16,
        8,
        CLOSE,
    )
    next(found)
    found.close()
    assert len(relay.asked) < len(prompts)
    assert not [one for one in threading.enumerate() if "ThreadPool" in one.name]


def test_the_key_is_sent_and_never_shown(relay, here, tokenizer, caplog):
    key = "sk-not-to-be-seen"
    model = opened(relay, here["tiny/base"], tokenizer, key=key)
    assert set(relay.keys) == {f"Bearer {key}"}
    relay.faults += ["500", "401"]  # which repeat it
    with pytest.raises(EngineError) as caught:
        completed(model, tokenizer, asked(tokenizer, 1))
    assert "no, not with Bearer ***" in str(caught.value)
    for shown in (str(caught.value), caplog.text, str(model.proof), repr(model)):
        assert key not in shown


@pytest.mark.parametrize("key", ["sk-hid\nden", "sk-hidden\u2019"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key):
    with pytest.raises(EngineError, match="ENGINE_API_KEY holds a sign that no key has") as caught:
        servers.Server("vllm", "http://127.0.0.1:9/v1", 1, 0, key)
    assert "sk-" not in str(caught.value)
    assert servers.Server("vllm", "http://127.0.0.1:9/v1", 1, 0, " sk-x\n").key == "sk-x"


def test_no_key_no_header(relay, tokenizer):
    completed(served(relay, tokenizer), tokenizer, asked(tokenizer, 1))
    assert relay.keys == [None]


def test_a_proxy_is_not_asked_for_what_is_on_this_machine(relay, tokenizer, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    completed(served(relay, tokenizer), tokenizer, asked(tokenizer, 1))
    assert servers._is_loopback("http://localhost:1/v1")
    assert servers._is_loopback("http://[::1]:1/v1")
    assert not servers._is_loopback("http://node7:8000/v1")
    assert not servers._is_loopback("http://10.0.0.1/v1")


# Kinds of servers


def test_a_server_of_another_kind_than_the_config_says_refuses(relay, tokenizer):
    """This one takes neither token ids nor vLLM's own words; vLLM would be sent the ids."""
    server = servers.Server("vllm", relay.url, 30, 0)
    model = engines.Served(server, "tiny/base", (tokenizer.eos_token_id,), 1)
    prompts = asked(tokenizer, 1)
    with pytest.raises(EngineError, match="answers with status 4"):
        completed(model, tokenizer, prompts)
    [body] = relay.asked
    assert body["prompt"] == prompts[0]
    assert (body["temperature"], body["max_tokens"], body["top_p"]) == (0.0, 16, 1.0)


@pytest.mark.parametrize("kind", servers.KINDS)
def test_the_tag_is_a_stop_only_where_the_server_leaves_it_in_the_text(kind):
    asked = servers.Asked([3], 1, 16, CLOSE, 0.8, seed=0)
    said = servers.KINDS[kind].extra(asked, [1, 2])
    keeps = said.get("include_stop_str_in_output") or said.get("no_stop_trim")
    assert ("stop" in said) == (bool(keeps) or kind == "transformers")
    narrow = said.get("generation_config", said)
    narrow = json.loads(narrow) if isinstance(narrow, str) else narrow
    assert narrow["top_k"] in (-1, 0), "sampling is from all tokens"
    # An answer that only the model's own stop token ends gives the server nothing to stop at.
    assert not servers.KINDS[kind].extra(replace(asked, closing=""), [1, 2]).get("stop")


def test_a_stop_token_that_is_left_in_the_text_is_taken_off(tokenizer):
    stop = tokenizer.eos_token_id
    end = tokenizer.decode([stop])

    def ended(text, finish):
        found = engines._completion(tokenizer, (stop,), CLOSE, text, finish)
        return found.text, found.finish

    assert ended(f" six{end}", "stop") == (" six", "stop")
    assert ended(" six", "stop") == (" six", "stop")
    assert ended(f" six{end}", "length") == (f" six{end}", "length")
    assert ended(f" <answer>6</answer>{end}", "stop") == (" <answer>6</answer>", "answer")
    assert ended(" <answer>6</answer> and", "length") == (" <answer>6</answer>", "answer")
    six = engines._completion(tokenizer, (stop,), CLOSE, " <answer>6</answer> and", "length")
    assert six.tokens == len(tokenizer(" <answer>6</answer>", add_special_tokens=False).input_ids)


APPENDING = {"byte_level_bos_eos", "byte_level_eos", "unigram"}  # would end the prompt by EOS


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_prompt_as_text_is_read_as_the_very_ids_or_refused(kind):
    own = build(kind).tokenizer
    ids = prompt_ids(own, "Question: How many gram are there per 6 kg?\nAnswer:", True)
    if kind in APPENDING:
        with pytest.raises(EngineError, match="takes prompts as text"):
            engines._text_of(own, ids)
    else:
        assert own(engines._text_of(own, ids))["input_ids"] == ids


def test_ids_that_no_text_gives_are_refused(tokenizer):
    apart = tokenizer("Q")["input_ids"] + tokenizer("u")["input_ids"] + tokenizer("e")["input_ids"]
    assert tokenizer("Que")["input_ids"] != apart
    with pytest.raises(EngineError, match="takes prompts as text, and reads 'Que'"):
        engines._text_of(tokenizer, apart)
