"""A card says what the model folder says, and says so where it does not know."""

from __future__ import annotations

import re

import pytest
import torch

from u2net3d import files, store
from u2net3d.errors import ModelError
from u2net3d.evaluate.card import domain_card, model_card
from u2net3d.evaluate.card_text import dice_picture, domain_text, model_text
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import DomainSpec, ModelSpec, Plan, ZScoreNormalisation

FULL = {
    "dataset": {"name": "Liver", "reference": "A et al. 2020", "licence": "CC0-1.0"},
    "training_cases": 40,
    "largest_image_mm": [59.4, 47, 43],
    "validation_cases": 12,
    "fold": 0,
    "steps": 100,
    "seed": 7,
    "validation_dice": {"liver": 0.8, "tumour": 0.4},
    "dice_of_cases": {"liver": [0.7, 0.9], "tumour": [0.4]},
    "largest_component": ["liver"],
}


@pytest.fixture
def described(tmp_path):
    """described(card, labels): a model of the domain liver with that card."""

    def make(card, labels=("background", "liver", "tumour")):
        torch.manual_seed(0)
        model = ModelSpec(base_channels=2, stages=2)
        plan = Plan(
            spacing_mm=(2.5, 1, 1),
            normalisation=(ZScoreNormalisation(),),
            patch_size=(8, 8, 8),
            batch_size=2,
            strides=((1, 1, 1), (2, 2, 2)),
            kernels=((1, 3, 3), (3, 3, 3)),
        )
        spec = DomainSpec(name="liver", channels=("CT",), labels=labels, plan=plan)
        net = UniversalNet(2, 2)
        net.add_bank("liver", BankShape.of(spec))
        folder = tmp_path / "model"
        store.save_model(folder, net, model, {"liver": spec}, {"liver": card}, {"liver": "data"})
        return folder

    return make


def test_what_the_images_are_is_said_where_the_card_knows_it(described):
    card = domain_card(described({**FULL, "images": "CT of the belly"}), "liver")
    assert "like those that it learnt from: CT of the belly. It is no" in card.intended_use


def test_figures_and_hashes_are_those_of_the_folder(described):
    folder = described(FULL)
    card = domain_card(folder, "liver")
    assert card.dice.mean == pytest.approx(0.6)
    assert card.dice.cases == {"liver": (0.7, 0.9), "tumour": (0.4,)}
    assert (card.data.name, card.data.licence, card.data.release) == ("Liver", "CC0-1.0", None)
    assert (card.data.training_cases, card.data.validation_cases, card.data.fold) == (40, 12, 0)
    assert card.data.sha256 == "data"
    assert card.training == {"steps": 100, "seed": 7}
    bank = folder / "domains" / "liver.safetensors"
    assert card.size.bytes == bank.stat().st_size
    assert card.hashes.file_sha256 == files.sha256_file(bank)
    assert card.hashes.trunk_sha256 == files.sha256_file(folder / "trunk.safetensors")
    assert card.hashes.content_id == store.read_domains(folder)["liver"].said.content_id
    assert "liver, tumour in 3-D images (CT) like those that it learnt from. " in card.intended_use
    text = domain_text(card)
    for row in ("| licence | CC0-1.0 |", "| liver | 0.800 | 0.700 | 0.900 |", "| mean | 0.600 |"):
        assert row in text
    assert "12 cases of the same data set" in text
    assert "It knows images of at most 59×47×43 mm (D×H×W) and nothing beyond" in text
    assert "no medical device" in text
    assert card.model_validate_json(card.model_dump_json()) == card
    whole = model_card(folder)
    assert whole.domains == {"liver": card}
    assert whole.trained_on == ("liver",)
    assert "| liver | liver, tumour | 0.600 | 12 | CC0-1.0 |" in model_text(whole)


def test_what_is_not_known_is_said(described):
    card = domain_card(described({}), "liver")
    text = domain_text(card)
    for name in ("data set", "reference", "licence", "release", "cases to learn from"):
        assert f"| {name} | not known |" in text
    assert "Not measured." in text
    assert any("licence of its data is not known" in limit for limit in card.limits)
    assert any("not judged" in limit for limit in card.limits)
    assert dice_picture(card) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"validation_cases": 1}, "1 case of the same data set"),
        ({"validation_cases": 1}, "So few cases"),
        ({"half_precision": {"largest_rounding": 1e-4}}, "after Dice was measured"),
    ],
)
def test_limits_follow_from_the_figures(described, change, said):
    assert any(said in limit for limit in domain_card(described(FULL | change), "liver").limits)
    usual = domain_card(described(FULL), "liver").limits
    assert not any(said in limit for limit in usual)


def test_dice_that_was_measured_on_rounded_weights_has_no_such_limit(described):
    half = {"largest_rounding": 1e-4, "dice_of_rounded": True}
    card = domain_card(described(FULL | {"half_precision": half}), "liver")
    assert not any("rounded" in limit for limit in card.limits)
    assert "half precision, rounded by at most 1.0e-04" in domain_text(card)


def test_names_break_no_table_and_bring_no_html(described):
    labels = ("background", "a|b\nc", "<script>")
    facts = {"dataset": {"name": "<b>| x", "licence": "a|b"}}
    folder = described(facts | {"validation_dice": {"a|b\nc": 0.5, "<script>": None}}, labels)
    card = domain_card(folder, "liver")
    for text in (domain_text(card), model_text(model_card(folder))):
        assert "<" not in text
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert rows
        columns = [len(re.split(r"(?<!\\)\|", row)) for row in rows]
        assert set(columns) <= {4, 6, 8}  # tables of 2, 4 and 6 columns
    assert dice_picture(card)


@pytest.mark.parametrize(
    "card",
    [
        {"dataset": 3},
        {"validation_dice": {"liver": "good"}},
        {"validation_dice": [1]},
        {"half_precision": 3},
        {"training_cases": {}},
    ],
)
def test_a_card_that_cannot_be_understood_is_refused_by_its_file(described, card):
    with pytest.raises(ModelError, match=r"liver\.safetensors: its card"):
        domain_card(described(card), "liver")


def test_the_picture_shows_the_cases_and_is_the_same_each_time(described):
    pictures = [dice_picture(domain_card(described(FULL), "liver")) for _ in range(2)]
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    older = {key: value for key, value in FULL.items() if key != "dice_of_cases"}
    assert dice_picture(domain_card(described(older), "liver")) not in (None, pictures[0])
