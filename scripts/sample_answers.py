"""Rule sampled: questions and a model in; many answers to each, pass@k and majority@k, out."""

import os

from posttrain import artifacts, jobs, lineage, logs

with jobs.running(snakemake.log[0]):
    from posttrain import adapters, devices, engines, evaluation, models, sampled

    recipe = snakemake.params.recipe | snakemake.params.engine
    style = snakemake.params.style
    devices.use_threads(snakemake.threads)
    origin = lineage.origin_of_rule(
        snakemake, recipe | {"style": style}, devices.describe(snakemake.threads)
    )
    loaded = adapters.load_any(snakemake.input.base, snakemake.input.adapter)
    tokenizer = models.load_tokenizer(models.verified(snakemake.input.base))
    questions = artifacts.read_jsonl(snakemake.input.questions)[: recipe["limit"]]
    model = engines.opened(
        "model",
        adapters.ready(loaded),
        tokenizer,
        style,
        questions,
        recipe,
        snakemake.params.connection,
        os.environ.get("ENGINE_API_KEY"),
    )
    lines = sampled.completions(model, tokenizer, questions, style, recipe)
    adapters.refuse_changed(loaded)
    rows = sampled.table(snakemake.wildcards.model, lines)
    for row in (rows[0], rows[-1]):
        logs.log.info("pass@%(k)d %(pass_at_k).3f, majority@%(k)d %(majority_at_k).3f", row)
    artifacts.write_jsonl(snakemake.output.completions, lines)
    artifacts.write_csv(snakemake.output.table, rows, sampled.COLUMNS)
    origin["computed"] |= engines.stated(model=model)
    receipt = lineage.receipt(origin, dict(snakemake.output.items()))
    alike = evaluation.asked_as_trained(tokenizer, loaded.receipt, style, recipe)
    artifacts.write_json(
        snakemake.output.receipt, receipt | {"adapter": loaded.label, "asked_as_trained": alike}
    )
