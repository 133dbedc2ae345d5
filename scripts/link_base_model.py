"""Rule base_model: a person's model folder in; links to its files, and their manifest, out."""

from pathlib import Path

from posttrain import artifacts, jobs

with jobs.running(snakemake.log[0]):
    from posttrain import models

    folder = Path(snakemake.output.manifest).parent
    models.link(snakemake.params.folder, folder)
    origin = {"folder": snakemake.params.folder}
    artifacts.write_json(snakemake.output.manifest, models.manifest(folder, origin))
