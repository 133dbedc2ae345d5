"""Rule sweep: the figures and predictions of several runs in; one table of all of them out."""

from posttrain import artifacts, jobs, lineage, logs

with jobs.running(snakemake.log[0]):
    from posttrain import plots, sweeps

    given, runs = snakemake.input, snakemake.params.runs
    lineage.refuse_changed(given.receipts)
    lines = iter(map(artifacts.read_jsonl, given.predictions))  # of the first model's runs, first
    of_models = {model: {run: next(lines) for run in runs} for model in snakemake.params.models}
    rows = sweeps.table(
        {run: sweeps.changed(runs[run], snakemake.params.recipe) for run in runs},
        dict(zip(runs, map(artifacts.read_csv, given.summaries), strict=True)),
        dict(zip(runs, map(artifacts.read_csv, given.verdicts), strict=True)),
        {run: {model: said[run] for model, said in of_models.items()} for run in runs},
        snakemake.params.models,
    )
    spread = sweeps.spread(rows, runs)
    for row in spread:
        logs.log.info("%s", sweeps.told(row))
    alt = "Accuracy of each model in each run; the table beside it has the figures"
    plot = plots.intervals(sweeps.points(rows), list(runs), alt, "share answered rightly")
    artifacts.write_csv(snakemake.output.table, rows, sweeps.COLUMNS)
    artifacts.write_csv(snakemake.output.spread, spread, sweeps.SPREAD_COLUMNS)
    artifacts.write_text(snakemake.output.plot, plot)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, runs))
