"""What all tests share: real data where it is at hand, no network, the same bits everywhere."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chain_for_tests import Chain, finished_run, fresh_clone
from hypothesis import settings

from posttrain import artifacts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Both before torch and huggingface_hub are imported, which read them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # sums depend on how many threads share them

# The same examples in every run; no deadline, since a busy machine is not a fault.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with SmolLM2's tokenizer and a course's questions: too large to live here."""
    folder = os.environ.get("POSTTRAIN_TEST_DATA")
    if not folder:
        pytest.skip(
            "POSTTRAIN_TEST_DATA is not set: point it at a folder that holds smollm2/ (a tokenizer)"
            " and data/unit_questions.json"
        )
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2(test_data: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of SmolLM2-360M-Instruct: single digits, and its pad token is its eos token."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(test_data / "smollm2")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The workflow as cloned: nothing has run but what tests run of single rules."""
    return fresh_clone(tmp_path_factory.mktemp("clone") / "workflow")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one complete run, made once for all workers: to copy, not to work in."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "finished"
    with artifacts.locked(shared / "finished.lock"):
        if not (folder / "said.txt").exists():
            shutil.rmtree(folder, ignore_errors=True)
            finished_run(folder)
    return folder


@pytest.fixture(scope="module")
def chain(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The workflow after one complete run; tests leave it as they found it."""
    return Chain(shutil.copytree(finished, tmp_path_factory.mktemp("chain") / "workflow"))
