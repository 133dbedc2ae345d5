"""Stop a small run at random moments, again and again, and see that nothing is lost by it.

    python tests/chaos.py --kills 100 --terms 20 --interrupts 20 --faults 30

Signals go to the running script, to snakemake, or to both. After each the plain command is given
again, until the run is complete; then every file under results/ and resources/ must have the bytes
of a run that nobody disturbed. What a finished job had written must have stayed, and no finished
job may have run again. A fault is an error of the disk in one script: it must end in one line, and
leave all other files as they were.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from chain_for_tests import ROOT, TINY, Chain, fresh_clone

SNAKEMAKE = (
    str(Path(sys.executable).parent / "snakemake"),
    *("--cores", "1", "--resources", "gpu=1", "--configfile", TINY),
)
MADE = ("results", "resources")
LONGEST = 900  # seconds until a run counts as stuck
# Seconds from the start of a run to the signal: most of them enough to come further than before.
SOONEST, LATEST = 1.0, 20.0
WHOLE = re.compile(r"\(100%\) done|Nothing to be done")
TARGETS = ("script", "snakemake", "both")
FAULTS = (  # errno, the call that gives it, and what its line must say
    ("ENOSPC", "open", "No space left on device: make room"),
    ("ENOSPC", "fsync", "No space left on device: make room"),
    ("EIO", "fsync", "Input/output error: the disk is failing"),
    ("EIO", "replace", "Input/output error: the disk is failing"),
    ("EROFS", "open", "Read-only file system: make the folder writable"),
    ("EROFS", "replace", "Read-only file system: make the folder writable"),
)
STAGES = {  # rule -> an output of it
    "questions": "results/questions/train.jsonl",
    "tokenize_sft": "results/tokenized/sft.jsonl",
    "sft_train": "results/sft/adapter_model.safetensors",
    "generate_rft_data": "results/rollouts/round1/shard_1_of_1.jsonl",
    "gather_rollouts": "results/rollouts/round1.jsonl",
    "select_rft_data": "results/rft_data/round1.jsonl",
    "rft_train": "results/rft/round1/adapter_model.safetensors",
    "select_round": "results/rft/adapter_model.safetensors",
    "evaluate": "results/sft_eval.csv",
    "summary": "results/summary.csv",
    "verdicts": "results/verdicts.csv",
}


def hashes(chain: Chain) -> dict[str, str]:
    """Return path -> sha256 of every file that runs have made."""
    files = (path for kind in MADE for path in (chain / kind).rglob("*") if path.is_file())
    return {
        str(path.relative_to(chain.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


def refuse_different(now: dict[str, str], wanted: dict[str, str]) -> None:
    """Raise AssertionError, naming the files, if two runs did not make the same ones."""
    differing = {path for path in wanted | now if wanted.get(path) != now.get(path)}
    assert not differing, f"not as in the run that nobody disturbed: {sorted(differing)}"


def outputs_of_jobs(text: str) -> tuple[set[str], set[str]]:
    """Read off what Snakemake said: outputs of the jobs it started, and of those it finished."""
    block = re.compile(r"^(?:local)?(?:rule|checkpoint) \w+:\n((?: {4}.*\n)*)", re.MULTILINE)
    by_job = {}
    for body in block.findall(text):
        listed = re.search(r"^ {4}output: (.*)$", body, re.MULTILINE)
        number = re.search(r"^ {4}jobid: (\d+)$", body, re.MULTILINE)
        if listed and number:
            by_job[number[1]] = set(listed[1].split(", "))
    finished = re.findall(r"^Finished jobid: (\d+)", text, re.MULTILINE)
    started = set().union(*by_job.values())
    return started, set().union(*(by_job.get(number, set()) for number in finished))


class Run:
    """One call of snakemake in a chain's folder, in a session of its own."""

    def __init__(self, chain: Chain) -> None:
        self.log = chain / "said.txt"
        with self.log.open("w", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                SNAKEMAKE,
                cwd=chain.folder,
                env=os.environ | {"TQDM_DISABLE": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def strike(self, number: signal.Signals, target: str, after: float) -> str | None:
        """Send a signal when `after` seconds are over; return whom it met, None if nobody."""
        until = time.monotonic() + after
        while self.process.poll() is None:
            time.sleep(0.05)
            try:
                snakemake = psutil.Process(self.process.pid)
                scripts = _scripts(snakemake)
                # Between two scripts the signal waits for the next.
                if time.monotonic() < until or (target == "script" and not scripts):
                    continue
                names = [Path(script.cmdline()[-1]).name.split(".")[1] for script in scripts]
                if target == "both":
                    os.killpg(self.process.pid, number)
                for process in {"script": scripts, "snakemake": [snakemake]}.get(target, []):
                    process.send_signal(number)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
            return " ".join([target, "at", *(names or ["no script"])])
        return None

    def end(self) -> str:
        """Wait until snakemake and all that it started are gone; return what was said."""
        self.process.wait(LONGEST)
        until = time.monotonic() + 5
        while left := self._left():
            assert time.monotonic() < until, f"{left} outlive their snakemake"
            time.sleep(0.05)
        return self.log.read_text(encoding="utf-8")

    def _left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and os.getsid(process.pid) == self.process.pid:
                    found.append(process)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        return found


def _scripts(snakemake: psutil.Process) -> list[psutil.Process]:
    children = snakemake.children(recursive=True)
    return [child for child in children if ".snakemake/scripts/" in " ".join(child.cmdline())]


def strike_often(
    chain: Chain, wanted: dict[str, str], signals: list[signal.Signals], chance: random.Random
) -> tuple[Counter[str], int]:
    """Strike runs until every signal has met somebody; return who was met, and runs completed.

    Raises: AssertionError at the first thing lost, made twice, or different in the end.
    """
    met: Counter[str] = Counter()
    finished: set[str] = set()
    completed = 0
    is_whole = False
    while signals or not is_whole:
        run = Run(chain)
        hit = None
        if signals:
            after = chance.uniform(SOONEST, LATEST)
            hit = run.strike(signals[0], chance.choice(TARGETS), after)
        text = run.end()
        is_whole = run.process.returncode == 0 and bool(WHOLE.search(text))
        if hit:
            met[f"{signals.pop(0).name} to {hit}"] += 1
            print(f"{len(signals)} to go: {hit} after {after:.1f} s", flush=True)
        started, done = outputs_of_jobs(text)
        assert not started & finished, f"made twice: {started & finished}\n{text}"
        finished |= done
        now = hashes(chain)
        for path in finished - {"results/passed.csv"}:
            assert now.get(path) == wanted[path], f"{path} of a finished job is lost\n{text}"
        if is_whole:
            refuse_different(now, wanted)
            assert not list((chain / "checkpoints").rglob("*.safetensors"))
            completed += 1
            finished = set()
            for folder in (*MADE, ".snakemake", "logs", "checkpoints"):
                shutil.rmtree(chain / folder, ignore_errors=True)
        else:
            assert hit, f"a run that nobody struck did not complete:\n{text}"
    return met, completed


def fail_often(
    chain: Chain, wanted: dict[str, str], count: int, chance: random.Random
) -> Counter[str]:
    """Have the disk fail one script of a complete run, so many times; return what failed where.

    Raises: AssertionError where a fault was not told in one line, or harmed another stage's files.
    """
    met: Counter[str] = Counter()
    raised = chain / "faults_raised.txt"
    while met.total() < count:
        name, call, line = FAULTS[met.total() % len(FAULTS)]
        rule = chance.choice(sorted(STAGES))
        fault = f"{name} {call} {chance.randint(1, 3)}"
        raised.unlink(missing_ok=True)
        before = hashes(chain)
        failed = subprocess.run(
            [*SNAKEMAKE, "--forcerun", rule, "--until", rule],
            cwd=chain.folder,
            env=os.environ
            | {"PYTHONPATH": str(ROOT / "tests" / "faults"), "TQDM_DISABLE": "1"}
            | {"FAULT": fault, "FAULTS_RAISED": str(raised)},
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        text = failed.stdout + failed.stderr
        if raised.exists():  # else the script does not write so many files
            assert failed.returncode != 0, text
            said = re.findall(r"^[\d-]+ [\d:,]+ error: (.*)$", text, re.MULTILINE)
            assert said, text
            assert all(line in one for one in said), said
            assert "Traceback" not in text, text
            own = outputs_of_jobs(text)[0]
            after = hashes(chain)
            for path in wanted:
                if path not in own and not path.startswith("resources/"):
                    assert after.get(path) == before[path], f"{path} harmed by {fault} in {rule}"
            met[f"{name} at {call} in {rule}"] += 1
            print(f"{count - met.total()} to go: {fault} in {rule}", flush=True)
        mended = Run(chain)
        text = mended.end()
        assert mended.process.returncode == 0, text
        refuse_different(hashes(chain), wanted)
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    for what, count in (("kills", 100), ("terms", 20), ("interrupts", 20), ("faults", 30)):
        parser.add_argument(f"--{what}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chance = random.Random(chosen.seed)
    signals = [signal.SIGKILL] * chosen.kills + [signal.SIGTERM] * chosen.terms
    signals += [signal.SIGINT] * chosen.interrupts
    chance.shuffle(signals)
    with tempfile.TemporaryDirectory() as folder:
        chain = fresh_clone(Path(folder) / "workflow")
        subprocess.run(SNAKEMAKE, cwd=chain.folder, check=True, capture_output=True)
        wanted = hashes(chain)
        print(f"undisturbed: {len(wanted)} files", flush=True)
        faults = fail_often(chain, wanted, chosen.faults, chance)
        for kind in (*MADE, ".snakemake", "logs"):
            shutil.rmtree(chain / kind)
        met, completed = strike_often(chain, wanted, signals, chance)
    for what, count in sorted((met + faults).items()):
        print(f"{count:4} {what}")
    print(
        f"{met.total()} signals over {completed} runs, {faults.total()} faults: every run ended "
        f"with the same {len(wanted)} files, nothing finished was lost or made again"
    )


if __name__ == "__main__":
    main()
