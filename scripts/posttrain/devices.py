"""Where a rule computes, and in which numbers: asked of the machine, never assumed."""

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FULL = torch.float32  # in which weights are kept, merged and probed


def pick_device() -> torch.device:
    """Return the first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where `device` multiplies in it natively, else float32.

    On a CPU that takes AVX512-BF16 or AMX: elsewhere bfloat16 runs, but is emulated and slower.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu.get_capabilities()
        native = has.get("avx512_bf16", False) or has.get("amx_bf16", False)
    return torch.bfloat16 if native else torch.float32


def use_threads(threads: int) -> None:
    """Compute with so many threads: their number decides the order of sums, and so bytes."""
    torch.set_num_threads(threads)


def ready(model: "PreTrainedModel") -> "PreTrainedModel":
    """Return `model` on the device and in the dtype it is to generate in."""
    device = pick_device()
    return model.to(device=device, dtype=compute_dtype(device)).eval()


def describe(threads: int) -> dict[str, Any]:
    """Return what a computation's bytes hang on besides its inputs: device, dtype, threads."""
    device = pick_device()
    is_cpu = device.type == "cpu"
    name = torch.backends.cpu.get_cpu_capability() if is_cpu else torch.cuda.get_device_name()
    dtype = str(compute_dtype(device)).removeprefix("torch.")
    return {"device": f"{device.type} {name}", "dtype": dtype, "threads": threads}
