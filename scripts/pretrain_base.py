"""Rule base_model: nothing but a recipe in; the embedded base model and its manifest out."""

from pathlib import Path

from posttrain import artifacts, lineage, logs

with logs.rule_log(snakemake.log[0]):
    from posttrain import devices, models, pretraining

    recipe = snakemake.params.recipe
    devices.use_threads(snakemake.threads)
    folder = Path(snakemake.output.manifest).parent
    model, tokenizer, history = pretraining.make(recipe)
    artifacts.write_csv(snakemake.output.history, history, ("step", "loss"))
    models.save(model, tokenizer, folder)
    history_alone = {"history": snakemake.output.history}  # the manifest hashes all else
    computed = devices.describe(snakemake.threads)
    origin = lineage.receipt_of_rule(snakemake, recipe, computed, history_alone)
    artifacts.write_json(snakemake.output.manifest, models.manifest(folder, origin))
