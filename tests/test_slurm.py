"""The whole chain on a real Slurm of one machine, two of its jobs struck down: make test-slurm."""

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import slurm_for_tests as slurm
import yaml
from chain_for_tests import LONGEST, ROOT, TINY, Chain, Said, fresh_clone

pytestmark = pytest.mark.slurm

PROFILE = ROOT / "profiles/slurm/config.yaml"
# Three chunks a shard, and many samples: a job is struck down when some are done and some are not.
OVERLAY = {"rollouts": {"shards": 2, "questions_per_chunk": 20, "samples_per_question": 64}}
ROLLOUTS = "results/rollouts/round1.jsonl"
THREADS = "1"  # of each job; the machine is to run two at once
SMALL = (
    *("--workflow-profile", "profiles/slurm", "--slurm-no-account"),
    *("--cores", "2", "--max-threads", THREADS, "--latency-wait", "10"),
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"),
)


@dataclass(frozen=True)
class Run:
    """The chain after its run on the cluster, and what was seen meanwhile."""

    chain: Chain
    said: Said
    overlapped: dict[str, str]  # shard -> the GPU it had while both ran
    cancelled: slurm.Job
    requeued: slurm.Job
    jobs: list[slurm.Job]
    restarts: str


def small_resources() -> list[str]:
    """Return what the rules that run a model get: amounts that two of this machine's jobs have."""
    rules = ("base_model", "sft_train", "generate_rft_data", "rft_train", "evaluate")
    small = [f"{rule}:{amount}" for rule in rules for amount in ("mem_mb=2000", "runtime=30")]
    return ["--set-resources", *small, "--default-resources", "mem_mb=2000", "runtime=30"]


def running_shards() -> list[slurm.Job]:
    """Return the jobs that sample now."""
    return [
        job
        for job in slurm.jobs()
        if job.state == "RUNNING" and job.comment.startswith("rule_generate_rft_data")
    ]


def has_a_chunk(chain: Chain, shard: int) -> bool:
    """Tell whether a shard's job has sampled some of its questions and not yet all."""
    log = chain / f"logs/generate_rft_data_round1_{shard}_of_2.log"
    return log.exists() and bool(re.search(r"sampling: [1-5]\d of 60", log.read_text("utf-8")))


def both_sample(chain: Chain, going: Future) -> bool:
    assert not going.done(), going.result().text
    return len(running_shards()) == 2 and all(has_a_chunk(chain, shard) for shard in (1, 2))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run the chain, cancel one shard's job and requeue the other's in the midst of sampling."""
    chain = fresh_clone(tmp_path_factory.mktemp("cluster") / "workflow")
    configs = ("--configfile", TINY, chain.overlay(OVERLAY))
    folder = tmp_path_factory.mktemp("slurm")
    with slurm.slurm(folder, cpus=2, gpus=2), ThreadPoolExecutor(1) as pool:
        command = (*SMALL, *small_resources(), *configs)
        # The shards alone at first: an evaluation would take one of the two GPUs.
        going = pool.submit(chain.snakemake, *command, "--", ROLLOUTS)
        slurm.wait_for("two shards at once", lambda: both_sample(chain, going), LONGEST)
        cancelled, requeued = running_shards()
        gpus = {job.comment: slurm.detail(job, "GRES") for job in (cancelled, requeued)}
        slurm.ask("scancel", cancelled.number)
        slurm.ask("scontrol", "requeue", requeued.number)
        slurm.wait_for("the requeued job's return", lambda: is_queued(requeued))
        # By itself Slurm lets a job that was requeued wait for two minutes.
        slurm.ask("scontrol", "update", f"JobId={requeued.number}", "StartTime=now")
        first = going.result()
        assert first.status == 0, first.text
        restarts = slurm.detail(requeued, "Restarts")
        said = chain.snakemake(*command)
        yield Run(chain, said, gpus, cancelled, requeued, slurm.jobs(), restarts)


def is_queued(job: slurm.Job) -> bool:
    return any(one.number == job.number and one.state == "PENDING" for one in slurm.jobs())


def states(run: Run, comment: str) -> list[str]:
    """Return how the jobs of that comment ended, in the order of their numbers."""
    alike = [job for job in run.jobs if job.comment == comment]
    return [job.state for job in sorted(alike, key=lambda job: int(job.number))]


def test_the_whole_chain_runs_through_the_queue(run: Run):
    assert run.said.status == 0, run.said.text
    asked = {re.match(r"rule_([a-z_]+?)(_wildcards_|$)", job.comment)[1] for job in run.jobs}
    planned = run.chain.plan("--forceall", "--configfile", TINY).jobs
    assert asked == set(planned) - {"all"}
    assert not (run.chain / "connections_tried").exists()


def test_two_shards_ran_at_once_on_a_gpu_each(run: Run):
    assert sorted(run.overlapped.values()) == ["gpu:1(IDX:0)", "gpu:1(IDX:1)"]


def test_a_cancelled_job_is_sent_again(run: Run):
    assert states(run, run.cancelled.comment) == ["CANCELLED", "COMPLETED"]


def test_a_requeued_job_goes_on_under_its_number(run: Run):
    assert states(run, run.requeued.comment) == ["COMPLETED"]
    assert run.restarts == "1"


def test_the_bytes_are_those_of_a_local_run(run: Run, tmp_path: Path):
    local = fresh_clone(tmp_path / "workflow")
    cores = ("--cores", THREADS, "--resources", "gpu=1")
    said = local.snakemake(*cores, "--configfile", TINY, local.overlay(OVERLAY))
    assert said.status == 0, said.text
    queued, here = made_by(run.chain), made_by(local)
    assert sorted(queued) == sorted(here)
    assert [path for path, found in queued.items() if found != here[path]] == []


def made_by(chain: Chain) -> dict[str, bytes]:
    """Return path -> content of every file that a run has made."""
    return {
        str(file.relative_to(chain.folder)): file.read_bytes()
        for folder in ("resources", "results")
        for file in (chain / folder).rglob("*")
        if file.is_file()
    }


def test_the_profile_repeats_what_holds_for_every_run():
    """The workflow profile of the command line takes the place of the default one."""
    cluster = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    default = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text(encoding="utf-8"))
    for key in set(default) - {"cores", "resources"}:
        assert cluster[key] == default[key], key
