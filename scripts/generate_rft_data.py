"""Rule generate_rft_data: questions, SFT model and sampler in; a shard's completions out."""

import os
from pathlib import Path

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import adapters, checkpoints, devices, engines, models, rollouts

    params = snakemake.params
    recipe = params.recipe | {"round": params.round, "style": params.style} | params.engine
    devices.use_threads(snakemake.threads)
    origin = lineage.origin_of_rule(snakemake, recipe, devices.describe(snakemake.threads))
    shard, shards = int(snakemake.wildcards.shard), int(snakemake.wildcards.shards)
    kept = checkpoints.Checkpoints(f"{snakemake.rule}_{shard}_of_{shards}", origin)
    manifests = (snakemake.input.base, snakemake.input.sampler)
    sft = adapters.load(snakemake.input.base, Path(snakemake.input.adapter).parent)
    sampler = adapters.load_any(snakemake.input.sampler, snakemake.input.sampler_adapter)
    # Of folders that were held against their manifests just now, for their models.
    tokenizers = [models.load_tokenizer(Path(manifest).parent) for manifest in manifests]
    questions = artifacts.read_jsonl(snakemake.input.questions)
    told = (questions, recipe, params.connection, os.environ.get("ENGINE_API_KEY"))
    asked = {
        "sft": engines.opened("sft", adapters.ready(sft), tokenizers[0], "answer", *told),
        "sampler": engines.opened(
            "sampler", adapters.ready(sampler), tokenizers[1], params.style, *told
        ),
    }
    rows = rollouts.sample(*asked.values(), tokenizers, questions, recipe, kept, shard, shards)
    adapters.refuse_changed(sft)
    adapters.refuse_changed(sampler)
    artifacts.write_jsonl(snakemake.output.rollouts, rows)
    origin["computed"] |= engines.stated(**asked)
    receipt = lineage.receipt(origin, dict(snakemake.output.items()))
    artifacts.write_json(snakemake.output.receipt, receipt)
    kept.clear()
