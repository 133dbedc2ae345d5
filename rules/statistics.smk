rule comparisons:
    input:
        predictions=expand("results/{model}_predictions.jsonl", model=MODELS),
        receipts=expand("results/{model}_receipt.json", model=MODELS),
        code=code_of("scripts/compare_models.py"),
    output:
        table="results/comparisons.csv",
        changes="results/gained_lost.csv",
        receipt="results/comparisons_receipt.json",
    log:
        "logs/comparisons.log",
    conda:
        "../envs/light.yaml"
    params:
        models=list(MODELS),
        libraries=libraries_of("scripts/compare_models.py"),
    script:
        "../scripts/compare_models.py"


rule breakdown:
    input:
        predictions=expand("results/{model}_predictions.jsonl", model=MODELS),
        receipts=expand("results/{model}_receipt.json", model=MODELS),
        asked=rules.questions.output.valid,
        trained=rules.questions.output.train,
        code=code_of("scripts/break_down.py"),
    output:
        table="results/breakdown.csv",
        receipt="results/breakdown_receipt.json",
    log:
        "logs/breakdown.log",
    conda:
        "../envs/light.yaml"
    params:
        models=list(MODELS),
        recipe=settings_of(
            task="task",
            base_model="base_model",
            held_out="data.held_out",
            held_out_seed="data.held_out_seed",
        ),
        libraries=libraries_of("scripts/break_down.py"),
    script:
        "../scripts/break_down.py"


rule ledger:
    input:
        rollouts="results/rollouts/round{round}.jsonl",
        kept="results/rft_data/round{round}.jsonl",
        left_out="results/rft_data/round{round}_left_out.csv",
        questions=rules.questions.output.train,
        code=code_of("scripts/keep_ledger.py"),
    output:
        ledger="results/rft_data/round{round}_ledger.csv",
        never_solved="results/rft_data/round{round}_never_solved.csv",
        marginal="results/rft_data/round{round}_marginal.csv",
        receipt="results/rft_data/round{round}_ledger_receipt.json",
    log:
        "logs/ledger_round{round}.log",
    conda:
        "../envs/light.yaml"
    params:
        libraries=libraries_of("scripts/keep_ledger.py"),
    script:
        "../scripts/keep_ledger.py"


# Asked for by name alone: it costs `evaluate.samples` evaluations.
rule sampled:
    input:
        base=BASE_MODEL,
        questions=rules.questions.output.valid,
        adapter=lambda wildcards: adapter_files(wildcards.model),
        code=code_of("scripts/sample_answers.py"),
    output:
        completions="results/sampled/{model}_completions.jsonl",
        table="results/sampled/{model}_pass_at_k.csv",
        receipt="results/sampled/{model}_receipt.json",
    log:
        "logs/sampled_{model}.log",
    benchmark:
        "benchmarks/sampled_{model}.tsv"
    wildcard_constraints:
        model="|".join(MODELS),
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
            limit="evaluate.limit",
            samples="evaluate.samples",
            temperature="evaluate.temperature",
            max_new_tokens="evaluate.max_new_tokens",
            batch_size="evaluate.batch_size",
            questions_per_chunk="rollouts.questions_per_chunk",
            relative_tolerance="evaluate.relative_tolerance",
            absolute_tolerance="evaluate.absolute_tolerance",
            answer_digits="sft.answer_digits",
        ),
        style=lambda wildcards: MODELS[wildcards.model]["style"],
        engine=lambda wildcards: engine_of(model=weights_of(wildcards.model)),
        connection=lambda wildcards, threads: connection_of(model=weights_of(wildcards.model)),
        libraries=libraries_of("scripts/sample_answers.py"),
    script:
        "../scripts/sample_answers.py"
