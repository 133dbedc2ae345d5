# Asked for by name alone: `convert` in the config says which pickled adapters there are.
if config["convert"]:

    rule convert_bin_adapter:
        input:
            weights=lambda wildcards: local(
                os.path.join(config["convert"][wildcards.name], "adapter_model.bin")
            ),
            config=lambda wildcards: local(
                os.path.join(config["convert"][wildcards.name], "adapter_config.json")
            ),
            code=code_of("scripts/convert_bin_adapter.py"),
        output:
            config="results/converted/{name}/adapter_config.json",
            weights=ensure("results/converted/{name}/adapter_model.safetensors", non_empty=True),
            receipt="results/converted/{name}_receipt.json",
        log:
            "logs/convert_{name}.log",
        wildcard_constraints:
            name="|".join(config["convert"]),
        conda:
            "../envs/train.yaml"
        params:
            libraries=libraries_of("scripts/convert_bin_adapter.py"),
        script:
            "../scripts/convert_bin_adapter.py"
