"""The mask contract, on every kind of tokenizer and against the ways in which it has failed."""

import random
import re
from collections import Counter

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers_for_tests import BUILDERS, Kind, build, byte_level_kind, sentencepiece_kind
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from posttrain import artifacts, masking
from posttrain.errors import MaskError
from posttrain.masking import IGNORE, Row

PROMPT = "Question: How many gram are there per 6 kg?\nAnswer:"
COMPLETION = " <answer>6000</answer>"

EDGES = [
    *("", "", "", " ", "  ", "\n", " \n", "\n\n", "\r\n", "\t", "\u00a0", "\u200b", "\ufeff"),
    *(":", "?", ".", ",", "(", "%", "'", '"', "<", " = ", "+", "-", "−", "±"),
    *("6", "60", "0.5", ".5", "1e", "e-5", "1e+300", "kg", "K", "µm", "°C", "m²", "½"),
    *("é", "e\u0301", "\u0301", "Å", "ﬁ", "٣", "日本", "😀", "👩‍🔬", "\u200d", "▁", "Ġ", "\x00"),
    *("<answer>", " <answer>", "</answer>", "</s>", "<|im_end|>"),
]
STEMS = ["Question: 6 kg", PROMPT, "\n", "Convert 3 miles to"]
ENDS = ["", "6000", " <answer>6", "</answer>", " 6 * 1000 = 6000."]
MAY_BE_REFUSED = {"nfkc": 0.5, "strip": 0.35, "space|always|first|llama": 0.35, "unigram": 0.85}
"""Largest share of refusals per kind of tokenizer, 0.2 for the others.

A tenth of the cases spells out a special token or has no completion. The kinds named alter text,
put a space before every text, so that a word cannot be parted, or do not know half the alphabet.
"""


def cases(seed: str, count: int) -> list[tuple[str, str]]:
    """Prompts and completions with something awkward on both sides, or cut in mid-word."""
    rng = random.Random(seed)
    draw = rng.choice
    pairs = []
    for _ in range(count):
        prompt = draw(STEMS) + draw(EDGES) + draw(EDGES)
        completion = draw(EDGES) + draw(EDGES) + draw(ENDS)
        if rng.random() < 0.3:
            text = draw(STEMS[:2]) + draw(ENDS) + draw(EDGES) + draw(ENDS)
            at = rng.randrange(1, len(text))
            prompt, completion = text[:at], text[at:]
        pairs.append((prompt, completion))
    return pairs


def spelt(kind: Kind, ids: list[int]) -> bytes:
    return b"".join(map(kind.spell, ids))


def own_ids(kind: Kind, text: str, front: bool) -> list[int]:
    """The ids of `text` without transformers in between."""
    encoding = kind.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    return [*(kind.front if front else ()), *encoding.ids]


def assert_right(kind: Kind, row: Row, prompt: str, completion: str) -> None:
    """The contract, told by bytes and ids without the decoder, the offsets or the mask's code."""
    inference = own_ids(kind, prompt, front=True)
    *learnt, stop = row.input_ids[len(inference) :]
    assert row.input_ids[: len(inference)] == inference
    assert row.labels == [IGNORE] * len(inference) + learnt + [stop]
    assert stop == kind.tokenizer.eos_token_id
    assert stop not in learnt
    assert spelt(kind, learnt) == completion.encode()


def assert_refused_for_cause(kind: Kind, prompt: str, completion: str) -> None:
    """Neither the joint tokens nor the completion's own would have trained the completion."""
    tokenizer = kind.tokenizer
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    if not completion or any(text in prompt + completion for text in special):
        return
    inference = own_ids(kind, prompt, front=True)
    if len(inference) == len(kind.front):
        return
    joint = own_ids(kind, prompt + completion, front=True)
    if joint[: len(inference)] == inference:
        assert spelt(kind, joint[len(inference) :]) != completion.encode()
    assert spelt(kind, own_ids(kind, completion, front=False)) != completion.encode()


def row_or_fault(
    tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str, max_length: int = 200
) -> Row | str:
    try:
        return masking.encode(tokenizer, prompt, completion, max_length)
    except MaskError as fault:
        return str(fault)


def fuzz(kind: Kind, name: str, count: int = 600) -> Counter:
    seen: Counter = Counter()
    for prompt, completion in cases(name, count):
        row = row_or_fault(kind.tokenizer, prompt, completion)
        if isinstance(row, Row):
            assert_right(kind, row, prompt, completion)
            seen["split" if row.split else "joint"] += 1
        else:
            assert len(row.splitlines()) == 1
            assert_refused_for_cause(kind, prompt, completion)
            seen["refused"] += 1
    return seen


@pytest.mark.parametrize("name", BUILDERS)
def test_boundary_fuzz_trains_the_completion_or_refuses_for_cause(name):
    seen = fuzz(build(name), name)
    limit = next((share for kind, share in MAY_BE_REFUSED.items() if re.search(kind, name)), 0.2)
    assert seen["refused"] <= limit * seen.total(), seen
    assert seen["joint"] >= 100, seen
    assert seen["split"] >= 20 or limit > 0.2, seen


def test_boundary_fuzz_on_smollm2(smollm2):
    seen = fuzz(byte_level_kind(smollm2), "smollm2")
    assert seen["split"] > 0
    assert seen["refused"] <= 0.2 * seen.total(), seen


def fault_of(tokenizer: PreTrainedTokenizerFast, row: Row, prompt: str, completion: str) -> str:
    """What `check` finds wrong with a row; nothing if it passes."""
    try:
        masking.check(tokenizer, row, prompt, completion)
    except MaskError as fault:
        return str(fault)
    return ""


def masked(ids: list[int], first: int) -> Row:
    """A row whose first `first` ids are masked: what a wrong boundary makes of right ids."""
    return Row(ids, [IGNORE] * first + ids[first:])


def replaced(ids: list[int], place: int, by: list[int]) -> list[int]:
    return [*ids[:place], *by, *ids[place + 1 :]]


def faulty_rows(row: Row, vocabulary: int, rng: random.Random) -> dict[str, Row]:
    """What can go wrong with a row's ids and labels, each made from a right one."""
    ids, stop = row.input_ids, row.input_ids[-1]
    first = len(ids) - row.supervised
    place = rng.randrange(first, len(ids) - 1)
    other = rng.choice([i for i in range(vocabulary) if i != ids[place]])

    return {
        "mask one late": masked(ids, first + 1),
        "mask one early": masked(ids, first - 1),
        "stop masked": Row(ids, [*row.labels[:-1], IGNORE]),
        "hole in the labels": Row(ids, replaced(row.labels, place, [IGNORE])),
        "label of another token": Row(ids, replaced(row.labels, place, [other])),
        "all masked": Row(ids, [IGNORE] * len(ids)),
        "cut off": Row(ids[:-1], row.labels[:-1]),
        "cut off, then stopped": masked([*ids[:-2], stop], first),
        "stopped before the end": masked(replaced(ids, place, [stop, ids[place]]), first),
        "stopped twice": masked([*ids, stop], first),
        "another token": masked(replaced(ids, place, [other]), first),
        "a token twice": masked(replaced(ids, place, [ids[place]] * 2), first),
        "prompt closed": masked([*ids[:first], stop, *ids[first:]], first + 1),
        "prompt changed": masked(replaced(ids, first - 1, [other]), first),
        "prompt cut on the left": Row(ids[1:], row.labels[1:]),
        "labels short": Row(ids, row.labels[1:]),
    }


SAID = {
    "labels short": r"\d input ids, but \d+ labels",
    "label of another token": "has another's label",
    "stop masked": "the stop token .* is masked",
    "hole in the labels": "is masked, though|masked tokens are not|only the stop token",
    "all masked": "no token is supervised",
    "cut off": "it is cut off",
    "prompt closed": "nothing more, the row masks",
    "mask one late": "nothing more, the row masks|only the stop token",
    "mask one early": "the row masks nothing more",
}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_fault_put_into_a_right_row_turns_red(name):
    tokenizer, rng = build(name).tokenizer, random.Random(name)
    seen: Counter = Counter()
    for prompt, completion in cases(name + " faults", 60):
        row = row_or_fault(tokenizer, prompt, completion)
        if not isinstance(row, Row):
            continue
        masking.check(tokenizer, row, prompt, completion)
        for fault, bad in faulty_rows(row, len(tokenizer), rng).items():
            if (bad.input_ids, bad.labels) == (row.input_ids, row.labels):
                continue  # "prompt changed" may draw the token that stood there
            found = fault_of(tokenizer, bad, prompt, completion)
            assert re.search(SAID.get(fault, "."), found), (fault, found, prompt, completion)
            seen[fault] += 1
    assert min(seen.values()) >= 5
    assert len(seen) == 16


# Known failures, each made as it was made, and shown to be one still.


def test_counting_a_prompt_tokenized_apart_loses_the_first_answer_token(smollm2):
    """Replays the published fix, which masks len(tokenize(question + " ")) tokens."""
    question = "How many gram are there per 6 kg?"
    row = masking.encode(smollm2, question, COMPLETION, max_length=64)
    learnt = [label for label in row.labels if label != IGNORE]
    assert smollm2.decode(learnt) == COMPLETION + smollm2.eos_token
    counted = len(smollm2(question + " ")["input_ids"])
    assert row.labels[counted - 1] != IGNORE, "this test no longer sees the old fault"
    fault = fault_of(smollm2, masked(row.input_ids, counted), question, COMPLETION)
    assert fault.endswith(f"at {counted - 1} it feeds nothing more, the row masks 'Ġ<'")


def test_a_thousand_real_questions_on_smollm2(smollm2, test_data):
    pairs = artifacts.read_json(test_data / "data" / "unit_questions.json")
    rows = [(f"row-{i}", q, f" <answer>{answer}</answer>") for i, (q, answer) in enumerate(pairs)]
    kept, records = masking.encode_all(smollm2, rows, 128, True, "refuse")
    kind, lost = byte_level_kind(smollm2), 0
    for (row_id, question, completion), row in zip(rows, kept, strict=True):
        assert row["id"] == row_id
        assert_right(kind, Row(row["input_ids"], row["labels"]), question, completion)
        lost += row["labels"][len(smollm2(question + " ")["input_ids"]) - 1] != IGNORE
    assert len(kept) == 1000
    assert lost == 1000, "the published fix no longer loses a token of every row"
    assert not any(record["split"] for record in records)
    # Unrounded answers, as the file has them; with three decimals the longest has 33.
    assert max(record["tokens"] for record in records) == 44
    rows = [(f"row-{i}", q, f" <answer>{round(a, 3)}</answer>") for i, (q, a) in enumerate(pairs)]
    _, records = masking.encode_all(smollm2, rows, 33, True, "refuse")
    assert max(record["tokens"] for record in records) == 33


def test_masking_by_pad_id_kills_the_stop_token_where_pad_is_eos(smollm2):
    assert smollm2.pad_token_id == smollm2.eos_token_id, "this test no longer sees the old fault"
    row = masking.encode(smollm2, PROMPT, COMPLETION, max_length=64)
    assert row.labels[-1] == smollm2.eos_token_id
    by_pad = [IGNORE if label == smollm2.pad_token_id else label for label in row.labels]
    fault = fault_of(smollm2, Row(row.input_ids, by_pad), PROMPT, COMPLETION)
    assert fault.startswith("the stop token '<|im_end|>' at")
    assert "mask by place, never by the pad id" in fault


def test_a_row_that_learns_nothing():
    tokenizer = build("byte_level").tokenizer
    ids = masking.encode(tokenizer, PROMPT, COMPLETION, max_length=64).input_ids
    fault = fault_of(tokenizer, masked(ids, len(ids)), PROMPT, COMPLETION)
    assert fault == "no token is supervised: every label is masked"


def test_an_answer_cut_by_max_length():
    """As `truncation=True` cuts it: the end of the answer and the stop are gone."""
    tokenizer = build("byte_level").tokenizer
    whole = masking.encode(tokenizer, PROMPT, COMPLETION, max_length=64)
    room = len(whole.input_ids) - 2
    cut = tokenizer(PROMPT + COMPLETION, truncation=True, max_length=room)["input_ids"]
    assert len(cut) == room
    assert "</answer>" not in tokenizer.decode(cut), "this test no longer sees the old fault"
    prompt = len(masking.prompt_ids(tokenizer, PROMPT, True))
    fault = fault_of(tokenizer, masked(cut, prompt), PROMPT, COMPLETION)
    assert fault.startswith("the row ends in '6000', not in the stop token '</s>': it is cut off")
    stopped = masked([*cut, tokenizer.eos_token_id], prompt)
    assert "would be learnt as" in fault_of(tokenizer, stopped, PROMPT, COMPLETION)
    with pytest.raises(masking.RowTooLong, match=f"{room + 2} tokens, but max_length is {room}"):
        masking.encode(tokenizer, PROMPT, COMPLETION, max_length=room)


def test_a_tokenizer_file_that_cuts_and_pads_by_itself_is_not_obeyed():
    parts = Tokenizer.from_str(build("byte_level").tokenizer.backend_tokenizer.to_str())
    parts.enable_truncation(4)
    parts.enable_padding(length=128, pad_id=1, pad_token="</s>")
    assert len(parts.encode(PROMPT).ids) == 128
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=parts, eos_token="</s>")
    row = masking.encode(tokenizer, PROMPT, COMPLETION, max_length=64)
    assert_right(Kind(tokenizer, build("byte_level").spell), row, PROMPT, COMPLETION)


@pytest.mark.parametrize("name", ["byte_level_bos_eos", "byte_level_eos"])
def test_a_post_processor_that_closes_the_prompt(name):
    """Prompt and completion tokenized apart and strung together, as the post-processor has it."""
    kind = build(name)
    tokenizer, stop = kind.tokenizer, kind.tokenizer.eos_token_id
    prompt = tokenizer(PROMPT)["input_ids"]
    assert prompt[-1] == stop, "this test no longer sees the old fault"
    ids = [*prompt, *tokenizer(COMPLETION, add_special_tokens=False)["input_ids"], stop]
    fault = fault_of(tokenizer, masked(ids, len(prompt)), PROMPT, COMPLETION)
    assert fault.endswith("it feeds nothing more, the row masks '</s>'")
    assert masking.prompt_ids(tokenizer, PROMPT, True) == prompt[:-1]
    assert masking.encode(tokenizer, PROMPT, COMPLETION, max_length=64).input_ids.count(stop) == 1


def test_decoding_the_supervised_span_alone_hides_a_lost_space():
    tokenizer = build("metaspace_first").tokenizer
    completion = " zero"
    row = masking.encode(tokenizer, PROMPT, completion, max_length=64)
    first = len(row.input_ids) - row.supervised
    assert tokenizer.convert_ids_to_tokens(row.input_ids[first]) == "▁"
    late = masked(row.input_ids, first + 1)
    spans = [tokenizer.decode(row.input_ids[at:-1]) for at in (first, first + 1)]
    assert spans == ["zero", "zero"], "this test no longer sees the old fault"
    fault = fault_of(tokenizer, late, PROMPT, completion)
    assert fault.endswith("it feeds nothing more, the row masks '▁'")


@pytest.mark.parametrize("name", ["byte_level_merging", "byte_level_merging_trimmed"])
def test_a_token_that_merges_across_the_boundary(name):
    """Masking the joint tokens by the prompt's count, with a warning or none, loses text."""
    kind = build(name)
    joint = kind.tokenizer(PROMPT + COMPLETION)["input_ids"]
    prompt = kind.tokenizer(PROMPT)["input_ids"]
    assert joint[: len(prompt)] != prompt, "this test no longer sees the old fault"
    by_count = masked([*joint, kind.tokenizer.eos_token_id], len(prompt))
    fault = fault_of(kind.tokenizer, by_count, PROMPT, COMPLETION)
    assert fault.startswith("the masked tokens are not the prompt that inference feeds: at ")
    row = masking.encode(kind.tokenizer, PROMPT, COMPLETION, max_length=64)
    assert row.split
    assert_right(kind, row, PROMPT, COMPLETION)


def test_a_prompt_that_ends_in_a_space_is_split_there(smollm2):
    """With a space trained as 'Ġ<', the model would never have seen the lone 'Ġ' it is fed."""
    prompt, completion = PROMPT + " ", COMPLETION.lstrip()
    assert "Ġ<" in smollm2.convert_ids_to_tokens(smollm2(prompt + completion)["input_ids"])
    row = masking.encode(smollm2, prompt, completion, max_length=64)
    assert row.split
    assert_right(byte_level_kind(smollm2), row, prompt, completion)


@pytest.mark.parametrize(
    ("name", "across"), [("byte_level_prefix_space", "Ġ6000"), ("metaspace_always", "▁6")]
)
def test_a_token_that_cannot_be_split_is_refused_by_name(name, across):
    with pytest.raises(MaskError) as refused:
        masking.encode(build(name).tokenizer, "Answer: ", "6000", max_length=64)
    assert str(refused.value) == (
        f"'6000' in the completion would be learnt as ' 6000': the token '{across}' stands at"
        " the boundary of the prompt, 'Answer: ', and the completion and cannot be parted there:"
        " end the prompt in a full word and begin the completion with a space"
    )


@pytest.mark.parametrize(
    ("name", "completion", "shown"),
    [
        ("byte_level_nfkc_lower", " <answer>5 KM</answer>", " 5 km"),
        ("byte_level_nfkc_lower", " <answer>½</answer>", "1⁄2"),  # noqa: RUF001
        ("byte_level_strip", " <answer>6</answer> ", "</answer>"),
        ("unigram", " <answer>日</answer>", "<unk>"),
        ("metaspace_always", " 6▁000", " 6 000"),
    ],
)
def test_text_that_the_tokenizer_alters_drops_or_does_not_know(name, completion, shown):
    with pytest.raises(MaskError, match=r"would be learnt as .*: the tokenizer alters") as refused:
        masking.encode(build(name).tokenizer, PROMPT, completion, max_length=64)
    assert shown.strip()[-4:] in str(refused.value)


def test_a_prompt_may_be_normalised_since_inference_does_the_same():
    tokenizer = build("byte_level_nfkc_lower").tokenizer
    row = masking.encode(tokenizer, "How many KM are ½ M?", COMPLETION, max_length=64)
    assert row.input_ids[: -row.supervised] == tokenizer("how many km are 1⁄2 m?")["input_ids"]  # noqa: RUF001


def test_special_tokens_spelt_out_in_the_text(smollm2):
    """Typed into a question or an answer they would be real ones, and stop the model midway."""
    assert smollm2("a<|im_end|>")["input_ids"][-1] == smollm2.eos_token_id
    with pytest.raises(MaskError, match=r"the prompt spells out the special token '<\|im_end\|>'"):
        masking.encode(smollm2, "6 kg<|im_end|>?", COMPLETION, max_length=64)
    with pytest.raises(MaskError, match=r"the prompt spells out"):
        masking.prompt_ids(smollm2, "6 kg<|im_end|>?", add_special_tokens=True)
    for special in ("<|im_end|>", "<|endoftext|>", "<repo_name>"):
        completion = f" <answer>{special}6</answer>"
        with pytest.raises(MaskError, match="the completion spells out the special token"):
            masking.encode(smollm2, PROMPT, completion, max_length=64)
        assert masking.special_tokens_in(smollm2, completion) == [special]
    assert "<repo_name>" not in smollm2.all_special_tokens  # known to tokenizer.json alone
    assert masking.special_tokens_in(smollm2, "5 < 6, |im_end|") == []


def test_an_unknown_character_in_the_prompt_is_no_special_token():
    tokenizer = build("unigram").tokenizer
    assert tokenizer.unk_token_id in masking.prompt_ids(tokenizer, "日?", True)
    assert masking.special_tokens_in(tokenizer, "日?") == []
    assert masking.special_tokens_in(tokenizer, "<unk>日?") != []


def test_a_chat_template_holds_its_specials_and_gets_no_others(smollm2):
    chat = [{"role": "user", "content": "How many gram are there per 6 kg?"}]
    prompt = smollm2.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    row = masking.encode(smollm2, prompt, COMPLETION, 128, add_special_tokens=False)
    fed = smollm2.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert row.input_ids[: -row.supervised] == fed
    assert masking.prompt_ids(smollm2, prompt, add_special_tokens=False) == fed
    assert_right(byte_level_kind(smollm2), row, prompt, COMPLETION)


def test_a_second_bos_is_refused():
    """A rendered chat begins with BOS; tokenized like plain text it would get another."""
    tokenizer = build("byte_level_bos_eos").tokenizer
    assert tokenizer("<s>Hi")["input_ids"][:2] == [0, 0], "this test no longer sees the old fault"
    with pytest.raises(MaskError, match="add_special_tokens=False"):
        masking.encode(tokenizer, "<s>" + PROMPT, COMPLETION, max_length=64)
    row = masking.encode(tokenizer, "<s>" + PROMPT, COMPLETION, 64, add_special_tokens=False)
    assert row == masking.encode(tokenizer, PROMPT, COMPLETION, 64, add_special_tokens=True)


def test_a_role_token_that_swallows_the_spaces_after_it():
    """Chat models in the manner of Phi-3: its offset takes the newline and the answer's space.

    The words after it get a space of their own, so with one the completion is right, and
    without one it would be learnt with one all the same.
    """
    backend = Tokenizer.from_str(build("llama_normalizer").tokenizer.backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken("<|assistant|>", rstrip=True, special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    prompt = "How many gram are there per 6 kg?<|assistant|>\n"
    spans = tokenizer(prompt + COMPLETION, return_offsets_mapping=True)["offset_mapping"]
    assert len(prompt) + 1 in [end for _, end in spans], "this test no longer sees the swallowing"
    row = masking.encode(tokenizer, prompt, COMPLETION, 64, add_special_tokens=False)
    kind = sentencepiece_kind(tokenizer)
    assert_right(kind, row, prompt, COMPLETION)
    with pytest.raises(MaskError, match=r"would be learnt as .* begin the completion with a space"):
        masking.encode(tokenizer, prompt, COMPLETION.strip(), 64, add_special_tokens=False)


def test_tokens_that_spell_the_text_but_are_not_the_tokenizers():
    tokenizer = build("byte_level").tokenizer
    row = masking.encode(tokenizer, PROMPT, " <answer>12</answer>", max_length=64)
    place = row.input_ids.index(tokenizer.convert_tokens_to_ids("12"))
    ids = replaced(row.input_ids, place, tokenizer.convert_tokens_to_ids(["1", "2"]))
    fault = fault_of(tokenizer, masked(ids, place - 2), PROMPT, " <answer>12</answer>")
    assert fault == "the tokens are not those that the tokenizer makes of this text"


@pytest.mark.parametrize(
    ("place", "span", "fault"),
    [
        (0, (0, 4), "the masked 'a' reaches into the completion"),
        (1, (0, 2), "the supervised 'Ġ' reaches into the prompt"),
        (2, (2, 2), "no supervised token stands for 'b' of the completion"),
    ],
)
def test_offsets_that_contradict_the_boundary(place, span, fault):
    """No tokenizer here makes such offsets where the text is right; they are refused all the same.

    Text 'a' + ' b', one token a character, of which one is given a false span.
    """
    tokenizer = build("byte_level").tokenizer
    ids = tokenizer.convert_tokens_to_ids(["a", "Ġ", "b"])
    spans = [(0, 1), (1, 2), (2, 3)]
    spans[place] = span
    joint, own = masking._Tokens(ids, spans, 0), masking._Tokens(ids[:1], spans[:1], 0)
    source = masking._Source("a", " b", joint, own)
    row = masked([*ids, tokenizer.eos_token_id], 1)
    with pytest.raises(MaskError, match=fault):
        masking._check(masking._Reader(tokenizer, True), row, source)


@pytest.mark.parametrize(
    ("prompt", "completion", "fault"),
    [
        ("", COMPLETION, "the prompt has no token"),
        (PROMPT, "", "only the stop token is supervised: the completion is empty"),
        ("6 kg\ud83d?", COMPLETION, "the prompt holds half a character"),
        (PROMPT, " 6\ud83d", r"' 6\\ud83d' in the completion would be learnt as"),
    ],
)
def test_text_of_which_nothing_can_be_made(prompt, completion, fault):
    with pytest.raises(MaskError, match=fault):
        masking.encode(build("byte_level_bos_eos").tokenizer, prompt, completion, max_length=64)


class Letters(PreTrainedTokenizer):
    """A slow tokenizer: Python alone, one id a letter."""

    vocab_size = 128

    def get_vocab(self) -> dict[str, int]:
        return {chr(i): i for i in range(128)}

    def _tokenize(self, text: str) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token)


def test_a_tokenizer_without_offsets_or_stop_is_refused_by_name():
    with pytest.raises(
        MaskError, match=r"a Letters, gives no character offsets: .*tokenizer\.json"
    ):
        masking.encode(Letters(), PROMPT, COMPLETION, max_length=64)
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    with pytest.raises(MaskError, match=r"names no stop token: write eos_token"):
        masking.encode(PreTrainedTokenizerFast(tokenizer_object=words), "a", "a", max_length=64)
    stopping = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    with pytest.raises(MaskError, match="' a' in the completion would be learnt as 'a'"):
        masking.encode(stopping, "a", " a", max_length=64)


# Many rows at once, and what a person sees.

ROWS = [
    ("train-0001", PROMPT, COMPLETION),
    ("train-0002", PROMPT, " <answer></s></answer>"),
    ("train-0003", PROMPT, f" <answer>{'6' * 64}</answer>"),
    ("train-0004", PROMPT + "\n", "\n6"),
]


def test_all_rows_at_once_are_the_rows_one_by_one(monkeypatch):
    tokenizer = build("byte_level_bos_eos").tokenizer
    rows = [(str(i), *case) for i, case in enumerate(cases("all", 60))]
    kept, records = masking.encode_all(tokenizer, iter(rows), 64, True, "drop")
    assert [record["id"] for record in records] == [row_id for row_id, _, _ in rows]
    singly = []
    for (row_id, prompt, completion), record in zip(rows, records, strict=True):
        row = row_or_fault(tokenizer, prompt, completion, max_length=64)
        if isinstance(row, Row):
            singly.append({"id": row_id, "input_ids": row.input_ids, "labels": row.labels})
            assert (record["tokens"], record["split"]) == (len(row.input_ids), row.split)
        else:
            assert (record["dropped"], record["reason"]) == (1, row)
    assert kept == singly
    assert 0 < len(kept) < len(rows)
    monkeypatch.setattr(masking, "ROWS_AT_ONCE", 7)
    assert masking.encode_all(tokenizer, rows, 64, True, "drop") == (kept, records)


def test_dropped_rows_are_counted_and_listed():
    kept, records = masking.encode_all(build("byte_level").tokenizer, ROWS, 64, True, "drop")
    assert [row["id"] for row in kept] == ["train-0001", "train-0004"]
    assert [list(record.values())[:-1] for record in records] == [
        ["train-0001", 19, 5, 0, 0, 0],
        ["train-0002", 0, 0, 0, 1, 0],
        ["train-0003", 82, 0, 1, 1, 0],
        ["train-0004", 18, 3, 0, 0, 0],
    ]
    assert list(records[0]) == [
        *("id", "tokens", "supervised_tokens", "truncated", "dropped", "split", "reason")
    ]
    assert [bool(record["reason"]) for record in records] == [False, True, True, False]


def test_bad_rows_are_refused_with_their_ids_and_what_to_write():
    with pytest.raises(MaskError) as refused:
        masking.encode_all(build("byte_level").tokenizer, ROWS, 64, True, "refuse")
    assert str(refused.value).splitlines() == [
        "2 of 4 rows cannot be trained as they are:",
        "  row train-0002: the completion spells out the special token '</s>':"
        " take it out of the text",
        "  row train-0003: 82 tokens, but max_length is 64: its end would be cut",
        "write max_length: 82 to hold the longest of them",
        "write bad_rows: drop (under sft or rft) to train without them, counted",
    ]
    with pytest.raises(MaskError, match="  and 3 more"):
        masking.encode_all(build("byte_level").tokenizer, ROWS[1:2] * 7 + ROWS, 128, True, "refuse")


def test_training_on_no_row_is_always_refused():
    tokenizer = build("byte_level").tokenizer
    with pytest.raises(MaskError, match="1 of 1 rows cannot be trained") as refused:
        masking.encode_all(tokenizer, ROWS[1:2], 64, True, "drop")
    assert "bad_rows" not in str(refused.value)  # dropping is no way out
    with pytest.raises(MaskError, match="there is no row to tokenize"):
        masking.encode_all(tokenizer, [], 64, True, "drop")
    with pytest.raises(ValueError, match="bad_rows is 'skip'"):
        masking.encode_all(tokenizer, ROWS, 64, True, "skip")
