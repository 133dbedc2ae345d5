"""Rule model_card: the receipts of an adapter and its figures in; a card for people out."""

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import card, comparison

    given, model = snakemake.input, snakemake.wildcards.model
    lineage.refuse_changed([given.summary_receipt, given.comparisons_receipt, given.evaluation])
    stages = card.leading_to_last({path: artifacts.read_json(path) for path in given.stages})
    written = {path for stage in stages.values() for path in stage["outputs"]}
    evidence = card.Evidence(
        model=model,
        adapter_files=list(given.adapter),
        data=[*given.data, *(path for path in given.rows if path in written)],
        stages=stages,
        manifest=artifacts.read_json(given.base),
        sampler=next(map(artifacts.read_json, given.sampler), None),
        evaluation=artifacts.read_json(given.evaluation),
        summary=artifacts.read_csv(given.summary),
        comparisons=[
            comparison.told({**row, "p_value": float(row["p_value"])})
            for row in artifacts.read_csv(given.comparisons)
            if model in (row["model"], row["other"])
        ],
        example=artifacts.read_jsonl(given.predictions)[0],
        yields=[artifacts.read_csv(path)[0] for path in given.yields if path in written],
    )
    artifacts.write_text(snakemake.output.card, card.text(evidence))
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, {}))
