rule summary:
    input:
        rows=expand("results/{model}_eval.csv", model=MODELS),
        receipts=expand("results/{model}_receipt.json", model=MODELS),
        code=code_of("scripts/summarise.py"),
    output:
        table="results/summary.csv",
        receipt="results/summary_receipt.json",
    log:
        "logs/summary.log",
    conda:
        "../envs/light.yaml"
    params:
        models=list(MODELS),
        libraries=libraries_of("scripts/summarise.py"),
    script:
        "../scripts/summarise.py"


rule verdicts:
    input:
        summary=rules.summary.output.table,
        summary_receipt=rules.summary.output.receipt,
        predictions=expand("results/{model}_predictions.jsonl", model=MODELS),
        receipts=expand("results/{model}_receipt.json", model=MODELS),
        code=code_of("scripts/give_verdicts.py"),
    output:
        verdicts="results/verdicts.csv",
        receipt="results/verdicts_receipt.json",
    log:
        "logs/verdicts.log",
    conda:
        "../envs/light.yaml"
    params:
        models=list(MODELS),
        recipe=settings_of(require="evaluate.require"),
        libraries=libraries_of("scripts/give_verdicts.py"),
    script:
        "../scripts/give_verdicts.py"


# A rule of its own: one that fails loses its outputs, and the verdicts have to stay. It reads the
# summary and the verdicts, and waits for the others: what it ends in failure has all its results.
# What the receipts state must be what is there: no figure of a file that was edited by hand passes.
rule gate:
    input:
        summary=rules.summary.output.table,
        verdicts=rules.verdicts.output.verdicts,
        receipts=[
            rules.questions.output.receipt,
            *([rules.split_questions.output.receipt] if len(ROUNDS) > 1 else []),
            rules.tokenize_sft.output.receipt,
            rules.sft_train.output.receipt,
            *expand("results/rollouts/round{round}_receipt.json", round=ROUNDS),
            *expand(rules.select_rft_data.output.receipt, round=ROUNDS),
            *expand(rules.ledger.output.receipt, round=ROUNDS),
            *expand(rules.tokenize_rft.output.receipt, round=ROUNDS),
            *expand(rules.rft_train.output.receipt, round=ROUNDS),
            *(
                expand(rules.evaluate_held_out.output.receipt, round=ROUNDS)
                if len(ROUNDS) > 1
                else []
            ),
            rules.select_round.output.receipt,
            *expand(rules.evaluate.output.receipt, model=MODELS),
            rules.comparisons.output.receipt,
            rules.breakdown.output.receipt,
            rules.summary.output.receipt,
            rules.verdicts.output.receipt,
        ],
        others=[
            *expand(rules.select_rft_data.output, round=ROUNDS),
            *expand(rules.ledger.output, round=ROUNDS),
            *rules.select_round.output,
            *rules.comparisons.output,
            *rules.breakdown.output,
        ],
        code=code_of("scripts/check_gate.py"),
    output:
        passed="results/passed.csv",
    log:
        "logs/gate.log",
    conda:
        "../envs/light.yaml"
    script:
        "../scripts/check_gate.py"
