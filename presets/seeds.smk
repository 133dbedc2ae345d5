# How much of a figure is chance: the first run again with other seeds of questions, adapters, order
# of rows and samples. The base model stays.
#
#   snakemake --snakefile presets/seeds.smk
SWEEP = "seeds"
RUNS = {f"seed{n}": {"seed": n} for n in range(1, 5)}  # and the first run, by default of seed 0


include: "runs.smk"


rule seeds:
    default_target: True
    input:
        rules.sweep.output,
