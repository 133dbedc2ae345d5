"""Rules base_model and sampler_model: a person's model folder in; links to its files out."""

from pathlib import Path

from posttrain import artifacts, jobs

with jobs.running(snakemake.log[0]):
    from posttrain import models

    folder = Path(snakemake.output.manifest).parent
    models.link(snakemake.params.model, folder, snakemake.params.key)
    origin = {"folder": snakemake.params.model}
    artifacts.write_json(snakemake.output.manifest, models.manifest(folder, origin))
