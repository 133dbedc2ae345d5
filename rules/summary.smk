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
            rules.tokenize_sft.output.receipt,
            rules.sft_train.output.receipt,
            *expand("results/rollouts/round{round}_receipt.json", round=ROUNDS),
            *expand(rules.select_rft_data.output.receipt, round=ROUNDS),
            *expand(rules.tokenize_rft.output.receipt, round=ROUNDS),
            *expand(rules.rft_train.output.receipt, round=ROUNDS),
            *expand(rules.evaluate.output.receipt, model=MODELS),
            rules.summary.output.receipt,
            rules.verdicts.output.receipt,
        ],
        others=[
            rules.comparisons.output.table,
            rules.breakdown.output.table,
            *expand(rules.ledger.output.ledger, round=ROUNDS),
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
