"""What becomes of freed memory on each side, as in a process of its own.

Our scripts keep it (`devices.use_threads`); a peer's process leaves that to glibc, which maps what
is larger than the largest piece freed so far, 32 MiB at most, and gives back twice that.
"""

import ctypes
from collections.abc import Callable, Mapping

import torch

from posttrain.devices import KEPT_MEMORY, use_threads

# The most that glibc comes to by itself, in bytes.
LEFT_TO_GLIBC = {"M_TRIM_THRESHOLD": 64 << 20, "M_MMAP_THRESHOLD": 32 << 20}


def as_alone(sides: Mapping[str, Callable[[], float]]) -> dict[str, Callable[[], float]]:
    """Return `sides`, each to be called with freed memory as it has it; ours is named "ours"."""

    def call(name: str) -> float:
        leave_to_glibc()
        if name == "ours":
            use_threads(torch.get_num_threads())
        return sides[name]()

    return {name: lambda name=name: call(name) for name in sides}


def leave_to_glibc() -> None:
    """Give back what is free now, and from now on as a peer's process does."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, (number, _) in KEPT_MEMORY.items():
            libc.mallopt(number, LEFT_TO_GLIBC[option])
        libc.malloc_trim(0)
