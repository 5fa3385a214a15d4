"""Every case judged by the fold that never saw it: the cross-validated table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from u2net3d import store
from u2net3d.errors import U2Net3dError, UsageError
from u2net3d.evaluate.metrics import scores
from u2net3d.evaluate.report import CaseScores, Failure, Report
from u2net3d.infer.predict import Model, Options, load
from u2net3d.io.dataset import Case, Dataset, read_case
from u2net3d.train.sides import judged_cases


def cross_validated(
    folder: Path,
    dataset: Dataset,
    *,
    device: str,
    tolerance_mm: float,
    progress: Callable[[int, int], None],
) -> Report:
    """The scores of all validation cases of the folds in `folder`, each predicted once.

    Which cases a fold may be judged by stands in the record of its run: those that it never learnt
    from. progress(done, total) is called before the first case and after each. A case that fails
    goes into `Report.failures`. Raises UsageError for a folder without folds or without cases.
    """
    if store.read_folds(folder) is None:
        mend = "train with --fold 0,1,2,3,4, or give --pred and --ref"
        raise UsageError("--cross-validated", f"{folder} holds no folds", mend)
    work: dict[str, tuple[Path, Case]] = {}
    for part in store.models_in(folder):
        for case in judged_cases(dataset, part):
            work.setdefault(case.name, (part, case))
    if not work:
        what = f"no case of {dataset.domain} was held back by a fold"
        raise UsageError("--cross-validated", what, "give the data set that the folds learnt from")
    cases, failures = [], []
    progress(0, len(work))
    at, model = None, None
    for done, (part, case) in enumerate(work.values(), start=1):
        if model is None or at != part:
            at, model = part, load(part, domains=[dataset.domain], device=device)
        try:
            cases.append(_scored(model, dataset, case, tolerance_mm))
        except U2Net3dError as error:
            failures.append(Failure(case.name, error.what))
        progress(done, len(work))
    return Report(
        labels=dataset.labels[1:],
        tolerance_mm=tolerance_mm,
        cases=tuple(sorted(cases, key=lambda scored: scored.case)),
        failures=tuple(failures),
        domain=dataset.domain,
    )


def _scored(model: Model, dataset: Dataset, case: Case, tolerance_mm: float) -> CaseScores:
    loaded = read_case(dataset, case)
    answer = model.answer(loaded.image, loaded.source.path, dataset.domain, Options())
    found = scores(
        answer.label,
        loaded.label.array[0],
        loaded.label.spacing_mm,
        dataset.labels,
        tolerance_mm=tolerance_mm,
        ignore=dataset.ignore_label,
    )
    return CaseScores(case.name, tuple(found))
