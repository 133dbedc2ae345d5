rule questions:
    input:
        **{f"given_{split}": local(path) for split in SPLITS if (path := config["data"][split])},
        code=code_of("scripts/make_questions.py"),
    output:
        train="results/questions/train.jsonl",
        valid="results/questions/valid.jsonl",
        leaks="results/questions/leaks.csv",
        receipt="results/questions/receipt.json",
    log:
        "logs/questions.log",
    benchmark:
        "benchmarks/questions.tsv"
    conda:
        "../envs/light.yaml"
    params:
        recipe=settings_of(seed="seed", data="data", embedded="embedded", base_model="base_model"),
        libraries=libraries_of("scripts/make_questions.py"),
    script:
        "../scripts/make_questions.py"
