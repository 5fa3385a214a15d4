"""A whole model per fold: each begins, is taken up and is finished by itself."""

from __future__ import annotations

import pytest

from u2net3d import files, store
from u2net3d.errors import ModelError, UsageError
from u2net3d.train import checkpoint
from u2net3d.train.folds import each_fold


@pytest.fixture
def work(request_for, tmp_path):
    """work(folds, stop_at=None, **request): what the folds were asked; "stop" in the middle."""

    def run(folds, stop_at=None, name="train", **options):
        asked = []

        def one(request):
            asked.append((request.model.name, request.spec.fold, request.resume))
            run_folder = request.model / "runs" / name
            files.write_text(run_folder / "begun", "")
            if request.spec.fold == stop_at:
                raise KeyboardInterrupt

        request = request_for(tmp_path / "model", **options)
        try:
            each_fold(folds, name, request, lambda _: None, one)
        except KeyboardInterrupt:
            asked.append("stopped")
        return asked

    return run


@pytest.fixture
def begun(monkeypatch):
    """Takes a run for begun where the fake work above has left its sign."""

    def clear(folder):
        (folder / "begun").unlink(missing_ok=True)

    monkeypatch.setattr(checkpoint, "clear", clear)
    monkeypatch.setattr(checkpoint, "generations", lambda folder: list(folder.glob("begun")))


def test_every_fold_has_its_own_folder_and_split(work, begun, tmp_path):
    assert work([0, 2]) == [("fold0", 0, False), ("fold2", 2, False)]
    said = store.read_folds(tmp_path / "model")
    assert (said.folds, said.done) == ((0, 2), {"train": (0, 2)})
    assert store.models_in(tmp_path / "model") == [
        tmp_path / "model/fold0",
        tmp_path / "model/fold2",
    ]


def test_a_stopped_one_is_taken_up_where_it_was_and_what_is_finished_is_left_alone(work, begun):
    assert work([0, 1, 2], stop_at=1) == [("fold0", 0, False), ("fold1", 1, False), "stopped"]
    assert work([0, 1, 2], resume=True) == [("fold1", 1, True), ("fold2", 2, False)]
    assert work([0, 1, 2], resume=True) == []
    assert work([0, 1, 2], name="add-liver") == [(f"fold{n}", n, False) for n in range(3)]


def test_overwriting_forgets_what_was_finished(work, begun):
    work([0, 1])
    assert work([0, 1], overwrite=True, stop_at=0) == [("fold0", 0, False), "stopped"]
    assert work([0, 1], resume=True) == [("fold0", 0, True), ("fold1", 1, False)]


def test_other_folds_and_single_models_are_not_mixed(work, begun, tmp_path):
    work([0, 1])
    with pytest.raises(UsageError, match=r"holds the folds 0,1 — use --fold 0,1"):
        work([0, 1, 2])
    (tmp_path / "model/manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a single model"):
        work([0, 1])


def test_a_damaged_list_of_folds_is_one_line(tmp_path):
    for content in (b"", b"{}", b'{"folds": []}', b"\xff"):
        (tmp_path / "folds.json").write_bytes(content)
        with pytest.raises(ModelError, match=r"folds\.json: is no list of folds"):
            store.read_folds(tmp_path)


def test_training_anew_forgets_the_domains_that_were_added_to_the_old_trunks(work, begun):
    work([0, 1])
    work([0, 1], name="add-liver")
    work([0, 1], overwrite=True)
    assert work([0, 1], name="add-liver", resume=True) == [("fold0", 0, True), ("fold1", 1, True)]
