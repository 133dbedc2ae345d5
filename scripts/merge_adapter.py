"""Rule merge_adapter: the base model and an adapter in; one ordinary model folder out."""

from pathlib import Path

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import devices, merging

    devices.use_threads(snakemake.threads)
    folder = Path(snakemake.output.weights).parent
    merged = merging.merge(snakemake.input.base, Path(snakemake.input.adapter[0]).parent, folder)
    origin = lineage.origin_of_rule(snakemake, {}, merging.computed(snakemake.threads))
    receipt = lineage.receipt(origin, merging.files_of(folder), {"merged": merged})
    artifacts.write_json(snakemake.output.receipt, receipt)
