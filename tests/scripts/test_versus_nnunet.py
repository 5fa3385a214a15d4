"""scripts/versus-nnunet: nnU-Net itself, on drawn volumes, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import json, sys
from pathlib import Path
from types import SimpleNamespace


def main(data, folder):
    import versus_theirs, versus_trainer, versus_worker
    from u2net3d.errors import Stopped

    budget = {"kind": "time", "amount": 4, "threads": 1}
    asked = {"peer": "nnunet", "data": "d", "domains": ["heart"], "budget": budget}
    job = {"asked": asked, "data": data, "domains": ["heart"], "tta": [False, True]}
    job = versus_worker.Job.model_validate(job | {"machine": "here", "versions": {}})
    seen, whole = [], versus_trainer.Timed._one

    def stopped(self, began):
        seen.append(self.steps)  # and a second passes
        whole(self, began)
        if len(seen) == 2:
            raise Stopped

    versus_trainer.Timed._one = stopped
    versus_trainer.time = SimpleNamespace(perf_counter=lambda: float(len(seen)))
    try:
        versus_worker.work(job, folder)
        sys.exit("it was not stopped")
    except Stopped:
        rows = versus_worker.work(job, folder)
    rates = {}
    (prepared,) = (folder.parent / "nnunet").iterdir()
    for peer in versus_trainer.TRAINERS:
        asked = job.asked.model_copy(update={"peer": peer})
        trainer = versus_theirs.trainer_of(asked, prepared, folder.parent / peer)
        rates[peer] = [type(trainer.optimizer).__name__]
        for trainer.steps, share in ((0, 0.0), (0, 0.025), (100, 0.0), (100, 0.5)):
            trainer.set_rate(share)
            rates[peer].append(trainer.optimizer.param_groups[0]["lr"])
    rows = [row.model_dump(mode="json") for row in rows]
    Path("found.json").write_text(json.dumps({"seen": seen, "rows": rows, "rates": rates}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def found(make_dataset, tmp_path_factory):
    """What the driver found, and the folder it worked in: stopped after two steps, then ended."""
    place = tmp_path_factory.mktemp("nnunet")
    make_dataset(place / "data", "Task02_Heart", cases=5, channels=("T1", "T2"))
    (place / "driver.py").write_text(DRIVER)
    paths = os.pathsep.join((str(ROOT), str(ROOT / "scripts")))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
    done = subprocess.run(
        [sys.executable, "driver.py", "data", str(place / "work" / "run")],
        cwd=place, env={**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((place / "found.json").read_text()), place


@pytest.mark.slow
def test_it_goes_on_behind_the_step_at_which_it_was_stopped_until_the_time_is_used_up(found):
    said, _ = found
    plain, mirrored = said["rows"]
    assert said["seen"] == [0, 1, 2, 3]
    assert (plain["steps"], plain["seconds"], plain["step_s"]) == (4, 4.0, 1.0)
    assert (plain["tta"], mirrored["tta"]) == (False, True)
    assert {len(row["outcomes"]["heart"]["cases"]) for row in said["rows"]} == {1}
    assert plain["weights"] > 1_000_000


@pytest.mark.slow
def test_no_case_that_judges_is_in_its_data_plan_or_fingerprint(found):
    said, place = found
    (judged,) = said["rows"][0]["outcomes"]["heart"]["cases"]
    (folder,) = place.glob("work/nnunet/*/preprocessed/Dataset001_heart")
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    assert (fold["val"], len(fold["train"])) == ([judged], 4)
    prepared = {path.name.partition(".")[0] for path in folder.glob("nnUNetPlans_*/*.pkl")}
    assert prepared == {*fold["train"]}
    fingerprint = json.loads((folder / "dataset_fingerprint.json").read_text())
    assert len(fingerprint["shapes_after_crop"]) == 4
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 4


@pytest.mark.slow
def test_learning_rates_fall_over_the_time_and_adamw_is_warmed_up(found):
    half = 0.5**0.9
    rates = found[0]["rates"]
    assert rates["nnunet"] == [
        "SGD",
        *map(pytest.approx, (1e-2, 1e-2 * 0.975**0.9, 1e-2, 1e-2 * half)),
    ]
    warm = (1e-3 / 40, 1e-3 * 0.975**0.9 / 2, 1e-3, 1e-3 * half)
    assert rates["nnunet-adamw"] == ["AdamW", *map(pytest.approx, warm)]
