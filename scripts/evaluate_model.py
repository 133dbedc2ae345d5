"""Rules evaluate and evaluate_held_out: questions and a model in; one row of figures out."""

import os

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import adapters, devices, engines, evaluation, models, scoring

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
    lines = evaluation.predictions(model, tokenizer, questions, style, recipe)
    adapters.refuse_changed(loaded)
    verdicts = [line["verdict"] for line in lines]
    row = scoring.summarised(snakemake.params.model, loaded.label, verdicts)
    artifacts.write_jsonl(snakemake.output.predictions, lines)
    artifacts.write_csv(snakemake.output.row, [row], scoring.COLUMNS)
    origin["computed"] |= engines.stated(model=model)
    receipt = lineage.receipt(origin, dict(snakemake.output.items()))
    alike = evaluation.asked_as_trained(tokenizer, loaded.receipt, style, recipe)
    artifacts.write_json(
        snakemake.output.receipt, receipt | {"adapter": loaded.label, "asked_as_trained": alike}
    )
