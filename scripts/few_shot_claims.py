"""What few cases were to show, and whether the rows show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from compare_evidence import Claim, Verdict, decided, mean_gap
from compare_groups import Group, paired

FEW = 5  # patients, up to which the frozen trunk is to be ahead in every domain


def claims(groups: Sequence[Group]) -> list[Claim]:
    """Of one budget and one trunk: starts beside nothing, and `nearest` beside the other starts."""
    named = {init: [g for g in groups if g.name == init] for init in ("fresh", "nearest", "mean")}
    scratch = [group for group in groups if group.name == "scratch"]
    found = [ahead(init, own, scratch) for init, own in named.items() if own]
    for other in ("fresh", "mean"):
        pairs = seed_by_seed(paired(named["nearest"], named[other], size_of))
        if pairs:
            found.append(ahead_on_average(f"`nearest` is ahead of `{other}`", pairs))
    return found


def ahead_on_average(title: str, pairs: Sequence[tuple[Group, Group]]) -> Claim:
    """Whether the first of each pair is ahead in the mean; in part where a pair says otherwise."""
    gap, noise = mean_gap(pairs)
    verdict = decided(gap, noise)
    if verdict == "confirmed" and "contradicted" in map(_decided, pairs):
        verdict = "in part"
    return Claim(title, verdict, f"mean {gap:+.3f}; {_beside(pairs)}")


def ahead(init: str, own: Sequence[Group], scratch: Sequence[Group]) -> Claim:
    """Whether a start on the frozen trunk beats nothing, wherever there are few patients.

    Confirmed where every single pair is decided so and none is missing, contradicted where one is
    decided otherwise; a pair is decided by more than its seeds differ.
    """
    title = f"With {FEW} patients or fewer the frozen trunk (`{init}`) beats `scratch` everywhere"
    few = [group for group in (*own, *scratch) if size_of(group) <= FEW]
    wanted = {(group.domain, size_of(group)) for group in few}
    pairs = seed_by_seed(paired([g for g in own if size_of(g) <= FEW], scratch, size_of))
    if not pairs:
        return Claim(title, "not decided", "no rows of both")
    each = [_decided(pair) for pair in pairs]
    verdict: Verdict = "not decided"
    if "contradicted" in each:
        verdict = "contradicted"
    elif each.count("confirmed") == len(wanted):
        verdict = "confirmed"
    domains = len({domain for domain, _ in wanted})
    missing = f", {len(wanted) - len(pairs)} more not run" if len(pairs) < len(wanted) else ""
    won, level = each.count("confirmed"), each.count("not decided")
    count = f"ahead in {won} of {len(pairs)} that ran, level in {level}{missing}; {domains} domains"
    return Claim(title, verdict, f"{count}; {_beside(pairs)}")


def seed_by_seed(pairs: Sequence[tuple[Group, Group]]) -> list[tuple[Group, Group]]:
    """Each pair with the rows of the seeds that both ran; with all where they share none."""
    found = []
    for pair in pairs:
        shared = set.intersection(*({row.asked.seed for row in group.rows} for group in pair))
        a, b = (
            replace(group, rows=tuple(row for row in group.rows if row.asked.seed in shared))
            for group in pair
        )
        found.append((a, b) if shared else pair)
    return found


def _decided(pair: tuple[Group, Group]) -> Verdict:
    a, b = (group.dice for group in pair)
    return decided(a.mean - b.mean, max(a.noise, b.noise))


def size_of(group: Group) -> float:
    """Patients that were asked for; infinity for all."""
    return inf if group.asked.cases is None else group.asked.cases


def _beside(pairs: Sequence[tuple[Group, Group]]) -> str:
    """`liver 1: 0.910 beside 0.920, ...`, with the number of patients."""
    said = []
    for a, b in pairs:
        patients = "all" if a.asked.cases is None else str(a.asked.cases)
        gap = a.dice.mean - b.dice.mean
        said.append(f"{a.domain} {patients}: {a.dice} beside {b.dice} ({gap:+.3f})")
    return ", ".join(said)
