"""What a model is asked: the same in training as at inference, plain or as a chat."""

import copy

import pytest
from tokenizers_for_tests import build

from posttrain import evaluation, masking, prompts, task_units
from posttrain.errors import MaskError, PromptError
from posttrain.tags import parse

QUESTION = "How many gram are there per 6 kg?"
WORDING = {
    "system": None,
    "answer": "Question: {question}\nAnswer:",
    "reasoning": "Question: {question}\nReasoning:",
    "examples": [],
}
EXAMPLE = {"question": "How many g in 2 kg?", "reasoning": "2 * 1000 = 2000.", "answer": 2000}
RECIPE = {"task": "units", "prompts": WORDING, "answer_digits": 4}
ROWS = {
    "answer": {"id": "train-0001", "question": QUESTION, "answer": 6000.0},
    "reasoning": {
        "id": "train-0001",
        "question": QUESTION,
        "answer": "6000",
        "reasoning": "6 * 1000 = 6000.",
    },
}
WORKED = " 6 * 1000 = 6000. <answer>6000</answer>"
PLAIN = ("byte_level", "byte_level_bos_eos", "metaspace_first", "llama_normalizer")

TURNS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "any_role": TURNS,
    "default_system": "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + TURNS,
    "default_when_empty": "{% if not messages[0]['content'] %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% set messages = messages[1:] %}{% endif %}" + TURNS,
    "refuses_system": "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}" + TURNS,
    "drops_system": "{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}"
    "{% endif %}" + TURNS,
    "cuts_the_question": TURNS.replace("message['content']", "message['content'][:20]"),
    "broken": "{{ messages[0]['role'] + 1 }}",
}


def chat(name):
    tokenizer = copy.deepcopy(build("byte_level").tokenizer)
    tokenizer.chat_template = TEMPLATES[name]
    return tokenizer


def tokenizer_named(name, request):
    if name == "smollm2":
        return request.getfixturevalue("smollm2")
    if name == "smollm2_plain":
        tokenizer = copy.deepcopy(request.getfixturevalue("smollm2"))
        tokenizer.chat_template = None
        return tokenizer
    return chat(name) if name in TEMPLATES else build(name).tokenizer


def trained_row(tokenizer, style, recipe=RECIPE):
    """Tokenize a row as the stage tokenize does."""
    prompt, completion = prompts.training_pair(tokenizer, ROWS[style], style, recipe)
    [row], _ = masking.encode_all(
        tokenizer,
        [("row", prompt, completion)],
        max_length=256,
        add_special_tokens=not prompts.is_chat(tokenizer),
        bad_rows="refuse",
    )
    return row


def masked_ids(row):
    pairs = zip(row["input_ids"], row["labels"], strict=True)
    return [token for token, label in pairs if label == masking.IGNORE]


def asked_ids(tokenizer, style, wording=WORDING):
    """Return what evaluation and sampling feed the model."""
    [(_, ids)] = prompts.fed(
        tokenizer, [{"id": "q", "question": QUESTION}], style, wording, task_units
    )
    return ids


@pytest.mark.parametrize("style", ["answer", "reasoning"])
@pytest.mark.parametrize(
    "name",
    [*PLAIN, "smollm2", "smollm2_plain", "any_role", "default_system", "refuses_system"],
)
def test_training_masks_id_for_id_what_inference_feeds(name, style, request):
    tokenizer = tokenizer_named(name, request)
    row = trained_row(tokenizer, style)
    assert masked_ids(row) == asked_ids(tokenizer, style)
    assert row["input_ids"][: len(masked_ids(row))] == masked_ids(row)
    learnt = row["input_ids"][len(masked_ids(row)) :]
    wanted = WORKED if style == "reasoning" else " <answer>6000</answer>"
    text = tokenizer.decode(learnt[:-1]).strip()
    assert text == wanted.strip()
    assert learnt[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["smollm2", "any_role"])
def test_asking_plainly_what_was_trained_as_a_chat_is_seen(name, request):
    """A known failure: chat template at training, none at inference."""
    tokenizer = tokenizer_named(name, request)
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    row = trained_row(tokenizer, "answer")
    assert masked_ids(row) != asked_ids(plain, "answer"), "this test no longer sees the old fault"

    receipt = {"probes": {"rows": [row]}}
    assert evaluation.asked_as_trained(tokenizer, receipt, "answer", RECIPE) is True
    assert evaluation.asked_as_trained(plain, receipt, "answer", RECIPE) is False
    assert evaluation.asked_as_trained(tokenizer, receipt, "reasoning", RECIPE) is False
    system = RECIPE | {"prompts": WORDING | {"system": "Be brief."}}
    assert evaluation.asked_as_trained(tokenizer, receipt, "answer", system) is False
    assert evaluation.asked_as_trained(tokenizer, None, "answer", RECIPE) is None


@pytest.mark.parametrize("name", PLAIN)
def test_a_prompt_that_is_only_like_the_trained_one_is_seen(name):
    tokenizer = build(name).tokenizer
    wordings = [
        WORDING,
        WORDING | {"answer": "Be brief. Question: {question}\nAnswer:"},
        WORDING | {"answer": "{question}\nAnswer:"},
        WORDING | {"answer": "Question: {question}\nThe Answer:"},
        WORDING | {"answer": "question: {question}\nAnswer:"},
    ]
    for trained in wordings:
        row = trained_row(tokenizer, "answer", RECIPE | {"prompts": trained})
        receipt = {"probes": {"rows": [row]}}
        for asked in wordings:
            recipe = RECIPE | {"prompts": asked}
            is_alike = evaluation.asked_as_trained(tokenizer, receipt, "answer", recipe)
            # "{question}" alone begins as any prompt does: its question may hold the rest.
            if trained is asked or asked is not wordings[2]:
                assert is_alike is (trained is asked), (trained, asked)


def test_plain_prompts_are_the_configs_words():
    tokenizer = build("byte_level").tokenizer
    asked = {
        style: prompts.render(tokenizer, QUESTION, style, WORDING, task_units) for style in ROWS
    }
    assert asked["answer"] == prompts.Prompt(f"Question: {QUESTION}\nAnswer:", True)
    assert asked["reasoning"] == prompts.Prompt(f"Question: {QUESTION}\nReasoning:", True)
    assert prompts.render(tokenizer, QUESTION, "worked", WORDING, task_units) == asked["reasoning"]
    braces = "Is {question} 5 {n}?"
    assert prompts.render(tokenizer, braces, "answer", WORDING, task_units).text.count(braces) == 1


def test_worked_examples_stand_before_the_question_and_in_no_other_style():
    wording = WORDING | {"examples": [EXAMPLE, EXAMPLE | {"answer": 2000.5}]}
    tokenizer = build("byte_level").tokenizer
    shown = "Question: How many g in 2 kg?\nReasoning: 2 * 1000 = 2000. <answer>2000</answer>\n\n"
    asked = prompts.render(tokenizer, QUESTION, "worked", wording, task_units).text
    plain = prompts.render(tokenizer, QUESTION, "reasoning", wording, task_units).text
    assert asked == shown + shown.replace(">2000<", ">2000.5<") + plain
    assert (
        "2 kg"
        not in plain + prompts.render(tokenizer, QUESTION, "answer", wording, task_units).text
    )

    text = prompts.render(chat("any_role"), QUESTION, "worked", wording, task_units).text
    assert text.startswith(
        "<|im_start|>system\n<|im_end|>\n"
        "<|im_start|>user\nQuestion: How many g in 2 kg?\nReasoning:<|im_end|>\n"
        "<|im_start|>assistant\n2 * 1000 = 2000. <answer>2000</answer><|im_end|>\n"
    )
    assert text.endswith(f"user\n{plain}<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("name", "words"),
    [("smollm2", "You are a helpful AI assistant"), ("default_system", "You are a helpful")],
)
def test_a_templates_own_system_text_never_appears(name, words, request):
    tokenizer = tokenizer_named(name, request)
    for style in ("answer", "reasoning", "worked"):
        assert words not in prompts.render(tokenizer, QUESTION, style, WORDING, task_units).text
    alone = [{"role": "user", "content": QUESTION}]
    careless = tokenizer.apply_chat_template(alone, tokenize=False)
    assert words in careless, "this test no longer sees the template's own words"


def test_a_template_that_puts_its_own_text_for_an_empty_system_message_is_refused():
    tokenizer = chat("default_when_empty")
    for style in ("answer", "reasoning", "worked"):
        with pytest.raises(
            PromptError, match=r"a system message of its own \(You \.\.\.\)"
        ) as caught:
            prompts.render(tokenizer, QUESTION, style, WORDING, task_units)
    assert "\n" not in str(caught.value)
    wording = WORDING | {"system": "You convert units."}
    assert "helpful" not in prompts.render(tokenizer, QUESTION, "answer", wording, task_units).text


# Its generation prompt ends in a space, which SentencePiece makes one token with the next word.
ENDS_IN_A_SPACE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{{ 'assistant: ' }}"
)


@pytest.mark.parametrize("name", ["metaspace_first", "metaspace_always", "llama_normalizer"])
def test_a_template_that_breaks_the_mask_contract_is_refused_with_the_reason(name):
    tokenizer = copy.deepcopy(build(name).tokenizer)
    tokenizer.chat_template = ENDS_IN_A_SPACE
    with pytest.raises(MaskError) as caught:
        trained_row(tokenizer, "answer")
    said = str(caught.value)
    assert "'istant: ', and the completion and cannot be parted there" in said
    assert "it ends so by the model's chat template: mend that, or use another model" in said
    tokenizer.chat_template = ENDS_IN_A_SPACE.replace("'assistant: '", "'assistant:'")
    assert trained_row(tokenizer, "answer")["labels"]


@pytest.mark.parametrize("name", ["smollm2", "any_role"])
def test_our_system_text_stands_once_and_first(name, request):
    wording = WORDING | {"system": "You convert units.", "examples": [EXAMPLE]}
    text = prompts.render(
        tokenizer_named(name, request), QUESTION, "worked", wording, task_units
    ).text
    assert text.startswith("<|im_start|>system\nYou convert units.<|im_end|>\n")
    assert text.count("system\n") == text.count("You convert units.") == 1


@pytest.mark.parametrize("name", ["refuses_system", "drops_system"])
def test_a_template_without_a_system_role_is_used_without_one(name):
    text = prompts.render(chat(name), QUESTION, "answer", WORDING, task_units).text
    user = f"<|im_start|>user\nQuestion: {QUESTION}\nAnswer:<|im_end|>\n"
    assert text == user + "<|im_start|>assistant\n"


@pytest.mark.parametrize("name", ["refuses_system", "drops_system"])
def test_a_template_without_a_system_role_refuses_a_system_text(name):
    wording = WORDING | {"system": "You convert units."}
    with pytest.raises(PromptError) as caught:
        prompts.render(chat(name), QUESTION, "answer", wording, task_units)
    said = str(caught.value)
    assert "system" in said
    assert "prompts" in said
    assert "null" in said
    assert "\n" not in said


def test_a_template_that_fails_or_leaves_words_out_is_refused():
    with pytest.raises(PromptError, match=r"cannot render our messages: .* use a model whose"):
        prompts.render(chat("broken"), QUESTION, "answer", WORDING, task_units)
    with pytest.raises(PromptError, match="leaves out the user message 'Question: How"):
        prompts.render(chat("cuts_the_question"), QUESTION, "answer", WORDING, task_units)


@pytest.mark.parametrize("name", ["smollm2", "smollm2_plain", "any_role", "byte_level"])
def test_a_question_that_spells_a_special_token_is_refused(name, request):
    tokenizer = tokenizer_named(name, request)
    spelt = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    assert len(spelt) >= 4
    for token in spelt:
        with pytest.raises(PromptError, match="spells the model's special token"):
            prompts.render(tokenizer, f"How many g{token} in 6 kg?", "answer", WORDING, task_units)
    # The tags are no special tokens: nothing is parsed but what the model writes.
    assert prompts.render(
        tokenizer, "What is <answer>6</answer> kg in g?", "answer", WORDING, task_units
    )


def test_smollm2_has_special_tokens_that_its_list_of_them_leaves_out(smollm2):
    """Why the question is held against the tokenizer itself."""
    assert "<file_sep>" not in smollm2.all_special_tokens
    assert "<file_sep>" in smollm2.convert_ids_to_tokens(smollm2("a <file_sep> b")["input_ids"])


def test_answers_are_trained_in_few_digits_and_kept_rollouts_as_written():
    tokenizer = build("byte_level").tokenizer
    row = {"id": "train-0001", "question": QUESTION, "answer": 20870.982787499997}
    assert prompts.training_pair(tokenizer, row, "answer", RECIPE)[1] == " <answer>20870</answer>"
    row = {
        "id": "train-0001",
        "question": QUESTION,
        "answer": "20870.98",
        "reasoning": " 1 * 1 = 1.\n",
    }
    completion = prompts.training_pair(tokenizer, row, "reasoning", RECIPE)[1]
    assert completion == " 1 * 1 = 1. <answer>20870.98</answer>"
    assert not prompts.training_pair(chat("any_role"), row, "reasoning", RECIPE)[1].startswith(" ")


@pytest.mark.parametrize(
    "reasoning",
    [
        "<answer>6000</answer> since 6 * 1000 = 6000.",
        "6 * 1000 = 6000. <answer>6000",
        "</answer> 6 * 1000 = 6000.",
    ],
)
def test_reasoning_after_the_answer_is_refused(reasoning):
    """A known failure: the model learns to answer first, and to reason once it is too late."""
    row = ROWS["reasoning"] | {"reasoning": reasoning}
    with pytest.raises(PromptError, match="trained after the answer; leave <answer>"):
        prompts.training_pair(build("byte_level").tokenizer, row, "reasoning", RECIPE)


def test_the_verifier_alone_would_not_see_reasoning_after_the_answer():
    assert parse("<answer>6000</answer> since 6 * 1000 = 6000. <answer>6000</answer>") == 6000


@pytest.mark.parametrize("answer", ["", "6,000", "6000 kg", "nan", "6000</answer> as 6 * 1000"])
def test_what_is_no_answer_is_not_trained_as_one(answer):
    row = ROWS["reasoning"] | {"answer": answer}
    with pytest.raises(PromptError, match="is no answer to train on"):
        prompts.training_pair(build("byte_level").tokenizer, row, "reasoning", RECIPE)


def test_the_style_decides_whether_reasoning_is_trained():
    tokenizer = build("byte_level").tokenizer
    pair = prompts.training_pair(tokenizer, ROWS["reasoning"], "answer", RECIPE)
    assert pair[1] == " <answer>6000</answer>"
    with pytest.raises(KeyError, match="reasoning"):
        prompts.training_pair(tokenizer, ROWS["answer"], "reasoning", RECIPE)
