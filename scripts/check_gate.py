"""Rule gate: all results in; the verdicts again out, or failure where a model is under its bar."""

from posttrain import artifacts, jobs, lineage, logs

with jobs.running(snakemake.log[0]):
    from posttrain import diagnosis

    lineage.refuse_changed(snakemake.input.receipts)
    rows = artifacts.read_csv(snakemake.input.summary)
    logs.log.info("%s\n\n%s\n", snakemake.input.summary, diagnosis.table(rows))
    diagnosis.refuse_failed(artifacts.read_csv(snakemake.input.verdicts))
    artifacts.copy(snakemake.input.verdicts, snakemake.output.passed)
