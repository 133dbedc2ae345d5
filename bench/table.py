"""The benchmark's table and plot: one row for each benchmark, model and peer, always our way up."""

import csv
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

COLUMNS = ("benchmark", "model", "peer", "ours", "theirs", "unit", "ratio", "note")
BENCHMARKS = ("train", "train_rft", "sample", "pretrain", "startup", "noop", "chain")
MODELS = ("embedded", "smollm2")
PEERS = ("origin", "trl", "generate-best", "generate-batch", "limit")

Row = Mapping[str, str]


def interleaved(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call each side `repeats` times in turn and return what each gave.

    Each round begins with another side, so that a machine that slows down is nobody's fault.
    """
    names = list(sides)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(sides[name]())
    return found


def ratio(unit: str, ours: float, theirs: float) -> float:
    """Return how many times better than theirs ours is: a rate upwards, a time downwards.

    Raises: ValueError for a unit of which neither is known.
    """
    if unit == "s":
        return theirs / ours
    if unit.endswith("/s"):
        return ours / theirs
    raise ValueError(f"{unit!r} is neither a time in s nor a rate by the second")


def row(
    key: tuple[str, str, str],
    unit: str,
    ours: Sequence[float] = (),
    theirs: Sequence[float] = (),
    note: str = "",
) -> Row:
    """Return a row of the table from the repeats of both sides; a side that did not run is empty.

    The least and the most of several repeats stand at the end of the note.
    Args: key, benchmark, model and peer.
    Raises: ValueError if the key is not the table's.
    """
    for given, known in zip(key, (BENCHMARKS, MODELS, PEERS), strict=True):
        if given not in known:
            raise ValueError(f"{given!r} is none of {', '.join(known)}")
    medians = [statistics.median(side) if side else None for side in (ours, theirs)]
    spread = " against ".join(
        f"{min(side):.4g} to {max(side):.4g}" for side in (ours, theirs) if len(side) > 1
    )
    note = "; ".join(filter(None, (note, spread)))
    times = "" if None in medians else f"{ratio(unit, *medians):.3f}"
    shown = ["" if value is None else f"{value:.4g}" for value in medians]
    return dict(zip(COLUMNS, (*key, *shown, unit, times, note), strict=True))


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the table. Raises: ValueError if a key stands in it twice."""
    keys = [(one["benchmark"], one["model"], one["peer"]) for one in rows]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"more than one row for {twice}")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Draw each row that has a ratio as a bar; 1 is as good as the peer."""
    from matplotlib.figure import Figure

    drawn = [one for one in rows if one["ratio"]]
    names = [f"{one['benchmark']} {one['model']} / {one['peer']}" for one in drawn]
    ratios = [float(one["ratio"]) for one in drawn]
    figure = Figure(figsize=(8, 1 + 0.35 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:grey" if one["peer"] == "limit" else "tab:blue" for one in drawn]
    axes.bar_label(axes.barh(names, ratios, color=colours), fmt="%.2f", padding=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("times better than the peer; grey: share of the machine's limit")
    axes.invert_yaxis()
    figure.savefig(path)
