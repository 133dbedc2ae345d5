"""How far apart two ways to reason are, and the choice of those farthest apart."""

from collections.abc import Sequence

Path = tuple[str, ...]  # equations in normal form


def edits(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how few insertions, deletions and replacements lead from `one` to `other`."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        above, row = row, [i]
        for j, right in enumerate(other, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (left != right)))
    return row[-1]


def apart(one: Path, other: Path) -> float:
    """Return the share of numbers, signs and units in which two paths differ, 0.0 to 1.0."""
    words, others = " ; ".join(one).split(), " ; ".join(other).split()
    return edits(words, others) / (max(len(words), len(others)) or 1)


def farthest_apart(paths: Sequence[Path], known: Sequence[Path], count: int) -> list[Path]:
    """Return `count` of `paths`, or all: each the farthest from `known` and those before it.

    Farthest is the one whose nearest neighbour is farthest; the first of several, and the first of
    `paths` where nothing is known.
    Source: the greedy rule of Gonzalez 1985 (Theoretical Computer Science 38, 293-306), whose
    smallest distance is at least half of the best. That paths far apart teach more is Yuan et al.
    2023 (arXiv 2308.01825), who choose by edit distance among texts.
    """
    taken: list[Path] = []
    nearest = {path: min((apart(path, one) for one in known), default=1.0) for path in paths}
    while nearest and len(taken) < count:
        best = max(nearest, key=nearest.__getitem__)
        taken.append(best)
        del nearest[best]
        nearest = {path: min(near, apart(path, best)) for path, near in nearest.items()}
    return taken
