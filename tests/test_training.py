"""Training follows its recipe to the letter, and each step that cannot be healthy ends it."""

import math
import random
import re
import runpy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from peft import set_peft_model_state_dict
from training_for_tests import RECIPE, labelled_rows, save_base, tiny_model, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from posttrain import (
    adapters,
    artifacts,
    devices,
    frozen,
    likelihood,
    lowrank,
    masking,
    models,
    nodes,
    training,
)
from posttrain.errors import MaskError, TrainingError
from posttrain.likelihood import collate, pack, packed_logprobs
from posttrain.masking import IGNORE

SCRIPTS = Path(__file__).parent.parent / "scripts"
FULL = torch.float32


def fit(rows=None, model=None, **changes) -> adapters.Trained:
    """Train the tiny model, with `changes` to the recipe."""
    rows = labelled_rows() if rows is None else rows
    return training.fit(model or tiny_model(), rows, RECIPE | changes, "resources/base_model")


def refusal(call: Callable[[], object], kind: type[Exception] = TrainingError) -> str:
    """Return the one line that `call` ends in."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def masked(row: dict) -> dict:
    return row | {"labels": [IGNORE] * len(row["labels"])}


@pytest.fixture
def wrapped():
    """The tiny model with a fresh adapter, as `fit` hands it to the trial steps."""
    return adapters.attach(tiny_model(), RECIPE["lora"], seed=0)


def step(model, rows=None, rate=0.01) -> tuple[float, float]:
    optimiser = training._optimiser(model, rate)
    model.train()
    return training.train_step(model, optimiser, rows or labelled_rows(4), rate, False, "step 7")


# The recipe


def test_a_thousand_rows_are_96_steps_at_the_published_rates():
    plan = training.batches(1000, batch_size=32, epochs=3, seed=0)
    assert len(plan) == 96
    rates = [training.learning_rate(step, len(plan), 2e-4) for step in range(len(plan))]
    published = [1.8125e-4, 1.6042e-4, 1.3958e-4, 1.1875e-4, 9.792e-5, 7.708e-5, 5.625e-5, 3.542e-5]
    assert rates[9:80:10] == pytest.approx(published, rel=1e-4)
    assert rates[0] == 2e-4
    assert rates[-1] == pytest.approx(2e-4 / 96)


def test_every_epoch_has_every_row_once_in_an_order_of_its_own():
    plan = training.batches(1000, batch_size=32, epochs=3, seed=0)
    orders = [[i for epoch, rows in plan if n < epoch <= n + 1 for i in rows] for n in range(3)]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert [len(rows) for _, rows in plan[:32]] == [32] * 31 + [8]
    assert [plan[i][0] for i in (0, 31, 95)] == [0.032, 1, 3]
    assert training.batches(1000, 32, 3, seed=0) == plan != training.batches(1000, 32, 3, seed=1)


def test_the_history_tells_what_was_planned():
    history = fit(epochs=2).history
    assert [line["step"] for line in history] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in history] == [0.4, 0.8, 1, 1.4, 1.8, 2]
    rates = [training.learning_rate(step, 6, 0.01) for step in range(6)]
    assert [line["learning_rate"] for line in history] == rates
    assert all(tuple(line) == training.HISTORY for line in history)
    assert all(math.isfinite(line["grad_norm"]) and line["grad_norm"] > 0 for line in history)


def test_lora_of_rank_4_on_smollm2_has_its_2170880_parameters():
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    attached = adapters.attach(model, {"r": 4, "alpha": 16, "dropout": 0.0}, seed=0)
    assert sum(p.numel() for p in training._trainable(attached)) == 2_170_880
    assert {p.device.type for p in attached.parameters()} == {"meta"}


def test_a_first_step_is_adamw_on_transformers_loss_with_the_gradient_cut_to_1(wrapped):
    rows = labelled_rows(4)
    twin = adapters.attach(tiny_model(), RECIPE["lora"], seed=0)
    loss = twin(**collate(rows, torch.device("cpu"))).loss
    loss.backward()
    ours = step(wrapped, rows, rate=0.01)
    parts = [p for p in twin.parameters() if p.requires_grad]
    norm = torch.stack([p.grad.square().sum() for p in parts]).sum().sqrt().item()
    assert ours == pytest.approx((loss.item(), norm))
    assert norm > 1, "this batch no longer shows the cut"
    for name, part in wrapped.named_parameters():
        if "lora_B" in name:  # AdamW's first step is the rate times the gradient's sign
            gradient = twin.get_parameter(name).grad / norm
            torch.testing.assert_close(part, -0.01 * gradient / (gradient.abs() + 1e-8))


# Fast, and the same


def gradients(
    rows: list[dict],
    hasten: torch.dtype | None = None,
    apart: bool = False,
    drawn: bool = True,
    model: torch.nn.Module | None = None,
    attention: str = "eager",
) -> dict[str, torch.Tensor]:
    """The adapter's gradient of the mean loss of `rows`, packed; lora_B drawn, else A's is zero.

    Hastened, by the pass written out where attention is eager, else layer by layer.
    """
    model = model or tiny_model()
    if hasten:
        model.set_attn_implementation(attention)
    model = adapters.attach(model, RECIPE["lora"], seed=0).train()
    torch.manual_seed(3)
    for name, part in model.named_parameters():
        if drawn and "lora_B" in name:
            torch.nn.init.normal_(part, std=0.05)
    if hasten:
        frozen.hasten(model, hasten)
    passes = pack(rows, torch.device("cpu"), apart)
    for packed in passes:
        loss = -packed_logprobs(model, packed).sum() / sum(len(p.rows) for p in passes)
        loss.backward()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def mixed_rows(count: int = 12) -> list[dict]:
    """Rows of many lengths: some lose the beginning of their prompt."""
    found = labelled_rows(count)
    for n, row in enumerate(found):
        for key in ("input_ids", "labels"):
            row[key] = row[key][3 * (n % 5) :]
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], rtol: float = 1e-4) -> None:
    """Every gradient is the other's up to a share of its norm: sums run in another order."""
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        assert gradient.norm() > 0
        assert (gradient - other[name]).norm() < rtol * gradient.norm(), name


def test_packed_rows_have_the_gradient_of_the_padded_batch():
    rows = mixed_rows()
    model = adapters.attach(tiny_model(), RECIPE["lora"], seed=0).train()
    model(**collate(rows, torch.device("cpu"))).loss.backward()
    padded = {name: p.grad for name, p in model.named_parameters() if "lora_B" in name}
    packed = gradients(rows, drawn=False)
    same(padded, {name: packed[name] for name in padded})


@pytest.mark.parametrize("number", [0, 4, 11])
def test_a_row_s_gradient_owes_nothing_to_the_rows_it_is_packed_with(number):
    rows = mixed_rows()
    alone = gradients([rows[number]])
    among = [row if n == number else masked(row) for n, row in enumerate(rows)]
    [packed] = pack(among, torch.device("cpu"))
    assert len(packed.input_ids) < len(rows)
    same(alone, gradients(among))


@pytest.mark.parametrize("apart", [False, True])
def test_passes_of_few_tokens_add_up_to_the_gradient_of_the_whole_batch(monkeypatch, apart):
    rows = mixed_rows()
    whole = gradients(rows)
    monkeypatch.setattr(likelihood, "PASS_TOKENS", 120)
    passes = pack(rows, torch.device("cpu"), apart)
    assert len(passes) > 1
    assert all(packed.input_ids.numel() <= 120 for packed in passes)
    same(whole, gradients(rows, apart=apart))


def test_a_training_in_small_passes_has_the_same_curve(monkeypatch, trained):
    monkeypatch.setattr(training, "compute_dtype", lambda device: FULL)
    whole = fit(epochs=1)
    monkeypatch.setattr(likelihood, "PASS_TOKENS", 100)
    for one, other in zip(whole.history, fit(epochs=1).history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


QUICK = pytest.mark.parametrize("attention", ["eager", "sdpa"])


@QUICK
def test_quick_passes_have_the_gradient_of_peft_s_own(attention):
    rows = mixed_rows()
    same(gradients(rows), gradients(rows, hasten=FULL, attention=attention))


@QUICK
def test_quick_passes_know_where_a_row_ends(attention):
    """One row's gradient in a line of its own, and with a row before it and one behind."""
    rows = mixed_rows(3)
    alone = gradients([rows[1]], hasten=FULL)
    for apart in (False, True):
        among = [row if n == 1 else masked(row) for n, row in enumerate(rows)]
        same(alone, gradients(among, hasten=FULL, apart=apart, attention=attention))


@QUICK
def test_quick_passes_have_it_where_linear_layers_add_a_bias(attention):
    def biased():
        config = tiny_model().config
        config.attention_bias = config.mlp_bias = True
        torch.manual_seed(5)
        model = LlamaForCausalLM(config)
        for name, part in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(part)
        return model

    rows = mixed_rows()
    quick = gradients(rows, model=biased(), hasten=FULL, attention=attention)
    same(gradients(rows, model=biased()), quick)


@QUICK
def test_gains_of_norms_count(attention):
    def gained() -> torch.nn.Module:
        model = tiny_model()
        torch.manual_seed(5)
        for name, part in model.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(part, 0.5, 1.5)
        return model

    rows = mixed_rows()
    quick = gradients(rows, model=gained(), hasten=FULL, attention=attention)
    same(gradients(rows, model=gained()), quick)


def test_the_pass_written_out_gives_every_logit_where_all_are_wanted():
    model = adapters.attach(tiny_model(), RECIPE["lora"], seed=0)
    model.set_attn_implementation("eager")
    rows = mixed_rows()
    own = likelihood.mean_logprobs(model, rows)
    restore = frozen.hasten(model, FULL)
    assert likelihood.mean_logprobs(model, rows) == pytest.approx(own, abs=1e-5)
    restore()
    assert likelihood.mean_logprobs(model, rows) == own


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"attention_mask": torch.ones(1, 4)}, "attention_mask"),
        ({"labels": torch.ones(1, 4)}, "labels"),
        ({"use_cache": True}, "no cache"),
        ({"logits_to_keep": torch.tensor([3])}, "a mark for each place"),
    ],
)
def test_what_the_pass_written_out_does_not_heed_it_does_not_take(given, told):
    model = adapters.attach(tiny_model(), RECIPE["lora"], seed=0)
    model.set_attn_implementation("eager")
    frozen.hasten(model, FULL)
    with pytest.raises(TypeError, match=told):
        model(input_ids=torch.tensor([[1, 2, 3, 4]]), **{"use_cache": False} | given)


def changed(**settings: object) -> LlamaForCausalLM:
    config = tiny_model().config
    for key, value in settings.items():
        setattr(config, key, value)
    return LlamaForCausalLM(config).eval()


def hooked() -> LlamaForCausalLM:
    model = tiny_model()
    model.model.layers[1].register_forward_hook(lambda layer, given, found: found * 1.5)
    return model


def with_a_layer_of_its_own() -> LlamaForCausalLM:
    model = tiny_model()
    own = model.model.layers[1].mlp
    own.forward = lambda x, forward=own.forward: forward(x) * 1.5
    return model


@pytest.mark.parametrize(
    ("make", "lora"),
    [
        (lambda: changed(attention_dropout=0.1), {}),
        (lambda: changed(hidden_act="gelu"), {}),
        (lambda: changed(is_causal=False), {}),
        (tiny_model, {"dropout": 0.2}),
        (lambda: Leaky(tiny_model().config), {}),
        (hooked, {}),
        (with_a_layer_of_its_own, {}),
    ],
)
def test_another_model_than_the_pass_written_out_keeps_its_own(make, lora):
    model = make()
    model.set_attn_implementation("eager")
    model = adapters.attach(model, RECIPE["lora"] | lora, seed=0)
    frozen.hasten(model, FULL)
    assert "forward" not in vars(model.get_base_model())


def test_a_quick_pass_that_computes_something_else_is_refused(monkeypatch):
    model = adapters.attach(tiny_model(), RECIPE["lora"], seed=0)
    model.set_attn_implementation("eager")
    turned = nodes.turned
    monkeypatch.setattr(
        nodes, "turned", lambda x, turns, into: turned(x, (turns[1], turns[0]), into)
    )
    with pytest.raises(TrainingError, match="other distributions than the model's own"):
        frozen.hasten(model, FULL)


def test_a_training_whose_adapter_counted_otherwise_than_in_the_model_is_refused(monkeypatch):
    """Its adapter's products go wrong, which a fresh adapter, that adds nothing, cannot show."""
    monkeypatch.setattr(training, "compute_dtype", lambda device: FULL)
    forward = lowrank.LowRank.forward

    def wrong(ctx, x, added, products, scales, *factors):
        return forward(ctx, x, added, products, 1.5 * scales, *factors)

    monkeypatch.setattr(lowrank.LowRank, "forward", staticmethod(wrong))
    with pytest.raises(TrainingError, match="other distributions than the model's own"):
        fit(epochs=1)


def test_bfloat16_turns_the_gradient_by_its_rounding_and_no_more():
    same(gradients(mixed_rows()), gradients(mixed_rows(), hasten=torch.bfloat16), rtol=0.05)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_exact_base_and_peft_s_layers_are_back_after_the_steps(dropout):
    model = adapters.attach(tiny_model(), RECIPE["lora"] | {"dropout": dropout}, seed=0)
    model.set_attn_implementation("eager")
    before = state(model)
    restore = frozen.hasten(model, torch.bfloat16)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {FULL}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    quick = {type(part).__name__ for part in model.modules() if "forward" in vars(part)}
    assert quick == ({"LlamaRMSNorm", "LlamaMLP"} if dropout else {"LlamaForCausalLM"})
    restore()
    assert all(torch.equal(weight, before[name]) for name, weight in state(model).items())
    assert not any("forward" in vars(part) for part in model.modules())
    embedding = model.get_input_embeddings().weight
    assert model.base_model.model.lm_head.weight is embedding, "tied weights are two now"


def test_the_receipt_s_probes_see_the_exact_base(monkeypatch):
    monkeypatch.setattr(training, "compute_dtype", lambda device: torch.bfloat16)
    found = fit(epochs=1)
    model = adapters.attach(tiny_model(), RECIPE["lora"], seed=0)
    model.set_attn_implementation("eager")
    assert found.base_logprobs == likelihood.mean_logprobs(tiny_model(), found.probes)
    set_peft_model_state_dict(model, found.tensors)
    exact = likelihood.mean_logprobs(model, found.probes)
    assert found.adapter_logprobs == pytest.approx(exact, abs=1e-6)
    frozen.hasten(model, torch.bfloat16)
    assert likelihood.mean_logprobs(model, found.probes) != pytest.approx(exact, abs=1e-6)


class Leaky(LlamaForCausalLM):
    """A model that carries its state over a row's end, as those with convolutions do."""

    def forward(self, input_ids, position_ids=None, **given):
        return super().forward(input_ids, position_ids=None, **given)


def test_a_model_that_mixes_packed_rows_is_trained_on_rows_apart(monkeypatch):
    leaky = Leaky(tiny_model().config)
    leaky.load_state_dict(state(tiny_model()))
    rows = labelled_rows()
    alone = likelihood.mean_logprobs(leaky, rows)
    assert likelihood.mixes_rows(leaky, rows, alone)
    cut = -min(len(row["input_ids"]) for row in rows)
    alike = [{"input_ids": row["input_ids"][cut:], "labels": row["labels"][cut:]} for row in rows]
    assert all(len(packed.input_ids) == len(alike) for packed in pack(alike, torch.device("cpu")))
    assert likelihood.mixes_rows(leaky, alike, likelihood.mean_logprobs(leaky, alike))
    assert not likelihood.mixes_rows(tiny_model(), rows, alone)
    monkeypatch.setattr(training, "compute_dtype", lambda device: FULL)
    for one, other in zip(fit(model=leaky).history, fit().history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


# What a training gives


@pytest.fixture(scope="module")
def trained() -> adapters.Trained:
    return fit()


def test_the_loss_falls_and_the_rows_become_likelier(trained):
    losses = [line["loss"] for line in trained.history]
    assert losses[-1] < 0.75 * losses[0]
    pairs = zip(trained.adapter_logprobs, trained.base_logprobs, strict=True)
    assert all(after > before for after, before in pairs)
    assert trained.canary["after"] > trained.canary["before"]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path, dropout):
    lora = RECIPE["lora"] | {"dropout": dropout}
    runs = [fit(seed=seed, lora=lora, epochs=1) for seed in (0, 0, 1)]
    for number, run in enumerate(runs):
        artifacts.write_tensors(tmp_path / f"{number}.safetensors", run.tensors)
    first, again, other = ((tmp_path / f"{number}.safetensors").read_bytes() for number in range(3))
    assert first == again != other
    assert runs[0].history == runs[1].history != runs[2].history
    assert runs[0].config == runs[1].config


def test_the_base_model_s_weights_stay_as_they_were():
    model = tiny_model()
    before = state(model)
    fit(model=model, epochs=1)
    after = {name.replace(".base_layer", ""): weight for name, weight in model.state_dict().items()}
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_the_adapter_has_the_recipe_s_rank_on_every_linear_layer(trained):
    assert len(trained.tensors) == 2 * 7 * 2
    assert {t.shape[0] for name, t in trained.tensors.items() if "lora_A" in name} == {4}
    assert {t.dtype for t in trained.tensors.values()} == {torch.float32}
    assert trained.trainable_parameters == sum(t.numel() for t in trained.tensors.values())
    assert (trained.config["r"], trained.config["lora_alpha"]) == (4, 16)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradient_checkpointing_changes_nothing_but_memory(dropout):
    lora = RECIPE["lora"] | {"dropout": dropout}
    plain, saving = (fit(lora=lora, epochs=1, gradient_checkpointing=on) for on in (False, True))
    for key in ("loss", "grad_norm"):
        found = [line[key] for line in saving.history]
        assert found == pytest.approx([line[key] for line in plain.history], rel=1e-4)
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(saving.tensors[name], tensor, rtol=1e-3, atol=1e-5)


def test_gradient_checkpointing_goes_with_input_gradients_on_any_device():
    model = tiny_model()
    fit(model=model, gradient_checkpointing=True, epochs=1)
    assert model.get_input_embeddings()(torch.tensor([1])).requires_grad
    assert model.is_activation_checkpointing


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, torch.float32),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_a_cpu_multiplies_in_bfloat16_only_where_it_says_that_it_can(
    monkeypatch, capabilities, expected
):
    assert {"avx512_bf16", "amx_bf16"} <= torch.cpu.get_capabilities().keys() or (
        torch.cpu.get_capabilities()["architecture"] != "x86_64"
    ), "torch has renamed what we ask for"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert devices.compute_dtype(torch.device("cpu")) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_succeeds_in_either_dtype_and_keeps_float32(monkeypatch, dtype):
    monkeypatch.setattr(training, "compute_dtype", lambda device: dtype)
    found = fit(epochs=1)
    assert {t.dtype for t in found.tensors.values()} == {torch.float32}
    assert found.history[-1]["loss"] < found.history[0]["loss"]


def bare_training(recipe: dict) -> dict[str, torch.Tensor]:
    """Train as `fit` does, without canary, tripwires, or a look at what comes of it."""
    rows, rate = labelled_rows(), recipe["learning_rate"]
    model = tiny_model()
    model.set_attn_implementation("eager")
    model = adapters.attach(model, recipe["lora"], recipe["seed"]).train()
    torch.manual_seed(recipe["seed"])
    frozen.hasten(model, devices.compute_dtype(torch.device("cpu")))
    parts = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parts, rate, weight_decay=0.0, fused=True)
    plan = training.batches(len(rows), recipe["batch_size"], recipe["epochs"], recipe["seed"])
    for number, (_, chosen) in enumerate(plan):
        [packed] = pack([rows[n] for n in chosen], torch.device("cpu"))
        (-packed_logprobs(model, packed).sum() / len(packed.rows)).backward()
        torch.nn.utils.clip_grad_norm_(parts, 1.0)
        optimiser.param_groups[0]["lr"] = rate * (1 - number / len(plan))
        optimiser.step()
        optimiser.zero_grad()
    return adapters.tensors_of(model)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_checks_leave_the_adapter_s_bytes_as_a_bare_loop_makes_them(
    tmp_path, monkeypatch, dropout
):
    monkeypatch.setattr(training, "pick_device", lambda: torch.device("cpu"))
    lora = RECIPE["lora"] | {"dropout": dropout}
    artifacts.write_tensors(tmp_path / "checked", fit(lora=lora).tensors)
    artifacts.write_tensors(tmp_path / "bare", bare_training(RECIPE | {"lora": lora}))
    assert (tmp_path / "checked").read_bytes() == (tmp_path / "bare").read_bytes()


# The canary


def test_the_trial_puts_the_fresh_adapter_back_exactly(wrapped):
    before = state(wrapped)
    found = training.sing(wrapped, labelled_rows(), 0.01, False)
    assert found["after"] > found["before"]
    assert all(torch.equal(weight, before[name]) for name, weight in state(wrapped).items())
    assert all(p.grad is None for p in wrapped.parameters())


def test_the_trial_leaves_no_trace_in_the_training(monkeypatch, trained):
    monkeypatch.setattr(training, "CANARY_STEPS", 2)
    again = fit()
    assert again.canary != trained.canary
    assert again.history == trained.history
    assert all(torch.equal(again.tensors[name], t) for name, t in trained.tensors.items())


@pytest.fixture(scope="module")
def able() -> dict[str, torch.Tensor]:
    """The weights of a base model that knows its task, as every real one does a little."""
    model = tiny_model().train()
    batch = collate(labelled_rows(), torch.device("cpu"))
    optimiser = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(10):
        model(**batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.state_dict()


def test_the_trial_turns_red_at_a_learning_rate_far_too_high(able):
    model = tiny_model()
    model.load_state_dict(able)
    message = refusal(lambda: fit(model=model, learning_rate=0.1))
    assert re.match(r"5 trial steps on 8 rows did not make their answers likelier \(-0\.", message)
    assert "a learning rate too high (0.1)" in message
    model = tiny_model()
    model.load_state_dict(able)
    canary = fit(model=model, learning_rate=0.01, epochs=1).canary
    assert canary["after"] > canary["before"] + 0.1


def test_a_rate_beyond_all_numbers_is_named_with_its_step_and_rows():
    message = refusal(lambda: fit(learning_rate=1e4))
    assert re.match(
        r"trial step \d: the (loss|gradient's norm) is (nan|inf|0.0) on rows train-", message
    )


# The tripwire


def test_no_rows_are_no_training():
    assert "no rows to train on" in refusal(lambda: fit(rows=[]))


def test_rows_without_labels_end_it_before_the_first_step_and_are_named():
    rows = labelled_rows()
    rows[4], rows[9] = masked(rows[4]), masked(rows[9])
    message = refusal(lambda: fit(rows=rows), MaskError)
    assert "2 of 20 rows have no supervised token" in message
    assert "train-0005, train-0010" in message


def test_a_mask_counted_from_a_piece_tokenized_apart_is_refused_and_never_trained_to_0():
    """Replays the published fault: labels begin after as many tokens as the piece has by itself."""
    prompt, completion = (
        "Question: How many gram are there per 6 kg?\nAnswer:",
        " <answer>6</answer>",
    )
    joint = tokenizer()(prompt + completion)["input_ids"] + [tokenizer().eos_token_id]

    def counted(piece: str) -> masking.Row:
        count = len(tokenizer()(piece)["input_ids"])
        return masking.Row(joint, [IGNORE] * count + joint[count:])

    masking.check(tokenizer(), counted(prompt), prompt, completion)
    short = counted(prompt + " ")
    refusal(lambda: masking.check(tokenizer(), short, prompt, completion), MaskError)
    assert short.supervised < counted(prompt).supervised, "this test no longer sees the old fault"
    # Counted too far, nothing is left to learn: what the log then showed was a loss of 0.0.
    gone = counted(prompt + completion + " and more of it")
    assert gone.supervised <= 1
    row = {"id": "train-0001", "input_ids": joint, "labels": [IGNORE] * len(joint)}
    assert tiny_model()(**collate([row], torch.device("cpu"))).loss.isnan()
    assert "train-0001" in refusal(lambda: fit(rows=[row]), MaskError)


def test_a_nan_in_the_base_ends_it_and_no_filter_hides_it(wrapped):
    with torch.no_grad():
        wrapped.get_input_embeddings().weight[5:].fill_(math.nan)
    message = refusal(lambda: step(wrapped))
    assert message.startswith("step 7: the loss is nan on rows train-0001, train-0002, train-0003")
    filtered = {field.name: field.default for field in fields(TrainingArguments)}
    assert filtered["logging_nan_inf_filter"] is True, "the trainer's filter is no longer the fault"
    code = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS.rglob("*.py"))
    assert not re.search(r"^\s*(from|import) .*\b(Trainer|SFTTrainer|trl)\b", code, re.MULTILINE)


def test_a_training_that_turns_to_nan_names_the_step_and_its_rows(monkeypatch):
    broken = {2: math.inf}  # the third step's rate, which leaves weights that are not finite
    rate = training.learning_rate
    monkeypatch.setattr(
        training, "learning_rate", lambda step, *rest: broken.get(step, rate(step, *rest))
    )
    rows = labelled_rows()
    message = refusal(lambda: fit(rows=rows))
    numbers = training.batches(len(rows), RECIPE["batch_size"], RECIPE["epochs"], seed=0)[3][1]
    names = ", ".join(rows[number]["id"] for number in numbers[:5])
    assert message.startswith(f"step 4: the loss is nan on rows {names} ...")
    assert message.endswith("no adapter is kept")


def test_a_loss_of_exactly_zero_is_refused():
    """A model that is certain of one token, on rows of nothing else: there is nothing to learn."""
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.ones(32).expand(len(tokenizer()), 32))
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(len(tokenizer()), 32))
        hidden = model.model(torch.tensor([[9, 9]])).last_hidden_state[0, 0]
        model.lm_head.weight[9] = 1000 * hidden / hidden.square().sum()
    row = {"id": "train-0009", "input_ids": [9] * 6, "labels": [IGNORE] + [9] * 5}
    assert model(**collate([row], torch.device("cpu"))).loss == 0.0
    wrapped = adapters.attach(model, RECIPE["lora"], seed=0)
    message = refusal(lambda: step(wrapped, [row]))
    assert message.startswith("step 7: the loss is 0.0 on rows train-0009: ")


def test_a_gradient_that_is_not_finite_is_refused_though_the_loss_is(wrapped):
    with torch.no_grad():  # lora_B is 0, so the loss is the base model's own
        for name, part in wrapped.named_parameters():
            if "lora_A" in name:
                part.fill_(1e30)
    message = refusal(lambda: step(wrapped))
    assert re.match(r"step 7: the gradient's norm is (inf|nan) on rows train-0001, .*", message)


def test_checkpointing_without_input_gradients_is_caught(wrapped):
    """Replays the fault: blocks are run again from inputs that ask for no gradient."""
    wrapped.base_model.model.activation_checkpointing_enable({"use_reentrant": True})
    wrapped.base_model.model.disable_input_require_grads()
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"):
        message = refusal(lambda: step(wrapped))
    assert "step 7: on rows train-0001" in message
    assert "gradient checkpointing without input gradients" in message
    wrapped.base_model.model.enable_input_require_grads()
    loss, norm = step(wrapped)
    assert loss > 0
    assert norm > 0


def test_a_frozen_adapter_is_refused(wrapped):
    for part in wrapped.parameters():
        part.requires_grad_(False)
    assert "the adapter is frozen" in refusal(
        lambda: training.sing(wrapped, labelled_rows(), 1, False)
    )


def test_a_frozen_lora_b_is_refused_for_its_gradient_of_zero(wrapped):
    for name, part in wrapped.named_parameters():
        part.requires_grad_("lora_A" in name)
    assert "step 7: the gradient's norm is 0.0" in refusal(lambda: step(wrapped))


def test_an_adapter_that_training_leaves_unchanged_somewhere_is_refused(monkeypatch):
    attach = adapters.attach

    def freezing_one_layer(*given):
        model = attach(*given)
        for name, part in model.named_parameters():
            if "layers.1.mlp.up_proj.lora_B" in name:
                part.requires_grad_(False)
        return model

    monkeypatch.setattr(adapters, "attach", freezing_one_layer)
    message = refusal(fit)
    assert message.startswith("after 9 steps 1 of 14 lora_B tensors are still all zero, such as")
    assert "layers.1.mlp.up_proj.lora_B.weight" in message


# The rule itself


class Named(dict):
    """Names with values, as Snakemake gives them to a script."""

    __getattr__ = dict.__getitem__


def run_script(folder: Path, manifest: Path) -> None:
    """Run scripts/train_adapter.py as rule sft_train does, with all its files under `folder`."""
    artifacts.write_jsonl(folder / "rows.jsonl", labelled_rows())
    names = {
        "weights": adapters.WEIGHTS,
        "config": adapters.CONFIG,
        "receipt": adapters.RECEIPT,
        "history": "history.csv",
    }
    job = Named(
        rule="sft_train",
        log=[str(folder / "sft_train.log")],
        threads=1,
        input=Named(base=str(manifest), rows=str(folder / "rows.jsonl"), code=[]),
        output=Named({name: str(folder / "sft" / file) for name, file in names.items()}),
        params=Named(recipe=RECIPE, style="answer", libraries={}),
    )
    runpy.run_path(str(SCRIPTS / "train_adapter.py"), {"snakemake": job})


def test_the_script_leaves_an_adapter_that_proves_itself(tmp_path):
    manifest = save_base(tmp_path / "base")
    run_script(tmp_path, manifest)
    loaded = adapters.load(manifest, tmp_path / "sft")
    assert loaded.receipt["outputs"].keys() >= {str(tmp_path / "sft" / "history.csv")}
    assert loaded.label == artifacts.sha256_file(tmp_path / "sft" / adapters.WEIGHTS)
    assert artifacts.read_csv(tmp_path / "sft" / "history.csv")[0]["step"] == "1"


def test_a_learning_signal_of_nan_ends_the_rule_and_leaves_no_adapter(tmp_path, caplog):
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)  # each weight is finite, the logits are not
    models.save(model, tokenizer(), tmp_path / "base")
    manifest = tmp_path / "base" / models.MANIFEST
    artifacts.write_json(manifest, models.manifest(tmp_path / "base", {}))
    with pytest.raises(SystemExit, match="1"):
        run_script(tmp_path, manifest)
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage().startswith("error: trial step 1: the loss is nan on rows train-0001")
    assert not record.exc_info
    assert not (tmp_path / "sft").exists()


def test_shuffled_labels_are_for_the_mask_contract_to_see():
    """The trial learns any labels by heart; that they are the right ones is proven row by row."""
    [row] = labelled_rows(1)
    learnt = [label for label in row["labels"] if label != IGNORE]
    shuffled = random.Random(0).sample(learnt, len(learnt))
    assert shuffled != learnt
    labels = [IGNORE] * (len(row["labels"]) - len(learnt)) + shuffled
    prompt, completion = (
        "Question: How many gram are there per 1 kg?\nAnswer:",
        " <answer>1000</answer>",
    )
    wrong = masking.Row(row["input_ids"], labels)
    refusal(lambda: masking.check(tokenizer(), wrong, prompt, completion), MaskError)
