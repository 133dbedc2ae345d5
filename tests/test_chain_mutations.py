"""Ten damaged adapters through snakemake itself: each ends in one line, and none gets a score."""

import random
import shutil

import pytest
from chain_for_tests import ONE_CORE, TINY, fresh_clone

COUNT = 10


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return other bytes: a flipped bit, a cut, or bytes put in; each as likely."""
    place = rng.randrange(len(data))
    return rng.choice(
        [
            data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :],
            data[:place],
            data[:place] + rng.randbytes(1 + rng.randrange(8)) + data[place:],
        ]
    )


@pytest.mark.fuzz
def test_no_damaged_adapter_is_scored(tmp_path):
    chain = fresh_clone(tmp_path / "workflow")
    said = chain.snakemake("results/sft_eval.csv", *ONE_CORE, "--configfile", TINY)
    assert said.status == 0, said.text
    rng = random.Random(0)
    names = [f"damaged{number}" for number in range(COUNT)]
    for name in names:
        folder = chain / f"adapters/{name}"
        shutil.copytree(chain / "results/sft", folder)
        weights = folder / "adapter_model.safetensors"
        weights.write_bytes(damaged(weights.read_bytes(), rng))
    overlay = chain.overlay({"evaluate": {"adapters": {n: f"adapters/{n}" for n in names}}})
    targets = [f"results/{name}_eval.csv" for name in names]
    said = chain.snakemake(*targets, *ONE_CORE, "--keep-going", "--configfile", TINY, overlay)
    assert said.status == 1
    assert "Traceback" not in said.text
    errors = [line for line in said.text.splitlines() if " error: " in line]
    for name in names:
        assert sum(f"adapters/{name}" in line for line in errors) == 1, said.text
        assert not (chain / f"results/{name}_eval.csv").exists()
