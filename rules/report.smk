# One page about a run, for people; asked for by its name. It reads what every stage left, and does
# not wait for the gate: a run with a model under its bar needs it most.

# The steps that are drawn, in the order in which they run: with several rounds, all of a rule's
# are one.
STEPS = {
    "base_model": {"receipts": [BASE_MODEL], "times": []},
    **({"sampler_model": {"receipts": [SAMPLER], "times": []}} if OTHER_SAMPLER else {}),
    "questions": jobs_of(rules.questions),
    "tokenize_sft": jobs_of(rules.tokenize_sft),
    "sft_train": jobs_of(rules.sft_train),
    **({"split_questions": jobs_of(rules.split_questions)} if len(ROUNDS) > 1 else {}),
    **({"import_rollouts": jobs_of(rules.import_rollouts)} if config["rollouts"]["file"] else {}),
    **(
        {
            "generate_rft_data": jobs_of(
                rules.generate_rft_data, round=SAMPLED_ROUNDS, shard=SHARDS, shards=len(SHARDS)
            ),
            "gather_rollouts": jobs_of(rules.gather_rollouts, round=SAMPLED_ROUNDS),
        }
        if SAMPLED_ROUNDS
        else {}
    ),
    "select_rft_data": jobs_of(rules.select_rft_data, round=ROUNDS),
    "ledger": jobs_of(rules.ledger, round=ROUNDS),
    "tokenize_rft": jobs_of(rules.tokenize_rft, round=ROUNDS),
    "rft_train": jobs_of(rules.rft_train, round=ROUNDS),
    **(
        {"evaluate_held_out": jobs_of(rules.evaluate_held_out, round=ROUNDS)}
        if len(ROUNDS) > 1
        else {}
    ),
    "select_round": jobs_of(rules.select_round),
    "evaluate": jobs_of(rules.evaluate, model=MODELS),
    "comparisons": jobs_of(rules.comparisons),
    "breakdown": jobs_of(rules.breakdown),
    "summary": jobs_of(rules.summary),
    "verdicts": jobs_of(rules.verdicts),
}
# training -> its history; a model made elsewhere has none
HISTORIES = {
    **(
        {"base model": "resources/base_model/history.csv"}
        if config["base_model"] == "embedded"
        else {}
    ),
    "sft": rules.sft_train.output.history,
    **dict(
        zip(
            (f"rft, round {number}" for number in ROUNDS),
            expand(rules.rft_train.output.history, round=ROUNDS),
            strict=True,
        )
    ),
}


rule report:
    input:
        base=BASE_MODEL,
        receipts=[path for made in STEPS.values() for path in made["receipts"]],
        summary=rules.summary.output.table,
        verdicts=rules.verdicts.output.verdicts,
        comparisons=rules.comparisons.output.table,
        breakdown=rules.breakdown.output.table,
        leaks=rules.questions.output.leaks,
        questions=rules.questions.output.valid,
        predictions=expand("results/{model}_predictions.jsonl", model=MODELS),
        histories=list(HISTORIES.values()),
        choice=[rules.select_round.output.table] if len(ROUNDS) > 1 else [],
        tokenized=[
            rules.tokenize_sft.output.rows,
            *expand(rules.tokenize_rft.output.rows, round=ROUNDS),
        ],
        yields=expand(rules.select_rft_data.output.yields, round=ROUNDS),
        ledgers=expand(rules.ledger.output.ledger, round=ROUNDS),
        never_solved=expand(rules.ledger.output.never_solved, round=ROUNDS),
        marginal=expand(rules.ledger.output.marginal, round=ROUNDS),
        template=os.path.relpath(HOME / "report/report.html.j2"),
        style=os.path.relpath(HOME / "report/style.css"),
        schema=os.path.relpath(HOME / "schemas/receipt.schema.yaml"),
        code=code_of("scripts/write_report.py"),
    output:
        "report.html",
    log:
        "logs/report.log",
    conda:
        "../envs/train.yaml"
    params:
        recipe=settings_of(task="task"),
        models=list(MODELS),
        steps={
            name: {what: list(map(str, paths)) for what, paths in made.items()}
            for name, made in STEPS.items()
        },
        histories=list(HISTORIES),
        rounds=[f"round{number}" for number in ROUNDS],
        libraries=libraries_of("scripts/write_report.py"),
    script:
        "../scripts/write_report.py"
