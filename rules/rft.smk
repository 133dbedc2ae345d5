use rule tokenize_sft as tokenize_rft with:
    input:
        base=BASE_MODEL,
        rows=rules.select_rft_data.output.rows,
        code=code_of("scripts/tokenize_rows.py"),
    output:
        rows="results/tokenized/rft_round{round}.jsonl",
        stats="results/tokenized/rft_round{round}_stats.csv",
        receipt="results/tokenized/rft_round{round}_receipt.json",
    log:
        "logs/tokenize_rft_round{round}.log",
    benchmark:
        "benchmarks/tokenize_rft_round{round}.tsv"
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
        weights=ensure("results/rft/round{round}/adapter_model.safetensors", non_empty=True),
        config="results/rft/round{round}/adapter_config.json",
        receipt="results/rft/round{round}/receipt.json",
        history="results/rft/round{round}/history.csv",
    log:
        "logs/rft_train_round{round}.log",
    benchmark:
        "benchmarks/rft_train_round{round}.tsv"
    params:
        recipe=settings_of(seed="seed", **training_keys("rft")),
        style="reasoning",
        libraries=libraries_of("scripts/train_adapter.py"),
