import gc
import json
import os
import sys
from pathlib import Path

import yaml
from snakemake.utils import validate

HOME = Path(str(workflow.current_basedir)).parent
sys.path.insert(0, str(HOME / "scripts"))

from posttrain import hub, imports, jobs, settings, tasks
from posttrain.errors import PosttrainError
from posttrain.models import model_files
from posttrain.weights import refuse_pickles

# What is loaded by now stays: the garbage collector, which a start keeps busy, need not look again.
gc.freeze()
hub.keep_off(os.environ)  # jobs inherit it; scripts/fetch_model.py alone is let on

SCHEMA = HOME / "schemas" / "config.schema.yaml"

if faults := settings.faults(config, yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))):
    sys.exit("\n".join(faults))
validate(config, str(SCHEMA))


def checked(check, *args):
    """Return `check(*args)`, or end with its one line where a person's files are refused."""
    try:
        return check(*args)
    except PosttrainError as error:
        sys.exit(f"config: {error}")


if workflow.is_main_process and not workflow.dryrun:
    try:
        jobs.hold_folder()
    except PosttrainError as error:
        sys.exit(str(error))


def settings_of(**keys) -> dict:
    """Return what a stage reads from the config as one param: name -> value of a dotted key.

    One, because Snakemake compares params as a set: two that swap values would go unnoticed. And
    canonical, so that neither the order of keys nor 1 for 1.0 reruns anything.
    """

    def value(dotted: str):
        found = config
        for key in dotted.split("."):
            found = found[key]
        return settings.canonical(found)

    return {name: value(keys[name]) for name in sorted(keys)}


# The task's module is loaded by its name: it is part of what those read that load a task.
LOADED = {tasks.__name__: tasks.module_of(config["task"])}


def code_of(script: str) -> list[str]:
    """Return the script and the project modules it imports: a change in any reruns the rule."""
    return [os.path.relpath(path) for path in imports.code_files(HOME / script, LOADED)]


def libraries_of(script: str) -> dict[str, str]:
    """Return the versions of the libraries that those import: an upgrade reruns the rule."""
    return imports.library_versions(imports.code_files(HOME / script, LOADED))


def per_attempt(amount: int):
    """Return `amount` as a resource, of which a job has twice as much on its second attempt.

    Amounts are the memory, mem_mb, or minutes, runtime, that a model of some hundred million
    parameters takes. A cluster holds jobs to them; here they limit nothing, unless --resources does.
    """
    return lambda wildcards, attempt: amount * attempt


BASE_MODEL = "resources/base_model/manifest.json"
# The model that rollouts are sampled from: the base model, if the config names no other.
SAMPLER = "resources/sampler_model/manifest.json" if config["rollouts"]["model"] else BASE_MODEL
ROUNDS = range(1, config["rft"]["rounds"] + 1)
# With several rounds, rft learns from all training questions but those that choose one of them.
RFT_QUESTIONS = f"results/questions/{'rft_train' if len(ROUNDS) > 1 else 'train'}.jsonl"
SET_ASIDE = "results/questions/rft_held_out.jsonl"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json", "receipt.json")
SPLITS = ("train", "valid")
# model -> the style it is asked in, and the folder of its adapter if it has one
MODELS = {
    "base": {"style": "answer", "adapter": None},
    "cot": {"style": "worked", "adapter": None},
    "sft": {"style": "answer", "adapter": "results/sft"},
    "rft": {"style": "reasoning", "adapter": "results/rft"},
}
for name, entry in config["evaluate"]["adapters"].items():
    entry = {"folder": entry} if isinstance(entry, str) else entry
    folder = os.path.normpath(entry["folder"])  # without a slash at its end
    MODELS[name] = {"style": entry.get("prompt", "answer"), "adapter": folder}
    if name not in config["convert"]:
        checked(refuse_pickles, folder, name)


def adapter_files(model: str) -> list[str]:
    """Return the files of a model's adapter, weights first; none for the base model.

    A person's adapter may lack a receipt, and is evaluated as unproven then. Its path is the
    person's: `local` keeps a sweep from looking for it among the sweep's own results.
    """
    folder = MODELS[model]["adapter"]
    if folder is None:
        return []
    files = [f"{folder}/{name}" for name in ADAPTER_FILES]
    if model in ("sft", "rft"):
        return files
    *needed, receipt = map(local, files)
    return [*needed, receipt] if Path(receipt).is_file() else needed


def adapter_of_round(number: int) -> list[str]:
    """Return the files of a round's adapter, weights first; none of round 0, the base model."""
    return [f"results/rft/round{number}/{name}" for name in ADAPTER_FILES if number]


def engine_of(**roles: str) -> dict:
    """Return what a stage reads of how its models are served; {} where none of them is.

    `roles` are the stage's own names for its models, each with the one that the config knows.
    """
    served = config["engine"]["models"]
    models = {role: served[model] for role, model in sorted(roles.items()) if model in served}
    if config["engine"]["url"] is None or not models:
        return {}
    keys = {key: f"engine.{key}" for key in ("url", "server", "check_prompts", "most_flips")}
    return {"engine": {**settings_of(**keys), "models": models}}


def connection_of(**roles: str) -> dict:
    """Return how the server is asked, which no byte hangs on; {} where nothing is asked of it.

    For params that take `threads`, too: Snakemake derives those anew, and a change reruns nothing.
    """
    keys = {key: f"engine.{key}" for key in ("concurrency", "timeout", "retries")}
    return settings_of(**keys) if engine_of(**roles) else {}


def weights_of(model: str) -> str:
    """Return the name by which the config knows a model's weights: `cot` asks those of `base`."""
    return "base" if model == "cot" else model


def rollout_models(round: str) -> dict[str, str]:
    """Return the models of a round that may be served: its own name for each -> the config's.

    From the second round on the sampler is an adapter of this run, which no server has yet.
    """
    sampler = "sampler" if config["rollouts"]["model"] else "base"
    return {"sft": "sft"} | ({"sampler": sampler} if round == "1" else {})


def training_keys(stage: str) -> dict[str, str]:
    """Return what training reads of its section of the config; the rest shaped its rows."""
    keys = ("lora", "learning_rate", "epochs", "batch_size", "gradient_checkpointing")
    return {key: f"{stage}.{key}" for key in keys}


def jobs_of(rule, **wildcards) -> dict[str, list]:
    """Return the receipts of all jobs of a rule, and the files of their times if it keeps any.

    As Snakemake's own paths: in a sweep, plain text would be moved a second time.
    """
    timed = [rule.benchmark] if rule.rule.benchmark else []
    files = {"receipts": [rule.output.receipt], "times": timed}
    return {what: expand(paths, **wildcards) for what, paths in files.items()}


wildcard_constraints:
    round="|".join(map(str, ROUNDS)),
