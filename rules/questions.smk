# What the leak gate reads of the embedded model's pretraining: which text, and how much of it.
TEXT_READ = {
    "text_seed": "embedded.seed",
    "steps": "embedded.steps",
    "rows_per_step": "embedded.rows_per_step",
    "row_length": "embedded.row_length",
}


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
    # First of all: what is wrong with a person's questions must not come out after the pretraining.
    priority: 1
    conda:
        "../envs/light.yaml"
    params:
        recipe=settings_of(
            task="task",
            seed="seed",
            data="data",
            **(TEXT_READ if config["base_model"] == "embedded" else {}),
        ),
        libraries=libraries_of("scripts/make_questions.py"),
    script:
        "../scripts/make_questions.py"
