"""Rule split_questions: training questions in; those of rft, and those to choose by, out."""

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import rounds

    recipe = snakemake.params.recipe
    questions = artifacts.read_jsonl(snakemake.input.questions)
    train, held_out = rounds.split(questions, recipe["seed"], recipe["held_out"])
    artifacts.write_jsonl(snakemake.output.train, train)
    artifacts.write_jsonl(snakemake.output.held_out, held_out)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, recipe))
