# Which choices earn their place: the first run again, each time with one of them changed. The
# questions stay, so each run is held against the first on the same ones.
#
#   snakemake --snakefile presets/ablations.smk
SWEEP = "ablations"
RUNS = {
    "rank4": {"rft": {"lora": {"r": 4}}},
    "rank32": {"rft": {"lora": {"r": 32}}},
    "learning_rate_0001": {"rft": {"learning_rate": 0.001}},
    "learning_rate_0002": {"rft": {"learning_rate": 0.002}},
    "samples4": {"rollouts": {"samples_per_question": 4, "samples_when_sft_is_right": 4}},
    "samples8": {"rollouts": {"samples_per_question": 8, "samples_when_sft_is_right": 8}},
    "temperature06": {"rollouts": {"temperature": 0.6}},
    "temperature10": {"rollouts": {"temperature": 1.0}},
    "keep1": {"rollouts": {"keep_per_question": 1}},
    "keep16": {"rollouts": {"keep_per_question": 16}},
    "same_paths": {"rollouts": {"distinct_paths": False}},
    "farthest_apart": {"rollouts": {"farthest_apart": True}},
    "exact": {"rollouts": {"keep_tolerance": 0.005}},
    "shortest": {"rollouts": {"prefer": "shortest"}},
    "extra16": {"rollouts": {"extra_samples": 16}},
    "gold": {"rft": {"gold_rows": 1.0}},
    "rounds2": {"rft": {"rounds": 2}},
}


include: "runs.smk"


rule ablations:
    default_target: True
    input:
        rules.sweep.output,
