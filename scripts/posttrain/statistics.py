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
def majority_at_k(votes: tuple[tuple[int, bool], ...], silent: int, k: int) -> float:
    """Return how likely the most frequent answer among k of the samples is right.

    Ties are broken by lot; where none of the k gives an answer, none is right.

    Args: votes, for each different answer how many samples give it, and whether it is right;
        silent, how many samples give none.
    Source: the vote of Wang et al. 2022, arXiv 2203.11171; its mean is counted here.
    """
    won = 0.0
    for place, (count, is_right) in enumerate(votes):
        rivals = [other for n, (other, _) in enumerate(votes) if n != place]
        for most in range(1, min(count, k) + 1) if is_right else ():
            # (votes of the rivals, rivals with as many as this one) -> choices of such samples
            choices = Counter({(0, 0): 1})
            for rival in rivals:
                wider: Counter[tuple[int, int]] = Counter()
                for (drawn, ties), ways in choices.items():
                    for more in range(min(rival, most, k - most - drawn) + 1):
                        wider[drawn + more, ties + (more == most)] += ways * comb(rival, more)
                choices = wider
            won += comb(count, most) * sum(
                ways * comb(silent, k - most - drawn) / (1 + ties)
                for (drawn, ties), ways in choices.items()
            )
    return won / comb(silent + sum(count for count, _ in votes), k)


def sampled(questions: Iterable[Sequence[tuple[float | None, bool]]]) -> list[dict[str, Any]]:
    """Return pass@k and majority@k, means over questions, a row for each k that all can give.

    Args: for each question its samples: the answer, None if there is none, and whether it is right.
    """
    counted = []
    for samples in questions:
        answers = Counter(sample for sample in samples if sample[0] is not None)
        # Sorted, as order is nothing to a vote: so many questions have one count in common.
        votes = tuple(sorted((count, is_right) for (_, is_right), count in answers.items()))
        right = sum(count for count, is_right in votes if is_right)
        counted.append((len(samples), right, votes, len(samples) - answers.total()))
    return [
        {
            "k": k,
            "questions": len(counted),
            "pass_at_k": round(fmean(pass_at_k(n, right, k) for n, right, _, _ in counted), 6),
            "majority_at_k": round(
                fmean(majority_at_k(votes, silent, k) for _, _, votes, silent in counted), 6
            ),
        }
        for k in range(1, min(n for n, _, _, _ in counted) + 1)
    ]
