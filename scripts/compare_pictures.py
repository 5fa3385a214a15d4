"""The pictures of a comparison, as PNG bytes; the same rows give the same bytes.

Every contestant has one colour and one mark in all of them, told apart with any colour vision.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from compare_groups import THIRDS, Group, domains_of, names_of

from u2net3d.evaluate.pictures import DPI, ON_WHITE

MARKS = ("o", "s", "^", "D", "v", "P", "X")
WIDE = 8.5  # inches, readable at the width of a page on GitHub
Style = dict[str, Any]


def pictures(groups: Sequence[Group]) -> dict[str, bytes]:
    """name -> PNG of all that there are rows for; groups of one budget."""
    whole = [group for group in groups if group.plainly]
    found = {}
    if whole:
        found["dice"] = dice_by_domain(whole)
        found["cost"] = cost(whole)
    if any(group.tercile(0) is not None for group in whole):
        found["size"] = dice_by_size(whole)
    if any(group.asked.cases is not None for group in groups):
        found["few"] = few_images(groups)
    if any(len(outcome.curve) > 1 for group in whole for outcome in group.outcomes):
        found["curves"] = curves(whole)
    return found


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A colour and a mark for each: neighbours differ in both, and no two are the same in both."""
    found = {}
    for n, name in enumerate(names):
        colour, round_ = ON_WHITE[n % len(ON_WHITE)], n // len(ON_WHITE)
        found[name] = {"color": colour, "marker": MARKS[(n + round_) % len(MARKS)]}
    return found


def dice_by_domain(groups: Sequence[Group]) -> bytes:
    """Dice of every seed as a dot and their mean as a bar, a panel per domain."""
    names, domains = names_of(groups), domains_of(groups)
    style = styles(names)
    figure, panels = _panels(len(domains), 0.9 + 0.26 * len(names), share_y=True)
    for panel, domain in zip(panels, domains, strict=True):
        for group in (each for each in groups if each.domain == domain):
            at, values = names.index(group.name), [outcome.dice for outcome in group.outcomes]
            mark = style[group.name]
            panel.plot(values, [at] * len(values), linestyle="", markersize=5, alpha=0.75, **mark)
            panel.plot(statistics.mean(values), at, "|", markersize=13, color=mark["color"])
        panel.set_title(literal(domain), fontsize=10)
        panel.set_xlabel("Dice")
    panels[0].set_yticks(range(len(names)), [literal(name) for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return _png(figure)


def cost(groups: Sequence[Group]) -> bytes:
    """Mean Dice over domains, by weights, multiply-adds and seconds a volume."""
    names, domains = names_of(groups), shared_domains(groups)
    axes: dict[str, Callable[[Group], float]] = {
        "weights of a domain": lambda group: group.weights,
        "10⁹ multiply-adds a patch": lambda g: g.outcome.macs.total / 1e9 if g.outcome.macs else 0,
        "seconds a volume": lambda group: group.median(lambda outcome: outcome.volume_s),
    }
    figure, panels = _panels(len(axes), 3.0, share_y=True)
    for panel, (title, of) in zip(panels, axes.items(), strict=True):
        for name, style in styles(names).items():
            own = [group for group in groups if group.name == name and group.domain in domains]
            values = [value for value in map(of, own) if value > 0]
            if own and values:
                dice = statistics.mean(group.dice.mean for group in own)
                at = statistics.geometric_mean(values)
                panel.plot(at, dice, linestyle="", markersize=7, label=literal(name), **style)
        _logarithmic(panel, [value for value in map(of, groups) if value > 0])
        panel.set_xlabel(title)
    panels[0].set_ylabel(f"{'mean ' if len(domains) > 1 else ''}Dice, {', '.join(domains)}")
    _legend(figure, panels[0])
    return _png(figure)


def shared_domains(groups: Sequence[Group]) -> list[str]:
    """The domains that every network learnt; where there is none, the one that most did.

    A mean over other domains than a neighbour's says nothing.
    """
    learnt = {
        domain: {group.name for group in groups if group.domain == domain}
        for domain in domains_of(groups)
    }
    most = max(learnt, key=lambda domain: len(learnt[domain]))
    return [domain for domain, names in learnt.items() if names >= {*names_of(groups)}] or [most]


def dice_by_size(groups: Sequence[Group]) -> bytes:
    """Dice on the thirds of the objects by size, a panel per domain."""

    def draw(panel: Any, group: Group, style: Style) -> None:
        values = [group.tercile(third) for third in range(3)]
        there = [(n, value) for n, value in enumerate(values) if value is not None]
        if there:
            panel.plot(*zip(*there, strict=True), label=literal(group.name), **line_of(style))
        panel.set_xticks(range(3), THIRDS)
        panel.set_xlim(-0.3, 2.3)
        panel.set_xlabel("third of the objects by size")

    return by_domain(groups, draw)


def few_images(groups: Sequence[Group]) -> bytes:
    """Dice by the number of patients learnt from; dashed with elastic deformation."""
    chosen = {group.asked.preset for group in groups if group.asked.cases is not None}
    own = [group for group in groups if group.asked.preset in chosen and group.whole]
    lines: dict[tuple[str, str], list[Group]] = {}
    for group in own:
        lines.setdefault((group.domain, group.name), []).append(group)
    style = styles(sorted(chosen))
    counts = sorted({group.outcome.training_cases for group in own})

    def draw(panel: Any, group: Group, _: Style) -> None:
        line = sorted(lines[group.domain, group.name], key=lambda g: g.outcome.training_cases)
        if group is not line[0]:
            return
        dashed = {"linestyle": "--", "markerfacecolor": "white"} if group.asked.elastic else {}
        panel.plot(
            [each.outcome.training_cases for each in line],
            [each.dice.mean for each in line],
            label=literal(group.name),
            **{**line_of(style[group.asked.preset]), **dashed},
        )
        panel.set_xlabel("cases to learn from")
        panel.set_xscale("log")
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.minorticks_off()

    return by_domain(own, draw)


def curves(groups: Sequence[Group]) -> bytes:
    """Dice of the validations over the steps, first seed, a panel per domain."""

    def draw(panel: Any, group: Group, style: Style) -> None:
        if len(group.outcome.curve) > 1:
            steps, values = zip(*group.outcome.curve, strict=True)
            panel.plot(steps, values, label=literal(group.name), **line_of(style))
        panel.set_xlabel("step")

    return by_domain(groups, draw)


def by_domain(groups: Sequence[Group], draw: Callable[[Any, Group, Style], None]) -> bytes:
    """A panel per domain in which every group draws itself, Dice upwards, one legend for all."""
    domains, style = domains_of(groups), styles(names_of(groups))
    figure, panels = _panels(len(domains), 3.0, share_y=True)
    for panel, domain in zip(panels, domains, strict=True):
        for group in (each for each in groups if each.domain == domain):
            draw(panel, group, style[group.name])
        panel.set_title(literal(domain), fontsize=10)
    panels[0].set_ylabel("Dice")
    _legend(figure, *panels)
    return _png(figure)


def _panels(count: int, high: float, *, share_y: bool) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure((WIDE, high), DPI, facecolor="white", layout="constrained")
    panels = list(figure.subplots(1, count, sharey=share_y, squeeze=False)[0])
    for panel in panels:
        panel.grid(visible=True, color="#E4E4E4", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8.5, color="#808080")
    return figure, panels


def _logarithmic(panel: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with few labels: powers of ten, of a short range 1, 2 and 5 as well."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.set_xscale("log")
    panel.xaxis.set_minor_formatter(NullFormatter())
    if values and max(values) < 100 * min(values):
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _legend(figure: Any, *panels: Any) -> None:
    """One legend below all panels, every name once."""
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    longest = max((len(label) for label in entries), default=1)
    columns = max(1, min(4, int(WIDE * 12 / (longest + 6))))
    figure.set_figheight(figure.get_figheight() + 0.2 * ceil(len(entries) / columns))
    place = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": 8.5}
    figure.legend(entries.values(), entries.keys(), **place)


def line_of(style: Style) -> Style:
    return {"linewidth": 1.4, "markersize": 5, **style}


def literal(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    return content.getvalue()
