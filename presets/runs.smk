# How a sweep runs; not started by itself. A file such as seeds.smk states RUNS, and its name in
# SWEEP, and includes this one. Each run is the whole workflow with some settings changed, under
# results/sweeps/<run>/, and so with its logs, benchmarks and report. The base model is made once
# for all of them, and the first run, in results/, counts as one of them.
from copy import deepcopy

from snakemake.utils import update_config


include: "../Snakefile"


from posttrain import sweeps  # found once the Snakefile is read

if faults := sweeps.name_faults(RUNS):
    sys.exit("\n".join(faults))


def of_models(chosen):
    """Return the settings that the base model, and the one that rollouts come from, hang on."""
    data, made = chosen["data"], (chosen["task"], chosen["base_model"], chosen["embedded"])
    return *made, data["held_out"], data["held_out_seed"], chosen["rollouts"]["model"]


def in_run(run: str, path: str) -> str:
    """Return where a run of the sweep has what the first run has at `path`."""
    return path.replace("results/", f"results/sweeps/{run}/", 1)


def of_runs(name: str) -> list[str]:
    """Return a file of every run, the first run's first."""
    return [f"results/{name}", *(in_run(run, f"results/{name}") for run in RUNS)]


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
            {
                **{
                    f"{kind}/": f"{kind}/sweeps/{run}/"
                    for kind in ("results", "logs", "benchmarks")
                },
                "report.html": f"results/sweeps/{run}/report.html",
            }

    use rule * from run exclude base_model, sampler_model as prefix*


# The table asks for each run's figures, and not for its gate: a run under its bar is a row too.
rule sweep:
    input:
        summaries=of_runs("summary.csv"),
        verdicts=of_runs("verdicts.csv"),
        predictions=[path for model in MODELS for path in of_runs(f"{model}_predictions.jsonl")],
        receipts=[
            *of_runs("summary_receipt.json"),
            *of_runs("verdicts_receipt.json"),
            *[path for model in MODELS for path in of_runs(f"{model}_receipt.json")],
        ],
        code=code_of("scripts/tabulate_sweep.py"),
    output:
        table=f"results/sweeps/{SWEEP}.csv",
        spread=f"results/sweeps/{SWEEP}_spread.csv",
        plot=f"results/sweeps/{SWEEP}.svg",
        receipt=f"results/sweeps/{SWEEP}_receipt.json",
    log:
        f"logs/sweeps/{SWEEP}.log",
    conda:
        "../envs/train.yaml"
    params:
        models=list(MODELS),
        # In the order of the inputs, which they are told by.
        runs={sweeps.FIRST: {}, **{run: settings.canonical(RUNS[run]) for run in RUNS}},
        recipe=settings.canonical(config),
        libraries=libraries_of("scripts/tabulate_sweep.py"),
    script:
        "../scripts/tabulate_sweep.py"
