"""Logging and progress of a rule: one log file each, one line for a person's mistake."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from posttrain.errors import PosttrainError

log = logging.getLogger("posttrain")


@contextmanager
def rule_log(path: str) -> Iterator[None]:
    """Log to the file at `path` and to the terminal while the rule's script runs.

    A `PosttrainError` ends the process with status 1 and its message alone, here and in the log;
    any other exception is our fault and takes its traceback along.
    """
    file = logging.FileHandler(path, mode="w", encoding="utf-8")
    terminal = logging.StreamHandler()
    terminal.addFilter(lambda record: not getattr(record, "has_bar", False))
    sinks: list[logging.Handler] = [file, terminal]
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s", handlers=sinks)
    # Their deprecations are for us, not for the person who runs a rule.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|torch")
    # Libraries may inform us of a request or a kernel; only what concerns the result is shown.
    for noisy in ("httpx", "httpcore", "urllib3", "torch"):
        logging.getLogger(noisy).setLevel("WARNING")
    try:
        yield
    except Exception as error:
        is_ours = not isinstance(error, PosttrainError)
        log.error("error: %s", error, exc_info=is_ours)
        sys.exit(1)


class Progress:
    """A bar with rate and time left on a terminal; a plain line every tenth in the log file.

    Use as a context manager and call `advance(n)`; `note` is shown beside the count.
    """

    def __init__(self, total: int, what: str, unit: str) -> None:
        self.total, self.what, self.unit = total, what, unit
        self.done = 0
        self.began = time.monotonic()
        self.bar = tqdm(total=total, desc=what, unit=f" {unit}", disable=None, leave=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.close()

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more units done and, at every tenth of the whole, log one line."""
        before, self.done = self.done, self.done + count
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(count)
        if before * 10 // self.total < self.done * 10 // self.total:
            seconds = max(time.monotonic() - self.began, 1e-9)
            rate = self.done / seconds
            left = (self.total - self.done) / rate
            log.info(
                "%s: %d of %d %s, %.1f/s, %.0f s left %s",
                *(self.what, self.done, self.total, self.unit, rate, left, note),
                extra={"has_bar": not self.bar.disable},
            )
