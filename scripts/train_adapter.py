"""Rules sft_train and rft_train: labelled rows in; an adapter and its receipt out."""

from pathlib import Path

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import adapters, checkpoints, devices, models, training

    recipe = snakemake.params.recipe
    devices.use_threads(snakemake.threads)
    folder = Path(snakemake.output.weights).parent
    settings = recipe | {"style": snakemake.params.style}
    origin = lineage.origin_of_rule(snakemake, settings, devices.describe(snakemake.threads))
    kept = checkpoints.Checkpoints(snakemake.rule, origin)
    model = models.load_model(models.verified(snakemake.input.base), devices.FULL)
    rows = artifacts.read_jsonl(snakemake.input.rows)
    trained = training.fit(model, rows, recipe, str(Path(snakemake.input.base).parent), kept)
    artifacts.write_csv(snakemake.output.history, trained.history, training.HISTORY)
    artifacts.write_json(snakemake.output.config, trained.config)
    artifacts.write_tensors(snakemake.output.weights, trained.tensors)
    proof = adapters.prove_saved(snakemake.input.base, folder, trained)
    receipt = lineage.receipt(origin, dict(snakemake.output.items()), proof)
    artifacts.write_json(snakemake.output.receipt, receipt)
    kept.clear()
