"""Rule select_rft_data: the rollouts so far in; those worth training on, and their count, out."""

from posttrain import artifacts, jobs, lineage, logs

with jobs.running(snakemake.log[0]):
    from posttrain import selection, tasks

    recipe = snakemake.params.recipe
    task = tasks.task_of(recipe["task"])
    rounds = [artifacts.read_jsonl(path) for path in snakemake.input.rollouts]
    asked = [row for rollouts in rounds for row in rollouts]
    states_held_out = task.held_out_teller(recipe["held_out_seed"], recipe["held_out"], asked)
    fates = selection.fates(rounds, recipe, states_held_out)
    rows = selection.rows_kept(rounds, fates, task)
    rows += selection.gold_rows(rounds, rows, recipe, task)
    gained = selection.yields(rounds[-1], fates[-1], rows)
    left_out = selection.left_out(rounds[-1], fates[-1])
    logs.log.info(
        "kept %(kept)d of %(samples)d samples, %(solved)d of %(questions)d solved; the verifier "
        "failed on %(error)d",
        gained,
    )
    artifacts.write_jsonl(snakemake.output.rows, rows)
    artifacts.write_csv(snakemake.output.yields, [gained], tuple(gained))
    artifacts.write_csv(snakemake.output.left_out, left_out, selection.LEFT_OUT_COLUMNS)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, recipe))
