rule evaluate:
    input:
        base=BASE_MODEL,
        questions=rules.questions.output.valid,
        adapter=lambda wildcards: adapter_files(wildcards.model),
        code=code_of("scripts/evaluate_model.py"),
    output:
        row="results/{model}_eval.csv",
        predictions="results/{model}_predictions.jsonl",
        receipt="results/{model}_receipt.json",
    log:
        "logs/evaluate_{model}.log",
    benchmark:
        "benchmarks/evaluate_{model}.tsv"
    wildcard_constraints:
        model="|".join(MODELS),
    conda:
        "../envs/train.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
        mem_mb=per_attempt(32000),
        runtime=per_attempt(120),
    params:
        recipe=settings_of(
            task="task",
            prompts="prompts",
            limit="evaluate.limit",
            max_new_tokens="evaluate.max_new_tokens",
            batch_size="evaluate.batch_size",
            relative_tolerance="evaluate.relative_tolerance",
            absolute_tolerance="evaluate.absolute_tolerance",
            answer_digits="sft.answer_digits",
        ),
        model="{model}",
        style=lambda wildcards: MODELS[wildcards.model]["style"],
        engine=lambda wildcards: engine_of(model=weights_of(wildcards.model)),
        connection=lambda wildcards, threads: connection_of(model=weights_of(wildcards.model)),
        libraries=libraries_of("scripts/evaluate_model.py"),
    script:
        "../scripts/evaluate_model.py"
