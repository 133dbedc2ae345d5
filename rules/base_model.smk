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
            mem_mb=per_attempt(16000),
            runtime=per_attempt(120),
        params:
            recipe=settings_of(
                task="task",
                embedded="embedded",
                held_out="data.held_out",
                held_out_seed="data.held_out_seed",
            ),
            libraries=libraries_of("scripts/pretrain_base.py"),
        script:
            "../scripts/pretrain_base.py"


# Models made elsewhere, each in a folder of its own: a folder's files are linked, a hub's fetched.
for made, key, model in (
    ("base_model", "base_model", config["base_model"]),
    ("sampler_model", "rollouts.model", config["rollouts"]["model"]),
):
    if model in ("embedded", None):
        continue
    is_folder = os.path.isdir(model)
    script_file = f"scripts/{'link' if is_folder else 'fetch'}_model.py"

    rule:
        name:
            made
        input:
            files=[local(str(f)) for f in checked(model_files, model, key)] if is_folder else [],
            code=code_of(script_file),
        output:
            manifest=f"resources/{made}/manifest.json",
        log:
            f"logs/{made}.log",
        benchmark:
            f"benchmarks/{made}.tsv"
        localrule: True  # where snakemake itself runs: nodes of a cluster often have no network
        conda:
            "../envs/train.yaml"
        params:
            key=key,
            model=model,
            libraries=libraries_of(script_file),
        script:
            f"../{script_file}"
