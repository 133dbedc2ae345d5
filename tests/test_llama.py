"""What pretrains the embedded model gives what transformers gives; its Muon is that of torch."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain import llama, muon

HEADS = {"one each": (4, 4), "shared": (4, 2), "all share": (4, 1)}


def model(heads=4, kv_heads=2):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.2,  # so large that no part is too small to be seen
    )
    return LlamaForCausalLM(config).train()


def rows():
    return torch.randint(0, 64, (3, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS.values(), ids=HEADS)
def test_loss_and_gradients_are_those_of_transformers(heads, kv_heads):
    theirs, ids = model(heads, kv_heads), rows()
    loss = theirs(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    ours = llama.Llama(theirs)
    rounded = ours.rounded(torch.float32)
    ours.loss(rounded, ids).backward()
    assert ours.loss(rounded, ids).item() == pytest.approx(loss.item(), rel=1e-6)
    expected = theirs.get_input_embeddings().weight.grad
    torch.testing.assert_close(ours.embedding.grad, expected, rtol=1e-4, atol=1e-6)
    for name, paths in llama.FUSED.items():
        for number, layer in enumerate(theirs.model.layers):
            parts = [layer.get_submodule(path).weight.grad for path in paths]
            torch.testing.assert_close(
                rounded[name].grad[number], torch.cat(parts), rtol=1e-4, atol=1e-6
            )


def test_weights_go_there_and_back_unchanged():
    before, after = model(), model()
    ours = llama.Llama(before)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.zero_()
    after.model.norm.weight.data.fill_(1)
    for layer in after.model.layers:
        layer.input_layernorm.weight.data.fill_(1)
        layer.post_attention_layernorm.weight.data.fill_(1)
    ours.write_to(after)
    for (name, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(one, other), name


SHAPES = pytest.mark.parametrize("shape", [(48, 32), (32, 48), (32, 32)], ids=str)


@SHAPES
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_the_iterations_take_all_singular_values_but_the_smallest_to_about_1(shape, scale):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    values = torch.linspace(1, 0.05, 32)
    matrices = scale * u @ torch.diag(values) @ v
    exact = u @ v
    found = muon.orthogonal(matrices)
    torch.testing.assert_close(
        u.mT @ found @ v.mT, torch.eye(32).expand(3, -1, -1), rtol=0, atol=0.1
    )
    assert torch.allclose(
        torch.linalg.matrix_norm(found), torch.linalg.matrix_norm(exact), rtol=0.1
    )
    rounded = muon.orthogonal(matrices.bfloat16()).float()
    assert ((rounded - found).norm() / found.norm()) < 0.05
    assert not muon.orthogonal(torch.zeros_like(matrices)).any()


@SHAPES
def test_muon_takes_the_steps_of_torchs(shape):
    """Matrices that stand in one of the stack, and those of two layers, each by itself.

    To the direction: torch's iterations leave singular values between 0.7 and 1.2.
    """
    torch.manual_seed(0)
    single = [torch.nn.Parameter(torch.zeros(*shape)) for _ in range(4)]
    stack = torch.stack([torch.cat([p.detach() for p in single[i : i + 2]]) for i in (0, 2)])
    theirs = torch.optim.Muon(single, lr=0.02, momentum=muon.MOMENTUM, weight_decay=0.01)
    ours = muon.Muon({"a": stack}, {"a": [shape[0], shape[0]]}, torch.bfloat16)
    for _ in range(3):
        for parameter in single:
            parameter.grad = torch.randn_like(parameter)
        gradient = [torch.cat([p.grad for p in single[i : i + 2]]) for i in (0, 2)]
        theirs.step()
        ours.step({"a": torch.stack(gradient)}, 0.02)
    moved = stack.flatten(0, 1).split(shape[0])
    for one, other in zip(single, moved, strict=True):
        alike = torch.nn.functional.cosine_similarity(one.detach().flatten(), other.flatten(), 0)
        assert alike > 0.95
        assert 0.8 < one.detach().norm() / other.norm() < 1.2


def test_muon_shrinks_weights_as_torchs_does():
    torch.manual_seed(0)
    start = torch.randn(2, 48, 32)
    single = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    theirs = torch.optim.Muon(single, lr=0.5, weight_decay=muon.WEIGHT_DECAY)
    ours = muon.Muon({"a": start.clone()}, {"a": [48]}, torch.float32)
    for parameter in single:
        parameter.grad = torch.zeros_like(parameter)
    theirs.step()
    ours.step({"a": torch.zeros_like(start)}, 0.5)
    torch.testing.assert_close(ours.matrices["a"], torch.stack([p.detach() for p in single]))
    assert not torch.equal(ours.matrices["a"], start)
