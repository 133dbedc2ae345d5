"""Jobs on one machine get GPUs of their own; no GPU is needed to see it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest
import torch

from posttrain import devices

JOB = "import sys; from posttrain.devices import take_free; "
JOB += "print(take_free(sys.argv[1:]), flush=True); sys.stdin.read()"
NAMES = [f"test {os.getpid()} {n}" for n in range(2)]


class Job:
    """A process that takes the first free device of `NAMES` and lives on."""

    def __init__(self) -> None:
        scripts = os.path.dirname(os.path.dirname(devices.__file__))
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, *NAMES],
            env=os.environ | {"PYTHONPATH": scripts},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def place(self) -> str:
        return self.process.stdout.readline().strip()

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.communicate()


@pytest.fixture
def start() -> Iterator:
    jobs = []

    def start() -> Job:
        jobs.append(Job())
        return jobs[-1]

    yield start
    for job in jobs:
        job.end(signal.SIGKILL)


@pytest.fixture
def picked(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """Pick anew among so many GPUs, with the line that is logged."""

    def picked(gpus: int) -> tuple[torch.device, list[str]]:
        named = [SimpleNamespace(uuid=name) for name in NAMES[:gpus]]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_properties", named.__getitem__)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        caplog.clear()
        with caplog.at_level("INFO", logger="posttrain"):
            first = devices.pick_device()
            assert devices.pick_device() is first, "a process stays where it is"
        return first, caplog.messages

    devices.pick_device.cache_clear()
    monkeypatch.setattr(devices, "_held", [])  # closed, and so let go, when the test is over
    yield picked
    devices.pick_device.cache_clear()


def test_jobs_get_devices_of_their_own_and_a_killed_job_frees_its_own(start):
    first, second = start(), start()
    assert sorted([first.place, second.place]) == ["0", "1"]
    third = start()
    assert third.place == "None"
    first.end(signal.SIGKILL)
    second.end(signal.SIGKILL)
    assert start().place == "0"
    assert start().place == "1"


def test_a_process_takes_a_gpu_that_no_other_has(start, picked):
    assert start().place == "0"
    device, said = picked(2)
    assert device == torch.device("cuda", 1)
    assert said == ["computing on GPU 2 of 2"]


def test_with_more_jobs_than_gpus_the_late_ones_share_and_say_so(start, picked):
    assert start().place == "0"
    device, said = picked(1)
    assert device == torch.device("cuda", 0)
    assert said == [
        "computing on GPU 1 of 1, which another job has too: none of the GPUs here is free"
    ]


def test_without_a_gpu_it_is_the_cpu_and_one_line_says_so(picked):
    assert picked(0) == (torch.device("cpu"), ["no GPU found: computing on the CPU"])


def test_the_peak_of_memory_is_in_bytes():
    now = psutil.Process().memory_info().rss
    assert 0.9 * now < devices.peak_memory() < psutil.virtual_memory().total
