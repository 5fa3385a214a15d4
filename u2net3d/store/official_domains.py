"""The six domains of the official code of 3D U2-Net, as its config.py has them.

Spacings and patches (D, H, W), channels, labels, and the normalisation of its preprocessing. Its
tumours are part of the organ. For a shared or universal network every patch is resized to
128 x 128 x 128; an independent one sees its own patches as they are, halved as often per axis as
that axis allows.
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
    halvings: Triple = (4, 5, 5)  # per axis, of an independent network
    batch: int = 2


_KNOWN = {
    "heart": _Facts(("MRI",), ("left atrium",), (1.37, 1.25, 1.25), (80, 192, 128)),
    "liver": _Facts(("CT",), ("liver",), (1.0, 0.77, 0.77), (128, 128, 128), (5, 5, 5)),
    "hippocampus": _Facts(
        ("MRI",), ("Anterior", "Posterior"), (1.0, 1.0, 1.0), (40, 56, 40), (3, 3, 3), batch=9
    ),
    "prostate": _Facts(
        ("T2", "ADC"), ("PZ", "TZ"), (3.6, 0.625, 0.625), (20, 192, 192), (2, 5, 5), batch=4
    ),
    "pancreas": _Facts(("CT",), ("pancreas",), (2.5, 0.8, 0.8), (96, 160, 128)),
    "spleen": _Facts(("CT",), ("spleen",), (5.0, 0.8, 0.8), (96, 160, 128)),
}


def official_domain(name: str, stages: int, *, independent: bool = False) -> DomainSpec:
    """The specification of one of them in a network of `stages`, at most 6 of which it can have.

    name: `heart` or `Task02_Heart`; independent: of a network that knows it alone. Such a one whose
    depth is not that of the official independent network was shared before: its patch is a cube.
    Raises UsageError for a domain that there is not.
    """
    known = domain_name(name)
    if known not in _KNOWN:
        mend = f"there are {', '.join(_KNOWN)}; describe others with --plan"
        raise UsageError("--domains", f"'{name}' is no domain of the official code", mend)
    facts = _KNOWN[known]
    plan = _own(facts)
    return DomainSpec(
        name=known,
        channels=facts.channels,
        labels=("background", *facts.labels),
        mirroring=Mirroring(axes=(2,)),
        plan=plan if independent and stages == plan.stages else cubed(plan, EDGE, stages),
    )


def _own(facts: _Facts) -> Plan:
    """The plan of an independent network: every axis is halved from the first stage on."""
    d, h, w = facts.halvings
    strides = [(1 + (i < d), 1 + (i < h), 1 + (i < w)) for i in range(max(facts.halvings))]
    return Plan(
        spacing_mm=facts.spacing_mm,
        normalisation=(PercentileNormalisation(),) * len(facts.channels),
        patch_size=facts.patch,
        batch_size=facts.batch,
        strides=((1, 1, 1), *strides),
        kernels=((3, 3, 3),) * (1 + len(strides)),
    )
