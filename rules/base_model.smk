if config["base_model"] == "embedded":

    rule base_model:
        input:
            code=code_of("scripts/pretrain_base.py"),
        # All by name and without a benchmark: `--cache base_model` asks for both.
        output:
            manifest=BASE_MODEL,
            history="resources/base_model/history.csv",
            weights="resources/base_model/model.safetensors",
            config="resources/base_model/config.json",
            generation_config="resources/base_model/generation_config.json",
            tokenizer="resources/base_model/tokenizer.json",
            tokenizer_config="resources/base_model/tokenizer_config.json",
        log:
            "logs/base_model.log",
        conda:
            "../envs/train.yaml"
        threads: workflow.cores
        resources:
            gpu=1,
        params:
            recipe=settings_of(
                embedded="embedded",
                held_out="data.held_out",
                held_out_seed="data.held_out_seed",
            ),
            libraries=libraries_of("scripts/pretrain_base.py"),
        script:
            "../scripts/pretrain_base.py"

else:

    rule base_model:
        input:
            files=[local(str(f)) for f in checked(model_files, config["base_model"])],
            code=code_of("scripts/link_base_model.py"),
        output:
            manifest=BASE_MODEL,
        log:
            "logs/base_model.log",
        benchmark:
            "benchmarks/base_model.tsv"
        conda:
            "../envs/light.yaml"
        params:
            folder=config["base_model"],
            libraries=libraries_of("scripts/link_base_model.py"),
        script:
            "../scripts/link_base_model.py"
