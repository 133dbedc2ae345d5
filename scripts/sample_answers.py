"""Rule sampled: questions and a model in; many answers to each, pass@k and majority@k, out."""

import os

from posttrain import artifacts, jobs, logs

with jobs.running(snakemake.log[0]):
    from posttrain import evaluation, sampled

    evaluated = evaluation.opened(snakemake, os.environ.get("ENGINE_API_KEY"))
    lines = sampled.completions(*evaluated.told)
    rows = sampled.table(snakemake.wildcards.model, lines)
    for row in (rows[0], rows[-1]):
        logs.log.info("pass@%(k)d %(pass_at_k).3f, majority@%(k)d %(majority_at_k).3f", row)
    artifacts.write_jsonl(snakemake.output.completions, lines)
    artifacts.write_csv(snakemake.output.table, rows, sampled.COLUMNS)
    receipt = evaluated.receipt(dict(snakemake.output.items()))
    artifacts.write_json(snakemake.output.receipt, receipt)
