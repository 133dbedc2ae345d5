"""What each kind of change makes Snakemake run again, beside what it should: a table.

    python tests/changes.py [FOLDER]

FOLDER holds a finished run of tests/tiny.yaml, and is made if it is not there. Each change is made
to it, planned by a dry run, and taken back. Within one invocation Snakemake runs exactly what it
plans.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from chain_for_tests import TINY, Chain, fresh_clone

ARGUMENTS = ("--cores", "1", "--resources", "gpu=1", "--configfile", TINY)
EVALUATIONS = {f"evaluate {model}" for model in ("base", "cot", "sft", "rft")}
GATHERING = {"summary", "verdicts", "comparisons", "breakdown"}
# job -> the jobs that read what it makes
READERS = {
    "base_model": {"tokenize_sft", "sft_train", "generate_rft_data", "tokenize_rft", "rft_train"}
    | EVALUATIONS,
    "questions": {"tokenize_sft", "generate_rft_data", "ledger", "breakdown"} | EVALUATIONS,
    "tokenize_sft": {"sft_train"},
    "sft_train": {"generate_rft_data", "evaluate sft"},
    "generate_rft_data": {"gather_rollouts"},
    "gather_rollouts": {"select_rft_data", "ledger"},
    "select_rft_data": {"tokenize_rft", "ledger", "select_round", "gate"},
    "ledger": {"gate"},
    "tokenize_rft": {"rft_train", "select_round"},
    "rft_train": {"select_round"},
    "select_round": {"evaluate rft", "gate"},
    "split_questions": {"generate_rft_data", "evaluate_held_out", "gate"},
    "evaluate_held_out": {"select_round", "gate"},
    **{evaluation: GATHERING for evaluation in (*EVALUATIONS, "evaluate mine")},
    "comparisons": {"gate"},
    "breakdown": {"gate"},
    "summary": {"verdicts", "gate"},
    "verdicts": {"gate"},
    "gate": set(),
}
ALL = set(READERS) - {"evaluate mine", "split_questions", "evaluate_held_out"}


@dataclass(frozen=True)
class Change:
    """A change, and the jobs that must run again because of it alone; their readers follow."""

    what: str
    first: set[str]
    settings: dict[str, Any] = field(default_factory=dict)
    made: Callable[[Chain], AbstractContextManager[Any]] = lambda chain: nullcontext()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> set[str]:
        """The jobs that must run again."""
        found: set[str] = set()
        waiting = set(self.first)
        while waiting:
            job = waiting.pop()
            found.add(job)
            waiting |= READERS[job] - found
        return found


def line_in(path: str) -> Callable[[Chain], AbstractContextManager[None]]:
    """Return what adds a line of comment to a file for a while."""
    return lambda chain: chain.with_line(path, "# changed")


def without(path: str) -> Callable[[Chain], AbstractContextManager[None]]:
    """Return what takes a file away for a while."""
    return lambda chain: chain.without(path)


@contextmanager
def touched(chain: Chain, *patterns: str) -> Iterator[None]:
    """Give files a new date."""
    for pattern in patterns:
        files = list(chain.folder.glob(pattern))
        assert files, pattern
        for file in files:
            os.utime(file)
    yield


@contextmanager
def clock_set_back(chain: Chain) -> Iterator[None]:
    """Give what was made last the oldest date, as a clock that was set back meanwhile does."""
    made = sorted(
        (path for path in (chain / "results").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_mtime_ns,
    )
    for age, path in enumerate(made):
        before = time.time() - 86_400 - 60 * age
        os.utime(path, (before, before))
    yield


@contextmanager
def moved(chain: Chain) -> Iterator[None]:
    """Move the whole folder, as it is, to another place; it is looked at there."""
    elsewhere = chain.folder.rename(chain.folder.with_name("elsewhere"))
    elsewhere.joinpath("here").touch()
    chain.folder.symlink_to(elsewhere)
    try:
        yield
    finally:
        chain.folder.unlink()
        elsewhere.rename(chain.folder)
        (chain / "here").unlink()


@contextmanager
def checked_out_again(chain: Chain) -> Iterator[None]:
    """Replace the workflow's files by fresh copies, as a new clone beside old results has them."""
    with tempfile.TemporaryDirectory() as folder:
        clone = fresh_clone(Path(folder) / "clone")
        for path in clone.folder.rglob("*"):
            if path.is_file():
                shutil.copyfile(path, chain / str(path.relative_to(clone.folder)))
    yield


@contextmanager
def adapter_of_a_person(chain: Chain) -> Iterator[None]:
    """Lay an adapter without a receipt into the folder `mine`."""
    (chain / "mine").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(chain / f"results/sft/{name}", chain / f"mine/{name}")
    try:
        yield
    finally:
        shutil.rmtree(chain / "mine")


def upgraded(library: str) -> Callable[[Chain], AbstractContextManager[None]]:
    """Return what makes another version of a library be found installed, for a while."""

    @contextmanager
    def made(chain: Chain) -> Iterator[None]:
        info = chain / f"upgrade/{library}-99.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 99\n")
        (info / "top_level.txt").write_text(f"{library}\n")
        try:
            yield
        finally:
            shutil.rmtree(chain / "upgrade")

    return made


def module(name: str, *first: str) -> Change:
    """Return the change of a module of the package."""
    path = f"scripts/posttrain/{name}.py"
    return Change(f"{path} changed", set(first), made=line_in(path))


def setting(first: set[str], **settings: Any) -> Change:
    """Return the change of some settings."""
    shown = yaml.safe_dump(settings, default_flow_style=True, width=1000).strip()
    return Change(f"config {shown}", first, settings)


COMPLETING = {"generate_rft_data", *EVALUATIONS}
TRAINING = {"sft_train", "rft_train"}
TOKENIZING = {"tokenize_sft", "tokenize_rft"}
CHANGES = [
    # What a stage reads of the config
    setting({"questions", "generate_rft_data", *TRAINING}, seed=1),
    setting(ALL, task="arithmetic"),
    setting({"questions"}, data={"train_size": 121}),
    setting({"questions"}, data={"valid_size": 31}),
    setting({"base_model", "questions"}, data={"held_out_seed": 1}),
    setting({"base_model", "questions"}, embedded={"steps": 301}),
    setting({"base_model"}, embedded={"learning_rate": 0.016}),
    setting(TOKENIZING | COMPLETING, prompts={"answer": "Q: {question}\nA:"}),
    setting({"tokenize_sft"}, sft={"max_length": 127}),
    setting({"tokenize_sft"}, sft={"bad_rows": "drop"}),
    setting({"sft_train"}, sft={"lora": {"r": 8}}),
    setting({"sft_train"}, sft={"learning_rate": 0.002}),
    setting({"sft_train"}, sft={"gradient_checkpointing": True}),
    setting({"tokenize_rft"}, rft={"max_length": 127}),
    setting({"rft_train"}, rft={"epochs": 3}),
    setting({"rft_train"}, rft={"batch_size": 2, "epochs": 8}),  # swapped
    setting({"generate_rft_data"}, rollouts={"max_new_tokens": 60, "questions_per_chunk": 64}),
    setting({"generate_rft_data"}, rollouts={"temperature": 0.7}),
    setting({"generate_rft_data"}, rollouts={"shards": 2}),  # the same bytes, by other jobs
    setting({"generate_rft_data"}, rollouts={"extra_samples": 8}),
    setting({"select_rft_data"}, rollouts={"keep_per_question": 3}),
    setting({"select_rft_data"}, rollouts={"keep_tolerance": 0.01}),
    setting({"select_rft_data"}, rollouts={"prefer": "shortest"}),
    setting({"select_rft_data"}, rollouts={"farthest_apart": True}),
    setting({"select_rft_data"}, rollouts={"distinct_paths": False}),
    setting({"select_rft_data"}, rft={"gold_rows": 0.5}),
    setting({"split_questions"}, rft={"rounds": 2}),  # of one round's run nothing can stay
    setting(set(), rollouts={"extra_below": 2}),  # unread without extra_samples
    setting(set(), rft={"held_out": 0.2}),  # unread where there is one round
    setting(EVALUATIONS, evaluate={"limit": 20}),
    setting(COMPLETING, evaluate={"relative_tolerance": 0.04}),
    setting(
        {"generate_rft_data", "evaluate sft"},
        engine={"url": "http://localhost:8000/v1", "models": {"sft": "sft"}},
    ),
    setting(
        {"generate_rft_data", "evaluate base", "evaluate cot"},
        engine={"url": "http://localhost:8000/v1", "models": {"base": "base"}},
    ),
    setting({"verdicts"}, evaluate={"require": {"sft": {"accuracy": 0.01}}}),
    Change(
        "an adapter of one's own is added",
        {"evaluate mine"} | GATHERING,
        {"evaluate": {"adapters": {"mine": "mine"}}},
        adapter_of_a_person,
    ),
    # Code and libraries
    Change(
        "scripts/make_questions.py changed",
        {"questions"},
        made=line_in("scripts/make_questions.py"),
    ),
    Change("scripts/train_adapter.py changed", TRAINING, made=line_in("scripts/train_adapter.py")),
    module("selection", "select_rft_data", "ledger"),
    module("distance", "select_rft_data"),
    module("rounds", "select_round"),
    module("masking", *TOKENIZING, *TRAINING, *COMPLETING),
    module("corpus", "base_model", "questions"),
    module("task_units", "base_model", "questions"),
    module("task_arithmetic"),  # of another task than the run's
    module("sampling", *COMPLETING),
    module("training", *TRAINING),
    module("diagnosis", "verdicts", "gate"),
    module("checkpoints", "base_model", *TRAINING, "generate_rft_data"),
    module("jobs", *ALL),
    module("ancestry"),  # of a command and of the report
    Change(
        "scipy upgraded",
        {"select_rft_data", *COMPLETING, "summary", "verdicts"},
        made=upgraded("scipy"),
        environment={"PYTHONPATH": "upgrade"},
    ),
    Change(
        "peft upgraded",
        TRAINING | COMPLETING,
        made=upgraded("peft"),
        environment={"PYTHONPATH": "upgrade"},
    ),
    # Files that were made
    Change("adapter deleted", {"sft_train"}, made=without("results/sft/adapter_model.safetensors")),
    Change("rollouts deleted", {"gather_rollouts"}, made=without("results/rollouts/round1.jsonl")),
    Change(
        "a shard of the rollouts deleted",
        {"generate_rft_data"},
        made=without("results/rollouts/round1/shard_1_of_1.jsonl"),
    ),
    Change(
        "kept rows edited",
        {"tokenize_rft", "ledger", "gate"},
        made=line_in("results/rft_data/round1.jsonl"),
    ),
    Change("a result deleted", {"evaluate cot"}, made=without("results/cot_eval.csv")),
    Change("a log deleted", set(), made=without("logs/sft_train.log")),
    # What must not matter
    Change("nothing", set()),
    Change(
        "every script and rule touched",
        set(),
        made=lambda chain: touched(chain, "scripts/**/*.py", "rules/*.smk", "config.yaml"),
    ),
    Change(
        "every result touched",
        set(),
        made=lambda chain: touched(chain, "results/**/*.*", "resources/**/*.*"),
    ),
    Change("checked out again", set(), made=checked_out_again),
    Change("folder moved", set(), made=moved),
    Change("clock set back", set(), made=clock_set_back),
    setting(set(), rft={"batch_size": 8, "epochs": 2}),  # the same, in another order
    setting(set(), rollouts={"temperature": 0.8000}, sft={"lora": {"alpha": 32, "r": 32}}),
    setting(set(), sft={"lora": {"alpha": 32.0, "dropout": 0}}),  # 32.0 for 32, 0 for 0.0
    setting(set(), engine={"concurrency": 4, "server": "sglang"}),  # of no server
    Change("comment in config.yaml", set(), made=line_in("config.yaml")),
    Change("schema's comment changed", set(), made=line_in("schemas/config.schema.yaml")),
]


def planned(chain: Chain, change: Change) -> set[str]:
    """Return the jobs that a dry run plans after a change, which is taken back again."""
    files = [chain.overlay(change.settings, "change.yaml")] if change.settings else []
    with change.made(chain):
        said = subprocess.run(
            [Path(sys.executable).parent / "snakemake", "--dry-run", *ARGUMENTS, *files],
            cwd=chain.folder,
            env=os.environ | change.environment,
            capture_output=True,
            text=True,
            check=False,
        )
    text = said.stdout + said.stderr
    assert said.returncode == 0, text
    found = set()
    for rule, body in re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", text, re.MULTILINE):
        model = re.search(r"^ {4}wildcards: model=(\w+)$", body, re.MULTILINE)
        found.add(f"{rule} {model[1]}" if model else rule)
    return found - {"all"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(Path(sys.argv[1])) if len(sys.argv) > 1 else fresh_clone(Path(folder) / "run")
        subprocess.run(["snakemake", *ARGUMENTS], cwd=chain.folder, check=True, capture_output=True)
        wrong = 0
        for change in CHANGES:
            found = planned(chain, change)
            wrong += found != change.expected
            verdict = "ok   " if found == change.expected else "WRONG"
            print(f"{verdict} {change.what}: {len(found)} of {len(ALL)} jobs rerun", flush=True)
            for job in sorted(found ^ change.expected):
                print(f"      {'unexpected' if job in found else 'missing'}: {job}")
    print(f"{len(CHANGES) - wrong} of {len(CHANGES)} as expected")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
