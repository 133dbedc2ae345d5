"""Where a rule computes, and in which numbers: asked of the machine, never assumed."""

import ctypes
import errno
import resource
import socket
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from posttrain.logs import log

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FULL = torch.float32  # in which weights are kept, merged and probed
# <malloc.h>: how much free memory is kept at the heap's end, and from which size on pieces are
# mapped apart. Bytes; the latter is the most that glibc takes.
KEPT_MEMORY = {"M_TRIM_THRESHOLD": (-1, 512 << 20), "M_MMAP_THRESHOLD": (-3, 32 << 20)}

_held: list[socket.socket] = []


def take_free(names: Sequence[str]) -> int | None:
    """Return the place of the first device that no other process holds, and hold it; else None.

    A device is held until the process ends, however it ends: what holds it is a socket bound to
    the device's name in Linux's abstract namespace, which leaves no file behind.
    """
    for place, name in enumerate(names):
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0posttrain device {name}")
        except OSError as error:
            holder.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            _held.append(holder)
            return place
    return None


@cache
def pick_device() -> torch.device:
    """Return a GPU that no other job has, as long as this process lives, else the CPU; log which.

    Only GPUs that CUDA_VISIBLE_DEVICES leaves in sight count: a cluster sets it for its jobs,
    Snakemake by itself does not. With more jobs than GPUs, those that come late share the first.
    """
    if not torch.cuda.is_available():
        log.info("no GPU found: computing on the CPU")
        return torch.device("cpu")
    count = torch.cuda.device_count()
    place = take_free([str(torch.cuda.get_device_properties(n).uuid) for n in range(count)])
    shared = ", which another job has too: none of the GPUs here is free" if place is None else ""
    device = torch.device("cuda", place or 0)
    torch.cuda.set_device(device)
    log.info("computing on GPU %d of %d%s", device.index + 1, count, shared)
    return device


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
    """Compute with so many threads: their number decides the order of sums, and so bytes.

    What an operation's result lay in is kept for the next. glibc gives large pieces back at once,
    and the kernel clears them page by page for the next result: up to 20 ms of processor time in a
    pretraining step of 138.
    """
    torch.set_num_threads(threads)
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, size in KEPT_MEMORY.values():
            libc.mallopt(option, size)


def ready(model: "PreTrainedModel") -> "PreTrainedModel":
    """Return `model` on the device and in the dtype it is to generate in.

    Weights alone change their dtype: rounded to bfloat16, the frequencies of a Llama's positions
    turn the 150th token by 0.2 radians too much or too little.
    """
    device = pick_device()
    dtype = compute_dtype(device)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model.to(device).eval()


def peak_memory() -> int:
    """Return the most bytes that this process has had in use: on its GPU, if it took one."""
    if pick_device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def describe(threads: int) -> dict[str, Any]:
    """Return what a computation's bytes hang on besides its inputs: device, dtype, threads."""
    device = pick_device()
    is_cpu = device.type == "cpu"
    name = torch.backends.cpu.get_cpu_capability() if is_cpu else torch.cuda.get_device_name()
    dtype = str(compute_dtype(device)).removeprefix("torch.")
    return {"device": f"{device.type} {name}", "dtype": dtype, "threads": threads}
