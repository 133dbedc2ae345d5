"""Logging and progress of a rule, on the terminal and in a log file of its own."""

import logging
import time
import warnings

from tqdm import tqdm

log = logging.getLogger("posttrain")


def start(path: str) -> None:
    """Log to a new file at `path` and to the terminal from now on."""
    file = logging.FileHandler(path, mode="w", encoding="utf-8")
    terminal = logging.StreamHandler()
    terminal.addFilter(lambda record: not getattr(record, "has_bar", False))
    sinks: list[logging.Handler] = [file, terminal]
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s", handlers=sinks)
    # Their deprecations are for us, not for the person who runs a rule.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|torch")
    # Libraries may inform us of a request or a kernel; only what concerns the result is shown.
    for noisy in ("httpx", "httpx2", "httpcore", "urllib3", "torch"):
        logging.getLogger(noisy).setLevel("WARNING")


class Progress:
    """A bar with rate and time left on a terminal; a plain line every tenth in the log file.

    Use as a context manager and call `advance(n)`; `note` is shown beside the count. `done` units
    were done by a job before, and say nothing about this one's rate.
    """

    def __init__(self, total: int, what: str, unit: str, done: int = 0) -> None:
        self.total, self.what, self.unit = total, what, unit
        self.done = self.before = done
        self.began = time.monotonic()
        shown = {"desc": what, "unit": f" {unit}", "disable": None, "leave": False}
        self.bar = tqdm(total=total, initial=done, **shown)
        if done:
            log.info("%s: going on after %d of %d %s", what, done, total, unit)

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
            rate = (self.done - self.before) / seconds
            left = (self.total - self.done) / rate
            log.info(
                "%s: %d of %d %s, %.1f/s, %.0f s left %s",
                *(self.what, self.done, self.total, self.unit, rate, left, note),
                extra={"has_bar": not self.bar.disable},
            )
