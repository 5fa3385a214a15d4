"""What a case failed of, in the one line that its outcome says."""

from __future__ import annotations

import traceback

from u2net3d.errors import DataError, U2Net3dError, is_out_of_memory
from u2net3d.infer.jobs import Job


def error_of(job: Job, failure: Exception, device: str) -> U2Net3dError:
    """The error of a case that raised `failure` on this device.

    What the frames of its traceback held, an image above all, is let go: they refer to the outcome
    that refers to them, and such a circle may be looked for only after many cases.
    """
    each: BaseException | None = failure
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__cause__ or each.__context__
    if isinstance(failure, U2Net3dError):
        return failure
    if isinstance(failure, OSError):
        where, what = failure.filename or job.output, failure.strerror or str(failure)
        return DataError(where, what, "check the place and its rights")
    return _fault(job, failure, device)


def _fault(job: Job, failure: Exception, device: str) -> DataError:
    """What a case failed of that is no fault of its file: memory, or this program."""
    reason = (str(failure).splitlines() or [type(failure).__name__])[0]
    if not is_out_of_memory(failure):
        mend = "give it alone with --debug for the traceback, and report it"
        error = DataError(job.images[0], f"could not be segmented ({reason})", mend)
        error.__cause__ = failure
        return error
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        mend = "give it alone with --device cpu, or crop it to the part of the body"
    else:
        mend = "give it alone on a machine with more memory, or crop it to the part of the body"
    return DataError(job.images[0], f"is too large for the memory here ({reason})", mend)
