"""Rule model_card: the receipts of an adapter and its figures in; a card for people out."""

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import card, comparison

    given, model = snakemake.input, snakemake.wildcards.model
    lineage.refuse_changed([given.summary_receipt, *given.receipts])
    summary = artifacts.read_csv(given.summary)
    predictions = [artifacts.read_jsonl(path) for path in given.predictions]
    models = [row["model"] for row in summary]
    place = models.index(model)
    compared = comparison.comparisons(dict(zip(models, predictions, strict=True)))
    evidence = card.Evidence(
        model=model,
        base_model=snakemake.params.recipe["base_model"],
        adapter_files=list(given.adapter),
        data=list(given.data),
        stages={path: artifacts.read_json(path) for path in given.stages},
        manifest=artifacts.read_json(given.base),
        evaluation=artifacts.read_json(given.receipts[place]),
        summary=summary,
        comparisons=[
            comparison.told(row) for row in compared if model in (row["model"], row["other"])
        ],
        example=predictions[place][0],
        yields=artifacts.read_csv(given.yields[0])[0] if given.yields else None,
    )
    artifacts.write_text(snakemake.output.card, card.text(evidence))
    receipt = lineage.receipt_of_rule(snakemake, snakemake.params.recipe)
    artifacts.write_json(snakemake.output.receipt, receipt)
