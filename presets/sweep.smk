# More runs beside the first one, each the whole workflow with some settings changed:
#
#   snakemake --snakefile presets/sweep.smk
#
# Start it from the workflow's folder; a copy in this folder, with another SWEEP, may hold runs of
# your own. It makes results/sweeps/<SWEEP>.csv: a row for each run and model.
SWEEP = "sweep"
# run -> what it changes of config.yaml, or of what --configfile has laid over it
RUNS = {
    "seed1": {"seed": 1},
    "rank8": {"sft": {"lora": {"r": 8}}, "rft": {"lora": {"r": 8}}},
}


include: "runs.smk"


rule all_runs:
    default_target: True
    input:
        rules.sweep.output,
