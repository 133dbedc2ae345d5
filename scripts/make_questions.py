"""Rule questions: a person's files, or generated questions, in; train.jsonl and valid.jsonl out."""

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import leaks, questions, tasks

    recipe = snakemake.params.recipe
    task = tasks.task_of(recipe["task"])
    splits = questions.splits(
        {split: recipe["data"][split] for split in ("train", "valid")},
        lambda: task.questions(
            recipe["seed"],
            recipe["data"]["train_size"],
            recipe["data"]["valid_size"],
            task.held_out(recipe["data"]["held_out_seed"], recipe["data"]["held_out"]),
        ),
        task,
    )
    found = leaks.found(
        splits["valid"].rows,
        questions={"training": [row["question"] for row in splits["train"].rows]},
        texts={"pretraining": tasks.text_read(task, recipe)},
    )
    questions.report(splits)
    leaks.report(found, recipe["data"]["leaks"])
    artifacts.write_jsonl(snakemake.output.train, splits["train"].rows)
    artifacts.write_jsonl(snakemake.output.valid, splits["valid"].rows)
    artifacts.write_csv(snakemake.output.leaks, found, leaks.COLUMNS)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, recipe))
