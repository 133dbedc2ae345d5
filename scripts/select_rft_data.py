"""Rule select_rft_data: all rollouts in; the ones worth training on, and their count, out."""

from posttrain import artifacts, jobs, lineage, logs

with jobs.running(snakemake.log[0]):
    from posttrain import selection, tasks

    recipe = snakemake.params.recipe
    rollouts = artifacts.read_jsonl(snakemake.input.rollouts)
    kept = selection.select(rollouts, recipe["keep_per_question"], tasks.task_of(recipe["task"]))
    gained = selection.yields(rollouts, kept)
    logs.log.info(
        "kept %(kept)d of %(samples)d samples, %(solved)d of %(questions)d solved; the verifier "
        "failed on %(error)d",
        gained,
    )
    artifacts.write_jsonl(snakemake.output.rows, kept)
    artifacts.write_csv(snakemake.output.yields, [gained], tuple(gained))
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, recipe))
