"""The chain as a drawing: a box for each step, below the steps whose outputs it read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from posttrain.plots import FAINT, INK

WIDTH, HEIGHT = 360, 34  # of the whole, and of a box, in px
GAP = 22  # between rows; half of it between boxes
SIZE = 10.5  # of letters
COLOURS = {True: "#009e73", False: "#d55e00", None: "#767676"}


@dataclass(frozen=True)
class Step:
    """A step of the chain: its name, whether it is well (None: unknown), what is said of it if any.

    inputs and outputs are sha256: a step reads from another what that one wrote, whatever its path.
    """

    name: str
    is_well: bool | None
    said: str
    inputs: frozenset[str]
    outputs: frozenset[str]


def edges(steps: Sequence[Step]) -> set[tuple[str, str]]:
    """Return (from, to) for each step that reads of another, but what also leads there by others.

    Steps stand in the order in which they ran: none reads from a later one.
    """
    above: dict[str, set[str]] = {}  # step -> all that it hangs on
    found = set()
    for place, step in enumerate(steps):
        read = [other for other in steps[:place] if other.outputs & step.inputs]
        through = set().union(*(above[other.name] for other in read))
        found |= {(other.name, step.name) for other in read if other.name not in through}
        above[step.name] = through | {other.name for other in read}
    return found


def drawn(steps: Sequence[Step], alt: str) -> str:
    """Return the chain as SVG, 360 px wide."""
    lines = edges(steps)
    rows: dict[str, int] = {}
    for step in steps:
        rows[step.name] = 1 + max((rows[a] for a, b in lines if b == step.name), default=-1)
    middles = _middles(rows)
    height = (1 + max(rows.values())) * (HEIGHT + GAP)
    parts = [
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" xmlns="http://www.w3.org/2000/svg" '
        f'font-family="sans-serif" font-size="{SIZE}" text-anchor="middle" fill="{INK}">'
    ]
    for one, other in sorted(lines):
        begin, end = rows[one] * (HEIGHT + GAP) + HEIGHT, rows[other] * (HEIGHT + GAP)
        parts.append(_arrow(middles[one][0], begin, middles[other][0], end))
    for step in steps:
        parts.append(_box(step, *middles[step.name], rows[step.name] * (HEIGHT + GAP)))
    return "\n".join([*parts, "</svg>"])


def _middles(rows: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """Return step -> the middle of its box and its width: boxes of a row share the whole width."""
    found = {}
    for row in set(rows.values()):
        names = [name for name, place in rows.items() if place == row]
        share = WIDTH / len(names)
        for place, name in enumerate(names):
            found[name] = ((place + 0.5) * share, min(share - GAP / 2, WIDTH / 2))
    return found


def _arrow(one: float, begin: float, other: float, end: float) -> str:
    """Return a line straight down from `one`, across just above the box at `other`, and into it.

    So one that skips rows passes beside their boxes, not behind them.
    """
    return (
        f'<path d="M{one:g} {begin:g}V{end - GAP / 2:g}H{other:g}V{end - 1:g}m-3 -4 3 4 3 -4" '
        f'fill="none" stroke="{INK}"/>'
    )


def _box(step: Step, middle: float, width: float, top: float) -> str:
    left = middle - width / 2
    base = top + (14 if step.said else 21)
    colour = COLOURS[step.is_well]
    return (
        f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{HEIGHT}" rx="4" fill="white" '
        f'stroke="{FAINT}"/>\n'
        f'<rect x="{left:g}" y="{top:g}" width="5" height="{HEIGHT}" fill="{colour}"/>\n'
        f'<text x="{middle:g}" y="{base:g}" font-weight="bold">{escape(step.name)}</text>\n'
        f'<text x="{middle:g}" y="{top + 27:g}">{escape(step.said)}</text>'
    )
