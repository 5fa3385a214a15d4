"""history.jsonl: a line as it happens, whole lines only, nothing twice."""

from __future__ import annotations

import json

import pytest

from u2net3d.io.dataset import Case
from u2net3d.train.history import History
from u2net3d.train.validate import DomainScore, Judged

NAN = float("nan")


@pytest.fixture
def score(tmp_path):
    """Two cases, labels `a` (Dice 0.5 and 0.7) and `b` (in the second case alone, 0.2)."""
    cases = [Case(name, (tmp_path / name,), None, name) for name in ("one", "two")]
    rows = ((0.5, NAN), (0.7, 0.2))
    return DomainScore(("a", "b"), tuple(Judged(*pair) for pair in zip(cases, rows, strict=True)))


def filled(folder, score, steps=4):
    """`steps` steps, a validation after every second."""
    history = History(folder)
    for step in range(steps):
        history.step(step, "liver", -0.5, 1e-3, step + 0.5)
        if step % 2:
            history.validation(step + 1, "liver", score, step + 0.75)
    return history


def test_the_mean_of_a_domain_is_over_labels_of_the_mean_over_cases(score):
    assert score.per_label() == pytest.approx({"a": 0.6, "b": 0.2})
    assert score.mean == pytest.approx(0.4)


def test_a_label_that_no_case_has_is_null_and_not_counted(tmp_path):
    case = Case("one", (tmp_path,), None, "one")
    found = DomainScore(("a", "b"), (Judged(case, (0.5, NAN)),))
    assert found.per_label() == {"a": 0.5, "b": None}
    assert found.mean == 0.5


def test_dice_of_cases_goes_up_and_leaves_out_who_has_no_label(tmp_path):
    case = Case("one", (tmp_path,), None, "one")
    rows = [(0.9, NAN), (0.123456, 0.5), (0.7, NAN)]
    found = DomainScore(("a", "b", "c"), tuple(Judged(case, (*row, NAN)) for row in rows))
    assert found.of_cases() == {"a": [0.1235, 0.7, 0.9], "b": [0.5], "c": []}
    assert DomainScore(("a",), ()).of_cases() == {}


def test_steps_and_validations_are_rows(tmp_path, score):
    rows = filled(tmp_path, score, steps=2).rows()
    assert rows[1] == {
        "kind": "train",
        "step": 1,
        "domain": "liver",
        "loss": -0.5,
        "learning_rate": 1e-3,
        "seconds": 1.5,
    }
    assert (rows[2]["kind"], rows[2]["step"], rows[2]["cases"]) == ("validation", 2, 2)
    assert rows[2]["dice"] == pytest.approx({"a": 0.6, "b": 0.2})
    assert len(rows) == 3


def test_every_line_is_json_by_itself(tmp_path, score):
    filled(tmp_path, score)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 2, 3, 4]


@pytest.mark.parametrize("kept_bytes", [1, 20, 60])
def test_a_last_line_cut_off_by_a_kill_is_ignored(tmp_path, score, kept_bytes):
    history = filled(tmp_path, score, steps=3)
    path = tmp_path / "history.jsonl"
    *whole, last = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole) + last[:kept_bytes])
    assert [row["step"] for row in history.rows()] == [0, 1, 2]


def test_a_run_taken_up_after_a_cut_goes_on_in_a_line_of_its_own(tmp_path, score):
    history = filled(tmp_path, score, steps=3)
    path = tmp_path / "history.jsonl"
    path.write_text(path.read_text()[:-10])
    history.forget_after(2)
    history.step(2, "liver", -0.6, 1e-3, 2.5)
    assert [(row["kind"], row["step"]) for row in history.rows()] == [
        ("train", 0),
        ("train", 1),
        ("validation", 2),
        ("train", 2),
    ]


def test_what_came_after_a_checkpoint_is_forgotten(tmp_path, score):
    history = filled(tmp_path, score, steps=8)
    history.forget_after(4)
    rows = history.rows()
    assert [row["step"] for row in rows if row["kind"] == "train"] == [0, 1, 2, 3]
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [2, 4]


def test_without_a_file_there_are_no_rows(tmp_path):
    assert History(tmp_path / "new").rows() == []


def test_the_curves_are_a_png(tmp_path, score):
    filled(tmp_path, score).draw()
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
