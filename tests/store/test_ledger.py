"""The ledger: what happened, in order; a line changed, taken out or moved is named."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

import pytest

from u2net3d import files, store
from u2net3d.store import domains

DATA = "ab" * 32


@pytest.fixture
def lived(folder, save_domain, tmp_path):
    """A model with five events: train, add, update, export, remove."""
    save_domain(folder, "spleen", seed=2, data_sha256=DATA)
    save_domain(folder, "spleen", seed=3)
    domains.export(folder, "heart", tmp_path / "heart.safetensors")
    domains.remove(folder, "spleen")
    return folder


def lines_of(folder):
    return (folder / "ledger.jsonl").read_text().splitlines()


def write(folder, lines):
    (folder / "ledger.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_every_event_is_a_line_with_its_files_trunk_time_and_version(lived, tmp_path):
    lines = [json.loads(line) for line in lines_of(lived)]
    assert [line["event"] for line in lines] == ["train", "add", "update", "export", "remove"]
    train, add, update, export, remove = lines
    manifest = store.read_manifest(lived)
    for line in lines:
        assert line["trunk_id"] == manifest.trunk_id
        assert line["version"]
        assert datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0
    heart = files.sha256_file(lived / "domains/heart.safetensors")
    assert train["domains"]["heart"] == {"file_sha256": heart}
    first, second = add["domains"]["spleen"], update["domains"]["spleen"]
    assert first["data_sha256"] == DATA
    assert second["was"] == first["file_sha256"] != second["file_sha256"]
    sent = files.sha256_file(tmp_path / "heart.safetensors")
    assert export["domains"]["heart"]["sent_sha256"] == sent
    assert remove["domains"]["spleen"] == {"was": second["file_sha256"]}
    assert manifest.ledger == remove["sha256"]


def test_lines_are_only_ever_added(folder, save_domain, tmp_path):
    before = (folder / "ledger.jsonl").read_bytes()
    for change in (
        lambda: save_domain(folder, "spleen"),
        lambda: domains.rename(folder, "spleen", "milz"),
        lambda: domains.export(folder, "milz", tmp_path / "m.safetensors", half=True),
        lambda: domains.remove(folder, "milz"),
        lambda: domains.import_file(folder, tmp_path / "m.safetensors"),
        lambda: domains.rollback(folder, "milz"),
    ):
        change()
        after = (folder / "ledger.jsonl").read_bytes()
        assert after.startswith(before)
        assert after.count(b"\n") == before.count(b"\n") + 1
        before = after
    assert store.verify(folder) == []


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_changed_line_is_named(lived, number):
    lines = lines_of(lived)
    said = json.loads(lines[number - 1])
    said["time"] = "2001-01-01T00:00:00+00:00"
    lines[number - 1] = json.dumps(said)
    write(lived, lines)
    assert store.verify(lived) == [f"ledger.jsonl: line {number} was changed"]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_line_that_was_changed_and_hashed_again_breaks_the_chain(lived, number):
    from u2net3d.store.ledger import Line

    lines = lines_of(lived)
    line = Line.model_validate_json(lines[number - 1])
    lines[number - 1] = line.model_copy(update={"version": "9"}).hashed().model_dump_json()
    write(lived, lines)
    assert f"line {number + 1} does not follow" in store.verify(lived)[0]


def test_a_deleted_line_is_named_by_the_one_that_followed(lived):
    lines = lines_of(lived)
    for number in (1, 2, 3, 4):
        write(lived, lines[: number - 1] + lines[number:])
        assert f"line {number} does not follow" in store.verify(lived)[0]


@pytest.mark.parametrize("gone", [1, 2, 4])
def test_last_lines_that_are_gone_are_missed_by_the_manifest(lived, gone):
    write(lived, lines_of(lived)[:-gone])
    assert "names as the last is gone" in store.verify(lived)[0]


def test_lines_in_another_order_are_named(lived):
    one, two, three, four, five = lines_of(lived)
    write(lived, [one, three, two, four, five])
    assert store.verify(lived) == ["ledger.jsonl: line 2 stands in the wrong place"]
    write(lived, [one, two, two, three, four, five])
    assert store.verify(lived) == ["ledger.jsonl: line 3 stands in the wrong place"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"event": "train"}', "\x00" * 30])
def test_what_is_no_line_is_named(lived, text):
    lines = lines_of(lived)
    write(lived, [*lines[:2], text, *lines[2:]])
    assert store.verify(lived) == ["ledger.jsonl: line 3 is no line of a ledger"]


def test_a_ledger_that_is_gone_is_missed(lived):
    (lived / "ledger.jsonl").unlink()
    assert store.verify(lived) == ["ledger.jsonl: missing"]
    store.load(lived)


def test_a_manifest_that_lists_other_files_than_the_ledger_is_named(lived):
    path = lived / "manifest.json"
    content = json.loads(path.read_text())
    del content["domains"]["heart"]
    path.write_text(json.dumps(content))
    line = "ledger.jsonl: leads to other files than the manifest lists (heart)"
    assert store.verify(lived) == [line]


def test_a_torn_last_line_is_tolerated_and_cut_off_by_the_next_change(lived):
    path, lines = lived / "ledger.jsonl", lines_of(lived)
    with path.open("ab") as handle:
        handle.write(b'{"time": "2026')
    assert store.verify(lived) == []
    assert any("last line was cut off" in line for line in store.remarks(lived))
    domains.remove(lived, "liver")
    assert store.verify(lived) == []
    assert lines_of(lived)[:-1] == lines
    assert store.remarks(lived) == []


def test_a_torn_first_line_is_no_ledger_yet(folder, save_domain):
    strip_ledger(folder)
    (folder / "ledger.jsonl").write_bytes(b'{"time"')
    save_domain(folder, "spleen")
    events = [json.loads(line)["event"] for line in lines_of(folder)]
    assert events == ["found", "add"]
    assert store.verify(folder) == []


def strip_ledger(folder):
    """A model as it was written before there were ledgers."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    del content["ledger"]
    path.write_text(json.dumps(content))
    (folder / "ledger.jsonl").unlink()


def test_a_model_older_than_ledgers_loads_verifies_and_gets_one(folder, save_domain):
    strip_ledger(folder)
    store.load(folder)
    assert store.verify(folder) == []
    assert store.remarks(folder) == ["there is no ledger: this model is older than ledgers are"]
    save_domain(folder, "liver", seed=4)
    found, update = (json.loads(line) for line in lines_of(folder))
    assert (found["event"], update["event"]) == ("found", "update")
    assert set(found["domains"]) == {"heart", "liver"}
    assert store.verify(folder) == []
    assert store.remarks(folder) == []
    domains.rollback(folder, "liver")
    assert store.verify(folder) == []


def test_a_damaged_ledger_never_costs_a_trained_bank(folder, save_domain):
    for content in (b"garbage\n", b"\xff\xfe", b"\n\n"):
        (folder / "ledger.jsonl").write_bytes(content)
        save_domain(folder, "spleen")
        assert "spleen" in store.load(folder)[0].domains
    assert store.verify(folder) == ["ledger.jsonl: line 1 is no line of a ledger"]


def test_a_change_that_is_cut_off_is_said_and_then_undone(folder, save_domain, killed_at):
    moment = 0
    while not any("cut off" in line for line in store.remarks(folder)):
        assert killed_at(moment, lambda: save_domain(folder, "spleen"))
        moment += 1
    assert store.remarks(folder)[-1].endswith(
        "(add of spleen) was cut off and did not take effect"
    ) or ("last line was cut off" in store.remarks(folder)[-1])
    domains.remove(folder, "liver")
    assert store.verify(folder) == []
    assert store.remarks(folder) == []


def test_no_path_and_no_case_stands_in_the_ledger(lived, tmp_path):
    text = (lived / "ledger.jsonl").read_text()
    assert "/" not in text
    assert "safetensors" not in text
    assert tmp_path.name not in text


def test_changes_made_at_once_all_take_effect(folder, tmp_path):
    domains.export(folder, "liver", tmp_path / "sent.safetensors")
    names = ["one", "two", "three", "four", "five", "six"]
    with ThreadPoolExecutor(len(names)) as pool:
        add = partial(domains.import_file, folder, tmp_path / "sent.safetensors")
        assert list(pool.map(add, names)) == names
    assert set(names) <= set(store.read_manifest(folder).domains)
    assert store.verify(folder) == []
