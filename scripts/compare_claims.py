"""What the papers claim, each a function over the rows of a comparison that says whether it holds.

A difference of Dice decides where it is greater than the seeds differ; what has no rows says which
command would make them. What is counted needs no training, all else networks that were trained.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from compare_evidence import (
    ABOUT,
    NEAR,
    Claim,
    Pairs,
    Verdict,
    about,
    all_but,
    between,
    by_level,
    by_name,
    by_preset,
    counted_on,
    decided,
    dices,
    gain_of_third,
    is_separable,
    mean_gap,
    missing,
    of_pairs,
    overall,
    size_ratio,
)
from compare_groups import Group, domains_of, names_of, paired

EASY = 0.85  # Dice of the deepest level from which on a domain is easy
FEW_WEIGHTS = 0.02  # part of the independents' weights, where about 1 % was claimed
LARGER = 2.0  # times the voxels: the largest third beside the smallest, where size is the question


def all_claims(groups: Sequence[Group]) -> list[Claim]:
    """Every claim, judged by the groups of one budget."""
    return [*(judged(groups) for judged in COUNTED), *(_trained(j, groups) for j in TRAINED)]


def _trained(judged: Callable[[Sequence[Group]], Claim], groups: Sequence[Group]) -> Claim:
    """A claim by what was trained; what only hardly trained networks speak of is not decided."""
    claim = judged([group for group in groups if not group.hardly])
    if claim.basis or not (weak := judged(groups)).basis:
        return claim
    numbers = f"one side was hardly trained: {weak.numbers}"
    return Claim(claim.title, "not decided", numbers, weak.basis)


def separable_cost(groups: Sequence[Group]) -> Claim:
    title = "A separable convolution costs 1/N + 1/k³ of a dense one (N output channels, k³ kernel)"
    own = [group for group in groups if is_separable(group)]
    if not own:
        return missing(title, "--presets base,paper")
    said, right = [], True
    for name, each in by_preset(own):
        macs = [g.outcome.macs for g in each if g.outcome.macs]
        counted = sum(m.pairs for m in macs) / sum(m.as_dense for m in macs)
        expected = sum((m.analytic or 0) * m.as_dense for m in macs) / sum(m.as_dense for m in macs)
        total = sum(m.total for m in macs)
        net = total / (total - sum(m.pairs for m in macs) + sum(m.as_dense for m in macs))
        right = right and abs(counted / expected - 1) <= 0.01
        said.append(f"{name} {counted:.4f} (formula {expected:.4f}; whole network {net:.4f})")
    verdict: Verdict = "checked" if right else "contradicted"
    numbers = f"our own count of multiply-adds: {'; '.join(said)}"
    return Claim(title, verdict, numbers, counted_on(own))


def separable_time(groups: Sequence[Group]) -> Claim:
    title = "What a separable network saves in multiply-adds it saves in processor time"
    whole = [g for g in groups if g.plainly and g.whole and g.outcome.macs]
    pairs = paired(
        [g for g in whole if g.first.block == "separable"],
        [g for g in whole if g.first.block == "plain"],
        lambda g: all_but(g, "block"),
    )
    if not pairs:
        return missing(title, "--presets unetpp,unetpp:block=separable")
    macs = between(pairs, lambda o: o.macs.total if o.macs else 1)
    times = [between(pairs, lambda o: o.step_s), between(pairs, lambda o: o.volume_s)]
    numbers = (
        f"{', '.join(names_of(a for a, _ in pairs))} beside "
        f"{', '.join(names_of(b for _, b in pairs))}: {macs:.1f} times fewer multiply-adds; a "
        f"training step is {times[0]:.1f} times faster, a volume {times[1]:.1f} times"
    )
    each: list[Verdict] = [
        "confirmed" if time >= macs * (1 - ABOUT) else "contradicted" for time in times
    ]
    return Claim(title, overall(each), numbers, of_pairs(pairs))


def mostly_pointwise(groups: Sequence[Group]) -> Claim:
    title = "Nearly all multiply-adds of a separable network are pointwise: 95 % in MobileNet, 2-D"
    own = [group for group in groups if is_separable(group)]
    if not own:
        return missing(title, "--presets base,paper")
    said, each = [], list[Verdict]()
    for name, named in by_preset(own):
        macs = [g.outcome.macs for g in named if g.outcome.macs]
        total = sum(m.total for m in macs)
        share = sum(m.pointwise for m in macs) / total
        said.append(f"{name} {share:.0%} ({sum(m.depthwise for m in macs) / total:.0%} depthwise)")
        each.append("confirmed" if about(share, 0.95) else "contradicted")
    return Claim(title, overall(each), "; ".join(said), counted_on(own))


def near_independents(groups: Sequence[Group]) -> Claim:
    title = "One universal network is near independent ones, with about 1 % of the weights a domain"
    whole = [g for g in groups if g.plainly and g.whole]
    alone = [g for g in whole if g.asked.model.options.get("adapter") == "independent"]
    shared = [g for g in whole if g.first.together and g.first.block == "separable"]
    said, each, every = [], list[Verdict](), list[tuple[Group, Group]]()
    for name, own in by_name(shared):
        pairs = paired(own, alone, lambda _: None)
        if not pairs:
            continue
        gap, noise = mean_gap(pairs)
        share = sum(a.weights for a, _ in pairs) / sum(b.weights for _, b in pairs)
        near = decided(gap + NEAR, noise)
        each.append("in part" if near == "confirmed" and share > FEW_WEIGHTS else near)
        said.append(f"{name}: {dices(pairs)}; mean {gap:+.3f}; {share:.1%} of the weights")
        every += pairs
    if not every:
        commands = ("--presets reference-independent", "--together --presets base,paper")
        return missing(title, *commands)
    return Claim(title, overall(each), "; ".join(said), of_pairs(every))


def lead_of_optimiser(groups: Sequence[Group]) -> Claim:
    title = "The lead of `base` over dense networks is its optimiser's, Muon"
    whole = [g for g in groups if g.plainly and g.whole and not g.first.together]
    bases = [g for g in whole if g.asked.preset == "base"]
    adamw = {g.domain: g for g in bases if g.asked.training == {"optimiser": "adamw"}}
    plain = {g.domain: g for g in bases if not g.asked.training}
    leads, without = list[tuple[Group, Group]](), list[tuple[Group, Group]]()
    for domain in domains_of(g for g in bases if g.domain in adamw.keys() & plain.keys()):
        dense = [g for g in whole if g.domain == domain and g.first.block != "separable"]
        if dense:
            best = max(dense, key=lambda g: g.dice.mean)
            leads.append((plain[domain], best))
            without.append((adamw[domain], best))
    if not leads:
        ends = ("base,unet,unetpp,fcn8s", "base --set optimiser=adamw")
        return missing(title, *(f"--presets {end}" for end in ends))
    (lead, noise), (left, its_noise) = mean_gap(leads), mean_gap(without)
    verdict: Verdict = "not decided"
    if decided(left, its_noise) == "confirmed":
        verdict = "contradicted"
    elif decided(lead, noise) == decided(lead - left, noise) == "confirmed":
        verdict = "confirmed"
    numbers = (
        f"base {dices(leads, named=True)}: mean {lead:+.3f}; with AdamW {dices(without)}: mean "
        f"{left:+.3f}"
    )
    return Claim(title, verdict, numbers, of_pairs([*leads, *without]))


def pruned(groups: Sequence[Group]) -> Claim:
    title = (
        "UNet++ cut down to level 2 is near level 4 on easy domains, about 18 times smaller and "
        "three times faster"
    )
    said, each, every = [], list[Verdict](), list[tuple[Group, Group]]()
    for name, own in by_level(groups).items():
        pairs = [(levels[2], levels[4]) for levels in own.values() if {2, 4} <= levels.keys()]
        if not pairs:
            continue
        easy = [pair for pair in pairs if pair[1].dice.mean >= EASY]
        gap, noise = mean_gap(easy or pairs)
        smaller = statistics.geometric_mean([b.weights / a.weights for a, b in pairs])
        faster = between(pairs, lambda o: o.volume_s)
        verdict: Verdict = decided(gap + NEAR, noise) if easy else "not decided"
        if verdict == "confirmed" and not (about(smaller, 18) and about(faster, 3)):
            verdict = "in part"
        why = "" if easy else f" (none is easy: no Dice of {EASY})"
        said.append(
            f"{name}: {dices(easy or pairs)}{why}; {smaller:.1f} times smaller, {faster:.1f} times "
            "faster on a volume"
        )
        each.append(verdict)
        every += easy or pairs
    if not every:
        return missing(title, "--presets unetpp")
    return Claim(title, overall(each), "; ".join(said), of_pairs(every))


def few_images(groups: Sequence[Group]) -> Claim:
    title = "Elastic deformation makes few images enough"
    whole = [g for g in groups if g.whole]
    few = [g for g in whole if g.asked.cases is not None]
    gains, to_all, said = list[tuple[Group, Group]](), list[tuple[Group, Group]](), []
    for cases in sorted({g.asked.cases or 0 for g in few}):
        bent, plain = (
            [g for g in few if g.asked.cases == cases and g.asked.elastic is elastic]
            for elastic in (True, False)
        )
        own = paired(bent, plain, lambda g: all_but(g, "elastic"))
        full = [g for g in whole if g.plainly]
        rest = paired(bent, full, lambda g: all_but(g, "elastic", "cases"))
        if own and rest:
            gains, to_all = [*gains, *own], [*to_all, *rest]
            said.append(
                f"{cases} patients: {mean_gap(own)[0]:+.3f} Dice by deforming ({dices(own)}), "
                f"{mean_gap(rest)[0]:+.3f} beside all patients without it"
            )
    if not gains:
        ends = (" --cases 3", " --cases 3 --elastic", "")
        return missing(title, *(f"--presets unet{end}" for end in ends))
    (gain, noise), (gap, gap_noise) = mean_gap(gains), mean_gap(to_all)
    both = (decided(gain, noise), decided(gap + NEAR, gap_noise))
    verdict: Verdict = "contradicted" if "contradicted" in both else "not decided"
    verdict = both[0] if both[0] == both[1] else verdict
    return Claim(title, verdict, "; ".join(said), of_pairs([*gains, *to_all]))


def long_skips(groups: Sequence[Group]) -> Claim:
    title = "Long skips, from the encoder to the answer, raise Dice"
    fcn = [g for g in groups if g.plainly and g.family == "fcn"]
    fine, coarse = ([g for g in fcn if _scale(g) == n] for n in (8, 32))
    return _compared(title, paired(fine, coarse, lambda _: None), "fcn8s,fcn8s:stride_out=32")


def short_skips(groups: Sequence[Group]) -> Claim:
    title = "Short skips, past the convolutions of a block, raise Dice"
    whole = [g for g in groups if g.plainly and g.whole]
    with_them, without = ([g for g in whole if _residual(g) is wanted] for wanted in (True, False))
    pairs = paired(with_them, without, lambda g: all_but(g, "block", "residual"))
    return _compared(title, pairs, "base,base:residual=false,unet,unet:block=residual")


def depth_and_size(groups: Sequence[Group]) -> Claim:
    title = "The larger the object, the more it gains from depth"
    said, every, more = [], list[tuple[Group, Group]](), list[float]()
    for name, own in by_level(groups).items():
        for levels in (found for found in own.values() if len(found) > 1):
            pair = levels[min(levels)], levels[max(levels)]
            small, large = (gain_of_third(pair, third) for third in (0, 2))
            if size_ratio(pair[1]) >= LARGER and large - small == large - small:  # none is nan
                said.append(f"{name} {pair[1].domain} {small:+.3f} and {large:+.3f}")
                every.append(pair)
                more.append(large - small)
    if not every:
        return missing(title, "--presets unetpp")
    noise = 2 * max(g.dice.noise for pair in every for g in pair)  # of a difference of differences
    numbers = (
        f"deepest level less the shallowest, on the smallest and the largest third, where that is "
        f"{LARGER:g} times larger: {'; '.join(said)}; mean {statistics.mean(more):+.3f} more"
    )
    return Claim(title, decided(statistics.mean(more), noise), numbers, of_pairs(every))


COUNTED: tuple[Callable[[Sequence[Group]], Claim], ...] = (
    separable_cost,
    separable_time,
    mostly_pointwise,
)
TRAINED: tuple[Callable[[Sequence[Group]], Claim], ...] = (
    near_independents,
    lead_of_optimiser,
    pruned,
    few_images,
    long_skips,
    short_skips,
    depth_and_size,
)


def _compared(title: str, pairs: Pairs, presets: str) -> Claim:
    """A claim that of all pairs the first is better."""
    if not pairs:
        return missing(title, f"--presets {presets}")
    gap, noise = mean_gap(pairs)
    numbers = f"{dices(pairs, named=True)}; mean {gap:+.3f}"
    return Claim(title, decided(gap, noise), numbers, of_pairs(pairs))


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
