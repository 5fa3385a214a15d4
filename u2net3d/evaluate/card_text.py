"""A card for people: Markdown, and a picture of the Dice of its labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from u2net3d.errors import one_line
from u2net3d.evaluate.card import DomainCard, ModelCard, counted, millimetres
from u2net3d.evaluate.pictures import DPI, ON_WHITE, dress, literal, png_of
from u2net3d.spec import Normalisation, preset_of

UNKNOWN = "not known"


def domain_text(card: DomainCard, picture: str | None = None) -> str:
    """The card as Markdown; picture: the file name of the one beside it."""
    domain, data, size, hashes = card.domain, card.data, card.size, card.hashes
    largest = data.largest_image_mm
    image = [f"![Dice per label]({picture})", ""] if picture else []
    half = f"; half precision, rounded by at most {_rounding(card)}" if card.half_precision else ""
    parts = [
        f"# {domain.name}",
        "",
        _plain(card.intended_use),
        "",
        "## Data",
        "",
        *_table(
            ("data set", data.name or UNKNOWN),
            ("reference", data.reference or UNKNOWN),
            ("licence", data.licence or UNKNOWN),
            ("release", data.release or UNKNOWN),
            ("cases to learn from", _known(data.training_cases)),
            ("their size, at most", millimetres(largest) if largest else UNKNOWN),
            ("cases to judge by", f"{_known(data.validation_cases)} (fold {_known(data.fold)})"),
            ("SHA-256 of the cases", _code(data.sha256)),
        ),
        "## Dice",
        "",
        *_dice(card),
        *image,
        "## Limits",
        "",
        *[f"- {text}" for text in card.limits],
        "",
        "## Plan",
        "",
        *_plan(card),
        "## Size and hashes",
        "",
        *_table(
            ("bank", f"{size.weights:,} weights, {size.bytes:,} bytes{half}"),
            ("without stem and heads", f"{size.adapters:,} weights"),
            ("trunk", f"{size.trunk_weights:,} weights, {size.trunk_bytes:,} bytes"),
            ("trunk id", _code(hashes.trunk_id)),
            ("SHA-256 of the trunk's file", _code(hashes.trunk_sha256)),
            ("SHA-256 of the bank's file", _code(hashes.file_sha256)),
            ("content id", _code(hashes.content_id)),
        ),
    ]
    return "\n".join(parts)


def model_text(card: ModelCard, links: bool = False) -> str:
    """The card of a whole model; links: those of its domains lie beside it."""
    rows = [
        (
            f"[{name}]({name}.md)" if links else name,
            ", ".join(each.domain.labels[1:]),
            f"{each.dice.mean:.3f}" if each.dice.mean is not None else UNKNOWN,
            _known(each.data.validation_cases),
            each.data.licence or UNKNOWN,
            f"{each.size.bytes:,}",
        )
        for name, each in card.domains.items()
    ]
    total = card.trunk_bytes + sum(each.size.bytes for each in card.domains.values())
    learnt = UNKNOWN if card.trained_on is None else ", ".join(card.trained_on)
    parts = [
        "# Model",
        "",
        *_table(
            ("network", _network(card)),
            ("trunk", f"{card.trunk_weights:,} weights, {card.trunk_bytes:,} bytes"),
            ("trained on", learnt),
            ("trunk and banks", f"{total:,} bytes"),
            ("trunk id", _code(card.trunk_id)),
            ("SHA-256 of the trunk's file", _code(card.trunk_sha256)),
        ),
        *_rows(
            ("domain", "labels", "validation Dice", "cases", "licence of the data", "bytes"), rows
        ),
        "Research; no medical device. Each domain has limits of its own: see its card.",
        "",
    ]
    return "\n".join(parts)


def dice_picture(card: DomainCard) -> bytes | None:
    """A point for every validation case and a line at the mean, label by label, as PNG.

    Of an older model the means alone; None where nothing was judged.
    """
    from matplotlib.figure import Figure

    known = {name: value for name, value in card.dice.labels.items() if value is not None}
    if not known:
        return None
    figure = Figure((7.5, 1.1 + 0.5 * len(known)), DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    for row, (name, mean) in enumerate(known.items()):
        colour = ON_WHITE[row % len(ON_WHITE)]
        values = card.dice.cases.get(name, ())
        offsets = [row + 0.09 * (n % 5 - 2) for n in range(len(values))]  # so that none hides one
        axes.plot(values, offsets, "o", markersize=4, alpha=0.45, color=colour, linewidth=0)
        axes.plot([mean, mean], [row - 0.32, row + 0.32], linewidth=2.2, color=colour)
    names = [f"{literal(name)}  {mean:.3f}" for name, mean in known.items()]
    axes.set_yticks(range(len(known)), names)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(known) - 0.5, -0.5), xlabel="validation Dice")
    title = f"{card.domain.name}: {counted(card.data.validation_cases)}, a line at the mean"
    axes.set_title(literal(title), fontsize=10, loc="left")
    dress(axes, legend=False)
    return png_of(figure)


def _dice(card: DomainCard) -> Iterable[str]:
    rows = []
    for name, mean in card.dice.labels.items():
        values = card.dice.cases.get(name, ())
        lowest, highest = (f"{values[0]:.3f}", f"{values[-1]:.3f}") if values else ("", "")
        rows.append((name, "absent" if mean is None else f"{mean:.3f}", lowest, highest))
    if not rows:
        return ["Not measured.", ""]
    rows.append(("mean", UNKNOWN if card.dice.mean is None else f"{card.dice.mean:.3f}", "", ""))
    return _rows(("label", "mean of the cases", "lowest", "highest"), rows)


def _plan(card: DomainCard) -> Iterable[str]:
    domain, plan = card.domain, card.domain.plan
    normalisation = ", ".join(map(_normalisation, plan.normalisation))
    training = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in card.training.items())
    clean = ", ".join(card.largest_component) or "none"
    return _table(
        ("network", _network(card)),
        ("channels", ", ".join(domain.channels)),
        ("labels", ", ".join(f"{n} {name}" for n, name in enumerate(domain.labels))),
        ("spacing", f"{_triple(plan.spacing_mm)} mm (D×H×W)"),
        ("normalisation", normalisation),
        ("patch", f"{_triple(plan.patch_size)} voxels, {plan.batch_size} a step"),
        ("stages", f"{plan.stages}, strides {', '.join(map(_triple, plan.strides))}"),
        ("last training", training or UNKNOWN),
        ("largest component alone is kept of", clean),
    )


def _network(card: DomainCard | ModelCard) -> str:
    net = card.network
    return f"preset {preset_of(net)}, {net.base_channels} channels, {net.stages} stages"


def _normalisation(said: Normalisation) -> str:
    return f"CT {said.lower:g} to {said.upper:g}" if said.scheme == "ct" else said.scheme


def _rounding(card: DomainCard) -> str:
    found = (card.half_precision or {}).get("largest_rounding")
    return UNKNOWN if found is None else f"{found:.1e} of a tensor's largest"


def _triple(values: Sequence[float]) -> str:
    return "×".join(f"{value:.3g}" for value in values)


def _known(value: object) -> str:
    return UNKNOWN if value is None else str(value)


def _code(value: str | None) -> str:
    return UNKNOWN if value is None else f"`{value}`"


def _table(*rows: tuple[str, str]) -> list[str]:
    return _rows(("", ""), rows)


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [" | ".join(map(_plain, row)) for row in rows]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *[f"| {x} |" for x in lines], ""]


def _plain(text: str) -> str:
    """What a data set calls itself, or its labels, breaks out of no cell and is no HTML."""
    return one_line(text).replace("|", r"\|").replace("<", "&lt;")
