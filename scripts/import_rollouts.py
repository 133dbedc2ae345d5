"""Rule import_rollouts: somebody's rollouts in; the same, judged as sampled ones are, out."""

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import scoring, tasks, triples
    from posttrain.logs import log

    recipe = snakemake.params.recipe
    task = tasks.task_of(recipe["task"])
    questions = artifacts.read_jsonl(snakemake.input.questions)
    golds = [question["answer"] for question in questions]
    scoring.self_test(golds, recipe["answer_digits"], recipe, task)
    given = triples.read(snakemake.input.given, task)
    aside = {row["id"] for path in snakemake.input.set_aside for row in artifacts.read_jsonl(path)}
    found = triples.judged(given, questions, recipe, task, aside)
    counts = triples.counted(found.refused)
    log.info("%d of %d rows are sound", len(given) - len(found.refused), len(given))
    for row in counts:
        if row["rows"]:
            log.info("refused %(rows)d: %(reason)s (first row %(first_row)d)", row)
    if found.cut:
        log.info("left out what follows %s in %d rows", task.AFTER, found.cut)
    artifacts.write_jsonl(snakemake.output.rollouts, found.rollouts)
    artifacts.write_csv(snakemake.output.refused, counts, triples.COLUMNS)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, recipe))
