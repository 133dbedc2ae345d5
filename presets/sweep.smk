# More runs beside the first one, each the whole workflow with some settings changed:
#
#   snakemake --snakefile presets/sweep.smk
#
# Start it from the workflow's folder; a copy in this folder may hold runs of your own. What a run
# makes stands under results/sweeps/<run>/, and so with its logs and benchmarks. The base model is
# made once, for all these runs and for the first.
from copy import deepcopy

from snakemake.utils import update_config


include: "../Snakefile"


# run -> what it changes of config.yaml, or of what --configfile has laid over it
RUNS = {
    "seed1": {"seed": 1},
    "rank8": {"sft": {"lora": {"r": 8}}, "rft": {"lora": {"r": 8}}},
}


def of_models(chosen):
    """Return the settings that the base model, and the one that rollouts come from, hang on."""
    data, made = chosen["data"], (chosen["base_model"], chosen["embedded"])
    return *made, data["held_out"], data["held_out_seed"], chosen["rollouts"]["model"]


for run, changes in RUNS.items():
    chosen = deepcopy(config)
    update_config(chosen, changes)
    if of_models(chosen) != of_models(config):
        sys.exit(f"{run}: all runs share their models; change them in config.yaml, for all")
    prefix = f"{run}_"

    module:
        name: run
        snakefile:
            "../Snakefile"
        config:
            chosen
        replace_prefix:
            {f"{kind}/": f"{kind}/sweeps/{run}/" for kind in ("results", "logs", "benchmarks")}

    use rule * from run exclude base_model, sampler_model as prefix*


rule sweep:
    default_target: True
    input:
        [getattr(rules, f"{run}_all").input for run in RUNS],
