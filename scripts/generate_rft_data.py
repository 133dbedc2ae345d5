"""Rule generate_rft_data: questions and the SFT adapter in; a shard's completions out."""

from pathlib import Path

from posttrain import artifacts, lineage, logs

with logs.rule_log(snakemake.log[0]):
    from posttrain import adapters, devices, models, rollouts

    recipe = snakemake.params.recipe | {"round": snakemake.params.round}
    devices.use_threads(snakemake.threads)
    folder = models.verified(snakemake.input.base)
    tokenizer = models.load_tokenizer(folder)
    sft = adapters.load(snakemake.input.base, Path(snakemake.input.adapter).parent)
    rows = rollouts.sample(
        adapters.ready(sft),
        devices.ready(models.load_model(folder, devices.FULL)),
        tokenizer,
        artifacts.read_jsonl(snakemake.input.questions),
        recipe,
        int(snakemake.wildcards.shard),
        int(snakemake.wildcards.shards),
    )
    adapters.refuse_changed(sft)
    artifacts.write_jsonl(snakemake.output.rollouts, rows)
    receipt = lineage.receipt_of_rule(snakemake, recipe, devices.describe(snakemake.threads))
    artifacts.write_json(snakemake.output.receipt, receipt)
