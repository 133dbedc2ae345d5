"""Rule gate: the verdicts in; the same again out, or failure where a model is under its bar."""

from posttrain import artifacts, logs

with logs.rule_log(snakemake.log[0]):
    from posttrain import diagnosis

    verdicts = artifacts.read_csv(snakemake.input.verdicts)
    diagnosis.refuse_failed(verdicts)
    artifacts.copy(snakemake.input.verdicts, snakemake.output.passed)
