"""scripts/versus-nnunet: one evaluation for all, a row per run, none twice; its report by hand."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import pytest


@pytest.fixture(scope="module")
def data(make_dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_dataset(root, "Task03_Liver", cases=6)
    make_dataset(root, "Task02_Heart", cases=5, channels=("T1", "T2"), seed=1)
    return root


@pytest.fixture
def versus(monkeypatch, tmp_path, data):
    """versus(*arguments) runs the script with its workers in this process, a second each.

    nnU-Net is not trained: it has 7 steps in 1.4 s, and predicts the labels it is to be judged by.
    """
    import versus_nnunet
    import versus_theirs
    import versus_worker
    from versus_rows import Trained

    jobs = []

    def worked(folder, threads, worker, *, ours):
        job = versus_worker.Job.model_validate_json((folder / "job.json").read_text())
        assert ours == (job.asked.ours is not None)
        jobs.append(job.asked)
        versus_worker.work(job, folder)
        return 0

    def train(asked, datasets, folder):
        plans = {each.domain: ((8, 8, 8), 2) for each in datasets}
        return Trained(steps=7, seconds=1.4, weights=9, how="not at all", plans=plans)

    def predict(asked, dataset, cases, folder, out, *, tta):
        for case in cases:
            shutil.copy(case.label, out / f"{case.name}.nii.gz")
        return 6.0

    def run(*arguments, domains="liver", peers="u2net3d", time="1s"):
        jobs.clear()
        own = ("--rows", tmp_path / "rows.jsonl", "--work", tmp_path / "work", "--data", data)
        words = ["--preset", "base:base_channels=2", "--peers", peers, "--domains", domains]
        code = versus_nnunet.main([str(w) for w in (*words, "--time", time, *own, *arguments)])
        rows = versus_nnunet.read_rows(tmp_path / "rows.jsonl", versus_nnunet.Row)
        return code, rows, [*jobs]

    monkeypatch.setattr(versus_nnunet, "worked", worked)
    monkeypatch.setattr(versus_theirs, "train", train)
    monkeypatch.setattr(versus_theirs, "predict", predict)
    return run


def asked_of(peer="u2net3d", domains=("liver",), seconds=1800.0, **changes):
    from versus_rows import OURS, Asked, Ours

    from u2net3d.spec import PRESETS

    preset, settings = changes.pop("preset", "base"), changes.pop("settings", {})
    ours = Ours.of(preset, PRESETS[preset], settings) if peer in OURS else None
    budget = {"kind": "time", "amount": seconds, "threads": 2}
    return Asked(data="it", peer=peer, domains=domains, ours=ours, budget=budget, **changes)


def row(peer="u2net3d", dice=0.8, domains=("liver",), tta=False, **changes):
    """A row by hand: every domain has one label and one case, of the same Dice."""
    from versus_rows import Row, command

    asked = asked_of(peer, domains, **changes)
    scores = {"dice": dice, "hd95_mm": 2.5, "nsd": 0.5}
    outcome = {
        "dice": dice, "labels": {"it": scores}, "cases": {"one": {"it": dice}},
        "training_cases": 4, "patch": (8, 8, 8), "batch": 2, "volume_s": 1.5,
    }  # fmt: skip
    return Row(
        asked=asked, tta=tta, steps=1000, seconds=1800.2, step_s=1.8, weights=119_657,
        how="by hand", outcomes=dict.fromkeys(domains, outcome), peak_gib=0.5,
        versions={"torch": "2"}, machine="this one", date="2026-11-21T00:00:00+00:00",
        command=command(asked, domains, [asked.seed], tta=tta),
    )  # fmt: skip


def test_a_run_that_has_its_row_is_not_run_again(versus):
    code, (found,), jobs = versus(peers="nnunet")
    assert (code, len(jobs)) == (0, 1)
    assert versus(peers="nnunet")[1:] == ([found], [])
    assert len(versus("--seeds", "0,1", peers="nnunet")[2]) == 1
    assert len(versus(peers="nnunet", time="2s")[2]) == 1


def test_ours_is_judged_by_the_weights_of_its_last_step(versus, tmp_path):
    _, (found,), (asked,) = versus("--keep", time="2s")
    assert found.seconds >= 2
    assert found.step_s == pytest.approx(found.seconds / found.steps, abs=1e-4)
    assert (found.outcomes["liver"].training_cases, len(found.outcomes["liver"].cases)) == (4, 2)
    history = tmp_path / "work" / asked.key / "model" / "runs" / "train" / "history.jsonl"
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    (judged,) = [line for line in lines if line["kind"] == "validation"]
    assert judged["step"] == found.steps
    assert found.outcomes["liver"].dice == pytest.approx(judged["mean_dice"], abs=1e-5)


def test_one_evaluation_for_all_from_file_to_file(versus, monkeypatch):
    import versus_theirs

    _, (found,), _ = versus(peers="nnunet")
    outcome = found.outcomes["liver"]
    assert (outcome.dice, outcome.labels["liver"].hd95_mm, outcome.volume_s) == (1.0, 0.0, 3.0)
    assert (found.steps, found.step_s, found.weights, found.how) == (7, 0.2, 9, "not at all")

    def half(asked, dataset, cases, folder, out, *, tta):
        """Of the first case nothing, of the second one everything."""
        for n, case in enumerate(cases):
            image = nib.load(case.label)
            empty = nib.Nifti1Image(image.get_fdata().astype("uint8") * n, image.affine)
            nib.save(empty, out / f"{case.name}.nii.gz")
        return 1.0

    monkeypatch.setattr(versus_theirs, "predict", half)
    outcome = versus("--seeds", "1", peers="nnunet")[1][-1].outcomes["liver"]
    assert outcome.dice == 0.5
    assert [case["liver"] for case in outcome.cases.values()] == [0, 1]


def test_a_case_without_a_prediction_makes_no_row(versus, monkeypatch, capsys):
    import versus_theirs

    whole = versus_theirs.predict

    def one_less(asked, dataset, cases, folder, out, *, tta):
        return whole(asked, dataset, cases[1:], folder, out, tta=tta)

    monkeypatch.setattr(versus_theirs, "predict", one_less)
    assert versus(peers="nnunet")[:2] == (1, [])
    assert "no prediction of liver_" in capsys.readouterr().err


def test_universal_is_one_run_with_the_sum_of_the_budgets(versus):
    code, rows, jobs = versus(domains="liver,heart", peers="nnunet,universal")
    assert (code, [job.domains for job in jobs]) == (
        0,
        [("liver",), ("heart",), ("liver", "heart")],
    )
    assert [*rows[-1].outcomes] == ["liver", "heart"]
    assert rows[-1].seconds >= 2
    assert rows[-1].asked.name == "universal base:base_channels=2 (2 domains)"
    assert versus(domains="heart,liver", peers="universal")[2] == []


def test_reflections_are_a_row_of_their_own(versus):
    assert [found.tta for found in versus(peers="nnunet")[1]] == [False]
    code, rows, jobs = versus("--tta", peers="nnunet")
    assert (code, len(jobs), [found.tta for found in rows]) == (0, 1, [False, True])
    assert versus("--tta", peers="nnunet")[2] == []


def test_a_stopped_training_goes_on_from_its_checkpoint(versus, monkeypatch):
    import compare_worker

    from u2net3d.errors import Stopped

    seen = []

    def stepped(self, at, share, domain, loss):
        seen.append(at.step)
        if len(seen) == 2:
            raise Stopped

    monkeypatch.setattr(compare_worker.Listener, "stepped", stepped)
    assert versus(time="2s")[:2] == (130, [])
    code, (found,), _ = versus(time="2s")
    assert (code, seen) == (0, [*range(1, found.steps + 1)])


def test_a_training_that_is_over_is_not_made_again(versus, monkeypatch):
    import versus_nnunet
    import versus_theirs

    trained = []
    inner = versus_theirs.train
    monkeypatch.setattr(versus_theirs, "train", lambda *a: trained.append(a) or inner(*a))

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # while it predicts
        patch.setattr(versus_theirs, "predict", killed)
        assert versus(peers="nnunet")[:2] == (130, [])
    with monkeypatch.context() as patch:  # before the row is written
        patch.setattr(versus_nnunet, "append_rows", killed)
        assert versus(peers="nnunet")[:2] == (130, [])
    code, rows, jobs = versus(peers="nnunet")
    assert (code, len(rows), jobs, len(trained)) == (0, 1, [], 1)


def test_what_would_run_is_said_and_not_run(versus, capsys):
    code, rows, jobs = versus("--list", peers="nnunet,nnunet-adamw,u2net3d,universal", time="30m")
    assert (code, rows, jobs) == (0, [], [])
    said = capsys.readouterr().out
    assert "0 of 4 runs have their row" in said
    assert "nnU-Net's net, AdamW on liver, seed 0, 30 min by the clock" in said


def test_a_wrong_fold_or_peer_is_said_before_any_run(versus, capsys):
    assert versus("--fold", "7")[0] == 2
    with pytest.raises(SystemExit):
        versus(peers="monai")
    assert "there is no peer 'monai'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        versus("--set", "wings=2")


def test_the_command_of_a_row_makes_the_same_run_and_names_no_place(versus, data):
    import versus_nnunet

    words = ("--seeds", "3", "--set", "learning_rate=0.02,optimiser=adamw", "--fold", "1")
    domain = f"it={data / 'Task03_Liver'}"
    rows = versus(*words, "--tta", domains=domain)[1]
    for found, tta in zip(rows, (False, True), strict=True):
        assert str(data) not in found.model_dump_json()
        again = versus_nnunet.parsed(shlex.split(found.command)[1:])
        assert (again.data, again.domains) == (Path("DATA"), ["it"])
        again.domains = [domain]
        assert [each.key for each in versus_nnunet.runs(again)] == [found.asked.key]
        assert (again.tta, again.ours.settings) == (tta, found.asked.ours.settings)


def test_nnunet_is_given_the_training_cases_alone(data):
    import versus_theirs

    from u2net3d.io.dataset import find_dataset, split

    liver = find_dataset(data, "liver")
    sides = split(liver, 0)
    said = versus_theirs.description(liver, sides.training)
    assert {*said["dataset"]} == {case.name for case in sides.training}
    assert said["numTraining"] == len(sides.training) == 4
    assert said["labels"] == {"background": 0, "liver": 1}
    assert not any(case.name in json.dumps(said) for case in sides.validation)


def test_images_of_several_channels_are_taken_apart_for_nnunet(data, tmp_path):
    import versus_theirs

    from u2net3d.io.dataset import find_dataset

    heart, liver = find_dataset(data, "heart"), find_dataset(data, "liver")
    case = heart.cases[0]
    found = versus_theirs.channel_files(heart, case, tmp_path)
    assert [path.name for path in found] == [f"{case.name}_000{n}.nii.gz" for n in (0, 1)]
    whole = nib.load(case.images[0])
    for n, path in enumerate(found):
        channel = nib.load(path)
        assert (channel.get_fdata() == whole.get_fdata()[..., n]).all()
        assert (channel.affine == whole.affine).all()
    one = versus_theirs.channel_files(liver, liver.cases[0], None)
    assert one == [liver.cases[0].images[0].resolve()]


def test_a_run_is_named_by_its_recipe_and_not_by_the_preset(monkeypatch):
    from versus_rows import Asked

    own = asked_of()
    assert asked_of(preset="base").key == own.key
    for changes in ({"seed": 1}, {"fold": 1}, {"seconds": 60.0}, {"settings": {"elastic": True}},
                    {"preset": "paper"}, {"peer": "nnunet"}, {"device": "cuda"}):  # fmt: skip
        assert asked_of(**changes).key != own.key
    older = json.loads(own.model_dump_json())
    older["ours"]["preset"] = "another name"
    del older["ours"]["training"]["elastic"]  # a row from before there was such a field
    del older["ours"]["model"]["design"]["residual"]
    read = Asked.model_validate(older)
    assert read.ours.identity()["training"] == own.ours.identity()["training"]
    older["ours"]["training"]["learning_rate"] = 0.5  # the default of its day
    assert Asked.model_validate(older).key != own.key


def test_the_report_is_of_the_rows_alone(tmp_path):
    from versus_report import write_report

    both = ("a", "b")
    rows = [
        *(row("nnunet", 0.792, (d,)) for d in both),
        row("nnunet-adamw", 0.858, ("a",)),
        *(row("u2net3d", dice, (d,), seed=n) for d in both for n, dice in enumerate((0.87, 0.89))),
        *(row("universal", 0.86, both, seed=n) for n in (0, 1)),
        row("u2net3d", 0.895, ("a",), tta=True),
        row("u2net3d", 0.9, ("a",), seconds=7200.0),
    ]
    place = tmp_path / "docs" / "accuracy.md"
    write_report(place, rows)
    text = place.read_text()
    assert text.index("## 30 min by the clock on 2 threads a domain, fold 0\n") < text.index(
        "## 120"
    )
    names = "nnU-Net | nnU-Net's net, AdamW | u2net3d base | universal base (2 domains) |"
    assert f"| Dice | {names}" in text
    assert "| a | 0.792 | 0.858 | 0.880 ± 0.010 | 0.860 ± 0.000 |" in text
    assert "| mean | 0.792 | – | 0.880 | 0.860 |" in text
    assert "| u2net3d base over nnU-Net | +0.088 | +0.088 | +0.088 |" in text  # one seed of theirs
    assert "| u2net3d base over nnU-Net's net, AdamW | +0.022 | – | – |" in text
    own = "| universal base (2 domains) over u2net3d base"
    assert f"{own} | -0.020 ± 0.010 | -0.020 ± 0.010 | -0.020 |" in text
    assert "†" not in text
    assert text.count("| a | 0.895 |") == 1
    assert text.count("to learn from, ") == 3  # reflections are of the same runs
    assert "Seconds a volume: u2net3d base " in text
    assert "--domains a,b --seeds 0,1 --fold 0 --time 30m --threads 2 --preset base\n" in text
    assert text.count("](pictures/accuracy-") == 1  # of reflections and of one peer alone none
    pictures = {path.name: path.read_bytes() for path in (place.parent / "pictures").iterdir()}
    assert all(f"](pictures/{name})" in text for name in pictures)
    write_report(place, rows)
    again = {path.name: path.read_bytes() for path in (place.parent / "pictures").iterdir()}
    assert (place.read_text(), again) == (text, pictures)


def test_what_was_hardly_trained_is_marked_and_no_part_of_a_mean_gain():
    from versus_report import document

    both = ("a", "b")
    rows = [
        row("nnunet", 0.5, ("a",)),
        row("nnunet", 0.2, ("b",)),  # a Dice under 0.3
        row("nnunet-adamw", 0.7, ("a",)).model_copy(update={"steps": 99}),
        row("nnunet-adamw", 0.7, ("b",)).model_copy(update={"steps": 100}),
        *(row("u2net3d", 0.8, (d,)) for d in both),
        row("universal", 0.8, both).model_copy(update={"steps": 199}),  # fewer than 100 of each
    ]
    text = document(rows)
    assert "| a | 0.500 | 0.700 † | 0.800 | 0.800 † |" in text
    assert "| mean | 0.350 † | 0.700 † | 0.800 | 0.800 † |" in text
    assert "| u2net3d base over nnU-Net | +0.300 | +0.600 † | +0.300 |" in text
    assert "| u2net3d base over nnU-Net's net, AdamW | +0.100 † | +0.100 | +0.100 |" in text
    assert "| universal base (2 domains) over u2net3d base | +0.000 † | +0.000 † | – |" in text
    assert "| gain in Dice | a | b | mean without † |" in text
    assert "† hardly trained: fewer than 100 steps a domain, or a Dice under 0.3" in text


def test_a_command_is_given_for_the_seeds_that_each_domain_has():
    from versus_groups import groups_of
    from versus_report import commands

    rows = [row(domains=(d,), seed=n) for d, n in (("a", 0), ("b", 0), ("b", 1), ("c", 0))]
    one, two = commands(groups_of(rows))
    assert "--domains a,c --seeds 0 " in one
    assert "--domains b --seeds 0,1 " in two


def test_nnunet_with_other_weights_than_the_trained_ones_is_not_judged(data, tmp_path, monkeypatch):
    import versus_theirs

    from u2net3d.errors import TrainingError
    from u2net3d.io.dataset import find_dataset

    liver = find_dataset(data, "liver")
    begun_anew = SimpleNamespace(restore=lambda: False)
    monkeypatch.setattr(versus_theirs, "prepared", lambda *_: tmp_path)
    monkeypatch.setattr(versus_theirs, "trainer_of", lambda *_: begun_anew)
    monkeypatch.setenv("nnUNet_def_n_proc", "8")
    with pytest.raises(TrainingError, match="others than it was trained with"):
        versus_theirs.predict(asked_of("nnunet"), liver, [], tmp_path, tmp_path, tta=False)
    assert {**os.environ}["nnUNet_def_n_proc"] == "2"


def test_a_run_that_another_process_is_at_is_refused(tmp_path):
    from long_runs import as_worker, claimed

    ran = []
    as_worker(tmp_path, None, "it", lambda: ran.append(1))
    with claimed(tmp_path / "lock"), pytest.raises(SystemExit, match="it: another process is at"):
        as_worker(tmp_path, None, "it", lambda: ran.append(2))
    as_worker(tmp_path, None, "it", lambda: ran.append(3))
    assert ran == [1, 3]


def test_of_two_recipes_of_one_name_the_later_one_counts():
    from versus_groups import groups_of
    from versus_rows import Ours

    old = row(dice=0.5)
    training = {**old.asked.ours.training, "learning_rate": 0.5}
    ours = Ours(preset="base", model=old.asked.ours.model, training=training)
    new = [
        row(dice=dice, seed=seed).model_copy(
            update={"asked": old.asked.model_copy(update={"ours": ours, "seed": seed})}
        )
        for seed, dice in ((0, 0.8), (1, 0.9))
    ]
    assert str(groups_of([old, *new])[0].dice) == "0.850 ± 0.050"
    assert str(groups_of([*new, old])[0].dice) == "0.500"
    assert str(groups_of([old, *new, old])[0].dice) == "0.500"


def test_a_report_of_no_rows_says_so(tmp_path):
    import versus_nnunet

    place = tmp_path / "accuracy.md"
    words = ["--report", place, "--rows", tmp_path / "none.jsonl"]
    assert versus_nnunet.main([str(word) for word in words]) == 0
    assert "There are no rows yet" in place.read_text()
