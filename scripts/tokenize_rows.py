"""Rules tokenize_sft and tokenize_rft: questions or kept rollouts in; labelled rows out."""

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import masking, models, prompts

    recipe = snakemake.params.recipe
    tokenizer = models.load_tokenizer(models.verified(snakemake.input.base))
    pairs = [
        (row["id"], *prompts.training_pair(tokenizer, row, snakemake.params.style, recipe))
        for row in artifacts.read_jsonl(snakemake.input.rows)
    ]
    rows, stats = masking.encode_all(
        tokenizer,
        pairs,
        recipe["max_length"],
        add_special_tokens=not prompts.is_chat(tokenizer),
        bad_rows=recipe["bad_rows"],
    )
    artifacts.write_jsonl(snakemake.output.rows, rows)
    artifacts.write_csv(snakemake.output.stats, stats, masking.STATISTICS)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, recipe))
