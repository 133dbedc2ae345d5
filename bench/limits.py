"""What the machine can do at most, and what a stage asks of it at least."""

import time
from typing import TYPE_CHECKING

import torch

from posttrain import devices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices
COPIED = 2**28  # bytes


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _best_seconds(call, device: torch.device, times: int) -> float:
    """Return the least time of `times` calls: a limit is what can be reached."""
    found = []
    for _ in range(times + 1):  # the first is a warm-up
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def gemm_gflops() -> float:
    """Return the rate of a large product in the dtype that stages compute in, in GFLOP/s."""
    device = devices.pick_device()
    side = SIDE[device.type]
    a = torch.randn(side, side, device=device).to(devices.compute_dtype(device))
    return 2 * side**3 / _best_seconds(lambda: a @ a, device, 8) / 1e9


def copy_gigabytes() -> float:
    """Return the bandwidth of a copy in GB/s, bytes read and bytes written counted."""
    device = devices.pick_device()
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / _best_seconds(lambda: target.copy_(source), device, 5) / 1e9


def gflop(
    model: "PreTrainedModel", tokens: float, predicted: float, pairs: float, passes: int
) -> float:
    """Return the work of a model in GFLOP, without padding, as its utilisation is reckoned.

    The products of its linear layers and of attention, the latter not halved for being causal; no
    optimiser's. Source: Chowdhery et al. 2022 (PaLM, arXiv 2204.02311), appendix B.

    Args: tokens, read; predicted, for which the vocabulary is needed; pairs, of tokens in one row,
        (i, j) and (j, i); passes, 1 forward, 2 with the gradient of activations, 3 with that of
        weights too.
    """
    head, config = model.get_output_embeddings(), model.config
    inner = sum(
        layer.weight.numel()
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    )
    linear = passes * (inner * tokens + head.weight.numel() * predicted)
    # Scores and mix; backwards, either has a gradient for both of its factors.
    attended = 2 * config.num_hidden_layers * config.hidden_size * pairs
    return 2 * (linear + attended * (1 if passes == 1 else 3)) / 1e9
