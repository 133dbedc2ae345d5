"""Every plot, drawn here and nowhere else: figures in, one SVG out, the same text each time.

Made to be read at 360 px, in print and without colours: narrow, a label at each mark, a marker of
its own for each series. Text stays text, in the reader's own font.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.0  # inches, of 96 px: on a phone it is shown a little smaller than it is
INK, FAINT = "#222222", "#bbbbbb"
# Okabe and Ito's, without the yellow, which is too light on white
COLOURS = ("#767676", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a label is a dollar
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.2,
    "legend.frameon": False,
}


class Point(NamedTuple):
    """A share of one series, and the interval that it stands in."""

    series: str
    value: float
    low: float
    high: float


def intervals(
    groups: Mapping[str, Sequence[Point]], series: Sequence[str], alt: str, axis: str
) -> str:
    """Draw shares as points on a line from 0 to 1, each with its interval and its value.

    Args: groups, label, which may be empty -> its points, drawn below it in their order; series,
        all there are, in the order of their colours; axis, what the shares are of.
    """
    looks = _looks(series)
    places: list[tuple[float, str | Point]] = []
    y = 0.0
    for label, points in groups.items():
        if label:
            places.append((y, label))
            y += 1
        for point in points:
            places.append((y, point))
            y += 1
        y += 0.5
    with _figure(alt, 0.75 + 0.19 * y) as drawing:
        axes = drawing.figure.subplots()
        for y, entry in places:
            if isinstance(entry, str):
                axes.text(0, y, entry, va="center", fontweight="bold")
                continue
            colour, marker = looks[entry.series]
            axes.plot([entry.low, entry.high], [y, y], color=colour, linewidth=2.2, alpha=0.55)
            axes.plot([entry.value], [y], marker=marker, color=colour, markersize=5)
            said = f"{entry.series} {entry.value:.3f}"
            if entry.low > 1 - entry.high:  # where there is more room
                axes.text(min(entry.low, entry.value) - 0.025, y, said, va="center", ha="right")
            else:
                axes.text(max(entry.high, entry.value) + 0.025, y, said, va="center")
        axes.set_ylim(places[-1][0] + 0.8, -0.8)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes.set_yticks([])
        axes.set_xlabel(axis, loc="left")
        axes.grid(axis="x", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
    return drawing.text


def stacked(counts: Mapping[str, Mapping[str, int]], alt: str, axis: str) -> str:
    """Draw for each label a bar made of parts, each with its count where there is room for it."""
    parts = list(next(iter(counts.values())))
    colours = dict(zip(parts, ("#009e73", "#d55e00", "#e69f00", "#cc79a7", INK), strict=False))
    widest = max(sum(row.values()) for row in counts.values())
    with _figure(alt, 1.0 + 0.32 * len(counts)) as drawing:
        axes = drawing.figure.subplots()
        begin = dict.fromkeys(counts, 0)
        for part in parts:
            widths = [row[part] for row in counts.values()]
            if not any(widths):
                continue
            bars = axes.barh(
                list(counts),
                widths,
                left=list(begin.values()),
                color=colours[part],
                edgecolor="white",
                label=part,
            )
            said = [str(n) if n > 0.06 * widest else "" for n in widths]
            dark = part in ("correct", "wrong", "error")
            axes.bar_label(bars, said, label_type="center", color="white" if dark else INK)
            begin = {
                label: n + row[part]
                for (label, row), n in zip(counts.items(), begin.values(), strict=True)
            }
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(axis, loc="left")
        axes.spines["left"].set_visible(False)
        drawing.figure.legend(loc="outside upper left", ncols=3, handlelength=1, borderpad=0)
    return drawing.text


def shares(values: Mapping[str, float], alt: str, axis: str) -> str:
    """Draw a bar from 0 towards 1 for each label, its value at its end."""
    with _figure(alt, 0.6 + 0.24 * len(values)) as drawing:
        axes = drawing.figure.subplots()
        drawn = axes.barh(list(values), list(values.values()), color=COLOURS[2])
        axes.bar_label(drawn, [f"{value:.3f}" for value in values.values()], padding=3)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes.set_xlabel(axis, loc="left")
        axes.spines["left"].set_visible(False)
    return drawing.text


def bars(counts: Mapping[str, int], alt: str, axis: str) -> str:
    """Draw a bar for each label, its count above it."""
    with _figure(alt, 1.9) as drawing:
        axes = drawing.figure.subplots()
        places = range(len(counts))  # numbers: labels that look like some are not taken for them
        axes.bar_label(axes.bar(places, list(counts.values()), color=COLOURS[2]), padding=1)
        axes.set_xticks(places, list(counts))
        axes.set_xlabel(axis, loc="left")
        axes.set_yticks([])
        if max(map(len, counts)) > 6:
            axes.tick_params(axis="x", labelrotation=30 if len(counts) > 3 else 0)
        axes.spines["left"].set_visible(False)
    return drawing.text


def curves(panels: Mapping[str, Sequence[tuple[float, float]]], alt: str, axis: str) -> str:
    """Draw each panel's values over the others, the last of each written at its end.

    Args: panels, what is drawn -> its (x, y), x the same for all; axis, what x is.
    """
    with _figure(alt, 0.55 + 1.25 * len(panels)) as drawing:
        column = drawing.figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, points), colour in zip(column, panels.items(), COLOURS[2:], strict=False):
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, color=colour, marker="o" if len(xs) < 2 else None, markersize=4)
            axes.annotate(
                f"{ys[-1]:.4g}",
                (xs[-1], ys[-1]),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                annotation_clip=False,
            )
            axes.set_title(title)
            axes.margins(x=0.01)
            axes.set_ylim(bottom=0, top=1.08 * max(ys) or 1)
            axes.locator_params(axis="y", nbins=4)
            axes.locator_params(axis="x", nbins=6, integer=True)
            axes.grid(axis="y", color=FAINT, linewidth=0.5)
        column[-1].set_xlabel(axis, loc="left")
    return drawing.text


class _Drawing:
    """A figure while it is drawn, and its SVG as text after that."""

    def __init__(self, figure: "Figure") -> None:
        self.figure = figure
        self.text = ""


@contextmanager
def _figure(alt: str, height: float) -> Iterator[_Drawing]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Salted by what it shows: the same ids in every run, and none that two plots share.
    with rc_context({**STYLE, "svg.hashsalt": alt}):
        drawing = _Drawing(Figure(figsize=(WIDTH, height), layout="constrained"))
        yield drawing
        written = io.StringIO()
        drawing.figure.savefig(written, format="svg", metadata={"Date": None})
    drawing.text = _plain(written.getvalue(), alt)


def _looks(series: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return series -> its colour and its marker; of more than seven the first ones come again."""
    return dict(zip(series, cycle(zip(COLOURS, MARKERS, strict=True)), strict=False))


def _plain(svg: str, alt: str) -> str:
    """Return the SVG element alone: told in words, no metadata, no id that nothing refers to."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "sans-serif", svg)
    svg = re.sub(r"^\s*<!--.*?-->\n", "", svg, flags=re.MULTILINE)
    used = set(re.findall(r"#([\w-]+)[\")]", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
