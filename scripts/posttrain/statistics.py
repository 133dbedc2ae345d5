"""How sure a figure is: intervals and paired tests, by scipy."""

from collections.abc import Sequence


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
