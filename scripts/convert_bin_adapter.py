"""Rule convert_bin_adapter: a pickled adapter in, the same tensors as safetensors out."""

from posttrain import artifacts, logs

with logs.rule_log(snakemake.log[0]):
    from posttrain import weights

    tensors = weights.convert_bin(snakemake.input.weights)
    artifacts.write_json(snakemake.output.config, artifacts.read_json(snakemake.input.config))
    artifacts.write_tensors(snakemake.output.weights, tensors)
