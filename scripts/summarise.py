"""Rule summary: one row a model in; all of them in one table out."""

from posttrain import artifacts, logs

with logs.rule_log(snakemake.log[0]):
    rows = [row for path in snakemake.input.rows for row in artifacts.read_csv(path)]
    artifacts.write_csv(snakemake.output.table, rows, tuple(rows[0]))
