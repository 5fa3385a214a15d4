"""The pictures of a comparison, as PNG bytes; the same rows give the same bytes.

A family has one colour and one mark in all of them, told apart with any colour vision.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from compare_canvas import (
    GREY,
    SMALL,
    WIDE,
    Style,
    legend,
    line_of,
    literal,
    logarithmic,
    panels_of,
    plain,
    png,
    styles,
)
from compare_groups import FAMILIES, THIRDS, Group, domains_of, few_of, names_of

from u2net3d.evaluate.pictures import DPI


def pictures(groups: Sequence[Group]) -> dict[str, bytes]:
    """name -> PNG of all that there are rows for; groups of one budget, in the order of a table."""
    every = [group for group in groups if group.plainly]
    whole = [group for group in every if group.whole]
    trained = [group for group in every if not group.hardly]
    found = {}
    if every:
        found["dice"] = dice_by_domain(every, lambda group: group.first.contestant, kind_of)
    if any(group.whole for group in trained):
        found["cost"] = cost(trained)
    if any(group.tercile(0) is not None for group in whole):
        found["size"] = dice_by_size(whole)
    if any(group.asked.cases is not None for group in groups):
        found["few"] = few_images(few_of(groups))
    if any(len(outcome.curve) > 1 for group in every for outcome in group.outcomes):
        found["curves"] = curves(every)
    return found


def kind_of(group: Group) -> str:
    """The family, and whether its units are separable where it has both."""
    name = FAMILIES.get(group.family, group.family)
    other = group.family in ("unet", "unetpp", "fcn") and group.first.block == "separable"
    return f"{name}, separable" if other else name


def named(group: Any) -> str:
    return str(group.name)


def dice_by_domain(
    groups: Sequence[Any],
    line: Callable[[Any], str] = named,
    kind: Callable[[Any], str] = named,
) -> bytes:
    """A panel per domain, a line for each that learnt it: its seeds as dots, a bar at their mean.

    line: what stands in one; what is called otherwise is a part of it, drawn small. kind: what has
    one colour. Groups: of any comparison, with name, domain, outcomes and dice.
    """
    style = styles(list(dict.fromkeys(map(kind, groups))))

    def draw(panel: Any, at: int, own: Sequence[Any]) -> None:
        ends = [group.dice.mean for group in own]
        mark = style[kind(own[0])]
        panel.plot([min(ends), max(ends)], [at, at], linewidth=1, color=mark["color"], alpha=0.5)
        for group in own:
            values = [outcome.dice for outcome in group.outcomes]
            part = group.name != line(group)
            dots = {**mark, **_face(group), "linestyle": "", "markersize": 3 if part else 5.5}
            panel.plot(values, [at] * len(values), alpha=0.8, **dots)
            if not part:
                panel.plot(group.dice.mean, at, "|", markersize=11, color=mark["color"])
                _at_the_end(panel, at, f"{group.dice.mean:.3f}")

    figure, panels = _lines(groups, line, kind, draw)
    lowest = min(group.dice.mean for group in _trained(groups))
    _from(panels, lowest)
    return png(figure)


def dice_by_size(groups: Sequence[Group]) -> bytes:
    """Dice on the thirds of the objects by size, joined; the smallest third is the smallest dot."""
    style = styles(list(dict.fromkeys(map(kind_of, groups))))
    sizes = (3.0, 5.5, 8.0)

    def draw(panel: Any, at: int, own: Sequence[Group]) -> None:
        colour = style[kind_of(own[0])]["color"]
        values = [own[0].tercile(third) for third in range(3)]
        there = [(value, size) for value, size in zip(values, sizes, strict=True) if value]
        panel.plot([v for v, _ in there], [at] * len(there), linewidth=1, color=colour, alpha=0.5)
        for value, size in there:
            face = {"alpha": 0.7, **_face(own[0])}
            panel.plot(value, at, "o", markersize=size, color=colour, **face)
        if values[0] is not None and values[2] is not None:
            _at_the_end(panel, at, f"{values[2] - values[0]:+.3f}")

    figure, panels = _lines(groups, named, kind_of, draw)
    lowest = min(group.tercile(third) or 1.0 for group in _trained(groups) for third in range(3))
    _from(panels, lowest)
    for third, size in zip(THIRDS, sizes, strict=True):
        said = f"{third} third of the objects"
        panels[0].plot([], [], "o", color=GREY, markersize=size, label=said)
    panels[0].set_title("large less small", fontsize=SMALL, color=GREY, loc="right")
    legend(figure, panels[0])
    return png(figure)


def _face(group: Any) -> Style:
    """Hollow where a group says of itself that it was hardly trained."""
    return {"markerfacecolor": "white"} if getattr(group, "hardly", False) else {}


def _trained(groups: Sequence[Any]) -> Sequence[Any]:
    """All but what was hardly trained, or all where there is nothing else."""
    return [group for group in groups if not getattr(group, "hardly", False)] or groups


def _from(panels: Sequence[Any], lowest: float) -> None:
    """Lets the axis begin a little below a Dice; what is less lies at its edge and points there."""
    edge, highest = max(0.0, lowest - 0.05), 0.0
    for dots in (each for panel in panels for each in panel.lines):
        values = list(dots.get_xdata())
        highest = max(highest, *values)
        if max(values) < edge and dots.get_marker() not in ("None", "|"):
            dots.set_marker("<")
        dots.set(xdata=[max(edge, value) for value in values], clip_on=False)
    panels[0].set_xlim(edge, highest + 0.02)


def _lines(
    groups: Sequence[Any],
    line: Callable[[Any], str],
    kind: Callable[[Any], str],
    draw: Callable[[Any, int, Sequence[Any]], None],
) -> tuple[Any, list[Any]]:
    """A panel per domain, one below the other on one axis of Dice; a line for each in its groups.

    Kinds are apart by a rule; what did not learn a domain has no line there.
    """
    from matplotlib.figure import Figure

    domains = domains_of(groups)
    lines: list[dict[str, list[Any]]] = [{} for _ in domains]
    for group in groups:
        lines[domains.index(group.domain)].setdefault(line(group), []).append(group)
    high = [len(own) + 1.6 for own in lines]
    size = (WIDE, 0.21 * sum(high) + 0.4)
    figure = Figure(size, DPI, facecolor="white", layout="constrained")
    shape = {"height_ratios": high, "sharex": True, "squeeze": False}
    panels = [row[0] for row in figure.subplots(len(domains), 1, **shape)]
    for panel, domain, own in zip(panels, domains, lines, strict=True):
        plain(panel, "x")
        kinds = [kind(each[0]) for each in own.values()]
        for at, each in enumerate(own.values()):
            draw(panel, at, each)
            if at and kinds[at] != kinds[at - 1]:
                panel.axhspan(at - 0.5, at - 0.5, color="#C8C8C8", linewidth=0.8)
        panel.set_yticks(range(len(own)), [literal(name) for name in own])
        panel.set_ylim(len(own) - 0.4, -0.6)
        panel.set_title(literal(domain), fontsize=10, fontweight="bold", loc="left")
        panel.tick_params(axis="y", length=0, pad=8, labelcolor="black")
        panel.tick_params(axis="x", labelbottom=True)
    panels[-1].set_xlabel("Dice")
    return figure, panels


def _at_the_end(panel: Any, at: int, text: str) -> None:
    """Text at the right end of a line."""
    place = panel.get_yaxis_transform()
    panel.text(1.01, at, text, transform=place, fontsize=SMALL, color=GREY, va="center")


def cost(groups: Sequence[Group]) -> bytes:
    """Mean Dice over domains, by weights, multiply-adds and seconds a volume.

    The parts of a network are joined to it; the best one is named.
    """
    domains = shared_domains([group for group in groups if group.whole])
    drawn = [group for group in groups if group.domain in domains]
    style = styles(list(dict.fromkeys(map(kind_of, groups))))
    axes: dict[str, Callable[[Group], float]] = {
        "weights of a domain": lambda group: group.weights,
        "10⁹ multiply-adds a patch": lambda g: g.outcome.macs.total / 1e9 if g.outcome.macs else 0,
        "seconds a volume": lambda group: group.median(lambda outcome: outcome.volume_s),
    }
    figure, panels = panels_of(len(axes), 3.4, share_y=True)
    for panel, (title, of) in zip(panels, axes.items(), strict=True):
        places = _places(drawn, of)
        for name in dict.fromkeys(group.first.contestant for group in drawn):
            own = [g for g in drawn if g.first.contestant == name and g.name in places]
            if not own:
                continue
            mark, line = style[kind_of(own[0])], sorted({places[g.name] for g in own})
            panel.plot(*zip(*line, strict=True), linewidth=0.8, alpha=0.5, color=mark["color"])
            for group in own:
                size = 6.5 if group.whole else 3
                label = literal(kind_of(group))
                dot = {**mark, "markersize": size, "linestyle": "", "alpha": 0.85}
                panel.plot(*places[group.name], label=label if group.whole else None, **dot)
        logarithmic(panel, [at for at, _ in places.values()])
        if places:
            _name_the_best(panel, places)
        panel.set_xlabel(title)
    panels[0].set_ylabel(f"{'mean ' if len(domains) > 1 else ''}Dice, {', '.join(domains)}")
    legend(figure, *panels)
    return png(figure)


def _places(
    groups: Sequence[Group], of: Callable[[Group], float]
) -> dict[str, tuple[float, float]]:
    """Name -> geometric mean of a cost and mean Dice; of what learnt all the domains there are."""
    found, count = {}, len(domains_of(groups))
    for name in names_of(groups):
        own = [group for group in groups if group.name == name]
        values = [value for value in map(of, own) if value > 0]
        if len(values) == count:
            dice = statistics.mean(group.dice.mean for group in own)
            found[name] = statistics.geometric_mean(values), dice
    return found


def _name_the_best(panel: Any, places: dict[str, tuple[float, float]]) -> None:
    """Names the highest Dice, away from the nearer edge of the panel."""
    panel.margins(y=0.08)
    low, high = panel.get_xlim()
    name = max(places, key=lambda each: places[each][1])
    at, dice = places[name]
    right = at * at > low * high
    place = {"textcoords": "offset points", "ha": "right" if right else "left", "fontsize": SMALL}
    panel.annotate(literal(name), (at, dice), (-6 if right else 6, 4), **place)


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


def few_images(groups: Sequence[Group]) -> bytes:
    """Dice by the cases learnt from, of `few_of`; dashed with elastic deformation."""
    lines: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        lines.setdefault((group.domain, group.name), []).append(group)
    style = styles(sorted({group.asked.preset for group in groups}))
    counts = sorted({group.outcome.training_cases for group in groups})

    def draw(panel: Any, group: Group, _: Style) -> None:
        line = lines[group.domain, group.name]
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

    return by_domain(groups, draw)


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
    figure, panels = panels_of(len(domains), 3.0, share_y=True)
    for panel, domain in zip(panels, domains, strict=True):
        for group in (each for each in groups if each.domain == domain):
            draw(panel, group, style[group.name])
        panel.set_title(literal(domain), fontsize=10)
    panels[0].set_ylabel("Dice")
    low, high = panels[0].get_ylim()
    wider = max(0.0, 0.1 - (high - low)) / 2  # noise is not to look like a finding
    panels[0].set_ylim(low - wider, high + wider)
    legend(figure, *panels)
    return png(figure)
