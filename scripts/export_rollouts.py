"""Rule export_rollouts: the kept rollouts in; the same as [[question, answer, reasoning]] out."""

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import tasks, triples

    recipe = snakemake.params.recipe
    task = tasks.task_of(recipe["task"])
    kept = artifacts.read_jsonl(snakemake.input.rows)
    questions = artifacts.read_jsonl(snakemake.input.questions)
    artifacts.write_json(snakemake.output.triples, triples.of_kept(kept, questions, task))
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, recipe))
