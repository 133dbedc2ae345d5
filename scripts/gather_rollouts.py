"""Rule gather_rollouts: the rollouts of all shards in; one file of them, in order, out."""

from posttrain import artifacts, jobs, lineage, logs

with jobs.running(snakemake.log[0]):
    lineage.refuse_changed(snakemake.input.receipts)
    shards = [artifacts.read_jsonl(path) for path in snakemake.input.rollouts]
    rows = [row for shard in shards for row in shard]
    logs.log.info("gathered %d rollouts of %d shards", len(rows), len(shards))
    artifacts.write_jsonl(snakemake.output.rollouts, rows)
    artifacts.write_json(snakemake.output.receipt, lineage.receipt_of_rule(snakemake, {}))
