"""The life of a domain: every verb changes its own files, the manifest and the ledger alone."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from u2net3d import files, store
from u2net3d.models import network
from u2net3d.models.banks import UniversalBank
from u2net3d.models.network import BankShape
from u2net3d.spec import DomainSpec, ModelSpec, Plan, ZScoreNormalisation
from u2net3d.store import domains
from u2net3d.store.weights import DomainFile, read_domain, state

BOOKS = {"manifest.json", "ledger.jsonl"}
LIVER, HEART = "domains/liver.safetensors", "domains/heart.safetensors"


def kept(folder, name):
    return sorted(path.name for path in (folder / "previous").glob(f"{name}-*"))


def sha256(folder, name="liver"):
    return files.sha256_file(folder / f"domains/{name}.safetensors")


def test_a_removed_domain_is_gone_kept_and_comes_back_with_the_same_bytes(
    folder, contents, changed
):
    before = contents(folder)
    domains.remove(folder, "liver")
    copy = (
        f"previous/liver-{files.sha256_file(folder / 'previous' / kept(folder, 'liver')[0])[:12]}"
    )
    assert changed(before, folder) == {LIVER, f"{copy}.safetensors", *BOOKS}
    assert (folder / f"{copy}.safetensors").read_bytes() == before[LIVER]
    assert set(store.read_domains(folder)) == {"heart"}
    assert store.verify(folder) == []
    domains.rollback(folder, "liver")
    assert contents(folder)[LIVER] == before[LIVER]
    assert store.verify(folder) == []


def test_an_update_keeps_the_old_file_and_a_rollback_goes_back_and_forward_again(
    folder, contents, changed, save_domain
):
    before, old = contents(folder), sha256(folder)
    save_domain(folder, "liver", seed=5)
    new = sha256(folder)
    assert changed(before, folder) == {LIVER, f"previous/liver-{old[:12]}.safetensors", *BOOKS}
    assert domains.rollback(folder, "liver") == old
    assert contents(folder)[LIVER] == before[LIVER]
    assert domains.rollback(folder, "liver") == new == sha256(folder)
    assert store.verify(folder) == []


def test_any_kept_version_can_be_named(folder, save_domain, refusal):
    first = sha256(folder)
    save_domain(folder, "liver", seed=5)
    save_domain(folder, "liver", seed=6)
    assert domains.rollback(folder, "liver", first[:8]) == first == sha256(folder)
    line = refusal(domains.rollback, folder, "liver", "0000")
    assert "has no earlier version 0000" in line
    assert first[:12] in line


def test_without_an_earlier_version_there_is_nothing_to_roll_back_to(folder, contents, refusal):
    before = contents(folder)
    assert "'liver' has no earlier version" in refusal(domains.rollback, folder, "liver")
    assert contents(folder) == before


def test_a_kept_file_that_was_changed_is_not_brought_back(folder, save_domain, refusal):
    save_domain(folder, "liver", seed=5)
    path = folder / "previous" / kept(folder, "liver")[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    now = sha256(folder)
    assert path.name in refusal(domains.rollback, folder, "liver")
    assert sha256(folder) == now
    assert store.verify(folder) == [f"previous/{path.name}: its bytes are not those that were kept"]


def test_a_bank_of_a_trunk_that_is_gone_is_not_brought_back(
    folder, save_domain, save_model, refusal
):
    save_domain(folder, "liver", seed=5)
    save_model(folder, "liver", seed=9)
    assert "has no earlier version" in refusal(domains.rollback, folder, "liver")


def test_a_renamed_domain_has_the_same_weights_under_its_new_name(folder, contents, changed):
    before = contents(folder)
    tensors = load_file(folder / LIVER)
    domains.rename(folder, "liver", "spleen")
    new = "domains/spleen.safetensors"
    copy = f"previous/{kept(folder, 'liver')[0]}"
    assert changed(before, folder) == {LIVER, new, copy, *BOOKS}
    after = load_file(folder / new)
    assert all(torch.equal(after[name], tensors[name]) for name in tensors)
    assert store.read_domains(folder)["spleen"].said.domain.name == "spleen"
    assert store.load(folder)[0].domains == ("heart", "spleen")
    assert store.verify(folder) == []
    domains.rename(folder, "spleen", "liver")
    assert contents(folder)[LIVER] == before[LIVER]


def test_a_name_that_is_taken_and_a_domain_there_is_not_are_refused(folder, contents, refusal):
    before = contents(folder)
    assert "'heart' is in" in refusal(domains.rename, folder, "liver", "heart")
    for call in (domains.remove, domains.rollback):
        assert "livre" in refusal(call, folder, "livre")
    assert "did you mean liver?" in refusal(domains.rename, folder, "livre", "spleen")
    assert contents(folder) == before


def test_a_damaged_and_a_foreign_domain_can_be_taken_out(folder, tmp_path, save_model):
    (folder / LIVER).write_bytes(b"not weights")
    domains.remove(folder, "liver")
    assert kept(folder, "liver") == []  # what is damaged is no version
    other = save_model(tmp_path / "other", "spleen", seed=3)
    shutil.copy(other / "domains/spleen.safetensors", folder / "domains")
    domains.remove(folder, "spleen")
    assert store.verify(folder) == []


def test_a_damaged_domain_is_mended_by_its_kept_version(folder, contents, save_domain):
    before = contents(folder)[LIVER]
    save_domain(folder, "liver", seed=5)
    (folder / LIVER).write_bytes(b"torn")
    domains.rollback(folder, "liver")
    assert contents(folder)[LIVER] == before
    assert store.verify(folder) == []


@pytest.fixture
def colleague(folder, tmp_path):
    """A copy of the model without liver."""
    shutil.copytree(folder, tmp_path / "colleague")
    domains.remove(tmp_path / "colleague", "liver")
    return tmp_path / "colleague"


def test_an_exported_domain_is_the_file_itself_and_comes_in_as_the_same(
    folder, colleague, tmp_path, contents, changed
):
    before, theirs = contents(folder), contents(colleague)
    sent = tmp_path / "mail" / "liver.safetensors"
    domains.export(folder, "liver", sent)
    assert sent.read_bytes() == before[LIVER]
    assert changed(before, folder) == BOOKS
    assert domains.import_file(colleague, sent) == "liver"
    assert changed(theirs, colleague) == {LIVER, *BOOKS}
    assert contents(colleague)[LIVER] == before[LIVER]
    for model in (folder, colleague):
        assert store.verify(model) == []


def test_half_precision_is_half_the_weights_and_says_its_rounding(folder, colleague, tmp_path):
    sent = tmp_path / "liver.safetensors"
    domains.export(folder, "liver", sent, half=True, parity={"equal_labels": 1.0})
    whole, rounded = load_file(folder / LIVER), load_file(sent)
    assert all(tensor.dtype == torch.float16 for tensor in rounded.values())
    said, _ = read_domain(sent)
    measured = said.card["half_precision"]
    errors = [
        float((rounded[name].float() - whole[name]).abs().max() / whole[name].abs().max())
        for name in whole
        if whole[name].any()
    ]
    assert measured == {"largest_rounding": pytest.approx(max(errors)), "equal_labels": 1.0}
    assert 0 < measured["largest_rounding"] <= 2**-11
    domains.import_file(colleague, sent)
    stored = load_file(colleague / LIVER)
    assert all(tensor.dtype == torch.float32 for tensor in stored.values())
    assert all(torch.equal(stored[name], rounded[name].float()) for name in stored)
    assert store.verify(colleague) == []


def test_a_full_sized_bank_in_half_precision_fits_into_350_kilobytes():
    stages = 6
    plan = Plan(
        spacing_mm=(1, 1, 1),
        normalisation=(ZScoreNormalisation(),) * 4,
        patch_size=(64, 64, 64),
        batch_size=2,
        strides=((1, 1, 1), *[(2, 2, 2)] * (stages - 1)),
        kernels=((3, 3, 3),) * stages,
    )
    labels = ("background", "one", "two", "three", "four")
    spec = DomainSpec(name="brain", channels=("a", "b", "c", "d"), labels=labels, plan=plan)
    bank = UniversalBank(BankShape.of(spec), 16)
    said = DomainFile(trunk_id="0" * 64, weights=1, adapters=1, domain=spec)
    content = said.encoded({name: tensor.half() for name, tensor in state(bank).items()})
    assert 300_000 < len(content) <= 350_000


def test_weights_beyond_half_precision_are_not_sent_in_it(folder, save_domain, tmp_path, refusal):
    net, _, specs = store.load(folder)
    with torch.no_grad():
        net.bank("liver").stem.weight[0] = 1e5
    store.save_domain(folder, net, specs["liver"], {})
    sent = tmp_path / "liver.safetensors"
    line = refusal(domains.export, folder, "liver", sent, half=True)
    assert "stem.weight" in line
    assert not sent.exists()


def test_no_export_into_the_model_itself(folder, contents, refusal):
    before = contents(folder)
    assert "lies in the model" in refusal(domains.export, folder, "liver", folder / HEART)
    assert contents(folder) == before


def test_an_import_can_be_given_another_name_and_never_takes_one(
    folder, tmp_path, contents, refusal
):
    sent = tmp_path / "sent.safetensors"
    domains.export(folder, "liver", sent)
    before = contents(folder)
    assert "--as NAME" in refusal(domains.import_file, folder, sent)
    assert contents(folder) == before
    assert domains.import_file(folder, sent, "Liver 2") == "liver2"
    assert store.load(folder)[0].domains == ("heart", "liver", "liver2")
    assert store.verify(folder) == []


def test_a_bank_of_another_trunk_is_not_imported(folder, tmp_path, save_model, contents, refusal):
    other = save_model(tmp_path / "other", "spleen", seed=3)
    domains.export(other, "spleen", tmp_path / "spleen.safetensors")
    before = contents(folder)
    line = refusal(domains.import_file, folder, tmp_path / "spleen.safetensors")
    for model in (folder, other):
        assert store.read_manifest(model).trunk_id[:12] in line
    assert "spleen" in line
    assert contents(folder) == before


def test_a_bank_of_another_network_that_shares_nothing_is_sent_where_it_belongs(
    folder, tmp_path, refusal
):
    spec = store.read_specs(folder)["liver"]
    for family in ("unet", "fcn"):
        model = ModelSpec(family=family, base_channels=2, stages=2)
        net = network(model)
        net.add_bank("liver", BankShape.of(spec))
        store.save_model(tmp_path / family, net, model, {"liver": spec}, {})
    domains.export(tmp_path / "unet", "liver", tmp_path / "liver.safetensors")
    line = refusal(domains.import_file, tmp_path / "fcn", tmp_path / "liver.safetensors", "other")
    assert "not those of its plan in a network of fcn" in line
    assert "put it into a model with the network that it was trained with" in line


def test_a_domain_put_in_by_hand_can_be_sent_renamed_and_rolled_back(folder, colleague, tmp_path):
    shutil.copy(folder / LIVER, colleague / "domains")
    domains.export(colleague, "liver", tmp_path / "liver.safetensors")
    assert not store.read_domains(colleague)["liver"].listed
    assert store.verify(colleague) == []
    domains.rename(colleague, "liver", "spleen")
    assert store.read_domains(colleague)["spleen"].listed
    domains.remove(colleague, "spleen")
    domains.rollback(colleague, "liver")
    assert set(store.read_domains(colleague)) == {"heart", "liver"}
    assert store.verify(colleague) == []


VERBS = {
    "remove": lambda folder, _, __: domains.remove(folder, "liver"),
    "rename": lambda folder, _, __: domains.rename(folder, "liver", "spleen"),
    "rollback": lambda folder, _, __: domains.rollback(folder, "liver"),
    "add": lambda folder, save_domain, _: save_domain(folder, "pancreas"),
    "update": lambda folder, save_domain, _: save_domain(folder, "liver", seed=7),
    "export": lambda folder, _, sent: domains.export(folder, "heart", sent / "new.safetensors"),
    "import": lambda folder, _, sent: domains.import_file(
        folder, sent / "old.safetensors", "kidney"
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_kill_at_any_moment_leaves_the_old_state_or_the_new(
    verb, folder, tmp_path, save_domain, loads, killed_at
):
    save_domain(folder, "liver", seed=5)
    domains.export(folder, "heart", tmp_path / "old.safetensors")
    old, moment, seen = loads(folder), 0, []

    def do(where):
        return VERBS[verb](where, save_domain, tmp_path)

    shutil.copytree(folder, tmp_path / "done")
    do(tmp_path / "done")
    new = loads(tmp_path / "done")
    while True:
        copy = tmp_path / f"copy{moment}"
        shutil.copytree(folder, copy)
        if not killed_at(moment, lambda copy=copy: do(copy)):
            break
        now = loads(copy)
        assert now in (old, new)
        seen.append(now == new)
        assert store.verify(copy) == []
        domains.rename(copy, "heart", "herz")  # the next change tidies up
        assert store.verify(copy) == []
        assert [line for line in store.remarks(copy) if "cut off" in line] == []
        assert [p.name for p in copy.rglob(".*") if not p.name.startswith(".u2net3d-")] == []
        moment += 1
    assert moment > 8
    assert seen == sorted(seen)  # once new, new for good
    if verb != "export":
        assert set(seen) == {False, True}


def test_a_kill_while_a_model_is_written_anew_leaves_the_old_model_or_the_new(
    folder, tmp_path, save_model, loads, killed_at
):
    old, new = loads(folder), loads(save_model(tmp_path / "new", "heart", "spleen", seed=4))
    moment = 0
    while True:
        copy = tmp_path / f"copy{moment}"
        shutil.copytree(folder, copy)
        if not killed_at(moment, lambda c=copy: save_model(c, "heart", "spleen", seed=4)):
            break
        assert loads(copy) in (old, new)
        assert store.verify(copy) == []
        save_model(copy, "heart", "spleen", seed=4)
        assert loads(copy) == new
        assert store.verify(copy) == []
        moment += 1
    assert moment > 15


def test_a_kill_while_the_first_model_is_written_leaves_none_or_all_of_it(
    tmp_path, save_model, loads, killed_at
):
    moment = 0
    while killed_at(moment, lambda m=moment: save_model(tmp_path / f"{m}", "heart", seed=4)):
        folder = tmp_path / f"{moment}"
        if (folder / "manifest.json").exists():
            assert store.verify(folder) == []
            loads(folder)
        save_model(folder, "heart", seed=4)
        assert store.verify(folder) == []
        moment += 1
    assert moment > 8
