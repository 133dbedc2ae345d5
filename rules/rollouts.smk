SHARDS = range(1, config["rollouts"]["shards"] + 1)

# Its models, and which of them the section `engine` may have served.
ROLLOUT_MODELS = {"sft": "sft", "sampler": "sampler" if config["rollouts"]["model"] else "base"}


rule generate_rft_data:
    input:
        base=BASE_MODEL,
        sampler=SAMPLER,
        questions=rules.questions.output.train,
        adapter=rules.sft_train.output.weights,
        adapter_config=rules.sft_train.output.config,
        adapter_receipt=rules.sft_train.output.receipt,
        code=code_of("scripts/generate_rft_data.py"),
    output:
        rollouts="results/rollouts/round1/shard_{shard}_of_{shards}.jsonl",
        receipt="results/rollouts/round1/shard_{shard}_of_{shards}_receipt.json",
    log:
        "logs/generate_rft_data_{shard}_of_{shards}.log",
    benchmark:
        "benchmarks/generate_rft_data_{shard}_of_{shards}.tsv"
    wildcard_constraints:
        shard=r"\d+",
        shards=r"\d+",
    conda:
        "../envs/train.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        recipe=settings_of(
            seed="seed",
            prompts="prompts",
            samples_per_question="rollouts.samples_per_question",
            samples_when_sft_is_right="rollouts.samples_when_sft_is_right",
            temperature="rollouts.temperature",
            max_new_tokens="rollouts.max_new_tokens",
            questions_per_chunk="rollouts.questions_per_chunk",
            batch_size="rollouts.batch_size",
            answer_digits="sft.answer_digits",
            relative_tolerance="evaluate.relative_tolerance",
            absolute_tolerance="evaluate.absolute_tolerance",
        ),
        round=1,
        engine=engine_of(**ROLLOUT_MODELS),
        connection=connection_of(**ROLLOUT_MODELS),
        libraries=libraries_of("scripts/generate_rft_data.py"),
    script:
        "../scripts/generate_rft_data.py"


SHARD_FILES = expand(rules.generate_rft_data.output, shard=SHARDS, shards=len(SHARDS))


# A shard is a run of whole chunks, and chunks depend on nothing but themselves: the file is the
# same for any number of shards.
rule gather_rollouts:
    input:
        rollouts=expand(rules.generate_rft_data.output.rollouts, shard=SHARDS, shards=len(SHARDS)),
        receipts=expand(rules.generate_rft_data.output.receipt, shard=SHARDS, shards=len(SHARDS)),
        code=code_of("scripts/gather_rollouts.py"),
    output:
        rollouts=ensure("results/rollouts/round1.jsonl", non_empty=True),
        receipt="results/rollouts/round1_receipt.json",
    log:
        "logs/gather_rollouts.log",
    conda:
        "../envs/light.yaml"
    params:
        libraries=libraries_of("scripts/gather_rollouts.py"),
    script:
        "../scripts/gather_rollouts.py"


rule select_rft_data:
    input:
        rollouts="results/rollouts/round1.jsonl",  # by its path: sampled, or somebody's own
        code=code_of("scripts/select_rft_data.py"),
    output:
        rows="results/rft_data/round1.jsonl",
        yields="results/rft_data/round1_yield.csv",
        receipt="results/rft_data/round1_receipt.json",
    log:
        "logs/select_rft_data.log",
    benchmark:
        "benchmarks/select_rft_data.tsv"
    conda:
        "../envs/light.yaml"
    params:
        recipe=settings_of(keep_per_question="rollouts.keep_per_question"),
        libraries=libraries_of("scripts/select_rft_data.py"),
    script:
        "../scripts/select_rft_data.py"
