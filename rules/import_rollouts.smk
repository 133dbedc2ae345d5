# Somebody's rollouts in place of sampled ones, where the config names a file of them.
if config["rollouts"]["file"]:

    ruleorder: import_rollouts > gather_rollouts

    rule import_rollouts:
        input:
            given=local(config["rollouts"]["file"]),
            questions=rules.questions.output.train,
            set_aside=[SET_ASIDE] if len(ROUNDS) > 1 else [],
            code=code_of("scripts/import_rollouts.py"),
        output:
            rollouts=ensure("results/rollouts/round1.jsonl", non_empty=True),
            refused="results/rollouts/round1_refused.csv",
            receipt="results/rollouts/round1_receipt.json",
        log:
            "logs/import_rollouts.log",
        benchmark:
            "benchmarks/import_rollouts.tsv"
        conda:
            "../envs/light.yaml"
        params:
            recipe=settings_of(
                task="task",
                answer_digits="sft.answer_digits",
                relative_tolerance="evaluate.relative_tolerance",
                absolute_tolerance="evaluate.absolute_tolerance",
            ),
            libraries=libraries_of("scripts/import_rollouts.py"),
        script:
            "../scripts/import_rollouts.py"
