"""What holds for every rule's script: one log, one writer, and an end that explains itself.

And for the folder they run in: one Snakemake at a time, whose locks end with it.
"""

import ctypes
import errno
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from posttrain import artifacts, logs
from posttrain.errors import BusyError, PosttrainError
from posttrain.logs import log

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
ADVICE = {
    errno.ENOSPC: "make room and start again",
    errno.EDQUOT: "make room and start again",
    errno.EROFS: "make the folder writable and start again",
    errno.EACCES: "make it readable and writable for you and start again",
    errno.EPERM: "make it readable and writable for you and start again",
    errno.EIO: "the disk is failing or was taken away: see to it and start again",
    errno.EMFILE: "allow more open files (ulimit -n 1024) and start again",
    errno.ENFILE: "the machine's limit of open files is reached: close some and start again",
}
OUT_OF_MEMORY = (
    "out of memory: %s; run one stage at a time, or write in the config a smaller batch_size "
    "(rollouts, evaluate), gradient_checkpointing: true (sft, rft) or a smaller rows_per_step "
    "(embedded)"
)

PATIENCE = 5.0  # seconds in which a run that was told to end may do so
_held = ExitStack()  # what this process holds until it ends


@contextmanager
def running(log_path: str) -> Iterator[None]:
    """Run a rule's script: logged to `log_path`, never twice at once, never without Snakemake.

    What a person or the machine is to blame for ends the process with status 1 and one line; an
    interrupt with the status that the shell expects; any other exception is our fault and takes its
    traceback along. Finished outputs and checkpoints stay, and the next run goes on from them.
    """
    _end_with_parent()
    signal.signal(signal.SIGTERM, _interrupt)
    lock = Path(log_path).with_name(f".{Path(log_path).name}.lock")
    try:
        logs.start(log_path)
        with artifacts.locked(lock, patience=0) as held:
            if held is not False:
                yield
                return
        log.info("another process does the same, or did and was not yet killed: waiting for it")
        with artifacts.locked(lock):
            yield
    except Exception as error:
        line = explained(error)
        log.error("error: %s", line or error, exc_info=line is None)
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        log.error("stopped by %s; the next run goes on from here", signal.Signals(number).name)
        sys.exit(128 + number)


@cache
def hold_folder(folder: Path = Path(".snakemake")) -> None:
    """Hold the folder that Snakemake runs in until this process ends, however it ends.

    Snakemake's own locks outlive a kill: those found by whoever holds the folder are nobody's, and
    are removed.
    Raises: BusyError if another run holds it.
    """
    held = _held.enter_context(artifacts.locked(folder / "run.lock", PATIENCE))
    if held is False:
        raise BusyError(
            "another snakemake is at work in this folder; wait for it, or start this one in a copy"
        )
    if held and (stale := list((folder / "locks").glob("*.lock"))):
        artifacts.remove(stale)
        print("The run before was killed; this one goes on from where it was.", file=sys.stderr)


def explained(error: BaseException) -> str | None:
    """Return the line that tells a person what to do, or None where the fault is ours."""
    if isinstance(error, PosttrainError):
        return str(error)
    # The safetensors library tells of a disk's fault in words alone.
    in_words = re.search(r"\(os error (\d+)\)|Os \{ code: (\d+)", str(error))
    number = int(in_words[1] or in_words[2]) if in_words else getattr(error, "errno", None)
    if number in ADVICE:
        place = getattr(error, "filename", None)
        return f"{f'{place}: ' if place else ''}{os.strerror(number)}: {ADVICE[number]}"
    is_cuda = type(error).__name__ == "OutOfMemoryError"
    if is_cuda or isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return OUT_OF_MEMORY % (str(error).splitlines() or ["no more to be had"])[0]
    return None


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)


def _end_with_parent() -> None:
    """Have this process killed when its parent dies: an orphan would compute for nobody.

    Linux alone can do so; elsewhere the lock keeps an orphan's successor waiting for it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
