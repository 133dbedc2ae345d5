# Which round becomes the result. Only where there are several is a part of the training questions
# set aside for it; validation has no say.
if len(ROUNDS) > 1:

    rule split_questions:
        input:
            questions=rules.questions.output.train,
            code=code_of("scripts/split_questions.py"),
        output:
            train=RFT_QUESTIONS,
            held_out=SET_ASIDE,
            receipt="results/questions/rft_receipt.json",
        log:
            "logs/split_questions.log",
        conda:
            "../envs/light.yaml"
        params:
            recipe=settings_of(seed="seed", held_out="rft.held_out"),
            libraries=libraries_of("scripts/split_questions.py"),
        script:
            "../scripts/split_questions.py"

    use rule evaluate as evaluate_held_out with:
        input:
            base=BASE_MODEL,
            questions=SET_ASIDE,
            adapter=lambda wildcards: adapter_of_round(int(wildcards.round)),
            code=code_of("scripts/evaluate_model.py"),
        output:
            row="results/rft/round{round}/held_out_eval.csv",
            predictions="results/rft/round{round}/held_out_predictions.jsonl",
            receipt="results/rft/round{round}/held_out_receipt.json",
        log:
            "logs/evaluate_held_out_round{round}.log",
        benchmark:
            "benchmarks/evaluate_held_out_round{round}.tsv"
        params:
            recipe=dict(rules.evaluate.params.recipe, limit=None),
            model="rft_round{round}",
            style="reasoning",
            engine={},
            connection={},
            libraries=libraries_of("scripts/evaluate_model.py"),


rule select_round:
    input:
        evaluations=(
            expand(rules.evaluate_held_out.output.row, round=ROUNDS) if len(ROUNDS) > 1 else []
        ),
        predictions=(
            expand(rules.evaluate_held_out.output.predictions, round=ROUNDS)
            if len(ROUNDS) > 1
            else []
        ),
        evaluation_receipts=(
            expand(rules.evaluate_held_out.output.receipt, round=ROUNDS) if len(ROUNDS) > 1 else []
        ),
        yields=expand(rules.select_rft_data.output.yields, round=ROUNDS),
        weights=expand(rules.rft_train.output.weights, round=ROUNDS),
        config=expand(rules.rft_train.output.config, round=ROUNDS),
        adapter_receipt=expand(rules.rft_train.output.receipt, round=ROUNDS),
        history=expand(rules.rft_train.output.history, round=ROUNDS),
        rows=expand(rules.tokenize_rft.output.rows, round=ROUNDS),
        stats=expand(rules.tokenize_rft.output.stats, round=ROUNDS),
        rows_receipt=expand(rules.tokenize_rft.output.receipt, round=ROUNDS),
        code=code_of("scripts/select_round.py"),
    output:
        weights=ensure("results/rft/adapter_model.safetensors", non_empty=True),
        config="results/rft/adapter_config.json",
        adapter_receipt="results/rft/receipt.json",
        history="results/rft/history.csv",
        rows="results/tokenized/rft.jsonl",
        stats="results/tokenized/rft_stats.csv",
        rows_receipt="results/tokenized/rft_receipt.json",
        table="results/rft/rounds.csv",
        receipt="results/rft/rounds_receipt.json",
    log:
        "logs/select_round.log",
    conda:
        "../envs/light.yaml"
    params:
        libraries=libraries_of("scripts/select_round.py"),
    script:
        "../scripts/select_round.py"
