from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/base_model.smk"
include: "rules/questions.smk"
include: "rules/sft.smk"
include: "rules/rollouts.smk"
include: "rules/import_rollouts.smk"
include: "rules/rft.smk"
include: "rules/convert.smk"
include: "rules/evaluate.smk"
include: "rules/rounds.smk"
include: "rules/statistics.smk"
include: "rules/summary.smk"
include: "rules/share.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        # All that the stages make: a lost file is made again, also where what came of it is there.
        rules.base_model.output,
        rules.questions.output,
        rules.tokenize_sft.output,
        rules.sft_train.output,
        *(rules.import_rollouts.output if config["rollouts"]["file"] else []),
        SHARD_FILES,
        expand(rules.gather_rollouts.output, round=ROUNDS),
        expand(rules.select_rft_data.output, round=ROUNDS),
        expand(rules.tokenize_rft.output, round=ROUNDS),
        expand(rules.rft_train.output, round=ROUNDS),
        *(
            [*rules.split_questions.output, *expand(rules.evaluate_held_out.output, round=ROUNDS)]
            if len(ROUNDS) > 1
            else []
        ),
        rules.select_round.output,
        expand(rules.ledger.output, round=ROUNDS),
        expand(rules.evaluate.output, model=MODELS),
        rules.comparisons.output,
        rules.breakdown.output,
        rules.summary.output,
        rules.verdicts.output,
        rules.gate.output,
