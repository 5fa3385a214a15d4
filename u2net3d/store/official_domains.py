"""The six domains of the official code of 3D U2-Net, as its config.py has them.

Spacings and patches (D, H, W), channels, labels, and the normalisation of its preprocessing. Its
tumours are part of the organ. Every patch is resized to 128 x 128 x 128.
"""

from __future__ import annotations

from dataclasses import dataclass

from u2net3d.errors import UsageError
from u2net3d.prep.plan import cubed
from u2net3d.spec import DomainSpec, Mirroring, PercentileNormalisation, Plan, domain_name
from u2net3d.volume import Triple, TripleF

EDGE = 128


@dataclass(frozen=True)
class _Facts:
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    spacing_mm: TripleF
    patch: Triple


_KNOWN = {
    "heart": _Facts(("MRI",), ("left atrium",), (1.37, 1.25, 1.25), (80, 192, 128)),
    "liver": _Facts(("CT",), ("liver",), (1.0, 0.77, 0.77), (128, 128, 128)),
    "hippocampus": _Facts(("MRI",), ("Anterior", "Posterior"), (1.0, 1.0, 1.0), (40, 56, 40)),
    "prostate": _Facts(("T2", "ADC"), ("PZ", "TZ"), (3.6, 0.625, 0.625), (20, 192, 192)),
    "pancreas": _Facts(("CT",), ("pancreas",), (2.5, 0.8, 0.8), (96, 160, 128)),
    "spleen": _Facts(("CT",), ("spleen",), (5.0, 0.8, 0.8), (96, 160, 128)),
}


def official_domain(name: str, stages: int) -> DomainSpec:
    """The specification of one of them in a network of `stages`, at most 6 of which it can have.

    name: `heart` or `Task02_Heart`. Raises UsageError for one that there is not.
    """
    known = domain_name(name)
    if known not in _KNOWN:
        mend = f"there are {', '.join(_KNOWN)}; describe others with --plan"
        raise UsageError("--domains", f"'{name}' is no domain of the official code", mend)
    facts = _KNOWN[known]
    plan = Plan(
        spacing_mm=facts.spacing_mm,
        normalisation=(PercentileNormalisation(),) * len(facts.channels),
        patch_size=facts.patch,
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
    )
    return DomainSpec(
        name=known,
        channels=facts.channels,
        labels=("background", *facts.labels),
        mirroring=Mirroring(axes=(2,)),
        plan=cubed(plan, EDGE, stages),
    )
