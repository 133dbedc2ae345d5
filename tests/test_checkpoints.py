"""A stopped job goes on from its own checkpoint alone, and ends with the same bytes."""

import pytest
import torch
from training_for_tests import RECIPE, labelled_rows, save_base, tiny_model, tokenizer

from posttrain import artifacts, checkpoints, models, pretraining, rollouts, training
from posttrain.checkpoints import Checkpoints

ORIGIN = {"stage": "sft_train", "settings": {"seed": 0}, "code": {"a.py": "12"}}


@pytest.fixture
def always(monkeypatch):
    """Save after every step, however short it was."""
    monkeypatch.setattr(checkpoints, "SHORTEST", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE_OF_TIME", 1e9)


class Stopped(BaseException):
    """What a kill at that step is to the job."""


def stop_at(call: int, function, monkeypatch, module, name):
    """Have a module's function end its caller the `call`-th time."""
    calls = iter(range(1, 10_000))

    def stopping(*args, **kwargs):
        if next(calls) == call:
            raise Stopped
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, stopping)


def test_what_was_saved_comes_back_to_the_bit(tmp_path):
    kept = Checkpoints("sft_train", ORIGIN, tmp_path)
    tensors = {"a": torch.rand(3, 4), "step": torch.tensor(7.0), "b": torch.arange(4).bfloat16()}
    state = [{"loss": 0.1 + 0.2, "text": "5 µg <answer>"}]
    kept.save("training", tensors, state)
    found, history = Checkpoints("sft_train", ORIGIN, tmp_path).load("training")
    assert history == state
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    kept.clear()
    assert kept.load("training") is None
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "other", [{"settings": {"seed": 1}}, {"code": {"a.py": "13"}}, {"computed": {"threads": 1}}]
)
def test_the_checkpoint_of_another_origin_is_not_used_and_is_removed(other, tmp_path):
    Checkpoints("sft_train", ORIGIN, tmp_path).save("training", {}, ["old"])
    elsewhere = Checkpoints("rft_train", ORIGIN, tmp_path)
    elsewhere.save("training", {}, ["of another stage"])
    assert Checkpoints("sft_train", ORIGIN | other, tmp_path).load("training") is None
    assert Checkpoints("sft_train", ORIGIN, tmp_path).load("training") is None
    assert elsewhere.load("training") == ({}, ["of another stage"])


def test_a_damaged_checkpoint_is_never_used(tmp_path):
    kept = Checkpoints("sft_train", ORIGIN, tmp_path)
    kept.save("training", {"a": torch.ones(8)}, [1.0, 2.0])
    [path] = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        found = kept.load("training")
        # A flipped bit in the padding or in a key's spelling may leave the content as it was.
        assert found is None or (found[1] == [1.0, 2.0] and found[0]["a"].tolist() == [1.0] * 8)
    for length in (0, 7, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert kept.load("training") is None
    path.write_bytes(whole)
    assert kept.load("training") is not None


def test_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    kept = Checkpoints("sft_train", ORIGIN, tmp_path)
    saves = []

    def slow_save(path, tensors, metadata):
        saves.append(clock[0])
        clock[0] += 0.05

    monkeypatch.setattr(artifacts, "write_tensors", slow_save)
    for _ in range(4000):
        clock[0] += 0.01
        kept.save_in_time("training", lambda: ({}, []))
    assert saves[0] == pytest.approx(checkpoints.SHORTEST, abs=0.02)
    assert 0.05 * len(saves) <= checkpoints.SHARE_OF_TIME * clock[0] + 0.05
    assert len(saves) > 5


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("stop", [1, 2, 5, 9])
def test_a_resumed_training_ends_with_the_same_bytes(stop, dropout, tmp_path, monkeypatch, always):
    recipe = RECIPE | {"lora": RECIPE["lora"] | {"dropout": dropout}}
    whole = training.fit(tiny_model(), labelled_rows(), recipe, "base")
    steps = training.CANARY_STEPS + stop
    with monkeypatch.context() as patch:
        stop_at(steps, training.train_step, patch, training, "train_step")
        kept = Checkpoints("sft_train", ORIGIN, tmp_path)
        with pytest.raises(Stopped):
            training.fit(tiny_model(), labelled_rows(), recipe, "base", kept)
    assert bool(kept.load("training")) == (stop > 1)
    torch.manual_seed(99)  # another process begins elsewhere
    taken = []
    with monkeypatch.context() as patch:
        step = training.train_step
        patch.setattr(training, "train_step", lambda *args: taken.append(args[-1]) or step(*args))
        kept = Checkpoints("sft_train", ORIGIN, tmp_path)
        resumed = training.fit(tiny_model(), labelled_rows(), recipe, "base", kept)
    assert taken[training.CANARY_STEPS] == f"step {stop}"  # not from the beginning
    assert resumed.history == whole.history
    assert resumed.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(resumed.tensors[name], whole.tensors[name]) for name in whole.tensors)
    assert resumed.adapter_logprobs == whole.adapter_logprobs


@pytest.mark.parametrize("stop", [1, 2, 7])
def test_a_resumed_pretraining_ends_with_the_same_bytes(stop, tmp_path, monkeypatch, always):
    from test_pretraining import RECIPE as PRETRAINING

    whole, _, history = pretraining.make(PRETRAINING)
    with monkeypatch.context() as patch:
        stop_at(stop, pretraining.share_of_rate, patch, pretraining, "share_of_rate")
        with pytest.raises(Stopped):
            pretraining.make(PRETRAINING, Checkpoints("base_model", ORIGIN, tmp_path))
    kept = Checkpoints("base_model", ORIGIN, tmp_path)
    assert bool(kept.load("pretraining")) == (stop > 1)
    resumed, _, again = pretraining.make(PRETRAINING, kept)
    assert again == history
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name


def test_resumed_sampling_takes_finished_chunks_as_they_are(tmp_path, monkeypatch):
    manifest = save_base(tmp_path / "base")
    model = models.load_model(models.verified(manifest), torch.float32)
    questions = [
        {"id": f"train-{n:04}", "question": f"How many gram in {n} kg?", "answer": n * 1000.0}
        for n in range(1, 8)
    ]
    recipe = {
        "task": "units",
        "seed": 0,
        "round": 1,
        "style": "worked",
        "extra_samples": 3,
        "extra_below": 1,
        "prompts": {
            "system": None,
            "answer": "Question: {question}\nAnswer:",
            "reasoning": "Question: {question}\nReasoning:",
            "examples": [],
        },
        "samples_per_question": 3,
        "samples_when_sft_is_right": 2,
        "temperature": 0.8,
        "max_new_tokens": 6,
        "questions_per_chunk": 2,
        "batch_size": 8,
        "answer_digits": 4,
        "relative_tolerance": 0.05,
        "absolute_tolerance": 1e-9,
    }
    asked = (model, model, [tokenizer()] * 2, questions, recipe)
    whole = rollouts.sample(*asked)
    with monkeypatch.context() as patch:
        stop_at(3, rollouts.sample_chunk, patch, rollouts, "sample_chunk")
        with pytest.raises(Stopped):
            rollouts.sample(*asked, Checkpoints("generate_rft_data", ORIGIN, tmp_path))
    made = []
    with monkeypatch.context() as patch:
        sample_chunk = rollouts.sample_chunk
        patch.setattr(
            rollouts, "sample_chunk", lambda *args: made.append(args[4]) or sample_chunk(*args)
        )
        kept = Checkpoints("generate_rft_data", ORIGIN, tmp_path)
        assert rollouts.sample(*asked, kept) == whole
    assert made == [2, 3]
