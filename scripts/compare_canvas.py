"""What the pictures of a comparison have in common: panels, colours and marks, legend, PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import ceil
from typing import Any

from u2net3d.evaluate.pictures import DPI, ON_WHITE

MARKS = ("o", "s", "^", "D", "v", "P", "X")
WIDE = 8.5  # inches, readable at the width of a page on GitHub
GREY, SMALL = "#808080", 8.5
Style = dict[str, Any]


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A colour and a mark for each: neighbours differ in both, and no two are the same in both."""
    found = {}
    for n, name in enumerate(names):
        colour, round_ = ON_WHITE[n % len(ON_WHITE)], n // len(ON_WHITE)
        found[name] = {"color": colour, "marker": MARKS[(n + round_) % len(MARKS)]}
    return found


def panels_of(count: int, high: float, *, share_y: bool) -> tuple[Any, list[Any]]:
    """A figure with so many panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure((WIDE, high), DPI, facecolor="white", layout="constrained")
    panels = list(figure.subplots(1, count, sharey=share_y, squeeze=False)[0])
    for panel in panels:
        plain(panel)
    return figure, panels


def plain(panel: Any, axis: str = "both") -> None:
    """A grid along an axis, and no frame."""
    panel.grid(visible=True, axis=axis, color="#E4E4E4", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=SMALL, color=GREY)


def logarithmic(panel: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with few labels: powers of ten, of a short range 1, 2 and 5 as well."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.set_xscale("log")
    panel.xaxis.set_minor_formatter(NullFormatter())
    if values and max(values) < 100 * min(values):
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def legend(figure: Any, *panels: Any) -> None:
    """One legend below all panels, every name once."""
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    longest = max((len(label) for label in entries), default=1)
    columns = max(1, min(4, int(WIDE * 12 / (longest + 6))))
    figure.set_figheight(figure.get_figheight() + 0.2 * ceil(len(entries) / columns))
    place = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": SMALL}
    figure.legend(entries.values(), entries.keys(), **place)


def line_of(style: Style) -> Style:
    """A style for a line with marks."""
    return {"linewidth": 1.4, "markersize": 5, **style}


def literal(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def png(figure: Any) -> bytes:
    """The figure as a file, without a date or a version in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    return content.getvalue()
