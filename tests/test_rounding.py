"""What an adapter adds to weights of bfloat16 is still there once they are bfloat16 again."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain import rounding

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def model_of(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).to(dtype).to(torch.float32)


def short_training(weight: torch.Tensor) -> torch.Tensor:
    """Return what LoRA adds after two steps at 2e-4: less than half a step of most weights."""
    torch.manual_seed(1)
    into = torch.empty(4, weight.shape[1]).uniform_(-0.03, 0.03)
    return 4 * torch.full((weight.shape[0], 4), 3e-4) @ into


def kept(before: torch.Tensor, added: torch.Tensor, after: torch.Tensor) -> float:
    """Return the share of `added` that stands in bfloat16 weights."""
    change = after.detach().bfloat16().float() - before
    return float((change * added).sum() / added.square().sum())


def test_a_short_training_is_kept_where_the_nearest_would_lose_it():
    model = model_of(torch.bfloat16)
    weight = model.model.layers[0].mlp.up_proj.weight
    before, added = weight.detach().clone(), short_training(weight)
    weight.data += added
    merged = weight.detach().clone()
    assert kept(before, added, merged) < 0.85, "this test no longer sees the old fault"
    rounding.spread(model)
    assert kept(before, added, weight) == pytest.approx(1, abs=0.05)
    assert rounding.is_bfloat16(weight)
    step = torch.finfo(torch.bfloat16).eps * merged.abs()
    assert ((weight - merged).abs() <= step).all(), "more than a neighbour away"
    assert (weight != before).any()


def test_what_no_adapter_touched_stays():
    model = model_of(torch.bfloat16)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.model.layers[0].mlp.up_proj.weight.data += 1e-5
    rounding.spread(model)
    changed = [
        name for name, one in model.state_dict().items() if not torch.equal(one, before[name])
    ]
    assert changed == ["model.layers.0.mlp.up_proj.weight"]


def test_the_same_model_gives_the_same_weights():
    models = [model_of(torch.bfloat16) for _ in range(2)]
    for model in models:
        model.model.layers[0].mlp.up_proj.weight.data += 1e-5
        rounding.spread(model)
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_of_finer_weights_is_left_as_it_is():
    """Its weights lie anywhere between two steps: the nearest loses nothing on average."""
    model = model_of(torch.float32)
    weight = model.model.layers[0].mlp.up_proj.weight
    before, added = weight.detach().clone(), short_training(weight)
    weight.data += added
    merged = {name: one.clone() for name, one in model.state_dict().items()}
    rounding.spread(model)
    assert all(torch.equal(one, merged[name]) for name, one in model.state_dict().items())
    change = weight.detach().bfloat16().float() - before.bfloat16().float()
    assert float((change * added).sum() / added.square().sum()) == pytest.approx(1, abs=0.1)
