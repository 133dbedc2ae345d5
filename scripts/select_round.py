"""Rule select_round: all rounds' figures and adapters in; the best round's, as the result, out."""

from posttrain import artifacts, jobs, lineage
from posttrain.logs import log

COPIED = ("history", "config", "rows", "stats", "rows_receipt", "adapter_receipt", "weights")

with jobs.running(snakemake.log[0]):
    from posttrain import rounds

    given = snakemake.input
    lineage.refuse_changed(given.evaluation_receipts)
    evaluations, yields = (
        [artifacts.read_csv(path)[0] for path in paths]
        for paths in (given.evaluations, given.yields)
    )
    rounds.refuse_errors([artifacts.read_jsonl(path) for path in given.predictions])
    chosen = rounds.best(evaluations)
    rows = rounds.table(evaluations, yields, chosen)
    for row in rows:
        log.info("round %(round)s: held-out accuracy %(accuracy)s, chosen: %(chosen)s", row)
    for name in COPIED:
        artifacts.copy(given[name][chosen], snakemake.output[name])
    artifacts.write_csv(snakemake.output.table, rows, rounds.COLUMNS)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, {}))
