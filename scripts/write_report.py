"""Rule report: all that a finished run left in; one HTML file for people out."""

from posttrain import artifacts, jobs, logs

with jobs.running(snakemake.log[0]):
    import yaml

    from posttrain import ancestry, chain, models, report, tasks
    from posttrain.errors import PosttrainError

    given, names = snakemake.input, snakemake.params
    stages, unread = ancestry.read_stages(yaml.safe_load(artifacts.read_bytes(given.schema)))
    if own := [unread[path] for path in (given.base, *given.receipts) if path in unread]:
        raise PosttrainError(own[0])
    check = ancestry.checker()
    tokenizer = models.load_tokenizer(models.verified(given.base))
    tables = {
        name: artifacts.read_csv(given[name])
        for name in ("summary", "verdicts", "comparisons", "breakdown", "leaks")
    }
    predictions = map(artifacts.read_jsonl, given.predictions)
    histories = map(artifacts.read_csv, given.histories)
    of_rounds = (given.yields, given.ledgers, given.never_solved, given.marginal)
    evidence = report.Evidence(
        **tables,
        choice=[row for path in given.choice for row in artifacts.read_csv(path)],
        predictions=dict(zip(names.models, predictions, strict=True)),
        questions=artifacts.read_jsonl(given.questions),
        histories=dict(zip(names.histories, histories, strict=True)),
        rounds=[
            report.Round(name, *map(artifacts.read_csv, files))
            for name, *files in zip(names.rounds, *of_rounds, strict=True)
        ],
        rows={
            path: report.first_rows(tokenizer, artifacts.read_jsonl(path))
            for path in given.tokenized
        },
        chain=chain.of_run(stages, names.steps, check),
        lineage=ancestry.tree(stages, given.summary, check),
        unread=list(unread.values()),
        task=tasks.task_of(names.recipe["task"]),
    )
    for fault in report.faults(evidence):
        logs.log.warning("not as the receipts state: %s; the report says so too", fault)
    page = report.page(
        evidence,
        artifacts.read_bytes(given.template).decode(),
        artifacts.read_bytes(given.style).decode(),
    )
    artifacts.write_text(snakemake.output[0], page)
    logs.log.info("%s: %.1f MB, to be opened in a browser", snakemake.output[0], len(page) / 1e6)
