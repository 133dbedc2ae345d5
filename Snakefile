from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/base_model.smk"
include: "rules/questions.smk"
include: "rules/sft.smk"
include: "rules/rollouts.smk"
include: "rules/rft.smk"
include: "rules/convert.smk"
include: "rules/evaluate.smk"
include: "rules/statistics.smk"
include: "rules/summary.smk"


rule all:
    default_target: True
    input:
        "results/summary.csv",
        "results/passed.csv",
        "results/comparisons.csv",
        "results/breakdown.csv",
        "results/rft_data/round1_ledger.csv",
        # By name, or a deleted one would go unmissed while what was made from it is there.
        expand("results/{stage}/adapter_model.safetensors", stage=("sft", "rft")),
        expand("results/{model}_eval.csv", model=MODELS),
        expand("results/{model}_predictions.jsonl", model=MODELS),
