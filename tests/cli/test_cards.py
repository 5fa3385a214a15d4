"""`u2net3d card`: Markdown, JSON and a picture for every domain and for the model."""

from __future__ import annotations

import json


def test_cards_of_all_domains_and_of_the_model(trained, tmp_path, u2net3d):
    out = tmp_path / "cards"
    said = u2net3d("card", "--model", trained.model, "-o", out)
    assert (said.code, said.out, said.errors) == (0, "", [])
    kinds = {f"{name}.{kind}" for name in ("liver", "prostate") for kind in ("md", "json", "png")}
    assert {path.name for path in out.iterdir()} == {*kinds, "model-card.md", "model-card.json"}
    listed = json.loads(u2net3d("domains", "--model", trained.model, "--json").out)
    whole = json.loads((out / "model-card.json").read_text())
    assert whole["trunk_id"] == listed["trunk"]["id"]
    assert whole["trained_on"] == ["liver", "prostate"]
    for name in ("liver", "prostate"):
        card, row = json.loads((out / f"{name}.json").read_text()), listed["domains"][name]
        assert whole["domains"][name] == card
        assert card["size"]["bytes"] == row["bytes"]
        assert card["hashes"]["file_sha256"] == row["sha256"]
        assert card["dice"]["labels"] == row["card"]["validation_dice"]
        assert card["data"]["name"].lower() == name
        assert card["data"]["licence"] is None
        text = (out / f"{name}.md").read_text()
        assert "| licence | not known |" in text
        assert f"({name}.png)" in text
        assert row["sha256"] in text
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"[{name}]({name}.md)" in (out / "model-card.md").read_text()


def test_one_domain_alone_and_on_stdout(trained, tmp_path, u2net3d):
    said = u2net3d("card", "Prostate", "--model", trained.model)
    assert (said.code, said.errors) == (0, [])
    assert said.out.startswith("# prostate\n")
    assert ".png" not in said.out  # there is none beside it
    assert u2net3d("card", "prostate", "--model", trained.model, "-o", tmp_path / "one").code == 0
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {"prostate.md", "prostate.json", "prostate.png"}
    assert u2net3d("card", "--model", trained.model).out.startswith("# Model\n")


def test_what_cannot_be_described_is_refused(trained, tmp_path, u2net3d):
    said = u2net3d("card", "livr", "--model", trained.model)
    assert said.code == 2
    assert "did you mean liver?" in said.errors[0]
    (tmp_path / "file").touch()
    said = u2net3d("card", "--model", trained.model, "-o", tmp_path / "file")
    assert said.code == 2
    assert "-o" in said.errors[0]
