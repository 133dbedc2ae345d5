"""Rule comparisons: all predictions in; who gains on whom, and on which questions, out."""

from posttrain import artifacts, jobs, lineage, logs

with jobs.running(snakemake.log[0]):
    from posttrain import comparison

    lineage.refuse_changed(snakemake.input.receipts)
    predictions = map(artifacts.read_jsonl, snakemake.input.predictions)
    said = dict(zip(snakemake.params.models, predictions, strict=True))
    rows = comparison.comparisons(said)
    for row in rows:
        logs.log.info("%s", comparison.told(row))
    changes = comparison.changes(said)
    artifacts.write_csv(snakemake.output.table, rows, comparison.COLUMNS)
    artifacts.write_csv(snakemake.output.changes, changes, comparison.CHANGE_COLUMNS)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, {}))
