"""Rule convert_bin_adapter: a pickled adapter in, the same tensors as safetensors out."""

from posttrain import artifacts, jobs, lineage

with jobs.running(snakemake.log[0]):
    from posttrain import weights

    tensors = weights.convert_bin(snakemake.input.weights)
    artifacts.copy(snakemake.input.config, snakemake.output.config)
    artifacts.write_tensors(snakemake.output.weights, tensors)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, {}))
