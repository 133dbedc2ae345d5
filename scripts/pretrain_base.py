"""Rule base_model: nothing but a recipe in; the embedded base model and its manifest out."""

from pathlib import Path

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import checkpoints, devices, models, pretraining

    recipe = snakemake.params.recipe
    devices.use_threads(snakemake.threads)
    folder = Path(snakemake.output.manifest).parent
    origin = lineage.origin_of_rule(snakemake, recipe, devices.describe(snakemake.threads))
    kept = checkpoints.Checkpoints(snakemake.rule, origin)
    model, tokenizer, history = pretraining.make(recipe, kept)
    artifacts.write_csv(snakemake.output.history, history, ("step", "loss"))
    models.save(model, tokenizer, folder)
    history_alone = {"history": snakemake.output.history}  # the manifest hashes all else
    receipt = lineage.receipt(origin, history_alone)
    artifacts.write_json(snakemake.output.manifest, models.manifest(folder, receipt))
    kept.clear()
