"""Sampling: the same text as transformers' own generation, and an end where there has to be one."""

import pytest
import torch
from models_for_tests import WORDS, llama, parrot, word_tokenizer
from peft import LoraConfig, get_peft_model
from scipy.stats import chisquare
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from posttrain import batches, decoding, kv_cache, sampling, scoring, task_units
from posttrain.errors import ModelError, ScoringError
from posttrain.tags import CLOSE

NEW_TOKENS = 24
TOLERANCES = {"relative_tolerance": 0.05, "absolute_tolerance": 1e-9}


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.fixture(scope="module")
def model():
    return llama(WORDS)


@pytest.fixture(scope="module")
def prompts():
    """Twenty prompts of two to fifteen tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 16, (20,), generator=generator).tolist()
    return [torch.randint(2, WORDS, (n,), generator=generator).tolist() for n in lengths]


@pytest.fixture(scope="module")
def reference(tokenizer, prompts):
    """What transformers writes to each prompt by itself: no padding or batch, its own attention."""
    model = llama(WORDS)
    return [generated(model, tokenizer, [prompt], "left")[0] for prompt in prompts]


def generated(model, tokenizer, prompts, side):
    """Return the texts of transformers' greedy generation, prompts padded on `side`."""
    longest = max(map(len, prompts))
    ids, mask = torch.zeros(2, len(prompts), longest, dtype=torch.int64)
    for line, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), longest) if side == "left" else slice(0, len(prompt))
        ids[line, place], mask[line, place] = torch.tensor(prompt), 1
    written = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=0,
    )[:, longest:]
    ends = [line.index(1) if 1 in line else len(line) for line in written.tolist()]
    return [tokenizer.decode(line[:end]) for line, end in zip(written, ends, strict=True)]


def completed(model, tokenizer, prompts, counts=None, batch_size=8, **settings):
    counts = counts or [1] * len(prompts)
    tokens = settings.pop("max_new_tokens", NEW_TOKENS)
    return list(
        sampling.complete(model, tokenizer, prompts, counts, tokens, batch_size, CLOSE, **settings)
    )


def texts(completions):
    return [[completion.text for completion in own] for own in completions]


def drawn(model, tokenizer, prompts, seed, **settings):
    generator = torch.Generator().manual_seed(seed)
    settings = {"temperature": 1.0, "generator": generator} | settings
    return texts(completed(model, tokenizer, prompts, **settings))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_greedy_completions_are_those_of_transformers(
    model, tokenizer, prompts, reference, batch_size
):
    ours = completed(model, tokenizer, prompts, batch_size=batch_size)
    assert texts(ours) == [[text] for text in reference]
    assert [own[0].tokens for own in ours] == [len(text.split()) for text in reference]
    ends = {own[0].finish for own in ours}
    assert ends == {"stop", "length"}, "rows are to end at different steps"
    assert len({own[0].tokens for own in ours}) > 3


def test_right_padding_writes_something_else(model, tokenizer, prompts, reference):
    """A known failure: with padding on the right the model goes on from a pad token."""
    few = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))[:: len(prompts) - 1]
    short, long = (prompts[n] for n in few)
    assert len(short) < len(long)
    expected = [reference[n] for n in few]
    assert generated(model, tokenizer, [short, long], "left") == expected
    right = generated(model, tokenizer, [short, long], "right")
    assert right[1] == expected[1]
    assert right[0] != expected[0], "this test no longer sees the old fault"
    assert texts(completed(model, tokenizer, [short, long])) == [[text] for text in expected]


def test_each_prompt_gets_as_many_completions_as_asked(model, tokenizer, prompts, reference):
    counts = [1, 5, 2, 16, 1, 1, 3]  # 16 are more than a batch holds
    ours = texts(completed(model, tokenizer, prompts[:7], counts))
    assert ours == [[text] * count for text, count in zip(reference, counts, strict=False)]


@pytest.fixture
def forwards(model, monkeypatch):
    """Return a list to which each pass through the model adds the shape of what it reads."""
    shapes = []
    forward, step_of = type(model).forward, sampling.step_of

    def counted(self, *args, **kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(self, *args, **kwargs)

    def counted_step_of(given):
        step = step_of(given)
        shapes.clear()  # of its proof

        def counted_step(ids, *others):
            shapes.append((len(ids), 1))
            return step(ids, *others)

        return counted_step

    monkeypatch.setattr(type(model), "forward", counted)
    monkeypatch.setattr(sampling, "step_of", counted_step_of)
    return shapes


@pytest.mark.parametrize("share", [1e-9, 0.5, 1.0])
@pytest.mark.parametrize("batch_size", [4, 100])
def test_taking_finished_rows_out_or_replacing_them_changes_no_other(
    model, tokenizer, prompts, reference, share, batch_size, monkeypatch, forwards
):
    """From at once to never; bits may differ by what is computed together, choices must not."""
    monkeypatch.setattr(batches, "FINISHED_SHARE", share)
    ours = texts(completed(model, tokenizer, prompts, batch_size=batch_size))
    assert ours == [[text] for text in reference]
    read = [lines for lines, width in forwards if width > 1]
    assert sum(read) == len(prompts)
    if batch_size < len(prompts):
        noted = [min(len(text.split()) + 1, NEW_TOKENS) for text in reference]
        groups = [noted[n : n + batch_size] for n in range(0, len(noted), batch_size)]
        one_after_another = sum(max(group) - 1 for group in groups)
        passes = len(forwards) - len(read)
        assert (passes < one_after_another) is (share < 1), "replaced while others go on"
    else:
        assert (forwards[-1][0] < len(prompts)) is (share < 1), "taken out while others go on"


def test_a_prompt_is_read_once_for_all_its_samples(model, tokenizer, prompts, forwards):
    """Also where the batch holds fewer than those; it is full as long as there are rows to come."""
    counts, batch_size = [16, 3, 5], 8
    drawn(model, tokenizer, prompts[:3], 0, counts=counts, batch_size=batch_size)
    assert sum(lines for lines, width in forwards if width > 1) == len(counts)
    written = [lines for lines, width in forwards if width == 1]
    assert max(written) == batch_size
    last = max(n for n, (_, width) in enumerate(forwards) if width > 1)
    assert {lines for lines, width in forwards[:last] if width == 1} == {batch_size}


@pytest.mark.parametrize(("added", "width"), [(1, 1), (5, 8), (100, 32)])
def test_dropping_and_adding_columns_changes_nothing(
    model, tokenizer, prompts, reference, added, width, monkeypatch
):
    """The cache never holds many columns more than its longest completion needs."""
    monkeypatch.setattr(kv_cache, "ADDED", added)
    monkeypatch.setattr(kv_cache, "COLUMNS", width)
    columns = []
    advance = kv_cache.ColumnCache.advance

    def watched(cache, needed):
        advance(cache, needed)
        columns.append(cache.columns)

    monkeypatch.setattr(kv_cache.ColumnCache, "advance", watched)
    assert texts(completed(model, tokenizer, prompts, batch_size=4)) == [[t] for t in reference]
    assert len(columns) > NEW_TOKENS, "several batches one after another"
    assert max(columns) < max(map(len, prompts)) + NEW_TOKENS + added + width


@pytest.mark.parametrize(
    "other",
    [
        lambda **same: MistralForCausalLM(
            MistralConfig(**same, num_key_value_heads=1, sliding_window=6)
        ),
        lambda **same: GPT2LMHeadModel(GPT2Config(**same, n_positions=40)),
    ],
    ids=["sliding window", "learned positions"],
)
def test_models_of_other_kinds_write_what_transformers_lets_them(other, tokenizer, prompts):
    """GPT-2 knows 40 positions: a row that is done must not go on counting."""
    torch.manual_seed(0)
    same = {
        "vocab_size": WORDS,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.5,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": None,
    }
    model = other(**same).eval()
    expected = [generated(model, tokenizer, [prompt], "left")[0] for prompt in prompts]
    assert texts(completed(model, tokenizer, prompts, batch_size=4)) == [[t] for t in expected]
    assert len(set(expected)) == len(prompts)


def test_a_model_with_more_than_keys_and_values_is_refused(tokenizer, prompts):
    config = MambaConfig(vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, eos_token_id=1)
    with pytest.raises(ModelError, match="something else than keys and values"):
        completed(MambaForCausalLM(config).eval(), tokenizer, prompts)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"head_dim": 16},
        {"tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ],
    ids=["shared", "own heads", "one key", "own size", "tied", "linear", "yarn", "llama3"],
)
def test_the_pass_written_out_gives_the_logits_of_transformers(changes):
    """Lines of other lengths, prompts padded on the left, gains that are not 1."""
    own = odd_llama(**changes)
    assert decoding.is_plain_llama(own)
    expected, ours = both_passes(own)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_the_pass_is_as_near_to_float32_as_that_of_transformers():
    own = odd_llama()
    exact, _ = both_passes(own)
    for part in own.parameters():  # not of the positions' frequencies, as `devices.ready` has it
        part.data = part.data.bfloat16()
    theirs, ours = both_passes(own)
    errors = [(logits.float() - exact).abs().mean() for logits in (theirs, ours)]
    assert 0 < errors[1] < 1.5 * errors[0]


def test_weights_laid_out_for_the_processor_give_the_same_bits():
    generator = torch.Generator().manual_seed(0)
    weight, x, added = (
        torch.randn(shape, generator=generator).bfloat16() for shape in ((48, 80), (7, 80), (7, 48))
    )
    product = decoding._Product(weight)
    if product.laid_out is None:
        pytest.skip("this processor has no products in bfloat16")
    assert torch.equal(product(x), torch.nn.functional.linear(x, weight))
    assert torch.equal(product(x, added), torch.addmm(added, x, weight.T))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("part", ["turned", "silu", "rms_norm"])
def test_a_pass_that_is_another_than_the_model_s_is_refused(monkeypatch, part, dtype):
    own = odd_llama()
    for parameter in own.parameters():
        parameter.data = parameter.data.to(dtype)
    assert callable(decoding.step_of(own))
    monkeypatch.setattr(decoding, part, lambda x, *given, **told: x)
    with pytest.raises(ScoringError, match="another distribution than the model's own, by "):
        decoding.step_of(own)


def both_passes(own):
    """Return the logits of three last tokens: of transformers' pass, and of that written out."""
    generator = torch.Generator().manual_seed(2)
    texts = torch.randint(0, WORDS, (3, 9), generator=generator)
    starts = torch.tensor([0, 2, 5])
    positions = torch.arange(9) - starts[:, None]
    own_columns = positions >= 0
    read = DynamicCache()
    with torch.inference_mode():
        expected = own(
            input_ids=texts,
            attention_mask=own_columns,
            position_ids=positions.clamp(min=0),
            past_key_values=DynamicCache(),
        ).logits[:, -1]
        own(
            input_ids=texts[:, :-1],
            attention_mask=own_columns[:, :-1],
            position_ids=positions[:, :-1].clamp(min=0),
            past_key_values=read,
        )
        cache = kv_cache.ColumnCache(read, 3, 8)
        cache.place(torch.arange(3), read, torch.arange(3))
        cache.advance(8)
        mask = torch.zeros(3, cache.columns, dtype=torch.bool)
        mask[:, :9] = own_columns
        return expected, decoding.step_of(own)(texts[:, -1], positions[:, -1], mask, cache)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_llama_with_something_more_is_left_to_transformers(changes):
    assert not decoding.is_plain_llama(odd_llama(**changes))


@pytest.mark.parametrize("module", ["q_proj", "embed_tokens"])
def test_a_model_with_an_adapter_is_left_to_transformers(module):
    wrapped = get_peft_model(odd_llama(), LoraConfig(target_modules=[module]))
    assert not decoding.is_plain_llama(wrapped)
    assert not decoding.is_plain_llama(wrapped.get_base_model())


def odd_llama(**changes):
    """A Llama none of whose weights is what it is made with: an error in one would be seen."""
    torch.manual_seed(4)
    shape = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2} | changes
    config = LlamaConfig(
        vocab_size=WORDS, intermediate_size=48, num_hidden_layers=2, initializer_range=0.3, **shape
    )
    own = LlamaForCausalLM(config).eval()
    for name, part in own.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(part, 0.5, 1.5)
    return own


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parts_of_a_batch_write_the_same_however_many_threads_there_are(
    model, tokenizer, prompts, monkeypatch, threads
):
    """Each prompt's completions come in its place, whichever part has written them."""
    counts = [1, 5, 2, 9, 1, 1, 3] + [2] * (len(prompts) - 7)
    whole = drawn(model, tokenizer, prompts, 0, counts=counts, batch_size=100)
    before = torch.get_num_threads()
    monkeypatch.setattr(sampling, "PART", 8)
    try:
        torch.set_num_threads(threads)
        parted = drawn(model, tokenizer, prompts, 0, counts=counts, batch_size=24)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert list(map(len, parted)) == counts
    assert parted == whole


def test_one_prompt_fills_a_batch_of_several_parts(model, tokenizer, prompts, monkeypatch):
    whole = drawn(model, tokenizer, prompts[:1], 0, counts=[20], batch_size=24)
    monkeypatch.setattr(sampling, "PART", 8)
    assert drawn(model, tokenizer, prompts[:1], 0, counts=[20], batch_size=24) == whole
    assert completed(model, tokenizer, [], counts=[]) == []
    assert completed(model, tokenizer, prompts[:2], counts=[0, 0]) == [[], []]


def test_a_call_that_is_given_up_writes_no_further(model, tokenizer, prompts, monkeypatch):
    monkeypatch.setattr(sampling, "PART", 8)
    monkeypatch.setattr(sampling, "AT_A_TIME", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    made = []
    write = batches.Batch.write

    def watched(batch, tokens):
        made.append(batch)
        write(batch, tokens)

    monkeypatch.setattr(batches.Batch, "write", watched)
    counts = [1] * len(prompts)
    begun = sampling.complete(model, tokenizer, prompts, counts, NEW_TOKENS, 20, CLOSE)
    next(begun)
    begun.close()
    assert any(None in batch.done for batch in made), "all was written before"
    for batch in set(made):
        before = batch.tokens.clone()
        write(batch, NEW_TOKENS)
        assert torch.equal(batch.tokens, before)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_part_ends_the_call(model, tokenizer, prompts, monkeypatch, threads):
    monkeypatch.setattr(sampling, "PART", 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    broken = llama(WORDS)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ScoringError, match="NaN"):
        completed(broken, tokenizer, prompts, batch_size=24)


@pytest.mark.parametrize("heads", [2, 6])
def test_attention_of_one_token_is_that_of_transformers(heads):
    """In float64, masked and not; the softmax itself is in float32."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, heads, 1, 8, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 3, 2, 20, 8, generator=generator, dtype=torch.float64)[:, :, :, 4:9]
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]).bool()
    module = torch.nn.Module()
    module.num_key_value_groups = heads // 2
    for given in (None, mask[:, None, None]):
        for scaling in (None, 0.3):
            args = (module, query, key, value, given)
            ours, _ = kv_cache.decoding_attention(*args, scaling=scaling)
            theirs, _ = sdpa_attention_forward(*args, scaling=scaling)
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_models_own_stop_tokens_count_too(model, tokenizer, prompts, reference, monkeypatch):
    """Chat models list several; each ends a completion and stands in none."""
    words = reference[1].split()
    extra = next(word for n, word in enumerate(words) if n > 2 and word not in words[:n])
    both = [1, tokenizer.convert_tokens_to_ids(extra)]
    monkeypatch.setattr(model.generation_config, "eos_token_id", both)
    [[ours]] = completed(model, tokenizer, prompts[1:2])
    assert ours.finish == "stop"
    assert ours.text.split() == words[: words.index(extra)]


def test_a_seed_gives_its_samples_again(model, tokenizer, prompts):
    counts = [2] * len(prompts)
    ours = drawn(model, tokenizer, prompts, 1, counts=counts)
    assert drawn(model, tokenizer, prompts, 1, counts=counts) == ours
    assert drawn(model, tokenizer, prompts, 2, counts=counts) != ours
    assert sum(len(set(own)) for own in ours) > 0.9 * sum(counts)


@pytest.mark.parametrize("batch_size", [3, 100])
def test_a_sample_has_its_own_random_numbers_wherever_it_is_written(
    model, tokenizer, prompts, batch_size
):
    """In float32: what else is in the batch moves the last bits, and these samples not."""
    counts = [2] * len(prompts)
    ours = drawn(model, tokenizer, prompts, 1, counts=counts)
    assert drawn(model, tokenizer, prompts, 1, counts=counts, batch_size=batch_size) == ours


def test_no_draw_chooses_a_token_without_probability():
    """The least and the greatest number that a draw can be, and tokens ruled out at both ends."""
    logits = torch.full((2, 6), -torch.inf)
    logits[:, 1:4] = torch.tensor([0.3, 0.1, 0.2])
    draws = torch.tensor([0.0, 1 - 2**-24])
    assert batches.choose(logits, 1.0, draws).tolist() == [1, 3]


@torch.no_grad()
def test_samples_follow_the_models_probabilities(model, tokenizer, prompts):
    """4000 first tokens against softmax(logits / T); a false alarm at 1 in 1000, but for the seed.

    The old fault, sampling with the temperature left out, gives a p below 1e-9.
    """
    count, temperature = 4000, 2.0
    [firsts] = drawn(
        model,
        tokenizer,
        prompts[:1],
        seed=0,
        counts=[count],
        max_new_tokens=1,
        temperature=temperature,
    )
    logits = model(torch.tensor(prompts[:1])).logits[0, -1]
    seen = torch.zeros(WORDS)
    for text in firsts:
        seen[tokenizer.convert_tokens_to_ids(text) if text else tokenizer.eos_token_id] += 1

    def p_value(at):
        expected = count * torch.softmax(logits / at, dim=-1)
        rare = expected < 5  # chi-squared wants five of each
        assert len(rare) - rare.sum() > WORDS / 3
        pooled = [[*side[~rare].tolist(), side[rare].sum().item()] for side in (seen, expected)]
        return chisquare(*pooled, sum_check=False).pvalue

    assert p_value(temperature) > 1e-3
    assert p_value(1.0) < 1e-9


def test_a_model_that_gives_nan_is_refused_rather_than_read(tokenizer, prompts):
    broken = llama(WORDS)
    with torch.no_grad():
        broken.lm_head.weight[7] = float("nan")
    for settings in ({}, {"temperature": 1.0, "generator": torch.Generator().manual_seed(0)}):
        with pytest.raises(ScoringError, match="logits hold NaN"):
            completed(broken, tokenizer, prompts[:2], **settings)
    assert broken(torch.tensor(prompts[:1])).logits[0, -1].argmax() == 7, "what argmax would choose"


@pytest.fixture(scope="module")
def said(smollm2):
    """Return a function that lets a model say `ids` to SmolLM2's tokenizer, and returns it."""

    def say(ids, max_new_tokens):
        model = parrot(len(smollm2), smollm2.eos_token_id, ids)
        prompt = smollm2("Answer:")["input_ids"]
        [[completion]] = completed(
            model, smollm2, [prompt], max_new_tokens=max_new_tokens, batch_size=1
        )
        return completion

    return say


def test_a_completion_ends_at_a_closing_tag_of_several_tokens(smollm2, said):
    ids = smollm2(" <answer>6</answer>")["input_ids"]
    assert len(smollm2(CLOSE)["input_ids"]) == 3
    completion = said(ids, NEW_TOKENS)
    assert completion == sampling.Completion(" <answer>6</answer>", len(ids), "answer")
    assert scoring.judge(completion, 6.0, TOLERANCES, task_units) == {
        "parsed": 6.0,
        "verdict": "correct",
    }


def test_what_a_token_writes_behind_the_tag_is_cut_off(smollm2, said):
    [last] = smollm2(">,")["input_ids"]
    assert smollm2.decode(last) == ">,"
    opened, word, number, closed = smollm2(" <answer6</")["input_ids"]
    completion = said([opened, word, last, number, closed, word, last], NEW_TOKENS)
    assert completion == sampling.Completion(" <answer>,6</answer>", 7, "answer")


def test_a_completion_cut_off_before_its_closing_tag_is_never_correct(smollm2, said):
    """A known failure: the number is there and right, but nobody knows whether it was done."""
    ids = smollm2(" <answer>6</answer>")["input_ids"]
    for limit in range(1, len(ids)):
        completion = said(ids, limit)
        assert completion.finish == "length"
        assert completion.tokens == limit
        assert scoring.judge(completion, 6.0, TOLERANCES, task_units) == {
            "parsed": None,
            "verdict": "truncated",
        }
    assert "<answer>6" in completion.text, "a looser parser would read the number"


def test_a_stop_token_ends_a_completion_and_is_no_part_of_it(smollm2, said):
    ids = smollm2(" <answer>6")["input_ids"]
    completion = said([*ids, smollm2.eos_token_id], NEW_TOKENS)
    assert completion == sampling.Completion(" <answer>6", len(ids), "stop")
    assert scoring.judge(completion, 6.0, TOLERANCES, task_units) == {
        "parsed": None,
        "verdict": "unparseable",
    }


def test_closing_tokens_are_all_that_can_end_the_tag(smollm2):
    """Against every token's own text, as the tokenizer decodes it."""
    found = sampling._closing_tokens(smollm2, CLOSE)
    decoded = smollm2.batch_decode([[n] for n in range(len(smollm2))])
    assert found >= {n for n, text in enumerate(decoded) if ">" in text}
    assert len(found) < 100
