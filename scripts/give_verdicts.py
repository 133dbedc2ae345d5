"""Rule verdicts: all results in; who passed its bar, and what looks wrong with the others, out."""

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import diagnosis

    given = snakemake.input
    lineage.refuse_changed([given.summary_receipt, *given.receipts])
    rows = artifacts.read_csv(given.summary)
    predictions = [artifacts.read_jsonl(path) for path in given.predictions]
    verdicts = diagnosis.verdicts(
        given.summary,
        rows,
        predictions,
        [artifacts.read_json(path) for path in given.receipts],
        snakemake.params.models,
        snakemake.params.recipe["require"],
    )
    artifacts.write_csv(snakemake.output.verdicts, verdicts, diagnosis.COLUMNS)
    receipt = lineage.receipt_of_rule(snakemake, snakemake.params.recipe)
    artifacts.write_json(snakemake.output.receipt, receipt)
