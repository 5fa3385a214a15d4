"""What the papers claim, each a function over the rows of a comparison that says whether it holds.

A difference of Dice decides where it is greater than the seeds differ; what has no rows says which
command would make them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from compare_evidence import (
    ABOUT,
    NEAR,
    Claim,
    Verdict,
    about,
    all_but,
    between,
    by_level,
    by_name,
    decided,
    dices,
    gain_of_third,
    is_separable,
    mean_gap,
    missing,
)
from compare_groups import Group, names_of, paired

EASY = 0.85  # Dice of the deepest level from which on a domain is easy
FEW_WEIGHTS = 0.02  # part of the independents' weights, where about 1 % was claimed


def all_claims(groups: Sequence[Group]) -> list[Claim]:
    """Every claim, judged by the groups of one budget."""
    return [claim for judged in CLAIMS for claim in judged(groups)]


def near_independents(groups: Sequence[Group]) -> list[Claim]:
    title = "One universal network is near independent ones, with about 1 % of the weights a domain"
    whole = [g for g in groups if g.plainly and g.whole]
    alone = [g for g in whole if g.asked.model.options.get("adapter") == "independent"]
    shared = [g for g in whole if g.first.together and g.first.block == "separable"]
    found = []
    for name in names_of(shared):
        pairs = paired([g for g in shared if g.name == name], alone, lambda _: None)
        if not pairs:
            continue
        gap, noise = mean_gap(pairs)
        share = sum(a.weights for a, _ in pairs) / sum(b.weights for _, b in pairs)
        small = share <= FEW_WEIGHTS
        verdict = decided(gap + NEAR, noise) if small else "contradicted"
        numbers = f"{name}: {dices(pairs)}; mean {gap:+.3f}; {share:.1%} of the weights"
        found.append(Claim(title, verdict, numbers))
    commands = ("--presets reference-independent", "--together --presets base,paper")
    return found or [missing(title, *commands)]


def separable_cost(groups: Sequence[Group]) -> list[Claim]:
    title = "A separable convolution costs 1/N + 1/k³ of a dense one (N output channels, k³ kernel)"
    found = []
    for name, own in by_name(g for g in groups if is_separable(g)):
        macs = [g.outcome.macs for g in own if g.outcome.macs]
        counted = sum(m.pairs for m in macs) / sum(m.as_dense for m in macs)
        expected = sum((m.analytic or 0) * m.as_dense for m in macs) / sum(m.as_dense for m in macs)
        total = sum(m.total for m in macs)
        net = total / (total - sum(m.pairs for m in macs) + sum(m.as_dense for m in macs))
        verdict: Verdict = "confirmed" if abs(counted / expected - 1) <= 0.01 else "contradicted"
        numbers = (
            f"{name}: counted {counted:.4f}, 1/N + 1/k³ {expected:.4f}; the whole network, stem "
            f"and heads included, {net:.4f} of one with dense convolutions in their place"
        )
        found.append(Claim(title, verdict, numbers))
    return found or [missing(title, "--presets base,paper")]


def separable_time(groups: Sequence[Group]) -> list[Claim]:
    title = "What a separable network saves in multiply-adds it saves in time"
    whole = [g for g in groups if g.plainly and g.whole and g.outcome.macs]
    pairs = paired(
        [g for g in whole if g.first.block == "separable"],
        [g for g in whole if g.first.block == "plain"],
        lambda g: all_but(g, "block"),
    )
    if not pairs:
        return [missing(title, "--presets unetpp,unetpp:block=separable")]
    macs = between(pairs, lambda o: o.macs.total if o.macs else 1)
    time = between(pairs, lambda o: o.step_s)
    numbers = (
        f"{', '.join(names_of(a for a, _ in pairs))} beside "
        f"{', '.join(names_of(b for _, b in pairs))}: {macs:.1f} times fewer multiply-adds, a step "
        f"{time:.1f} times faster"
    )
    verdict: Verdict = "confirmed" if time >= macs * (1 - ABOUT) else "contradicted"
    return [Claim(title, verdict, numbers)]


def mostly_pointwise(groups: Sequence[Group]) -> list[Claim]:
    title = "Most multiply-adds of a separable network are pointwise (95 % in MobileNet)"
    found = []
    for name, own in by_name(g for g in groups if is_separable(g)):
        macs = [g.outcome.macs for g in own if g.outcome.macs]
        share = sum(m.pointwise for m in macs) / sum(m.total for m in macs)
        depthwise = sum(m.depthwise for m in macs) / sum(m.total for m in macs)
        verdict: Verdict = "confirmed" if share > 0.5 else "contradicted"
        numbers = f"{name}: {share:.0%} pointwise, {depthwise:.0%} depthwise"
        found.append(Claim(title, verdict, numbers))
    return found or [missing(title, "--presets base,paper")]


def pruned(groups: Sequence[Group]) -> list[Claim]:
    title = (
        "UNet++ cut down to level 2 is near level 4 on easy domains, about 18 times smaller and "
        "three times faster"
    )
    found = []
    for name, own in by_level(groups).items():
        pairs = [(levels[2], levels[4]) for levels in own.values() if {2, 4} <= levels.keys()]
        if not pairs:
            continue
        easy = [pair for pair in pairs if pair[1].dice.mean >= EASY]
        gap, noise = mean_gap(easy or pairs)
        smaller = statistics.geometric_mean([b.weights / a.weights for a, b in pairs])
        faster = between(pairs, lambda o: o.volume_s)
        verdict: Verdict = decided(gap + NEAR, noise) if easy else "not decided"
        if easy and not (about(smaller, 18) and about(faster, 3)):
            verdict = "contradicted"
        why = "" if easy else f" (none is easy: no Dice of {EASY})"
        numbers = (
            f"{name}: {dices(easy or pairs)}{why}; {smaller:.1f} times smaller, "
            f"{faster:.1f} times faster on a volume"
        )
        found.append(Claim(title, verdict, numbers))
    return found or [missing(title, "--presets unetpp")]


def few_images(groups: Sequence[Group]) -> list[Claim]:
    title = "Elastic deformation makes few images enough"
    whole = [g for g in groups if g.whole]
    few = [g for g in whole if g.asked.cases is not None]
    bent = [g for g in few if g.asked.elastic]
    found = []
    for cases in sorted({g.asked.cases or 0 for g in bent}):
        own = [g for g in bent if g.asked.cases == cases]
        gains = paired(
            own, [g for g in few if not g.asked.elastic], lambda g: all_but(g, "elastic")
        )
        to_all = paired(
            own, [g for g in whole if g.plainly], lambda g: all_but(g, "elastic", "cases")
        )
        if not gains or not to_all:
            continue
        gain, noise = mean_gap(gains)
        gap, gap_noise = mean_gap(to_all)
        both = (decided(gain, noise), decided(gap + NEAR, gap_noise))
        verdict: Verdict = both[0] if both[0] == both[1] else "not decided"
        if "contradicted" in both:
            verdict = "contradicted"
        numbers = (
            f"{cases} patients: {gain:+.3f} Dice by deforming ({dices(gains)}); "
            f"{gap:+.3f} beside all patients without it"
        )
        found.append(Claim(title, verdict, numbers))
    commands = [
        f"--presets unet,base {few}".rstrip() for few in ("--cases 3", "--cases 3 --elastic", "")
    ]
    return found or [missing(title, *commands)]


def long_skips(groups: Sequence[Group]) -> list[Claim]:
    title = "Long skips, from the encoder to the answer, raise Dice"
    fcn = [g for g in groups if g.plainly and g.family == "fcn"]
    fine, coarse = ([g for g in fcn if _scale(g) == n] for n in (8, 32))
    return _compared(title, paired(fine, coarse, lambda _: None), "fcn8s,fcn8s:stride_out=32")


def short_skips(groups: Sequence[Group]) -> list[Claim]:
    title = "Short skips, past the convolutions of a block, raise Dice"
    whole = [g for g in groups if g.plainly and g.whole]
    with_them, without = ([g for g in whole if _residual(g) is wanted] for wanted in (True, False))
    pairs = paired(with_them, without, lambda g: all_but(g, "block", "residual"))
    return _compared(title, pairs, "base,base:residual=false,unet,unet:block=residual")


def depth_and_size(groups: Sequence[Group]) -> list[Claim]:
    title = "The larger the object, the more it gains from depth"
    claims = []
    for name, own in by_level(groups).items():
        pairs = [(found[min(found)], found[max(found)]) for found in own.values() if len(found) > 1]
        small, large = (gain_of_third(pairs, third) for third in (0, 2))
        if small is None or large is None:
            continue
        noise = max(g.dice.noise for pair in pairs for g in pair)
        numbers = (
            f"{name}, deepest less shallowest level: smallest third of the objects {small:+.3f}, "
            f"largest third {large:+.3f}"
        )
        claims.append(Claim(title, decided(large - small, noise), numbers))
    return claims or [missing(title, "--presets unetpp")]


CLAIMS: tuple[Callable[[Sequence[Group]], list[Claim]], ...] = (
    near_independents,
    separable_cost,
    separable_time,
    mostly_pointwise,
    pruned,
    few_images,
    long_skips,
    short_skips,
    depth_and_size,
)


def _compared(title: str, pairs: Sequence[tuple[Group, Group]], presets: str) -> list[Claim]:
    """One claim of all pairs that the first of each is better."""
    if not pairs:
        return [missing(title, f"--presets {presets}")]
    gap, noise = mean_gap(pairs)
    numbers = f"{dices(pairs, named=True)}; mean {gap:+.3f}"
    return [Claim(title, decided(gap, noise), numbers)]


def _scale(group: Group) -> object:
    """Of an FCN, how much finer its answer is made in one step, as published: 32, 16 or 8."""
    return group.asked.model.options.get("stride_out", 8)


def _residual(group: Group) -> bool | None:
    """Whether blocks have a sum past their convolutions; None where that is not the question."""
    if group.family == "universal":
        return group.asked.model.design.residual
    if group.family == "reference" or group.first.block == "separable":
        return None
    return group.first.block == "residual"
