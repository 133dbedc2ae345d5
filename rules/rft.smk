use rule tokenize_sft as tokenize_rft with:
    input:
        base=BASE_MODEL,
        rows=rules.select_rft_data.output.rows,
        code=code_of("scripts/tokenize_rows.py"),
    output:
        rows="results/tokenized/rft.jsonl",
        stats="results/tokenized/rft_stats.csv",
        receipt="results/tokenized/rft_receipt.json",
    log:
        "logs/tokenize_rft.log",
    benchmark:
        "benchmarks/tokenize_rft.tsv"
    params:
        recipe=settings_of(
            task="task",
            prompts="prompts",
            max_length="rft.max_length",
            bad_rows="rft.bad_rows",
            answer_digits="sft.answer_digits",
        ),
        style="reasoning",
        libraries=libraries_of("scripts/tokenize_rows.py"),


use rule sft_train as rft_train with:
    input:
        base=BASE_MODEL,
        rows=rules.tokenize_rft.output.rows,
        code=code_of("scripts/train_adapter.py"),
    output:
        weights=ensure("results/rft/round1/adapter_model.safetensors", non_empty=True),
        config="results/rft/round1/adapter_config.json",
        receipt="results/rft/round1/receipt.json",
        history="results/rft/round1/history.csv",
    log:
        "logs/rft_train.log",
    benchmark:
        "benchmarks/rft_train.tsv"
    params:
        recipe=settings_of(seed="seed", **training_keys("rft")),
        style="reasoning",
        libraries=libraries_of("scripts/train_adapter.py"),


# Of several rounds one becomes the result; with a single round there is nothing to choose.
rule choose_round:
    input:
        weights=rules.rft_train.output.weights,
        config=rules.rft_train.output.config,
        receipt=rules.rft_train.output.receipt,
        history=rules.rft_train.output.history,
        code=code_of("scripts/choose_round.py"),
    output:
        weights=ensure("results/rft/adapter_model.safetensors", non_empty=True),
        config="results/rft/adapter_config.json",
        receipt="results/rft/receipt.json",
        history="results/rft/history.csv",
    log:
        "logs/choose_round.log",
    conda:
        "../envs/light.yaml"
    script:
        "../scripts/choose_round.py"
