"""Folders of cases: done once, never redone, never over another's work, whatever happens."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from u2net3d import files
from u2net3d.errors import DiskError, U2Net3dError
from u2net3d.infer.jobs import Job, jobs_of
from u2net3d.infer.predict import Answer, Options, Origin
from u2net3d.infer.sidecar import Content, read_record
from u2net3d.infer.work import DIED, Wishes, run_jobs


class Thresholds:
    """In the place of a model: bright voxels are the label. Counts what it is asked."""

    device = "cpu"

    def __init__(self, spec, origin):
        self._spec, self._origin, self.asked, self.problem = spec, origin, [], None

    def spec(self, _domain):
        return self._spec

    def origin(self, _domain):
        return self._origin

    def engine(self, _domain, _options):
        return "torch"

    def packages(self, _domain, _options):
        return ("torch",)

    def answer(self, image, path, _domain, _options, *, probabilities=False):
        self.asked.append(path.name)
        if self.problem:
            raise self.problem.pop(0)
        label = (image.array[0] > 50).astype(np.uint8)
        shares = np.stack([label == n for n in range(3)]).astype(np.uint16) * np.uint16(65535)
        return Answer(label, shares if probabilities else None)


@pytest.fixture
def thresholds(model):
    return Thresholds(model.spec("liver"), Origin("t" * 64, "d" * 64))


@pytest.fixture
def jobs(tmp_path, picture, write):
    """Cases a, b and c of a folder."""
    for seed, name in enumerate("abc"):
        write(tmp_path / "images" / f"{name}.nii.gz", picture((4, 5, 6), seed))
    return jobs_of([tmp_path / "images"], tmp_path / "out", 1)


def run(model, jobs, options=None, wishes=None, **more):
    return list(run_jobs(model, jobs, "liver", options or Options(), wishes, **more))


def states(outcomes):
    return {
        outcome.job.case: "failed" if outcome.error else "skipped" if outcome.skipped else "done"
        for outcome in outcomes
    }


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def draw(image, label, spec, case):
    return f"picture of {case} with {label.sum()} voxels of {image.shape}".encode()


ALL = Wishes(draw=draw, probabilities=True, statistics=True)


def test_every_case_gets_its_label_and_its_record_and_nothing_stays_beside(thresholds, jobs):
    outcomes = run(thresholds, jobs)
    assert states(outcomes) == dict.fromkeys("abc", "done")
    out = jobs[0].output.parent
    assert list(contents(out)) == [f"{name}.{end}" for name in "abc" for end in ("json", "nii.gz")]


def test_a_second_run_does_nothing_again_and_changes_no_byte(thresholds, jobs):
    run(thresholds, jobs, wishes=ALL)
    before, thresholds.asked = contents(jobs[0].output.parent), []
    for wishes in (ALL, replace(ALL, existing="replace"), replace(ALL, existing="skip"), Wishes()):
        assert states(run(thresholds, jobs, wishes=wishes)) == dict.fromkeys("abc", "skipped")
    assert thresholds.asked == []
    assert contents(jobs[0].output.parent) == before


def test_a_label_that_would_not_come_out_the_same_is_refused_replaced_or_kept(
    thresholds, jobs, picture, write
):
    job = jobs[0]
    changes = {
        "from another image": lambda: write(job.images[0], picture((4, 5, 6), 9)),
        "on another trunk": lambda: setattr(thresholds, "_origin", Origin("u" * 64, "d" * 64)),
        "another version of the domain": lambda: setattr(
            thresholds, "_origin", Origin("u" * 64, "e" * 64)
        ),
        "was changed since it was written": lambda: job.output.write_bytes(b"corrected by hand"),
        "no record beside it": job.sidecar.unlink,
        "is no record of a label": lambda: job.sidecar.write_text('{"EchoTime": 1}'),
    }
    run(thresholds, [job])
    for what, change in changes.items():
        change()
        before = contents(job.output.parent)
        (outcome,) = run(thresholds, [job])
        assert what in str(outcome.error)
        assert "--overwrite" in str(outcome.error)
        assert states(run(thresholds, [job], wishes=Wishes("skip"))) == {"a": "skipped"}
        assert contents(job.output.parent) == before
        assert states(run(thresholds, [job], wishes=Wishes("replace"))) == {"a": "done"}
        assert states(run(thresholds, [job])) == {"a": "skipped"}
    (outcome,) = run(thresholds, [job], Options(tta=True))
    assert "made with other options" in str(outcome.error)


def test_other_versions_are_another_label(thresholds, jobs, monkeypatch):
    run(thresholds, jobs[:1])
    monkeypatch.setattr("u2net3d.__version__", "9.9")
    (outcome,) = run(thresholds, jobs[:1])
    assert "by other versions of u2net3d, torch or openvino" in str(outcome.error)


def test_a_picture_of_somebody_elses_is_not_painted_over(thresholds, jobs):
    foreign = jobs[0].place("preview")
    foreign.parent.mkdir()
    foreign.write_bytes(b"holiday")
    (outcome,) = run(thresholds, jobs[:1], wishes=ALL)
    assert str(foreign) in str(outcome.error)
    assert foreign.read_bytes() == b"holiday"


def test_the_record_says_where_a_label_came_from_and_names_nobody(thresholds, tmp_path, write):
    scan = write(tmp_path / "SMITH^JOHN" / "smith.nii.gz", np.full((4, 5, 6), 80, np.float32))
    job = Job((scan,), tmp_path / "out" / "case7.nii.gz")
    run(thresholds, [job], Options(overlap=0.25))
    said = json.loads(job.sidecar.read_text())
    assert (said["format"], said["version"]) == ("u2net3d-prediction", 1)
    assert said["input_sha256"] == files.sha256_file(scan)
    assert (said["trunk_id"], said["domain_sha256"]) == ("t" * 64, "d" * 64)
    assert said["options"] == {"overlap": 0.25, "tta": False, "cleanup": True}
    assert said["outputs"] == {"label": files.sha256_file(job.output)}
    assert said["labels"] == ["label 0", "label 1", "label 2"]
    assert set(said["versions"]) == {"u2net3d", "torch"}
    assert said["engine"] == "torch"
    text = job.sidecar.read_text().lower()
    assert "smith" not in text
    assert str(tmp_path).lower() not in text
    assert "case7" not in text


def test_several_channels_have_one_hash_that_knows_their_order(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    pair = [tmp_path / "a", tmp_path / "b"]
    assert Content(pair).sha256 != Content(pair[::-1]).sha256
    assert Content(pair[:1]).sha256 == files.sha256_file(pair[0])


def test_the_hash_of_a_header_covers_the_file_that_holds_the_voxels(tmp_path):
    header = tmp_path / "a.mhd"
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(header))
    before = Content([header]).sha256
    (tmp_path / "a.raw").write_bytes(b"others")
    assert Content([header]).sha256 != before


def test_an_image_that_is_written_to_meanwhile_gives_no_label(thresholds, jobs, monkeypatch):
    def read(paths):
        paths[0].write_bytes(b"more of it")
        return nib.load(jobs[1].images[0]), None

    monkeypatch.setattr("u2net3d.infer.work.read_image", read)
    (outcome,) = run(thresholds, jobs[:1])
    assert "was changed while it was read" in str(outcome.error)
    assert not jobs[0].output.exists()


def test_a_missing_preview_is_drawn_without_the_network(thresholds, jobs):
    run(thresholds, jobs)
    thresholds.asked = []
    assert states(run(thresholds, jobs, wishes=Wishes(draw=draw))) == dict.fromkeys(
        "abc", "skipped"
    )
    assert thresholds.asked == []
    label = np.asarray(nib.load(jobs[1].output).dataobj)
    said = f"picture of b with {label.sum()} voxels of (6, 5, 4)"
    assert jobs[1].place("preview").read_text() == said
    assert read_record(jobs[1].sidecar).outputs["preview"] == files.sha256_file(
        jobs[1].place("preview")
    )


def test_missing_probabilities_are_made_and_old_ones_never_stay_beside_a_new_label(
    thresholds, jobs
):
    job = jobs[0]
    run(thresholds, [job])
    assert states(run(thresholds, [job], wishes=ALL)) == {"a": "done"}
    assert job.place("probabilities").exists()
    thresholds._origin = Origin("u" * 64, "d" * 64)
    run(thresholds, [job], wishes=Wishes("replace"))
    assert list(contents(job.output.parent)) == ["a.json", "a.nii.gz"]


def test_statistics_are_the_same_for_a_case_done_now_and_one_done_before(thresholds, jobs):
    now = [outcome.statistics for outcome in run(thresholds, jobs, wishes=ALL)]
    then = [outcome.statistics for outcome in run(thresholds, jobs, wishes=ALL)]
    kept = [o.statistics for o in run(thresholds, jobs, wishes=replace(ALL, existing="skip"))]
    assert now == then == kept
    assert now[0][0].voxels > 0


def test_a_kept_label_that_does_not_fit_is_a_failed_case(thresholds, jobs, write):
    run(thresholds, jobs[:1])
    skip = Wishes("skip", statistics=True)
    write(jobs[0].output, np.full((4, 5, 6), 7, np.uint8))
    (outcome,) = run(thresholds, jobs[:1], wishes=skip)
    assert "holds label values from 7 to 7" in str(outcome.error)
    write(jobs[0].output, np.zeros((4, 5, 7), np.uint8))
    (outcome,) = run(thresholds, jobs[:1], wishes=skip)
    assert str(jobs[0].output) in str(outcome.error)


def test_one_bad_case_does_not_stop_the_others(thresholds, jobs, write):
    jobs[1].images[0].write_bytes(b"\x1f\x8bbroken")
    write(jobs[2].images[0], np.zeros((5, 5), np.float32))
    jobs = [
        *jobs,
        Job((jobs[0].images[0].with_name("gone.nii"),), jobs[0].output.with_name("d.nii")),
    ]
    outcomes = run(thresholds, jobs)
    assert list(states(outcomes).values()) == ["done", "failed", "failed", "failed"]
    for outcome in outcomes[1:]:
        assert str(outcome.error).startswith(f"{outcome.job.images[0]}: ")
        assert "\n" not in str(outcome.error)
    assert list(contents(jobs[0].output.parent)) == ["a.json", "a.nii.gz"]


@pytest.mark.parametrize(
    "problem",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\n at"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_a_case_too_large_for_the_memory_is_named_with_a_mend(thresholds, jobs, problem):
    thresholds.problem = [problem]
    thresholds.answer = _once(thresholds)
    first, *others = run(thresholds, jobs)
    assert str(first.error).startswith(f"{jobs[0].images[0]}: is too large for the memory here (")
    assert "machine with more memory" in str(first.error)
    assert "\n" not in str(first.error)
    assert {outcome.error for outcome in others} == {None}
    assert "a.nii.gz" not in contents(jobs[0].output.parent)


def test_a_fault_of_the_program_is_one_line_too_and_keeps_its_cause(thresholds, jobs):
    faults = [RuntimeError("shapes (1) and (2)\ndo not match"), ValueError("a bug")]
    thresholds.problem = list(faults)
    first, second = run(thresholds, jobs[:2])
    assert f"{jobs[0].images[0]}: could not be segmented (shapes (1) and (2)) — " in str(
        first.error
    )
    assert [first.error.__cause__, second.error.__cause__] == faults


def _once(model):
    """An answer that raises the first time alone."""
    plain = type(model).answer

    def answer(*args, **kwargs):
        try:
            return plain(model, *args, **kwargs)
        finally:
            model.problem = None

    return answer


def test_a_disk_that_cannot_be_written_is_said_and_leaves_nothing(thresholds, jobs, monkeypatch):
    def full(path, label, source):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("u2net3d.infer.work.write_label", full)
    (outcome,) = run(thresholds, jobs[:1])
    assert isinstance(outcome.error, U2Net3dError)
    assert list(contents(jobs[0].output.parent)) == []


class Killed(BaseException):
    """What no handler of ours catches, so that nothing is tidied up but by `finally`."""


@pytest.mark.parametrize("existing", ["refuse", "replace"])
@pytest.mark.parametrize("wanted", [Wishes(), ALL])
def test_killed_between_any_two_renames_the_same_command_goes_on(
    thresholds, jobs, monkeypatch, existing, wanted
):
    wishes, job = replace(wanted, existing=existing), jobs[0]
    renames = 1 + len(wishes.kinds)
    if existing == "replace":
        run(thresholds, [job], wishes=wanted)
        thresholds._origin = Origin("u" * 64, "d" * 64)
    plain = Path.replace
    for last in range(renames):
        seen = []

        def rename(path, target, last=last, seen=seen):
            if Path(target) in (job.sidecar, *map(job.place, wishes.kinds)):
                if len(seen) == last:
                    raise Killed
                seen.append(target)
            return plain(path, target)

        monkeypatch.setattr(Path, "replace", rename)
        with pytest.raises(Killed):
            run(thresholds, [job], wishes=wishes)
        monkeypatch.setattr(Path, "replace", plain)
        assert not job.output.exists()  # never an old label beside a new record, nor half a case
    assert states(run(thresholds, [job], wishes=wishes)) == {"a": "done"}
    assert states(run(thresholds, [job], wishes=wishes)) == {"a": "skipped"}
    record = read_record(job.sidecar)
    assert record.trunk_id == thresholds.origin("liver").trunk_id
    for kind in wishes.kinds:
        assert files.sha256_file(job.place(kind)) == record.outputs[kind]


def test_a_run_stops_between_cases(thresholds, jobs):
    answers = iter([False, True])
    outcomes = run(thresholds, jobs, stopped=lambda: next(answers))
    assert states(outcomes) == {"a": "done"}
    assert list(contents(jobs[0].output.parent)) == ["a.json", "a.nii.gz"]


def test_a_case_that_another_run_is_at_comes_last_and_is_not_done_again(
    thresholds, jobs, monkeypatch
):
    from u2net3d.infer.locks import Watch

    monkeypatch.setattr("u2net3d.infer.work.POLL_S", 0)
    theirs, told = Watch().acquire(jobs[0].lock), []

    def waits(job, holder):
        told.append(job.case)
        assert "process" in holder
        job.output.write_bytes(b"theirs")
        theirs.release()

    wishes = Wishes("skip")
    outcomes = run(thresholds, jobs, wishes=wishes, waits=waits)
    assert [outcome.job.case for outcome in outcomes] == ["b", "c", "a"]
    assert states(outcomes) == {"a": "skipped", "b": "done", "c": "done"}
    assert told == ["a"]
    assert not list(jobs[0].output.parent.glob(".*"))


def test_who_lost_the_lock_meanwhile_writes_nothing(thresholds, jobs, dead_lock):
    plain = thresholds.answer

    def answer(*args, **kwargs):  # so long that another machine took this one for dead
        dead_lock(jobs[0].lock)
        return plain(*args, **kwargs)

    thresholds.answer = answer
    (outcome,) = run(thresholds, jobs[:1])
    assert "another run took this case over" in str(outcome.error)
    assert list(contents(jobs[0].output.parent)) == [".a.lock"]


def test_a_case_where_a_run_died_is_done_and_said_so(thresholds, jobs, dead_lock):
    dead_lock(jobs[0].lock)
    first, second, _ = run(thresholds, jobs)
    assert first.notes == (DIED,)
    assert second.notes == ()
    assert not list(jobs[0].output.parent.glob(".*"))


def test_a_model_with_a_card_cleans_up_unless_told_otherwise(
    tmp_path, save_random_model, picture, write
):
    from u2net3d.infer.cleanup import keep_largest
    from u2net3d.infer.predict import load

    cards = {"liver": {"largest_component": ["label 2", "label 1"]}}
    model = load(save_random_model(tmp_path / "model", cards), device="cpu")
    image = write(tmp_path / "a.nii.gz", picture((16, 12, 10)))
    plain = np.asarray(model.predict(image, domain="liver", cleanup=False).dataobj)
    clean = np.asarray(model.predict(image, domain="liver").dataobj)
    assert np.array_equal(clean, keep_largest(plain, (1, 2)))
    assert not np.array_equal(clean, plain)
    record = []
    for cleanup in (True, False):
        job = Job((image,), tmp_path / f"{cleanup}.nii.gz")
        run(model, [job], Options(cleanup=cleanup))
        record.append(read_record(job.sidecar).largest_component)
    assert record == [("label 2", "label 1"), ()]


def test_a_full_disk_ends_the_run_instead_of_failing_case_after_case(thresholds, jobs, monkeypatch):
    def full(path, label, source):
        with files.replacing(path):
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("u2net3d.infer.work.write_label", full)
    outcomes = run(thresholds, jobs)
    assert len(jobs) > 1
    assert [type(outcome.error) for outcome in outcomes] == [DiskError]
    assert outcomes[0].error.where == str(jobs[0].output)
    assert list(contents(jobs[0].output.parent)) == []


def test_a_case_that_fails_lets_its_image_go(thresholds, jobs, monkeypatch):
    images = []

    def fails(image, *_, **__):
        images.append(weakref.ref(image.array))
        raise RuntimeError("a fault")

    monkeypatch.setattr(thresholds, "answer", fails)
    gc.collect()
    gc.disable()  # a collection is not to be what helps
    try:
        outcomes = run(thresholds, jobs)
        assert all(outcome.error for outcome in outcomes)
        assert images
        assert not any(image() is not None for image in images)
    finally:
        gc.enable()
