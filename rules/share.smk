# What is given away. No rule here is part of a run: each is asked for by the name of its output.
ADAPTERS = [model for model, entry in MODELS.items() if entry["adapter"]]
THEIRS = [model for model in ADAPTERS if model not in ("sft", "rft")]
SAMPLED = [path for path in SHARD_FILES if path.endswith("_receipt.json")]
ROUNDS_MADE = expand(
    [
        rules.gather_rollouts.output.receipt,
        *rules.select_rft_data.output,
        rules.tokenize_rft.output.receipt,
        rules.rft_train.output.receipt,  # without its weights: the chosen one's go along
        rules.rft_train.output.history,
        *(rules.evaluate_held_out.output if len(ROUNDS) > 1 else ()),
        *rules.ledger.output,
    ],
    round=ROUNDS,
)
# The receipts that may tell how an adapter was made, its training's last; of somebody else's its
# own.
STAGES = {
    "sft": [
        rules.questions.output.receipt,
        rules.tokenize_sft.output.receipt,
        rules.sft_train.output.receipt,
    ],
    "rft": [
        rules.questions.output.receipt,
        *([rules.split_questions.output.receipt] if len(ROUNDS) > 1 else []),
        *[
            path
            for number in ROUNDS
            for path in (
                # Shards differ in their number alone.
                *[path for path in SAMPLED if f"round{number}/shard_1_" in path],
                f"results/rollouts/round{number}_receipt.json",
                f"results/rft_data/round{number}_receipt.json",
                f"results/tokenized/rft_round{number}_receipt.json",
                f"results/rft/round{number}/receipt.json",
            )
        ],
        rules.select_round.output.adapter_receipt,
    ],
    **{model: adapter_files(model)[2:] for model in THEIRS},
}
# Of the workflow itself, what a bundle takes along where it is there.
WORKFLOW_FILES = (
    *("Snakefile", "Makefile", "README.md", "LICENSE", "requirements*", "pyproject.toml"),
    *("rules/*.smk", "scripts/**/*.py", "schemas/*.yaml", "envs/*.yaml", "presets/*", "report/*"),
    "profiles/*/config.yaml",
)


rule export_rollouts:
    input:
        rows=rules.select_rft_data.output.rows,
        questions=rules.questions.output.train,
        code=code_of("scripts/export_rollouts.py"),
    output:
        triples="results/rft_data/round{round}.json",
        receipt="results/rft_data/round{round}_export_receipt.json",
    log:
        "logs/export_rollouts_round{round}.log",
    conda:
        "../envs/light.yaml"
    params:
        recipe=settings_of(task="task"),
        libraries=libraries_of("scripts/export_rollouts.py"),
    script:
        "../scripts/export_rollouts.py"


rule merge_adapter:
    input:
        base=BASE_MODEL,
        adapter=lambda wildcards: adapter_files(wildcards.model),
        code=code_of("scripts/merge_adapter.py"),
    output:
        weights=ensure("results/{model}/merged/model.safetensors", non_empty=True),
        config="results/{model}/merged/config.json",
        generation="results/{model}/merged/generation_config.json",
        tokenizer="results/{model}/merged/tokenizer.json",
        tokenizer_config="results/{model}/merged/tokenizer_config.json",
        receipt="results/{model}/merged/receipt.json",
    log:
        "logs/merge_{model}.log",
    benchmark:
        "benchmarks/merge_{model}.tsv"
    wildcard_constraints:
        model="|".join(ADAPTERS),
    conda:
        "../envs/train.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
        mem_mb=per_attempt(32000),
        runtime=per_attempt(60),
    params:
        libraries=libraries_of("scripts/merge_adapter.py"),
    script:
        "../scripts/merge_adapter.py"


rule model_card:
    input:
        base=BASE_MODEL,
        sampler=lambda wildcards: OTHER_SAMPLER if wildcards.model == "rft" else [],
        adapter=lambda wildcards: adapter_files(wildcards.model),
        stages=lambda wildcards: STAGES[wildcards.model],
        data=lambda wildcards: [
            rules.questions.output.train,
            rules.questions.output.valid,
        ],
        rows=lambda wildcards: (
            expand(rules.select_rft_data.output.rows, round=ROUNDS)
            if wildcards.model == "rft"
            else []
        ),
        yields=lambda wildcards: (
            expand(rules.select_rft_data.output.yields, round=ROUNDS)
            if wildcards.model == "rft"
            else []
        ),
        summary=rules.summary.output.table,
        summary_receipt=rules.summary.output.receipt,
        comparisons=rules.comparisons.output.table,
        changes=rules.comparisons.output.changes,  # which the receipt states too
        comparisons_receipt=rules.comparisons.output.receipt,
        predictions="results/{model}_predictions.jsonl",
        evaluation="results/{model}_receipt.json",
        code=code_of("scripts/write_model_card.py"),
    output:
        card="results/{model}/README.md",
        receipt="results/{model}/card_receipt.json",
    log:
        "logs/card_{model}.log",
    wildcard_constraints:
        model="|".join(ADAPTERS),
    conda:
        "../envs/train.yaml"
    params:
        libraries=libraries_of("scripts/write_model_card.py"),
    script:
        "../scripts/write_model_card.py"


# By name, so that nothing else can come along: no base model, no checkpoint, no stray file.
rule bundle:
    input:
        summary=rules.summary.output.table,
        results=[
            BASE_MODEL,
            *OTHER_SAMPLER,
            *rules.questions.output,
            *[path for s in ("sft", "rft") for path in adapter_files(s)],
            *expand("results/{stage}/history.csv", stage=("sft", "rft")),
            *expand(
                "results/tokenized/{stage}_{what}",
                stage=("sft", "rft"),
                what=("stats.csv", "receipt.json"),
            ),
            *SAMPLED,
            *ROUNDS_MADE,
            *([rules.import_rollouts.output.refused] if config["rollouts"]["file"] else []),
            *([*rules.split_questions.output] if len(ROUNDS) > 1 else []),
            rules.select_round.output.table,
            rules.select_round.output.receipt,
            *expand(
                "results/{model}_{what}",
                model=MODELS,
                what=("eval.csv", "predictions.jsonl", "receipt.json"),
            ),
            *rules.summary.output,
            *rules.comparisons.output,
            *rules.breakdown.output,
            *rules.verdicts.output,
            *expand(
                "results/{model}/{what}", model=ADAPTERS, what=("README.md", "card_receipt.json")
            ),
        ],
        theirs=[path for model in THEIRS for path in adapter_files(model)],
        workflow=lambda wildcards: [
            os.path.relpath(file)
            for pattern in WORKFLOW_FILES
            for file in sorted(HOME.glob(pattern))
            if file.is_file()
        ],
        code=code_of("scripts/make_bundle.py"),
    output:
        zip="results/bundle.zip",
        receipt="results/bundle_receipt.json",
    log:
        "logs/bundle.log",
    conda:
        "../envs/train.yaml"
    params:
        recipe=settings.canonical(config),
        theirs=[
            f"adapters/{model}/{Path(path).name}"
            for model in THEIRS
            for path in adapter_files(model)
        ],
        home=os.path.relpath(HOME),
        libraries=libraries_of("scripts/make_bundle.py"),
    script:
        "../scripts/make_bundle.py"
