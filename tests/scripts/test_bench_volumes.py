"""scripts/bench on whole volumes: agreement and scaling by hand, plans of files, a quick run."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest


def job(kind, contender, setting, folder=""):
    from bench_contenders import Job

    return Job(
        kind=kind, contender=contender, setting=setting, threads=1, device="cpu", quick=True,
        folder=str(folder),
    )  # fmt: skip


def small(**changes):
    from bench_settings import setting

    return setting("", (16, 16, 16), 1).model_copy(update=changes)


def row(**changes):
    """A row of `scaling` with one value, in seconds."""
    from bench_contenders import ours
    from bench_report import Spread
    from bench_sections import _row

    values = changes.pop("values")
    made = _row("scaling", "here", ours(), values, spread=Spread.of(values))
    return made.model_copy(update=changes)


def test_agreement_counts_voxels_and_says_how_near_a_tie_the_others_are():
    from bench_export import agreement

    logits = np.zeros((2, 1, 1, 2), np.float32)
    logits[1, 0, 0] = 1, -1  # on four voxels 1, 0.5, -0.5, -1 beside zeros
    ours = np.array([[[1, 1, 0, 0]]], np.uint8)
    assert agreement(logits, ours, ours) == {
        "voxels": 4, "differing": 0, "equal": 1.0, "widest_gap": 0.0,
    }  # fmt: skip
    theirs = np.array([[[1, 0, 0, 0]]], np.uint8)
    found = agreement(logits, ours, theirs)
    assert (found["differing"], found["equal"], found["widest_gap"]) == (1, 0.75, 0.5)
    assert agreement(logits, theirs, np.array([[[1, 0, 0, 1]]], np.uint8))["widest_gap"] == 1.0


def test_cells_are_decided_where_their_eight_corners_agree():
    from bench_export import undecided

    logits = np.zeros((2, 2, 2, 4), np.float32)
    logits[1, 0, 0, 3] = 1
    assert undecided(logits) == pytest.approx(1 / 3)  # the last of three cells


def test_drawn_logits_are_regions_with_few_borders_or_noise_with_nothing_else():
    from bench_export import logits_of, undecided

    more = {"volume": (60, 60, 60), "voxel_mm": (2 / 3,) * 3, "classes": 3}
    regions = logits_of(small(**more))
    assert regions.shape == (3, 40, 40, 40)
    assert set(np.unique(regions.argmax(0))) == {0, 1, 2}
    assert 0.005 < undecided(regions) < 0.12
    assert undecided(logits_of(small(**more, logits="noise"))) > 0.99


def test_ours_and_nnunet_label_the_same_logits_alike(tmp_path):
    from bench_contenders import nnunet, ours
    from bench_export import Export

    setting = small(volume=(18, 24, 24), voxel_mm=(2 / 3,) * 3, classes=4)
    mine = Export(job("export", ours(), setting, tmp_path), tmp_path / "a")
    mine()
    assert mine.said()["note"].endswith("% of the cells undecided")
    theirs = Export(job("export", nnunet("cpu"), setting, tmp_path), tmp_path / "b")
    theirs()
    found = theirs.said()["agreement"]
    assert found["voxels"] == 18 * 24 * 24
    assert found["equal"] > 0.999
    assert found["widest_gap"] < 1e-4


def test_the_exponent_is_the_slope_of_the_logarithms():
    from bench_report import scaling_of

    cubes = [row(values=(2.0 * n,), megavoxels=n, tiles=int(n**2)) for n in (1.0, 8.0, 27.0)]
    found = scaling_of(cubes)
    assert found.exponent == pytest.approx(1)
    assert found.tiles_exponent == pytest.approx(0.5)
    assert scaling_of(cubes[:1]) is None
    assert scaling_of([]) is None


def test_the_second_ratio_is_to_ours_in_the_same_engine_and_precision():
    from bench_report import compared

    rows = [
        row(values=(2.0,)),
        row(values=(1.0,), engine="openvino"),
        row(values=(20.0,), family="nnunet"),
        row(values=(12.0,), family="nnunet", engine="openvino"),
        row(values=(9.0,), family="nnunet", precision="bf16"),
    ]
    found = compared(rows)
    assert [one.times_ours.median for one in found] == [1, 0.5, 10, 6, 4.5]
    alike = [one.times_ours_alike and one.times_ours_alike.median for one in found]
    assert alike == [1, 1, 10, 12, None]


def test_the_first_of_long_predictions_is_their_first_measurement(monkeypatch):
    import bench_measure
    from bench_contenders import ours

    seconds = {"long": 70.0, "longish": 20.0, "short": 2.0}
    asked = []

    def start(self):
        self.process = type("Process", (), {"kill": lambda _: 0, "communicate": lambda _: 0})()
        self.errors = type("Errors", (), {"close": lambda _: 0})()
        return {"seconds": seconds[self.contender.name], "weights": 7}

    def ask(self, *_):
        asked.append(self.contender.name)
        return {"seconds": 3.0}

    monkeypatch.setattr(bench_measure.Worker, "start", start)
    monkeypatch.setattr(bench_measure.Worker, "ask", ask)
    monkeypatch.setattr(bench_measure, "free_share", lambda: 1.0)
    jobs = [job("predict", ours(name), small()) for name in seconds]
    found = bench_measure.measure(jobs, 2, time.monotonic() + 3600, lambda _: None)
    assert [one.values for one in found] == [[70.0], [20.0, 3.0], [3.0, 3.0]]
    assert found[0].note == "a step takes over 60 s: measured 1×"
    assert asked == ["short", "longish", "short"]


def test_peers_in_openvino_answer_as_they_do_in_torch():
    import torch
    from bench_contenders import Contender
    from bench_openvino import InOpenVino

    net = torch.nn.Conv3d(1, 2, 3, padding=1)
    made = InOpenVino(net, job("predict", Contender(name="", family="nnunet"), small()), (8, 8, 8))
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(made(image), net(image), atol=1e-5)
    assert "openvino_telemetry" not in sys.modules or sys.modules["openvino_telemetry"] is None


def test_without_openvino_its_rows_say_absent(monkeypatch):
    import bench_nets
    from bench_contenders import _in_openvino

    from u2net3d.infer import openvino_engine

    monkeypatch.setattr(openvino_engine, "installed", lambda: None)
    for contender in _in_openvino()[:2]:
        with pytest.raises(RuntimeError, match=r"^absent: openvino is not installed$"):
            bench_nets.build(job("forward", contender, small()))


def test_forward_is_measured_at_both_patches_with_six_stages_and_bf16_has_its_own_rows():
    from bench_contenders import contenders
    from bench_settings import settings

    found = settings("forward", quick=False, device="cpu")
    assert [(one.patch[0], one.stages) for one in found] == [(96, 6), (128, 6)]
    rows = contenders("forward", "cpu", quick=False)
    assert len({one.name for one in rows}) == len(rows)
    half = {(one.family, one.engine) for one in rows if one.precision == "bf16"}
    both = ("torch", "openvino")
    assert half == {(family, engine) for family in ("ours", "nnunet") for engine in both}


def test_a_real_volume_is_planned_at_its_own_voxels_and_a_thick_axis_at_a_third(tmp_path):
    import bench
    from bench_settings import volume_settings

    for name in ("a.nii.gz", "a_label.nii.gz", "b.nii.gz"):
        shape, mm = ((40, 120, 20), (0.8, 0.8, 5.0)) if name[0] == "b" else ((30,) * 3, (0.6,) * 3)
        nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([*mm, 1])), tmp_path / name)
    asked = bench.parsed(["--volumes", str(tmp_path)])
    thin, thick, *drawn = volume_settings("predict", quick=False, volumes=asked.volumes)
    assert [Path(one.file).name for one in (thin, thick)] == ["a.nii.gz", "b.nii.gz"]
    assert thin.spacing_mm == pytest.approx((0.6, 0.6, 0.6))
    assert thin.patch == (32, 32, 32)  # 30 voxels
    assert thick.spacing_mm == pytest.approx((5 / 3, 0.8, 0.8))
    assert thick.prepared == (60, 120, 40)
    assert thick.patch[1] == 96
    assert math.prod(thick.volume) == 40 * 120 * 20
    assert drawn
    assert all(one.file == "" for one in drawn)


def test_the_eightfold_mirroring_of_nnunet_is_left_out_where_tiles_are_many():
    from bench_contenders import MOST_TILES, volume_contenders

    few = small(volume=(16, 16, 16))
    many = small(volume=(64, 64, 64))
    assert few.tiles == 1
    assert many.tiles == 7**3 > MOST_TILES
    mirrored = [[one.mirrors for one in volume_contenders("predict", of)] for of in (few, many)]
    assert [sum(each) for each in mirrored] == [1, 0]


def test_predictions_are_compared_with_every_peer_and_ours_comes_first():
    from bench_contenders import volume_contenders

    found = [one.name for one in volume_contenders("predict", small())]
    assert found == [
        "ours",
        "ours in torch",
        "nnU-Net, same tiles",
        "nnU-Net, same tiles in OpenVINO",
        "nnU-Net as it comes",
        "MONAI BasicUNet",
        "MONAI DynUNet",
        "MONAI DynUNet in OpenVINO",
    ]


@pytest.mark.slow
def test_whole_predictions_run_from_file_to_file_beside_their_peers(tmp_path, capsys, monkeypatch):
    import bench
    import bench_sections
    from bench_contenders import volume_contenders
    from bench_report import Report

    def some(kind, of):  # of each program one, in OpenVINO where there is a choice
        found = volume_contenders(kind, of)
        return [found[0], found[3], found[-1]] if kind == "predict" else found

    monkeypatch.setattr(bench_sections, "volume_contenders", some)
    path = tmp_path / "bench.json"
    options = ["--quick", "--threads", "1", "--rounds", "1", "--json", str(path)]
    bench.main([*options, "--only", "predict,export,scaling"])
    report = Report.model_validate_json(path.read_text())
    found = {(one.section, one.contender): one for one in report.rows}
    assert {names: one.note for names, one in found.items() if not one.values} == {}
    assert len([one for one in report.rows if one.section == "predict"]) == 3
    assert found["export", "nnU-Net as it comes"].agreement.equal > 0.99
    assert len([one for one in report.rows if one.section == "export"]) == 2 * 2  # and of noise
    assert report.scaling is not None
    assert "a megavoxel" in capsys.readouterr().out
