"""Rules base_model and sampler_model: a hub's model, by name and commit, in; its files out."""

import os
from pathlib import Path

from posttrain import artifacts, jobs

with jobs.running(snakemake.log[0]):
    from posttrain import hub, models

    hub.let_on(os.environ)
    folder = Path(snakemake.output.manifest).parent
    origin = hub.fetch(snakemake.params.model, folder, snakemake.params.key)
    artifacts.write_json(snakemake.output.manifest, models.manifest(folder, origin))
