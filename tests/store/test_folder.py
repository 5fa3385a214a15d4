"""The model folder: what is saved comes back, and what does not belong is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from u2net3d import files, store
from u2net3d.errors import ModelError, UsageError
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import DomainSpec, ModelSpec, Plan, ZScoreNormalisation

MODEL = ModelSpec(base_channels=2, stages=2)
CARD = {"validation_dice": {"liver": 0.9}, "note": "naïve — ½"}


def domain(name, channels=1, labels=("background", "organ")):
    plan = Plan(
        spacing_mm=(2.5, 1, 1),
        normalisation=(ZScoreNormalisation(),) * channels,
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((1, 3, 3), (3, 3, 3)),
    )
    names = tuple(f"channel {i}" for i in range(channels))
    return DomainSpec(name=name, channels=names, labels=labels, plan=plan)


def network(*specs, seed=0):
    torch.manual_seed(seed)
    net = UniversalNet(MODEL.base_channels, MODEL.stages)
    for spec in specs:
        net.add_bank(spec.name, BankShape.of(spec))
    return net


def with_bank_of(folder, spec, seed=1):
    """The network of a folder with a fresh bank for one more domain."""
    net, _, _ = store.load(folder)
    torch.manual_seed(seed)
    net.add_bank(spec.name, BankShape.of(spec))
    return net


def saved(folder, *names, seed=0):
    specs = {name: domain(name) for name in names}
    net = network(*specs.values(), seed=seed)
    store.save_model(folder, net, MODEL, specs, dict.fromkeys(names, CARD))
    return net


def file_of(folder, name):
    return folder / "domains" / f"{name}.safetensors"


def flip(path, at):
    """Flips one bit of a byte."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def hashes(folder):
    return {
        str(path.relative_to(folder)): files.sha256_file(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path):
    """A model of liver and heart."""
    saved(tmp_path / "model", "liver", "heart")
    return tmp_path / "model"


def refusal(call, *args):
    with pytest.raises(ModelError) as caught:
        call(*args)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_network_comes_back_bit_for_bit(tmp_path):
    specs = {"liver": domain("liver"), "prostate": domain("prostate", 2, ("background", "a", "b"))}
    net = network(*specs.values())
    store.save_model(tmp_path, net, MODEL, specs, {"liver": CARD})
    again, model, loaded = store.load(tmp_path)
    assert (model, loaded) == (MODEL, specs)
    assert set(again.domains) == {"liver", "prostate"}
    assert not again.training
    before, after = net.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert store.read_domains(tmp_path)["liver"].said.card == CARD
    assert store.verify(tmp_path) == []


def test_only_the_banks_asked_for_are_loaded(folder):
    net, _, specs = store.load(folder, ["heart"])
    assert net.domains == tuple(specs) == ("heart",)


def test_the_same_weights_give_the_same_bytes(tmp_path):
    saved(tmp_path / "one", "liver")
    saved(tmp_path / "two", "liver")
    one, two = hashes(tmp_path / "one"), hashes(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in ("trunk.safetensors", "domains/liver.safetensors"):
        assert one[name] == two[name]


def test_the_trunk_id_is_of_its_weights_alone(tmp_path):
    saved(tmp_path / "one", "liver")
    saved(tmp_path / "two", "heart", "liver")
    saved(tmp_path / "three", "liver", seed=1)
    one, two, three = (store.read_manifest(tmp_path / n).trunk_id for n in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_the_trunk_id_counts_names_shapes_and_values():
    tensors = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([3.0])}
    identity = store.tensors_id(tensors)
    assert len(identity) == 64
    assert store.tensors_id(dict(reversed(tensors.items()))) == identity
    assert store.tensors_id({"a": tensors["a"].T.contiguous().T, "b": tensors["b"]}) == identity
    assert store.tensors_id({"a": tensors["a"].half(), "b": tensors["b"].double()}) == identity
    assert store.tensors_id({"a": tensors["a"].reshape(2, 1), "b": tensors["b"]}) != identity
    assert store.tensors_id({"a": tensors["a"], "c": tensors["b"]}) != identity
    assert store.tensors_id({"a": tensors["a"], "b": torch.tensor([3.0000002])}) != identity


def test_a_file_of_another_trunk_is_refused_by_name_and_both_ids(folder, tmp_path):
    saved(tmp_path / "other", "spleen", seed=1)
    shutil.copy(file_of(tmp_path / "other", "spleen"), folder / "domains")
    ids = [store.read_manifest(path).trunk_id[:12] for path in (folder, tmp_path / "other")]
    for call in (store.read_domains, store.load, store.verify):
        line = refusal(call, folder)
        assert "spleen" in line
        assert all(identity in line for identity in ids)


def test_a_bank_dropped_in_is_used_and_said_to_be_unlisted(folder, tmp_path):
    colleague = tmp_path / "colleague"
    shutil.copytree(folder, colleague)
    spec = domain("spleen")
    trained = with_bank_of(folder, spec)
    store.save_domain(folder, trained, spec, CARD)
    shutil.copy(file_of(folder, "spleen"), colleague / "domains")  # arrives by mail
    records = store.read_domains(colleague)
    assert {name: record.listed for name, record in records.items()} == {
        "heart": True,
        "liver": True,
        "spleen": False,
    }
    net, _, specs = store.load(colleague)
    assert specs["spleen"] == spec
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(net(x, "spleen")[0], trained.eval()(x, "spleen")[0])
    assert store.verify(colleague) == []
    flip(file_of(colleague, "spleen"), -1)  # damaged on the way: the manifest does not know it
    assert "spleen" in refusal(store.load, colleague)
    assert "spleen" in store.verify(colleague)[0]


def test_files_whose_names_begin_with_a_dot_are_nobodys_domain(folder):
    for name in ("._liver.safetensors", ".ab12.liver.safetensors"):
        (folder / "domains" / name).write_bytes(b"left by another program")
    assert set(store.read_domains(folder)) == {"heart", "liver"}
    assert store.verify(folder) == []


def test_a_manifest_cannot_name_files_outside_the_folder(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("domains/liver", "../liver"))
    assert "manifest" in refusal(store.read_manifest, folder)


@pytest.mark.parametrize("name", ["trunk.safetensors", "domains/liver.safetensors"])
@pytest.mark.parametrize("place", ["header", "middle", "end"])
def test_a_flipped_bit_is_found_by_load_and_by_verify(folder, name, place):
    path = folder / name
    at = {"header": 40, "middle": path.stat().st_size // 2, "end": -1}[place]
    flip(path, at)
    assert str(path) in refusal(store.load, folder)
    differences = store.verify(folder)
    assert len(differences) == 1
    assert differences[0].startswith(name)


def test_a_flipped_bit_in_one_bank_does_not_stop_another(folder):
    flip(file_of(folder, "liver"), -1)
    net, _, _ = store.load(folder, ["heart"])
    assert net.domains == ("heart",)


def test_a_damaged_manifest_is_one_line(folder):
    for content in (b"", b"{", b"[]", b'{"format": "other"}', b"\xff\xfe"):
        (folder / "manifest.json").write_bytes(content)
        assert "manifest.json" in refusal(store.read_manifest, folder)


def test_adding_a_domain_changes_no_other_byte(folder):
    before = hashes(folder)
    manifest = store.read_manifest(folder)
    spec = domain("pancreas")
    store.save_domain(folder, with_bank_of(folder, spec), spec, CARD)
    after = hashes(folder)
    new = "domains/pancreas.safetensors"
    assert after.keys() - before.keys() == {new}
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"manifest.json", "ledger.jsonl"}
    now = store.read_manifest(folder)
    assert now.ledger != manifest.ledger
    assert now.domains.keys() - manifest.domains.keys() == {"pancreas"}
    assert now.domains["pancreas"] == store.FileEntry(file=new, sha256=after[new])
    listed = {name: entry for name, entry in now.domains.items() if name != "pancreas"}
    as_before = {"domains": listed, "ledger": manifest.ledger}
    assert now.model_copy(update=as_before) == manifest
    assert store.verify(folder) == []


def test_a_domain_on_a_changed_trunk_is_not_written(folder):
    before = hashes(folder)
    spec = domain("pancreas")
    net = with_bank_of(folder, spec)
    with torch.no_grad():
        next(net.trunk.parameters())[0, 0] += 1e-6
    assert "nothing was written" in refusal(store.save_domain, folder, net, spec, CARD)
    assert hashes(folder) == before


def test_a_file_under_another_name_is_refused(folder):
    shutil.copy(file_of(folder, "liver"), file_of(folder, "spleen"))
    line = refusal(store.read_domains, folder)
    assert "spleen.safetensors" in line
    assert "rename it to liver.safetensors" in line


def test_a_missing_file_is_named(folder):
    file_of(folder, "heart").unlink()
    assert "heart.safetensors: is missing" in refusal(store.load, folder)
    assert store.verify(folder) == ["domains/heart.safetensors: missing"]
    (folder / "trunk.safetensors").unlink()
    assert "trunk.safetensors: missing" in store.verify(folder)


def test_a_missing_trunk_is_named(folder):
    (folder / "trunk.safetensors").unlink()
    assert "trunk.safetensors: is missing" in refusal(store.load, folder)


def test_no_model_is_said_with_what_to_do(tmp_path):
    assert "u2net3d train" in refusal(store.read_manifest, tmp_path)
    assert "u2net3d train" in refusal(store.read_manifest, tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [b"", b"short", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}", b"\x02" + b"\0" * 7 + b"[]"],
)
def test_a_file_that_is_no_domain_is_refused_by_name(folder, content):
    file_of(folder, "notes").write_bytes(content)
    assert "notes.safetensors: is no domain file" in refusal(store.read_domains, folder)


def test_a_foreign_safetensors_file_is_refused_by_name(folder):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, file_of(folder, "foreign"), {"format": "pt"})
    assert "foreign.safetensors: is no domain file" in refusal(store.read_domains, folder)


def test_a_bank_dropped_in_with_other_tensors_is_refused_by_name(folder):
    from safetensors.torch import save_file

    said = store.read_domains(folder)["liver"].said
    spec = domain("spleen")
    said = said.model_copy(update={"domain": spec})
    metadata = {"u2net3d": json.dumps(said.model_dump(mode="json"))}
    save_file({"a": torch.zeros(2)}, file_of(folder, "spleen"), metadata)
    assert "spleen.safetensors" in refusal(store.load, folder)


def test_an_unknown_domain_is_answered_with_the_nearest(folder):
    with pytest.raises(UsageError, match=r"did you mean liver\? there are: heart, liver"):
        store.load(folder, ["livre"])


def test_an_overwritten_model_leaves_no_stale_bank(folder):
    saved(folder, "heart", "spleen", seed=1)
    assert sorted(store.read_domains(folder)) == ["heart", "spleen"]
    assert not file_of(folder, "liver").exists()
    assert store.verify(folder) == []


def test_an_older_program_is_told_to_update(folder):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "version": 2}))
    assert "update u2net3d" in refusal(store.read_manifest, folder)


def test_no_file_of_a_model_is_a_pickle(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.suffix in (".json", ".jsonl", ".safetensors")
            assert not path.read_bytes().startswith((b"\x80", b"PK"))
