SHARDS = range(1, config["rollouts"]["shards"] + 1)


rule generate_rft_data:
    input:
        base=BASE_MODEL,
        # From the second round on, the base model with what the round before made of it.
        sampler=lambda wildcards: SAMPLER if wildcards.round == "1" else BASE_MODEL,
        sampler_adapter=lambda wildcards: adapter_of_round(int(wildcards.round) - 1),
        questions=RFT_QUESTIONS,
        adapter=rules.sft_train.output.weights,
        adapter_config=rules.sft_train.output.config,
        adapter_receipt=rules.sft_train.output.receipt,
        code=code_of("scripts/generate_rft_data.py"),
    output:
        rollouts="results/rollouts/round{round}/shard_{shard}_of_{shards}.jsonl",
        receipt="results/rollouts/round{round}/shard_{shard}_of_{shards}_receipt.json",
    log:
        "logs/generate_rft_data_round{round}_{shard}_of_{shards}.log",
    benchmark:
        "benchmarks/generate_rft_data_round{round}_{shard}_of_{shards}.tsv"
    wildcard_constraints:
        shard=r"\d+",
        shards=r"\d+",
    conda:
        "../envs/train.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
        mem_mb=per_attempt(32000),
        runtime=per_attempt(480),
    params:
        recipe=settings_of(
            task="task",
            seed="seed",
            prompts="prompts",
            samples_per_question="rollouts.samples_per_question",
            samples_when_sft_is_right="rollouts.samples_when_sft_is_right",
            extra_samples="rollouts.extra_samples",
            **(
                {"extra_below": "rollouts.extra_below"}
                if config["rollouts"]["extra_samples"]
                else {}
            ),
            temperature="rollouts.temperature",
            max_new_tokens="rollouts.max_new_tokens",
            questions_per_chunk="rollouts.questions_per_chunk",
            batch_size="rollouts.batch_size",
            answer_digits="sft.answer_digits",
            relative_tolerance="evaluate.relative_tolerance",
            absolute_tolerance="evaluate.absolute_tolerance",
        ),
        round=lambda wildcards: int(wildcards.round),
        style=lambda wildcards: "worked" if wildcards.round == "1" else "reasoning",
        engine=lambda wildcards: engine_of(**rollout_models(wildcards.round)),
        connection=lambda wildcards, threads: connection_of(**rollout_models(wildcards.round)),
        libraries=libraries_of("scripts/generate_rft_data.py"),
    script:
        "../scripts/generate_rft_data.py"


# Those that are sampled here: the first may be somebody's own.
SAMPLED_ROUNDS = ROUNDS[1:] if config["rollouts"]["file"] else ROUNDS
# The manifest of the model that the first round was sampled from, where it is not the base model.
OTHER_SAMPLER = [SAMPLER] if SAMPLER != BASE_MODEL and 1 in SAMPLED_ROUNDS else []
SHARD_FILES = expand(
    rules.generate_rft_data.output,
    round=SAMPLED_ROUNDS,
    shard=SHARDS,
    shards=len(SHARDS),
)


# A shard is a run of whole chunks, and chunks depend on nothing but themselves: the file is the
# same for any number of shards.
rule gather_rollouts:
    input:
        rollouts=expand(
            rules.generate_rft_data.output.rollouts,
            shard=SHARDS,
            shards=len(SHARDS),
            allow_missing=True,
        ),
        receipts=expand(
            rules.generate_rft_data.output.receipt,
            shard=SHARDS,
            shards=len(SHARDS),
            allow_missing=True,
        ),
        code=code_of("scripts/gather_rollouts.py"),
    output:
        rollouts=ensure("results/rollouts/round{round}.jsonl", non_empty=True),
        receipt="results/rollouts/round{round}_receipt.json",
    log:
        "logs/gather_rollouts_round{round}.log",
    conda:
        "../envs/light.yaml"
    params:
        libraries=libraries_of("scripts/gather_rollouts.py"),
    script:
        "../scripts/gather_rollouts.py"


rule select_rft_data:
    input:
        # Of all rounds so far, by their paths: the first may be somebody's own.
        rollouts=lambda wildcards: [
            f"results/rollouts/round{number}.jsonl" for number in ROUNDS[: int(wildcards.round)]
        ],
        code=code_of("scripts/select_rft_data.py"),
    output:
        rows="results/rft_data/round{round}.jsonl",
        yields="results/rft_data/round{round}_yield.csv",
        left_out="results/rft_data/round{round}_left_out.csv",
        receipt="results/rft_data/round{round}_receipt.json",
    log:
        "logs/select_rft_data_round{round}.log",
    benchmark:
        "benchmarks/select_rft_data_round{round}.tsv"
    conda:
        "../envs/light.yaml"
    params:
        recipe=settings_of(
            task="task",
            seed="seed",
            keep_per_question="rollouts.keep_per_question",
            keep_tolerance="rollouts.keep_tolerance",
            prefer="rollouts.prefer",
            distinct_paths="rollouts.distinct_paths",
            farthest_apart="rollouts.farthest_apart",
            gold_rows="rft.gold_rows",
            answer_digits="sft.answer_digits",
            held_out="data.held_out",
            held_out_seed="data.held_out_seed",
        ),
        libraries=libraries_of("scripts/select_rft_data.py"),
    script:
        "../scripts/select_rft_data.py"
