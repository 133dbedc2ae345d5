"""The embedded base model: small, deterministic, an ordinary Hugging Face folder."""

import itertools

import pytest
import torch

from posttrain import corpus, devices, models, pretraining, task_units, tasks

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "steps": 8,
    "rows_per_step": 4,
    "row_length": 48,
    "learning_rate": 0.02,
    "seed": 0,
}
RECIPE = {"task": "units", "embedded": SHAPE, "held_out": 0.05, "held_out_seed": 0}


@pytest.fixture(scope="module")
def tokenizer():
    return pretraining.train_tokenizer(corpus.documents(0, frozenset()), tasks.marks(task_units))


def test_digits_and_tags_are_single_tokens_and_text_comes_back_unchanged(tokenizer):
    text = "Question: 12 kg to g?\nReasoning: 1 kg = 1000 g. <answer>12000</answer>"
    ids = tokenizer(text)["input_ids"]
    pieces = [tokenizer.decode([i]) for i in ids]
    assert tokenizer.decode(ids) == text
    assert "<answer>" in pieces
    assert "</answer>" in pieces
    assert all(len(piece.strip()) == 1 for piece in pieces if piece.strip().isdigit())
    assert {"0", " 1", " km", " kg"} - set(pieces) == {" km"}
    assert len(tokenizer) == pretraining.VOCABULARY
    assert tokenizer.eos_token_id == tokenizer("<|end|>")["input_ids"][0]


def test_every_row_begins_with_a_document_and_documents_end_with_the_stop(tokenizer):
    texts = list(itertools.islice(corpus.documents(0, frozenset()), 200))
    rows = list(itertools.islice(pretraining.packed_rows(tokenizer, iter(texts), 64), 20))
    assert {len(row) for row in rows} == {64}
    spelt = pretraining.spelling(tokenizer)
    coded = [*tokenizer(texts)["input_ids"], *spelt(texts)["input_ids"]]
    documents = [[*ids, tokenizer.eos_token_id] for ids in coded]
    for row in rows:  # the first document of a row is there whole, but for what the row cuts
        assert any(row[: len(ids)] == ids[:64] for ids in documents)


def test_some_documents_are_spelt_so_that_words_that_are_not_in_the_text_can_be_read(tokenizer):
    texts = list(itertools.islice(corpus.documents(0, frozenset()), 4096))
    spelt = pretraining.spelling(tokenizer)
    apart = [spelt(text)["input_ids"] for text in texts[:50]]
    assert [tokenizer.decode(ids) for ids in apart] == texts[:50]
    assert sum(map(len, apart)) > 1.2 * sum(map(len, tokenizer(texts[:50])["input_ids"]))
    word = set(tokenizer("xylophones")["input_ids"])
    whole = {i for ids in tokenizer(texts)["input_ids"] for i in ids}
    rows = pretraining.packed_rows(tokenizer, iter(texts), 96)
    read = {i for row in itertools.islice(rows, 600) for i in row}
    assert len(word & whole) < len(word & read)


def test_the_leak_gate_reads_all_documents_that_pretraining_reads(tokenizer):
    """It reads one for every so many tokens of the budget as the task says."""
    read = 0

    def counted():
        nonlocal read
        for text in corpus.documents(0, frozenset()):
            read += 1
            yield text

    rows, length = 4000, 96
    for _ in itertools.islice(pretraining.packed_rows(tokenizer, counted(), length), rows):
        pass
    assert read < rows * length // task_units.SHORTEST


def test_same_recipe_same_bytes_and_the_folder_loads_as_any_other(tmp_path):
    torch.set_num_threads(1)
    made = []
    for name in ("one", "two"):
        model, tokenizer, history = pretraining.make(RECIPE)
        models.save(model, tokenizer, tmp_path / name)
        made.append(models.manifest(tmp_path / name, {})["files"])
    assert made[0] == made[1]
    assert set(made[0]) >= {"model.safetensors", *models.NEEDED}
    assert history[-1]["loss"] < history[0]["loss"]
    loaded = models.load_model(tmp_path / "one", devices.FULL)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    other, _, _ = pretraining.make({**RECIPE, "embedded": {**SHAPE, "seed": 1}})
    assert not torch.equal(other.lm_head.weight, model.lm_head.weight)


def test_the_learning_rate_warms_up_and_falls_to_almost_nothing():
    rates = [pretraining.share_of_rate(step, 100) for step in range(100)]
    assert rates[0] == 0.5
    assert max(rates) == 1.0
    assert 0 < rates[-1] < 0.02
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)


def test_a_rate_that_diverges_ends_in_one_line():
    wild = {**SHAPE, "learning_rate": 1e30, "steps": 20}
    with pytest.raises(pretraining.TrainingError, match=r"lower embedded\.learning_rate"):
        pretraining.make({**RECIPE, "embedded": wild})
