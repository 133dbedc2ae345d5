rule tokenize_sft:
    input:
        base=BASE_MODEL,
        rows=rules.questions.output.train,
        code=code_of("scripts/tokenize_rows.py"),
    output:
        rows="results/tokenized/sft.jsonl",
        stats="results/tokenized/sft_stats.csv",
        receipt="results/tokenized/sft_receipt.json",
    log:
        "logs/tokenize_sft.log",
    benchmark:
        "benchmarks/tokenize_sft.tsv"
    conda:
        "../envs/train.yaml"
    params:
        recipe=settings_of(
            task="task",
            prompts="prompts",
            max_length="sft.max_length",
            bad_rows="sft.bad_rows",
            answer_digits="sft.answer_digits",
        ),
        style="answer",
        libraries=libraries_of("scripts/tokenize_rows.py"),
    script:
        "../scripts/tokenize_rows.py"


rule sft_train:
    input:
        base=BASE_MODEL,
        rows=rules.tokenize_sft.output.rows,
        code=code_of("scripts/train_adapter.py"),
    output:
        weights=ensure("results/sft/adapter_model.safetensors", non_empty=True),
        config="results/sft/adapter_config.json",
        receipt="results/sft/receipt.json",
        history="results/sft/history.csv",
    log:
        "logs/sft_train.log",
    benchmark:
        "benchmarks/sft_train.tsv"
    conda:
        "../envs/train.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
        mem_mb=per_attempt(32000),
        runtime=per_attempt(240),
    params:
        recipe=settings_of(seed="seed", **training_keys("sft")),
        style="answer",
        libraries=libraries_of("scripts/train_adapter.py"),
    script:
        "../scripts/train_adapter.py"
