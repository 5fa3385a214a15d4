"""What a domain of a model is, in one value: its data, plan, Dice, size, hashes, use and limits.

All of it is read off the model folder; no weight is loaded. What a folder does not say is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from u2net3d import files, store
from u2net3d.errors import ModelError
from u2net3d.spec import DomainSpec, Frozen, ModelSpec
from u2net3d.volume import TripleF

_TRAINING = ("steps", "best_step", "seconds", "seed", "imported")  # of these, what a file says
FEW = 10  # validation cases below this say little


class Data(Frozen):
    """What a bank learnt from and was judged by.

    name, reference, licence, release: as the data set's dataset.json had them; largest_image_mm:
    the most that the cases to learn from measure (D, H, W), without margins of zeros; sha256: of
    the content of all cases.
    """

    name: str | None = None
    reference: str | None = None
    licence: str | None = None
    release: str | None = None
    training_cases: int | None = None
    validation_cases: int | None = None
    fold: int | Literal["all"] | None = None
    largest_image_mm: TripleF | None = None
    sha256: str | None = None


class Scores(Frozen):
    """Dice of the validation cases.

    labels: mean over the cases per label, None where no case has it; mean: over the labels; cases:
    of every case per label, from the lowest up, empty in older models.
    """

    labels: dict[str, float | None]
    mean: float | None
    cases: dict[str, tuple[float, ...]]


class Size(Frozen):
    """Numbers and bytes; adapters: the bank's weights without stem and heads."""

    weights: int
    adapters: int
    bytes: int
    trunk_weights: int
    trunk_bytes: int


class Hashes(Frozen):
    """trunk_id: of the trunk's numbers; file_sha256 and trunk_sha256: of the files' bytes."""

    trunk_id: str
    trunk_sha256: str
    file_sha256: str
    content_id: str


class DomainCard(Frozen):
    """One domain. training: steps, seed and the like; half_precision: what rounding changed."""

    format: Literal["u2net3d-card"] = "u2net3d-card"
    version: Literal[1] = 1
    domain: DomainSpec
    network: ModelSpec
    data: Data
    training: dict[str, Any]
    dice: Scores
    largest_component: tuple[str, ...]
    half_precision: dict[str, Any] | None
    size: Size
    hashes: Hashes
    intended_use: str
    limits: tuple[str, ...]


class ModelCard(Frozen):
    """A whole model. trained_on: names of the domains that the trunk was trained on, if known."""

    format: Literal["u2net3d-model-card"] = "u2net3d-model-card"
    version: Literal[1] = 1
    network: ModelSpec
    trunk_id: str
    trunk_sha256: str
    trunk_weights: int
    trunk_bytes: int
    trained_on: tuple[str, ...] | None
    domains: dict[str, DomainCard]


def model_card(folder: Path) -> ModelCard:
    """The card of a model folder. Raises ModelError as `store.read_domains` does."""
    manifest = store.read_manifest(folder)
    return ModelCard(
        network=manifest.model,
        trunk_id=manifest.trunk_id,
        trunk_sha256=manifest.trunk.sha256,
        trunk_weights=manifest.trunk_weights,
        trunk_bytes=store.place_of(folder, manifest.trunk).stat().st_size,
        trained_on=store.trained_on(folder),
        domains={name: domain_card(folder, name) for name in store.read_domains(folder)},
    )


def domain_card(folder: Path, name: str) -> DomainCard:
    """The card of a domain.

    Raises UsageError where there is none of that name, ModelError where its file says of itself
    what cannot be understood, or cannot be had.
    """
    manifest, records = store.read_manifest(folder), store.read_domains(folder)
    record = store.require_domain(records, name, folder)
    said, listed = record.said, manifest.domains.get(name)
    size = Size(
        weights=said.weights,
        adapters=said.adapters,
        bytes=record.path.stat().st_size,
        trunk_weights=manifest.trunk_weights,
        trunk_bytes=store.place_of(folder, manifest.trunk).stat().st_size,
    )
    hashes = Hashes(
        trunk_id=manifest.trunk_id,
        trunk_sha256=manifest.trunk.sha256,
        file_sha256=listed.sha256 if listed else files.sha256_file(record.path),
        content_id=said.content_id,
    )
    try:
        return _card(said, manifest.model, size, hashes, store.data_sha256(folder, name))
    except (ValidationError, AttributeError, TypeError) as error:
        what = "its card is not written as u2net3d writes one"
        raise ModelError(record.path, what, "get a file that u2net3d wrote") from error


def _card(
    said: store.DomainFile, network: ModelSpec, size: Size, hashes: Hashes, data: str | None
) -> DomainCard:
    found, scores = _data(said.card, data), _scores(said.card)
    half = said.card.get(store.HALF)
    return DomainCard(
        domain=said.domain,
        network=network,
        data=found,
        training={key: said.card[key] for key in _TRAINING if key in said.card},
        dice=scores,
        largest_component=said.largest_component,
        half_precision=half,
        size=size,
        hashes=hashes,
        intended_use=_use(said.domain, said.card.get("images")),
        limits=tuple(_limits(found, scores, half)),
    )


def counted(cases: int | None) -> str:
    """`1 case`, `26 cases`."""
    number = "an unknown number of" if cases is None else cases
    return f"{number} case" + ("" if cases == 1 else "s")


def millimetres(size: TripleF) -> str:
    """`59×47×43 mm (D×H×W)`."""
    return f"{'×'.join(f'{mm:.0f}' for mm in size)} mm (D×H×W)"


def _data(card: Mapping[str, Any], sha256: str | None) -> Data:
    facts = card.get("dataset", {})
    known = {key: facts[key] for key in ("name", "reference", "licence", "release") if key in facts}
    counts = ("training_cases", "validation_cases", "fold", "largest_image_mm")
    return Data(**known, **{key: card.get(key) for key in counts}, sha256=sha256)


def _scores(card: Mapping[str, Any]) -> Scores:
    labels = card.get("validation_dice", {})
    there = [value for value in labels.values() if value is not None]
    mean = sum(there) / len(there) if there else None
    return Scores(labels=labels, mean=mean, cases=card.get("dice_of_cases", {}))


def _use(domain: DomainSpec, images: object) -> str:
    what, of = ", ".join(domain.labels[1:]), ", ".join(domain.channels)
    shown = f": {images}" if isinstance(images, str) else ""
    return (
        f"Research: to mark {what} in 3-D images ({of}) like those that it learnt from{shown}. It"
        " is no medical device, and nothing is to be decided about a patient by it alone."
    )


def _limits(data: Data, scores: Scores, half: Mapping[str, Any] | None) -> list[str]:
    """What a reader of the figures should know, a sentence or two each."""
    found = []
    if scores.mean is None:
        found.append("It was not judged: no validation case is known.")
    else:
        found.append(
            f"Dice is of {counted(data.validation_cases)} of the same data set, kept apart from"
            " training, patients too as far as names tell them. The best state was chosen by it, so"
            " expect less elsewhere."
        )
    if scores.mean is not None and (data.validation_cases or 0) < FEW:
        found.append("So few cases say little.")
    found.append("Other scanners, protocols, ages and diseases than in that set were not measured.")
    if data.largest_image_mm is not None:
        found.append(
            f"It knows images of at most {millimetres(data.largest_image_mm)} and nothing beyond:"
            " of a larger one give the part around what is to be marked."
        )
    if data.licence is None:
        found.append("The licence of its data is not known: ask before the weights are passed on.")
    if half is not None and not half.get("dice_of_rounded"):
        found.append("The weights were rounded to half precision after Dice was measured.")
    return found
