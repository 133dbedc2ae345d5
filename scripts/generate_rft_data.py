"""Rule generate_rft_data: questions, SFT adapter and sampler in; a shard's completions out."""

import os
from pathlib import Path

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import adapters, checkpoints, devices, engines, models, rollouts

    recipe = snakemake.params.recipe | {"round": snakemake.params.round} | snakemake.params.engine
    devices.use_threads(snakemake.threads)
    origin = lineage.origin_of_rule(snakemake, recipe, devices.describe(snakemake.threads))
    shard, shards = int(snakemake.wildcards.shard), int(snakemake.wildcards.shards)
    kept = checkpoints.Checkpoints(f"{snakemake.rule}_{shard}_of_{shards}", origin)
    folders = [models.verified(m) for m in (snakemake.input.base, snakemake.input.sampler)]
    sft = adapters.load(snakemake.input.base, Path(snakemake.input.adapter).parent)
    sampler = devices.ready(models.load_model(folders[1], devices.FULL))
    tokenizers = [models.load_tokenizer(folder) for folder in folders]
    questions = artifacts.read_jsonl(snakemake.input.questions)
    told = (questions, recipe, snakemake.params.connection, os.environ.get("ENGINE_API_KEY"))
    asked = {
        "sft": engines.opened("sft", adapters.ready(sft), tokenizers[0], "answer", *told),
        "sampler": engines.opened("sampler", sampler, tokenizers[1], "worked", *told),
    }
    rows = rollouts.sample(*asked.values(), tokenizers, questions, recipe, kept, shard, shards)
    adapters.refuse_changed(sft)
    artifacts.write_jsonl(snakemake.output.rollouts, rows)
    origin["computed"] |= engines.stated(**asked)
    receipt = lineage.receipt(origin, dict(snakemake.output.items()))
    artifacts.write_json(snakemake.output.receipt, receipt)
    kept.clear()
