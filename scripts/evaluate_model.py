"""Rules evaluate and evaluate_held_out: questions and a model in; one row of figures out."""

import os

from posttrain import artifacts, jobs

with jobs.running(snakemake.log[0]):
    from posttrain import evaluation, scoring

    evaluated = evaluation.opened(snakemake, os.environ.get("ENGINE_API_KEY"))
    lines = evaluation.predictions(*evaluated.told)
    verdicts = [line["verdict"] for line in lines]
    row = scoring.summarised(snakemake.params.model, evaluated.loaded.label, verdicts)
    artifacts.write_jsonl(snakemake.output.predictions, lines)
    artifacts.write_csv(snakemake.output.row, [row], scoring.COLUMNS)
    receipt = evaluated.receipt(dict(snakemake.output.items()))
    artifacts.write_json(snakemake.output.receipt, receipt)
