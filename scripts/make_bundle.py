"""Rule bundle: a run's adapters, code, receipts and figures in; one zip of them out."""

import os
from pathlib import Path

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    import yaml

    from posttrain import bundle

    recipe = snakemake.params.recipe
    results = list(snakemake.input.results)
    theirs = dict(zip(snakemake.params.theirs, snakemake.input.theirs, strict=True))
    code = {os.path.relpath(path, snakemake.params.home): path for path in snakemake.input.workflow}
    files = {path: path for path in results} | theirs | code
    bundle.refuse_changed(
        results, [artifacts.read_json(path) for path in results if path.endswith("receipt.json")]
    )
    bundle.refuse_unscored(
        snakemake.input.summary,
        artifacts.read_csv(snakemake.input.summary),
        {Path(n).parent.name: path for n, path in files.items() if n.endswith(".safetensors")},
    )
    as_used = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    limit = recipe["bundle"]["largest_megabytes"]
    bundle.make(snakemake.output.zip, files, {"config.yaml": as_used}, limit)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, recipe))
