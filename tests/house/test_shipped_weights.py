"""What the package brings: whole, small, described, under licences that are named. Nothing is
asked where no weights ship.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from u2net3d import store
from u2net3d.evaluate.card import domain_card

ROOT = Path(__file__).parents[2]
LIMIT_BYTES = 3_500_000


@pytest.fixture
def ships():
    folder = store.shipped()
    if folder is None:
        pytest.skip("no weights ship: scripts/ship-weights makes them")
    return folder


def settings():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_wheel_and_sdist_carry_the_folder_of_the_weights():
    data = settings()["tool"]["setuptools"]["package-data"]["u2net3d"]
    assert "weights/**" in data


def test_they_are_whole_and_small(ships):
    assert store.verify(ships) == []
    assert store.remarks(ships) == []
    assert sum(path.stat().st_size for path in ships.rglob("*.safetensors")) < LIMIT_BYTES
    assert not (ships / "runs").exists()
    assert not (ships / "previous").exists()


def test_every_domain_has_its_card_and_its_licence(ships):
    notice = (ships / "NOTICE").read_text(encoding="utf-8")
    for name in store.read_domains(ships):
        card = domain_card(ships, name)
        written = json.loads((ships / "cards" / f"{name}.json").read_text(encoding="utf-8"))
        assert written == card.model_dump(mode="json")
        assert card.data.licence
        assert f"domains/{name}.safetensors" in notice
        assert card.data.licence in notice
        assert card.half_precision
        assert card.half_precision["dice_of_rounded"] is True


def test_no_domain_learnt_a_body_that_lies_wrongly(ships):
    """Left and right lie apart along W in canonical order: else its headers named wrong axes."""
    for spec in store.read_specs(ships).values():
        assert spec.mirroring.swap_axis in (None, 2)


def test_the_licence_of_the_package_names_that_of_the_weights(ships):
    notice = (ships / "NOTICE").read_text(encoding="utf-8")
    project = settings()["project"]
    assert "u2net3d/weights/NOTICE" in project["license-files"]
    for licence in ("CC-BY-SA-4.0", "MIT"):
        if f"shared under {licence}" in notice:
            assert licence in project["license"]
