"""How sure a figure is: intervals and paired tests, by scipy; and what k of n samples would give.

The latter are exact means over all choices of k of the n samples, so they are unbiased for any k.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from math import comb
from statistics import fmean
from typing import Any


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (Wilson 1927, doi 10.1080/01621459.1927.10502953).

    Raises: ValueError if there are no trials.
    """
    from scipy.stats import binomtest

    found = binomtest(hits, trials).proportion_ci(confidence_level=0.95, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[int, int, float]:
    """Compare two models on the same questions: (gained, lost, exact two-sided p).

    Args: for each question, whether it was answered rightly.
    Source: McNemar 1947, doi 10.1007/BF02295996, with binomial instead of chi-squared.
    """
    from scipy.stats import binomtest

    gained = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    lost = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return gained, lost, float(p)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return how likely k of the samples, drawn without replacement, hold a right one.

    Source: Chen et al. 2021, arXiv 2107.03374, equation 1. Raises: ValueError if k > samples.
    """
    if not 0 < k <= samples:
        raise ValueError(f"{k} samples cannot be drawn from {samples}")
    return 1 - comb(samples - right, k) / comb(samples, k)


@cache
def majority_at_k(votes: tuple[tuple[int, bool], ...], silent: int) -> tuple[float, ...]:
    """Return for each k, from 1 to all, how likely the most frequent answer of k samples is right.

    Ties are broken by lot; where none of the k gives an answer, none is right.

    Args: votes, for each different answer how many samples give it, and whether it is right;
        silent, how many samples give none.
    Source: the vote of Wang et al. 2022, arXiv 2203.11171; its mean is counted here.
    """
    import numpy as np

    samples = silent + sum(count for count, _ in votes)
    won = np.zeros(samples + 1)  # by k: choices of k samples that a right answer wins
    for place, (count, is_right) in enumerate(votes):
        rivals = [other for n, (other, _) in enumerate(votes) if n != place]
        for most in range(1, count + 1) if is_right else ():
            # [drawn, ties]: choices of so many samples that give other answers or none, in which
            # so many rivals have as many votes as this answer, and none has more.
            ways = np.zeros((samples - count + 1, len(rivals) + 1))
            ways[: silent + 1, 0] = [float(comb(silent, drawn)) for drawn in range(silent + 1)]
            for rival in rivals:
                wider = np.zeros_like(ways)
                for more in range(min(rival, most) + 1):
                    ties = int(more == most)
                    before = ways[: len(ways) - more, : len(rivals) + 1 - ties]
                    wider[more:, ties:] += float(comb(rival, more)) * before
                ways = wider
            by_drawn = (ways / range(1, len(rivals) + 2)).sum(axis=1)
            won[most : most + len(ways)] += float(comb(count, most)) * by_drawn
    return tuple(float(won[k]) / comb(samples, k) for k in range(1, samples + 1))


def sampled(questions: Iterable[Sequence[tuple[float | None, bool]]]) -> list[dict[str, Any]]:
    """Return pass@k and majority@k, means over questions, a row for each k that all can give.

    Args: for each question its samples: the answer, None if there is none, and whether it is right.
    """
    passes, majorities = [], []
    for samples in questions:
        answers = Counter(sample for sample in samples if sample[0] is not None)
        # Sorted, as order is nothing to a vote: so many questions have one count in common.
        votes = tuple(sorted((count, is_right) for (_, is_right), count in answers.items()))
        right = sum(count for count, is_right in votes if is_right)
        ks = range(1, len(samples) + 1)
        passes.append([pass_at_k(len(samples), right, k) for k in ks])
        majorities.append(majority_at_k(votes, len(samples) - answers.total()))
    return [
        {
            "k": k,
            "questions": len(passes),
            "pass_at_k": round(fmean(rates[k - 1] for rates in passes), 6),
            "majority_at_k": round(fmean(rates[k - 1] for rates in majorities), 6),
        }
        for k in range(1, min(map(len, passes)) + 1)
    ]
