"""A hub's model is fetched once, whole, as its commit states it; what goes wrong is one line."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chain_for_tests import ROOT, Chain, fresh_clone
from hub_for_tests import Hub, git_id, serving
from test_chain import smollm2_of_random_weights
from test_models import contents, refusal, same_weights, save_sharded
from training_for_tests import save_base, tiny_model

from posttrain import artifacts, hub, models
from posttrain.errors import PosttrainError

NAME, COMMIT = "org/tiny", "0123456789" * 4
PINNED = f"{NAME}@{COMMIT}"
BRING = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
LEAVE = {
    "README.md": b"# A model\n",
    "pytorch_model.bin": b"\x80\x04 a pickle",
    "modeling_tiny.py": b"raise SystemExit\n",
    "onnx/model.safetensors": b"of another program",
    "model.fp16.safetensors": b"another variant",
    "adapter_config.json": b"{}",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a repository: a tiny model, and what else lies in such a repository."""
    folder = tmp_path_factory.mktemp("hub") / "source"
    save_base(folder)
    (folder / models.MANIFEST).unlink()
    for name, content in LEAVE.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def server(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the model, and this process asking that one."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        server.add(NAME, source, COMMIT)
        # What HF_ENDPOINT, HF_HUB_OFFLINE and a token's file would have set at import.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
        # Weights here are smaller than the 10 MB that are else read at once, and lost at once.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        yield server


def fetch(folder: Path, model: str = PINNED, key: str = "base_model") -> dict[str, str]:
    return hub.fetch(model, folder, key)


def part_of(source: Path, folder: Path, size: int) -> Path:
    """Leave in `folder` what a killed transfer of the weights would have left there."""
    weights = (source / "model.safetensors").read_bytes()
    pointer = (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{hashlib.sha256(weights).hexdigest()}\nsize {len(weights)}\n"
    )
    folder.mkdir()
    part = folder / f".model.safetensors.{git_id(pointer.encode())}.part"
    part.write_bytes(weights[:size])
    return part


def test_the_server_is_one_that_the_library_itself_downloads_from(server, source, tmp_path):
    from huggingface_hub import hf_hub_download

    for name in ("model.safetensors", "README.md"):  # a large file, a small one
        path = hf_hub_download(NAME, name, revision=COMMIT, local_dir=tmp_path)
        assert Path(path).read_bytes() == (source / name).read_bytes()
    assert {method for method, _, _ in server.asked} == {"HEAD", "GET"}


def test_a_mirror_that_gives_another_commit_is_refused(server, tmp_path):
    other = "b" * 40
    server.repositories[NAME].branches[other] = COMMIT
    with pytest.raises(
        PosttrainError, match=f"asked for {NAME}@{other}, the hub gave commit {COMMIT}"
    ):
        fetch(tmp_path, f"{NAME}@{other}")
    assert not list(tmp_path.iterdir())


def test_what_makes_a_model_is_fetched_and_no_more(server, source, tmp_path):
    origin = fetch(tmp_path)
    assert origin == {"model": NAME, "commit": COMMIT}
    optional = [name for name in models.OPTIONAL if (source / name).is_file()]
    brought = {*BRING, *optional}
    assert "generation_config.json" in brought
    assert {path.name for path in tmp_path.iterdir()} == {*brought, hub.STATED}
    assert contents(tmp_path).items() >= {(n, contents_of(source / n)) for n in brought}
    assert sorted(server.fetched()) == sorted(brought)
    artifacts.write_json(tmp_path / models.MANIFEST, models.manifest(tmp_path, origin))
    folder = models.verified(tmp_path / models.MANIFEST)
    import torch

    assert same_weights(models.load_model(folder, torch.float32), tiny_model())


def contents_of(path: Path) -> str:
    return artifacts.sha256_file(path)


def test_a_model_of_several_shards_is_fetched_with_its_index(server, tmp_path):
    (tmp_path / "sharded").mkdir()
    save_sharded(tmp_path / "sharded")
    server.add("org/sharded", tmp_path / "sharded", COMMIT)
    fetch(tmp_path / "ours", f"org/sharded@{COMMIT}")
    shards = {path.name for path in (tmp_path / "sharded").glob("model*")}
    assert len(shards) > 2
    assert {path.name for path in (tmp_path / "ours").glob("model*")} == shards


def test_what_is_there_is_neither_asked_for_nor_fetched_again(server, tmp_path):
    fetch(tmp_path)
    server.asked.clear()
    server.is_down = True
    assert fetch(tmp_path) == {"model": NAME, "commit": COMMIT}
    assert server.asked == []
    server.is_down = False
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / hub.STATED).write_text("{")
    fetch(tmp_path)
    assert server.fetched() == ["config.json"]


@pytest.mark.parametrize("model", [NAME, f"{NAME}@main", f"{NAME}@{COMMIT[:7]}"])
def test_a_model_that_is_not_pinned_is_refused_with_the_yaml_that_pins_it(server, tmp_path, model):
    known = server.repositories[NAME]
    known.branches[COMMIT[:7]] = COMMIT
    message = refusal(lambda: fetch(tmp_path, model))
    assert message.startswith(f"base_model: {model} is not pinned")
    assert message.endswith(f"write base_model: {PINNED}")
    message = refusal(lambda: fetch(tmp_path, model, "rollouts.model"))
    assert message.endswith(f"write rollouts: {{model: {PINNED}}}")
    assert list(tmp_path.iterdir()) == []


def test_a_pinned_model_stays_where_it_is_when_its_branch_moves_on(server, source, tmp_path):
    save_base(tmp_path / "newer", seed=1)
    later = "f" * 40
    server.add(NAME, tmp_path / "newer", later)
    assert later in refusal(lambda: fetch(tmp_path / "ours", f"{NAME}@main"))
    fetch(tmp_path / "ours")
    weights = "model.safetensors"
    assert contents_of(tmp_path / "ours" / weights) == contents_of(source / weights)
    fetch(tmp_path / "ours", f"{NAME}@{later}")
    assert contents_of(tmp_path / "ours" / weights) == contents_of(tmp_path / "newer" / weights)


# Transfers that break


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server, source, tmp_path):
    server.breaks_after += [0, 600, 0, 700]
    fetch(tmp_path)
    for name in BRING:
        assert contents_of(tmp_path / name) == contents_of(source / name)
    assert len({asked for _, _, asked in server.asked if asked}) >= 2, "nothing was resumed"
    assert list(tmp_path.glob(".*")) == []


def test_a_transfer_that_was_given_up_goes_on_in_the_next_run(server, source, tmp_path):
    size = (source / "model.safetensors").stat().st_size
    server.breaks_after += [5000, *[0] * 10]
    message = refusal(lambda: fetch(tmp_path))
    assert message.startswith(f"base_model: {server.url} cannot be reached for {PINNED} (")
    assert "run the same command again" in message
    [part] = tmp_path.glob(".*.part")
    assert 0 < part.stat().st_size < size
    assert not (tmp_path / "model.safetensors").exists()
    server.breaks_after.clear()
    server.asked.clear()
    had = part.stat().st_size
    fetch(tmp_path)
    assert f"bytes={had}-" in {asked for _, _, asked in server.asked}
    assert contents_of(tmp_path / "model.safetensors") == contents_of(source / "model.safetensors")


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_what_a_killed_run_left_is_used_if_the_hub_gives_parts(
    server, source, tmp_path, ignores_ranges
):
    server.ignores_ranges = ignores_ranges
    part_of(source, tmp_path / "ours", 4000)
    fetch(tmp_path / "ours")
    assert "bytes=4000-" in {asked for _, _, asked in server.asked}
    assert contents(tmp_path / "ours").items() >= {
        (name, contents_of(source / name)) for name in BRING
    }


def test_a_part_that_is_whole_is_not_asked_for(server, source, tmp_path):
    part_of(source, tmp_path / "ours", 10**9)
    fetch(tmp_path / "ours")
    assert "model.safetensors" not in server.fetched()


@pytest.mark.parametrize("extra", [b"", b"and more than the file has" * 10000])
def test_a_part_of_something_else_does_not_end_up_in_the_model(server, source, tmp_path, extra):
    part = part_of(source, tmp_path / "ours", 4000)
    part.write_bytes(b"\0" * 4000 + extra)
    if not extra:
        message = refusal(lambda: fetch(tmp_path / "ours"))
        assert f"model.safetensors of {PINNED} came with other bytes than the hub states" in message
        assert not part.exists()
    fetch(tmp_path / "ours")
    weights = "model.safetensors"
    assert contents_of(tmp_path / "ours" / weights) == contents_of(source / weights)


def test_bytes_that_changed_on_the_way_are_refused(server, tmp_path):
    server.corrupts = True
    assert "came with other bytes than the hub states" in refusal(lambda: fetch(tmp_path))
    assert list(tmp_path.iterdir()) == [tmp_path / hub.STATED]


# What stood in the folder before


def test_a_person_s_model_that_was_linked_there_is_not_written_through(server, source, tmp_path):
    save_base(tmp_path / "theirs", seed=1)
    before = contents(tmp_path / "theirs")
    models.link(tmp_path / "theirs", tmp_path / "ours")
    fetch(tmp_path / "ours")
    assert contents(tmp_path / "theirs") == before
    assert not any(path.is_symlink() for path in (tmp_path / "ours").iterdir())


def test_no_weights_of_the_model_before_stay(server, source, tmp_path):
    (tmp_path / "sharded").mkdir()
    save_sharded(tmp_path / "sharded")
    shutil.copytree(tmp_path / "sharded", tmp_path / "ours")
    fetch(tmp_path / "ours")
    assert [path.name for path in (tmp_path / "ours").glob("model*")] == ["model.safetensors"]


# What can go wrong


def without(server: Hub, *names: str) -> None:
    for name in names:
        del server.repositories[NAME].commits[COMMIT][name]


def gate(server: Hub) -> None:
    server.repositories[NAME].is_gated = True


def hide(server: Hub) -> None:
    server.repositories[NAME].is_private = True


def switch_off(server: Hub) -> None:
    server.is_down = True


@pytest.mark.parametrize(
    ("damage", "model", "said"),
    [
        (None, f"org/other@{COMMIT}", "there is no folder org/other here, and "),
        (None, "org/other", "there is no folder org/other here, and "),
        (None, "models/a--b", "there is no folder models/a--b here, and "),
        (hide, PINNED, "if it is private, log in with `hf auth login`, or set HF_TOKEN"),
        (gate, PINNED, "org/tiny is gated: ask for access on that page, then log in"),
        (None, f"{NAME}@{'9' * 40}", f"org/tiny has no revision {'9' * 40}; its commits stand at"),
        (None, f"{NAME}@nightly", "org/tiny has no revision nightly; its commits stand at"),
        (
            lambda server: without(server, "model.safetensors"),
            PINNED,
            "lacks model.safetensors (it has pytorch_model.bin, which are not read); use a",
        ),
        (
            lambda server: without(server, "tokenizer.json", "pytorch_model.bin"),
            PINNED,
            f"{PINNED} lacks tokenizer.json; use a causal model",
        ),
        (switch_off, PINNED, f"refuses {PINNED} with status 503; try again later"),
    ],
)
def test_what_goes_wrong_ends_in_one_line(server, tmp_path, damage, model, said):
    if damage:
        damage(server)
    message = refusal(lambda: fetch(tmp_path, model))
    assert message.startswith("base_model: ")
    assert said in message
    assert not (tmp_path / "model.safetensors").exists()


def test_a_token_opens_what_is_private_or_gated(server, tmp_path, monkeypatch):
    hide(server)
    gate(server)
    monkeypatch.setenv("HF_TOKEN", "hf_anything")
    fetch(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert server.tokens_at_store == [], "the token went to another host than the hub's"


def test_no_hub_at_all_is_said_in_one_line(server, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    message = refusal(lambda: fetch(tmp_path))
    assert message.startswith(f"base_model: http://127.0.0.1:9 cannot be reached for {PINNED} (")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal(lambda: fetch(tmp_path))
    assert "is not here yet and HF_HUB_OFFLINE is set" in message


def test_what_answers_but_is_no_hub_is_said_in_one_line(server, tmp_path, monkeypatch):
    monkeypatch.setattr("hub_for_tests.json.dumps", lambda info: "<html>Log in first</html>")
    assert "does not answer as a hub does" in refusal(lambda: fetch(tmp_path))


@pytest.mark.parametrize("model", [NAME, PINNED, "a/b", "a.b/c-d_e@v1.0", "a/b@refs/pr/1"])
def test_names_of_a_hub_s_models(model):
    assert hub.is_name(model)


@pytest.mark.parametrize("model", ["", "gpt2", "a/b/c", "../x", "/a/b", "a/b@", "a/b@-", "a /b"])
def test_what_is_no_name_of_a_hub_s_model(model):
    assert not hub.is_name(model)


def test_all_is_kept_off_the_hub_but_what_is_let_on():
    environ: dict[str, str] = {}
    for _ in range(2):  # a sweep reads the rules more than once
        hub.keep_off(environ)
        assert environ["HF_HUB_OFFLINE"] == "1"
    hub.let_on(environ)
    assert environ["HF_HUB_OFFLINE"] == "0"
    asked_for = {"HF_HUB_OFFLINE": "1"}
    hub.keep_off(asked_for)
    hub.let_on(asked_for)
    assert asked_for["HF_HUB_OFFLINE"] == "1"


def test_progress_is_in_megabytes_and_ends_at_all_of_them(server, tmp_path, caplog):
    with caplog.at_level("INFO", logger="posttrain"):
        fetch(tmp_path)
    assert re.search(rf"fetching {NAME}: 1 of 1 MB", caplog.text)


# The whole chain, as people run it

SMOLLM2, LARGER = "HuggingFaceTB/SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct"
PRESET = "presets/smollm2-360m-best.yaml"
SIZES = {
    "data": {"train_size": 12, "valid_size": 12},
    "sft": {"epochs": 2, "batch_size": 6},
    "rft": {"epochs": 2, "batch_size": 6},
    "rollouts": {
        "samples_per_question": 2,
        "samples_when_sft_is_right": 2,
        "keep_per_question": 2,
        "max_new_tokens": 60,
    },
    "evaluate": {
        "max_new_tokens": 12,
        "require": {name: {"accuracy": 0, "answer_rate": 0} for name in ("sft", "rft")},
    },
}


def teach(folder: Path, settings: dict[str, Any]) -> None:
    """Teach the model in `folder` to reason about the very questions that the chain will ask.

    Sampling from fresh weights finds nothing right, and the chain then ends at the selection.
    """
    import torch

    from posttrain import prompts, task_units, units
    from posttrain.answers import formatted

    tokenizer = models.load_tokenizer(folder)
    data = SIZES["data"]
    asked = units.questions(0, data["train_size"], data["valid_size"], units.held_out(0, 0.05))[
        "train"
    ]
    fed = prompts.fed(tokenizer, asked, "worked", settings["prompts"], task_units)
    rows, labels = [], []
    for question, (_, ids) in zip(asked, fed, strict=True):
        answer = formatted(question["answer"], 4)
        factor = formatted(question["answer"] / question["quantity"], 6)
        reasoning = f"{question['quantity']} * {factor} = {answer}."
        text = prompts.completion(task_units, answer, reasoning)
        completion = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        rows.append(torch.tensor([*ids, *completion]))
        labels.append(torch.tensor([*[-100] * (len(ids) - 1), *completion, -100]))
    pad = torch.nn.utils.rnn.pad_sequence
    ids, wanted = pad(rows, batch_first=True), pad(labels, batch_first=True, padding_value=-100)
    is_learnt = wanted != -100
    model = models.load_model(folder, torch.float32).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        optimiser.zero_grad()
        logits = model.lm_head(model.model(ids).last_hidden_state[is_learnt])
        torch.nn.functional.cross_entropy(logits, wanted[is_learnt]).backward()
        optimiser.step()
    model.save_pretrained(folder, max_shard_size="10MB")
    (folder / "model.safetensors").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def smollm2_hub(
    tmp_path_factory: pytest.TempPathFactory, test_data: Path
) -> Iterator[tuple[Hub, dict[str, Any]]]:
    """A hub with the two models of the preset, narrow and shallow but under their own names.

    The small one has fresh weights, the large one has been taught.
    """
    folder = tmp_path_factory.mktemp("smollm2")
    settings = yaml.safe_load((ROOT / PRESET).read_text(encoding="utf-8"))
    pinned = settings["base_model"], settings["rollouts"]["model"]
    assert [model.partition("@")[0] for model in pinned] == [SMOLLM2, LARGER]
    for name in ("small", "large"):
        smollm2_of_random_weights(folder / name, test_data / "smollm2")
    teach(folder / "large", settings)
    with serving() as server:
        for name, model in zip(("small", "large"), pinned, strict=True):
            repository, _, commit = model.partition("@")
            server.add(repository, folder / name, commit)
        yield server, settings


def clone_that_asks(server: Hub, folder: Path, **environ: str) -> Chain:
    """Return a fresh clone whose fetching, and nothing else, may reach the server."""
    own = {
        "HF_ENDPOINT": server.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(folder.parent / "hf_home"),
        "NO_PROXY": "127.0.0.1",
        "ALLOWED": f"fetch_model.py {server.addresses}",
    }
    return Chain(fresh_clone(folder).folder, own | environ)


@pytest.fixture(scope="module")
def smollm2_chain(
    smollm2_hub: tuple[Hub, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Chain:
    """The workflow after one complete run of the preset; tests leave it as they found it."""
    server, _ = smollm2_hub
    chain = clone_that_asks(server, tmp_path_factory.mktemp("chain") / "workflow")
    configs = ("--configfile", PRESET, chain.overlay(SIZES))
    said = chain.snakemake("--cores", "1", "--resources", "gpu=1", *configs)
    assert said.status == 0, said.text
    return chain


def planned(chain: Chain) -> dict[str, int]:
    return chain.plan("--configfile", PRESET, "overlay.yaml").jobs


@pytest.mark.chain
@pytest.mark.long
def test_the_preset_runs_from_the_hub_to_the_summary(smollm2_chain: Chain, smollm2_hub):
    summary = artifacts.read_csv(smollm2_chain / "results/summary.csv")
    assert [row["model"] for row in summary] == ["base", "cot", "sft", "rft"]
    for folder, name in (("base_model", SMOLLM2), ("sampler_model", LARGER)):
        manifest = artifacts.read_json(smollm2_chain / f"resources/{folder}/manifest.json")
        assert manifest["origin"]["model"] == name
        assert len(manifest["origin"]["commit"]) == 40
        models.verified(smollm2_chain / f"resources/{folder}/manifest.json")
    assert len(list((smollm2_chain / "resources/sampler_model").glob("model-*"))) > 1
    assert not (smollm2_chain / "connections_tried").exists()
    assert planned(smollm2_chain) == {}


@pytest.mark.chain
@pytest.mark.long
def test_rollouts_come_from_the_sampler_and_name_it(smollm2_chain: Chain):
    rollouts = smollm2_chain.rows("results/rollouts/round1.jsonl")
    right = [row for row in rollouts if row["verdict"] == "correct" and row["trace"] == "right"]
    assert right, "the taught model was not the one that was asked"
    shards = (smollm2_chain / "results/rollouts/round1").glob("*_receipt.json")
    [receipt] = map(artifacts.read_json, shards)
    sampler = "resources/sampler_model/manifest.json"
    assert receipt["inputs"][sampler] == artifacts.sha256_file(smollm2_chain / sampler)
    assert "resources/base_model/manifest.json" in receipt["inputs"]
    for stage in ("sft", "rft"):
        trained = artifacts.read_json(smollm2_chain / f"results/{stage}/receipt.json")
        base = artifacts.read_json(smollm2_chain / "resources/base_model/manifest.json")
        assert trained["base_model"] == base["files"]
        assert sampler not in trained["inputs"]
    shown = subprocess.run(
        [sys.executable, "scripts/show_lineage.py", "results/rft_eval.csv"],
        cwd=smollm2_chain.folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "sampler_model  (resources/sampler_model/manifest.json)" in shown
    assert f"model {LARGER}" in shown


@pytest.mark.chain
@pytest.mark.long
def test_another_sampler_reruns_the_rollouts_and_what_comes_of_them(smollm2_chain: Chain):
    (smollm2_chain / "none.yaml").write_text("rollouts: {model: null}", encoding="utf-8")
    jobs = smollm2_chain.plan("--configfile", PRESET, "overlay.yaml", "none.yaml").jobs
    assert "generate_rft_data" in jobs
    assert "rft_train" in jobs
    assert not {"sampler_model", "base_model", "sft_train", "tokenize_sft"} & set(jobs)


@pytest.mark.chain
@pytest.mark.long
def test_a_fetched_model_is_looked_over_again_without_a_network(smollm2_chain: Chain):
    manifest = "resources/base_model/manifest.json"
    before = (smollm2_chain / manifest).read_bytes()
    offline = Chain(smollm2_chain.folder, {"HF_HUB_OFFLINE": "1"})
    configs = ("--configfile", PRESET, "overlay.yaml")
    said = offline.snakemake("--force", *configs, "--", manifest)
    assert said.status == 0, said.text
    assert (smollm2_chain / manifest).read_bytes() == before


@pytest.mark.chain
@pytest.mark.long
def test_a_model_that_cannot_be_had_ends_the_run_in_one_line(smollm2_hub, tmp_path: Path):
    server, _ = smollm2_hub
    chain = clone_that_asks(server, tmp_path / "workflow")
    manifest = "resources/base_model/manifest.json"

    def refused(model: str, **environ: str) -> str:
        asking = Chain(chain.folder, dict(chain.environ) | environ)
        said = asking.snakemake(manifest, "--config", f"base_model={model}")
        assert said.status == 1
        assert "Traceback" not in said.text
        assert not (chain / manifest).exists()
        return said.error

    commit = server.repositories[SMOLLM2].branches["main"]
    assert refused(SMOLLM2).endswith(f"write base_model: {SMOLLM2}@{commit}")
    assert "has no model of that name" in refused(f"HuggingFaceTB/SmolLM@{commit}")
    pinned = f"{SMOLLM2}@{commit}"
    assert "HF_HUB_OFFLINE is set" in refused(pinned, HF_HUB_OFFLINE="1")
    assert "cannot be reached" in refused(pinned, ALLOWED="none")
    tried = (chain / "connections_tried").read_text(encoding="utf-8")
    assert "look up 127.0.0.1" in tried, "the guard let it out"


def test_the_guard_lets_one_script_out_to_one_address_and_no_other(tmp_path: Path):
    code = "import socket; socket.create_connection(('127.0.0.1', {})).close()"
    for name in ("tmp1.fetch_model.py", "tmp1.train_adapter.py"):
        (tmp_path / name).write_text(code.format("int(__import__('sys').argv[1])"), "utf-8")
    with serving() as server:
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "tests/offline"),
            "CONNECTIONS_TRIED": str(tmp_path / "tried"),
            "ALLOWED": f"fetch_model.py 127.0.0.1:{server.ports[0]}",
        }
        ends = [
            subprocess.run(
                [sys.executable, tmp_path / f"tmp1.{script}", str(port)],
                env=environ,
                capture_output=True,
                check=False,
            ).returncode
            for script in ("fetch_model.py", "train_adapter.py")
            for port in server.ports
        ]
    assert ends == [0, 1, 1, 1]
    assert len((tmp_path / "tried").read_text("utf-8").splitlines()) == 3
