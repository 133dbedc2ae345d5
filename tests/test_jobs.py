"""A rule's script: one at a time, never an orphan, and an end in one line."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from posttrain import artifacts, jobs
from posttrain.errors import BusyError, TrainingError

ROOT = Path(__file__).parent.parent


def start(body: str, folder: Path, **options) -> subprocess.Popen:
    """Run a script of a rule in `folder`, its body under `jobs.running`."""
    lines = textwrap.indent(textwrap.dedent(body), "    ")
    code = f"from posttrain import artifacts, jobs\nwith jobs.running('rule.log'):\n{lines}"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def end(process: subprocess.Popen) -> tuple[int, str]:
    _, error = process.communicate(timeout=60)
    return process.returncode, error


def wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)


SLEEP = """
import time
artifacts.write_text("begun", "")
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_script_says_so_in_one_line_and_leaves_no_half_file(number, tmp_path):
    process = start(
        """
        import time
        with artifacts.replacing("out") as temporary:
            temporary.write_text("half")
            artifacts.write_text("begun", "")
            time.sleep(60)
        """,
        tmp_path,
    )
    wait_for(tmp_path / "begun")
    process.send_signal(number)
    status, said = end(process)
    assert status == 128 + number
    assert said.splitlines()[-1].endswith(
        f"stopped by {number.name}; the next run goes on from here"
    )
    assert "Traceback" not in said
    assert sorted(p.name for p in tmp_path.iterdir()) == [".rule.log.lock", "begun", "rule.log"]


def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path):
    process = start(
        """
        import time
        with artifacts.replacing("out") as temporary:
            temporary.write_text("half")
            artifacts.write_text("begun", "")
            time.sleep(60)
        """,
        tmp_path,
    )
    wait_for(tmp_path / "begun")
    process.kill()
    process.wait()
    process.communicate()
    assert list(tmp_path.glob(".out.*.tmp"))
    artifacts.write_text(tmp_path / "out", "whole")
    assert not list(tmp_path.glob(".out.*"))


def test_a_second_script_of_the_same_job_waits_for_the_first(tmp_path):
    first = start(SLEEP, tmp_path)
    wait_for(tmp_path / "begun")
    second = start("artifacts.write_text('second', '')", tmp_path)
    time.sleep(2)
    assert not (tmp_path / "second").exists()
    first.kill()
    first.communicate()
    status, said = end(second)
    assert status == 0
    assert (tmp_path / "second").exists()
    assert "waiting for it" in said


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_script_ends_with_the_process_that_started_it(tmp_path):
    script = """
from posttrain import artifacts, jobs
with jobs.running("rule.log"):
    import os, time
    artifacts.write_text("begun", str(os.getpid()))
    time.sleep(60)
"""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}])"
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
        stderr=subprocess.PIPE,
    )
    wait_for(tmp_path / "begun")
    child = psutil.Process(int((tmp_path / "begun").read_text()))
    assert child.is_running()
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "the script outlives its parent"
        time.sleep(0.05)


def test_too_few_open_files_end_in_one_line_that_says_so(tmp_path):
    process = start(
        """
        kept = [open("rule.log") for _ in range(100)]
        """,
        tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)),
    )
    status, said = end(process)
    assert status == 1
    assert said.splitlines()[-1].endswith(
        "error: rule.log: Too many open files: allow more open files (ulimit -n 1024) and start "
        "again"
    )
    assert "Traceback" not in said


def test_too_little_memory_ends_in_one_line_that_names_the_batch_size(tmp_path):
    process = start(
        """
        import torch
        import resource
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), used + (200 << 20)))
        torch.zeros(256, 2048, 4096)
        """,
        tmp_path,
    )
    status, said = end(process)
    assert status == 1
    assert "error: out of memory: " in said.splitlines()[-1]
    assert "write in the config a smaller batch_size" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_read_only_folder_ends_in_one_line_that_names_it(tmp_path):
    error = PermissionError(13, "Permission denied", "results/sft")
    assert jobs.explained(error) == (
        "results/sft: Permission denied: make it readable and writable for you and start again"
    )


def test_our_own_faults_keep_their_traceback_and_a_persons_do_not(tmp_path):
    status, said = end(start("raise KeyError('ours')", tmp_path))
    assert (status, "Traceback" in said) == (1, True)
    assert jobs.explained(TrainingError("lower it")) == "lower it"
    assert jobs.explained(ValueError("ours")) is None
    assert jobs.explained(FileNotFoundError(2, "No such file", "x")) is None


def test_one_run_at_a_time_holds_a_folder_and_clears_the_locks_of_a_killed_one(tmp_path, capsys):
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "0.input.lock").write_text("results/a\n")
    with artifacts.locked(tmp_path / "run.lock") as held:
        assert held
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jobs, "PATIENCE", 0.2)
            with pytest.raises(BusyError, match="another snakemake is at work in this folder"):
                jobs.hold_folder(tmp_path)
        assert (tmp_path / "locks" / "0.input.lock").exists()
    jobs.hold_folder(tmp_path)
    assert not list((tmp_path / "locks").iterdir())
    assert "was killed" in capsys.readouterr().err
    (tmp_path / "locks" / "1.input.lock").write_text("results/a\n")
    jobs.hold_folder(tmp_path)  # the same process again, as a workflow of several modules does
    assert (tmp_path / "locks" / "1.input.lock").exists()
