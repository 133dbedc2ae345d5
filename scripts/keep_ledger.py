"""Rule ledger: a round's rollouts and what was kept of them in; what sampling brought out."""

from posttrain import artifacts, jobs, lineage, logs

with jobs.running(snakemake.log[0]):
    from posttrain import ledger

    name = f"round{snakemake.wildcards.round}"
    rollouts, kept, questions = map(
        artifacts.read_jsonl,
        (snakemake.input.rollouts, snakemake.input.kept, snakemake.input.questions),
    )
    asked = len({row["question_id"] for row in rollouts})
    left_out = artifacts.read_csv(snakemake.input.left_out)
    measures = ledger.measures(name, rollouts, kept, left_out, questions)
    unsolved = ledger.never_solved(name, rollouts, questions)
    marginal = ledger.marginal(name, rollouts)
    logs.log.info("%s: %d of %d questions never solved", name, len(unsolved), asked)
    artifacts.write_csv(snakemake.output.ledger, measures, ledger.COLUMNS)
    artifacts.write_csv(snakemake.output.never_solved, unsolved, ledger.UNSOLVED_COLUMNS)
    artifacts.write_csv(snakemake.output.marginal, marginal, ledger.MARGINAL_COLUMNS)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, {}))
