"""Rule breakdown: all predictions and the questions in; accuracy by kind of question out."""

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import comparison, tasks

    recipe = snakemake.params.recipe
    task = tasks.task_of(recipe["task"])
    lineage.refuse_changed(snakemake.input.receipts)
    predictions = map(artifacts.read_jsonl, snakemake.input.predictions)
    is_embedded = recipe["base_model"] == "embedded"
    rows = comparison.breakdown(
        dict(zip(snakemake.params.models, predictions, strict=True)),
        artifacts.read_jsonl(snakemake.input.asked),
        artifacts.read_jsonl(snakemake.input.trained),
        task.held_out(recipe["held_out_seed"], recipe["held_out"]) if is_embedded else None,
        task,
    )
    artifacts.write_csv(snakemake.output.table, rows, comparison.BREAKDOWN_COLUMNS)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, recipe))
