"""Rule summary: one row a model in; all of them in one table out."""

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import scoring

    lineage.refuse_changed(snakemake.input.receipts)
    rows = scoring.gathered({path: artifacts.read_csv(path) for path in snakemake.input.rows})
    artifacts.write_csv(snakemake.output.table, rows, scoring.COLUMNS)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, {}))
