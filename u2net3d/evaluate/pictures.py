"""Pictures for people, as PNG bytes: labels over an image, and how a training goes.

The bytes are the same for the same input (no date, no software name). Only matplotlib's figures
and its Agg canvas are used: nothing global is touched and no display is needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, isfinite, isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from u2net3d.evaluate.metrics import dice
from u2net3d.evaluate.planes import Plane, grey_window, three_planes
from u2net3d.volume import Array, TripleF, Volume

# Okabe and Ito's colours, told apart with any colour vision: bright ones first on black images,
# dark ones first on white paper.
ON_BLACK = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
ON_WHITE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
PALE = "#E8E8E8"
LETTERS: dict[str, Any] = {"color": PALE, "fontsize": 8}
FILL, FILL_ALONE = 0.42, 0.25  # how much of the image a predicted label covers
LONGEST, NARROWEST, GAP, HEAD, LEGEND_ROW = 4.2, 6.0, 0.08, 0.45, 0.27  # inches
DPI = 150


def overlay(
    image: Array,
    prediction: Array,
    reference: Array | None,
    spacing_mm: TripleF,
    title: str,
    labels: Sequence[str],
    *,
    ignore: int | None = None,
) -> bytes:
    """Three planes of a case: the prediction as translucent fill, the reference as contours.

    Without a reference the prediction has the contours, and a thinner fill.

    image, prediction, reference: (D, H, W) in canonical order (superior, anterior, right);
    spacing_mm along D, H, W; labels: names by value, labels[0] the background;
    ignore: the reference's value for voxels that nobody judged.
    The slices are those with most foreground, all at one scale. Radiological: the patient's right
    is on the left of the axial and coronal pictures; superior is up. With a reference, Dice stands
    behind each name ("–": absent from both) and the mean over labels behind the title.
    """
    from matplotlib.figure import Figure

    found = None
    if reference is not None:
        found = dice(prediction, reference, len(labels), ignore)
        reference = reference if ignore is None else np.where(reference == ignore, 0, reference)
    planes = three_planes(image, prediction, reference, spacing_mm)
    window = grey_window(image, prediction if reference is None else reference)
    entries = _legend_of(labels, found)
    mm = max(max(plane.height_mm, plane.width_mm) for plane in planes) / LONGEST  # per inch
    high = max(plane.height_mm for plane in planes) / mm
    wide = sum(plane.width_mm / mm + GAP for plane in planes) - GAP
    room = sum(0.65 + 0.08 * len(entry.get_label()) for entry in entries)  # inches, by estimate
    rows = ceil(room / max(wide, NARROWEST))
    foot = LEGEND_ROW * rows + 0.12
    figure = Figure((max(wide, NARROWEST) + 2 * GAP, HEAD + high + foot), DPI, facecolor="black")
    left = (figure.get_figwidth() - wide) / 2
    for plane in planes:
        size = plane.width_mm / mm, plane.height_mm / mm
        _draw_plane(_axes(figure, left, foot + (high - size[1]) / 2, *size), plane, window)
        left += size[0] + GAP
    _write_title(figure, title, found)
    words = {"labelcolor": PALE, "fontsize": 9, "frameon": False, "borderaxespad": 0.3}
    columns = ceil(len(entries) / rows)
    figure.legend(handles=entries, loc="lower left", ncols=columns, **words)
    return png_of(figure)


def preview(image: Volume, label: Array, labels: Sequence[str], title: str) -> bytes:
    """Three planes of a prediction, as `overlay` draws them; millilitres stand behind each name.

    image (C, D, H, W), of which the first channel is drawn; label (D, H, W) on its grid; labels:
    names by value, labels[0] the background.
    """
    voxel_ml = abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
    counts = np.bincount(label.ravel(), minlength=len(labels))
    amounts = [float(count) * voxel_ml for count in counts]
    texts = [f"{ml:,.0f}" if ml >= 100 else f"{ml:.3g}" for ml in amounts]
    named = [f"{name}  {text} ml" for name, text in zip(labels, texts, strict=True)]
    return overlay(image.array[0], label, None, image.spacing_mm, title, named)


def progress(history: Iterable[Mapping[str, Any]]) -> bytes:
    """The course of a training: loss per domain above, validation Dice per domain below.

    history: rows of history.jsonl; of kind "train" their step, domain and loss, of kind
    "validation" their step, domain and mean_dice (over labels; null where no label was there).
    Losses are drawn faintly as they are, and boldly as a running mean.
    """
    from matplotlib.figure import Figure

    rows = list(history)
    domains = list(dict.fromkeys(str(row["domain"]) for row in rows if "domain" in row))
    figure = Figure((8.5, 6.4), DPI, facecolor="white", layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for n, domain in enumerate(domains):
        style = {
            "color": ON_WHITE[n % len(ON_WHITE)],
            "linestyle": ("-", "--", ":")[n // len(ON_WHITE) % 3],
        }
        steps, losses = _series(rows, "train", domain, "loss")
        above.plot(steps, losses, linewidth=0.7, alpha=0.25, color=style["color"])
        above.plot(steps, _running_mean(losses), linewidth=1.8, label=literal(domain), **style)
        steps, dices = _series(rows, "validation", domain, "mean_dice")
        name = f"{domain}  {dices[-1]:.3f} (highest {dices.max():.3f})" if len(dices) else domain
        below.plot(
            steps, dices, marker="o", markersize=4, linewidth=1.6, label=literal(name), **style
        )
    above.set_ylabel("training loss")
    below.set(ylabel="validation Dice", xlabel="step", ylim=(-0.02, 1.02))
    for axes in (above, below):
        dress(axes, legend=bool(domains))
    return png_of(figure)


def _draw_plane(axes: Any, plane: Plane, window: tuple[float, float]) -> None:
    """Draws a plane in mm, its origin at the upper left corner of the picture."""
    from matplotlib.colors import to_rgb

    extent = (0, plane.width_mm, plane.height_mm, 0)
    axes.imshow(
        plane.image,
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        extent=extent,
        interpolation="bilinear",
        aspect="auto",
    )
    fill = np.zeros((*plane.prediction.shape, 4))
    cover = FILL_ALONE if plane.reference is None else FILL
    for value in np.unique(plane.prediction[plane.prediction > 0]):
        fill[plane.prediction == value] = (*to_rgb(_on_black(value)), cover)
    axes.imshow(fill, extent=extent, interpolation="nearest", aspect="auto")
    outlined = plane.prediction if plane.reference is None else plane.reference
    for value in np.unique(outlined[outlined > 0]):
        _draw_contour(axes, outlined == value, plane, _on_black(value))
    axes.set(xlim=(0, plane.width_mm), ylim=(plane.height_mm, 0))
    axes.set_axis_off()
    places = ((0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015))
    sideways, upright = ("left", "right", "center", "center"), ("center", "center", "top", "bottom")
    for letter, place, h, v in zip(plane.sides, places, sideways, upright, strict=True):
        text = axes.text(*place, letter, ha=h, va=v, transform=axes.transAxes, **LETTERS)
        text.set_path_effects(_seam(2.0))
    if plane.name == "axial":
        _draw_scale(axes, plane)


def _draw_contour(axes: Any, mask: Array, plane: Plane, colour: str) -> None:
    """The outline of a mask (rows, columns), closed at the picture's edges, on a dark seam."""
    rows = (np.arange(-1, mask.shape[0] + 1) + 0.5) * plane.row_mm
    columns = (np.arange(-1, mask.shape[1] + 1) + 0.5) * plane.column_mm
    line = {"levels": [0.5], "colors": [colour], "linewidths": 1.3}
    drawn = axes.contour(columns, rows, np.pad(mask, 1).astype(float), **line)
    drawn.set_path_effects(_seam(2.4))


def _draw_scale(axes: Any, plane: Plane) -> None:
    """A bar of a round length in the lower left corner; the three planes share its scale."""
    length = max((n for n in (100, 50, 20, 10, 5) if n < plane.width_mm / 3), default=1)
    left, low = 0.04 * plane.width_mm, plane.height_mm - 0.05 * plane.height_mm
    (bar,) = axes.plot([left, left + length], [low, low], color=PALE, linewidth=2)
    text = axes.text(left, low - 0.015 * plane.height_mm, f"{length} mm", va="bottom", **LETTERS)
    bar.set_path_effects(_seam(3.5))
    text.set_path_effects(_seam(2.0))


def _names(labels: Sequence[str], found: Array | None) -> dict[int, str]:
    """What the legend says of each label value, with its Dice where there is a reference."""
    if found is None:
        return dict(enumerate(labels[1:], start=1))
    dices = ("–" if isnan(value) else f"{value:.2f}" for value in found)
    return {n: f"{labels[n]}  {text}" for n, text in enumerate(dices, start=1)}


def _write_title(figure: Any, title: str, found: Array | None) -> None:
    line = 1 - HEAD / 2 / figure.get_figheight()
    place = {"verticalalignment": "center", "color": PALE, "fontsize": 11}
    margin = 2 * GAP / figure.get_figwidth()
    figure.text(margin, line, literal(title), fontweight="bold", **place)
    if found is None:
        return
    there = found[~np.isnan(found)]
    text = f"Dice {there.mean():.3f}" if there.size else "Dice –"
    figure.text(1 - margin, line, text, horizontalalignment="right", **place)


def _legend_of(labels: Sequence[str], found: Array | None) -> list[Any]:
    """The legend's entries: a patch per label, and what line and fill mean if there are both."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Any] = []
    for value, text in _names(labels, found).items():
        colour = _on_black(value)
        entries.append(Patch(label=literal(text), facecolor=(colour, 0.7), edgecolor=colour))
    if found is not None:
        entries.append(Patch(facecolor=(PALE, 0.5), edgecolor="none", label="prediction"))
        entries.append(Line2D([], [], color=PALE, linewidth=1.3, label="reference"))
    return entries


def _series(
    rows: Iterable[Mapping[str, Any]], kind: str, domain: str, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of one domain, without what is null or not finite."""
    pairs = [
        (row["step"], row[name])
        for row in rows
        if row["kind"] == kind and row["domain"] == domain
        if row[name] is not None and isfinite(row[name])
    ]
    steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value with its neighbours, a twentieth of the course together; fewer at the ends."""
    reach = len(values) // 40
    sums = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(len(values))
    start, stop = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    means: NDArray[np.float64] = (sums[stop] - sums[start]) / (stop - start)
    return means


def dress(axes: Any, *, legend: bool) -> None:
    """A pale grid behind what is drawn, no frame above and on the right, the legend outside."""
    axes.grid(visible=True, color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, color="#808080")
    if legend:
        place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
        axes.legend(frameon=False, fontsize=9, **place)


def _axes(figure: Any, left: float, bottom: float, width: float, height: float) -> Any:
    """Axes at a place given in inches from the lower left corner."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, bottom / high, width / wide, height / high))


def _seam(width: float) -> list[Any]:
    """A black edge round lines and letters, so that they can be read on white tissue."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=width, foreground="black"), Normal()]


def _on_black(value: int) -> str:
    return ON_BLACK[(int(value) - 1) % len(ON_BLACK)]


def literal(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def png_of(figure: Any) -> bytes:
    """A figure as PNG, the same bytes for the same figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    return content.getvalue()
