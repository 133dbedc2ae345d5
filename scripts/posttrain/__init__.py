"""Post-training on questions that a program can check: the parts without Snakemake in them.

Data flows one way: questions -> prompts -> masking -> training -> sampling -> scoring.
Only `artifacts` touches files, and no module reads the config or the environment.
"""
