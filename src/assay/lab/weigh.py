"""From a claim and its trials to one number per seed, the region its mean should lie in, and a p-value.

| claim | number per seed | region |
|---|---|---|
| Better | method - baseline, sign flipped when less is better | > by |
| NotWorse | the same | > -margin |
| NotWorse, `margin_of` | the same + margin * gap of the two named arms | > 0 |
| Same | method - baseline | within ±margin |
| Ratio | log(baseline / method), or of its inverse when more is better | >= log(at_least) |
| Bound | the figure | <= at_most or >= at_least |
| Slope | slope of log(figure) on log(size) | <= at_most |

A side's figure is its mean over the claim's conditions. p is the two-sided Student t p against the boundary (the nearer
one of `Same`), so that p <= 0.05 exactly when the 95% interval excludes that boundary. Inside the region of `Same` that
is twice the p of the two one-sided tests: these at 5% would ask only for the 90% interval inside ±margin.

Several baselines: supported only if all are beaten, so p is the largest of theirs and needs no correction; contradicted
if one of k baselines contradicts, p = k times the smallest of those that do. Shown are the numbers of the hardest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from assay.lab import statistics as st
from assay.lab.claims import Better, Bound, Claim, Comparison, NotWorse, Ratio, Same, Slope
from assay.lab.evidence import Evidence
from assay.lab.statistics import Array


@dataclass(frozen=True)
class Region:
    """low < mean < high, in logarithms for `Ratio`; closed where a figure may equal its limit."""

    words: str
    low: float = -np.inf
    high: float = np.inf
    closed: bool = False

    def nearer(self, mean: float) -> float:
        return self.low if abs(mean - self.low) <= abs(mean - self.high) else self.high


@dataclass(frozen=True)
class Weighed:
    """The numbers of a claim before correction for the study's other claims; `Verdict` says what they are.

    `inside` is whether the mean lies in the region; `p_alone` is the p of the baseline that is shown, `p` that of all;
    `block` says why the claim may not be judged, empty if it may.
    """

    estimate: float
    low: float
    high: float
    inside: bool
    p: float
    p_alone: float
    p_sign_flip: float | None
    n: int
    method_mean: float
    baseline: str = ""
    baseline_means: Mapping[str, float] = field(default_factory=dict)
    block: str = ""
    notes: tuple[str, ...] = ()

    @property
    def hardness(self) -> tuple[bool, float, float]:
        """Grows with the evidence against the claim."""
        return not self.inside, self.p if self.inside else -self.p, -self.estimate


def weigh(claim: Claim, evidence: Evidence, resampled: bool | None, level: float) -> Weighed:
    """Weigh a claim against its baseline, or the hardest of several."""
    if not isinstance(claim, Comparison):
        return _weigh_one(claim, evidence, "", resampled, level)
    sides = [_weigh_one(claim, evidence, arm, resampled, level) for arm in claim.baselines]
    if len(sides) == 1:
        return sides[0]
    hardest = max(sides, key=lambda side: side.hardness)
    against = [side.p for side in sides if not side.inside]
    p = min(1.0, len(sides) * min(against)) if against else max(side.p for side in sides)
    means = {arm: mean for side in sides for arm, mean in side.baseline_means.items()}
    block = hardest.block or next((side.block for side in sides if side.block and not against), "")
    missing = [f"against {side.baseline}: {side.block}" for side in sides if side.block and side.block != block]
    notes = dict.fromkeys([*missing, *(note for side in sides for note in side.notes)])
    named = (*notes, f"the hardest baseline was {hardest.baseline}")
    return replace(hardest, p=p, baseline_means=means, block=block, notes=named)


def _weigh_one(claim: Claim, evidence: Evidence, baseline: str, given: bool | None, level: float) -> Weighed:
    region = region_of(claim)
    resampled = evidence.resamples(_all_conditions(claim, evidence, baseline)) if given is None else given
    seeds = _per_seed(claim, evidence, baseline, resampled)
    used = np.isfinite(seeds.judged)
    x = seeds.judged[used]
    error = st.resampled_error(x) if resampled else None
    mean, low, high = st.t_interval(x, level, error)
    boundary = region.nearer(mean)
    inside = region.low < mean < region.high
    p = st.t_p(x, boundary, standard_error=error)
    if isinstance(claim, Same) and inside:
        p = min(1.0, 2 * st.tost_p(x, claim.margin, error))
    if region.closed and st.constant_at(x, boundary):  # a figure that always equals its limit keeps it
        inside, p = True, 0.0
    if isinstance(claim, Ratio):
        mean, low, high = (float(np.exp(value)) for value in (mean, low, high))

    block, lost = seeds.block, len(used) - x.size
    if x.size < 2:
        block = "one seed has no interval" if x.size else f"nothing was measured ({seeds.missing})"
    return Weighed(
        estimate=mean,
        low=low,
        high=high,
        inside=inside,
        p=p,
        p_alone=p,
        p_sign_flip=None if resampled else st.sign_flip_p(x, boundary),
        n=int(x.size),
        method_mean=_mean(seeds.method[used]),
        baseline=baseline,
        baseline_means={baseline: _mean(seeds.baseline[used])} if baseline else {},
        block=block,
        notes=(f"{lost} of {len(used)} seeds were left out ({seeds.missing})",) if lost and x.size else (),
    )


@dataclass(frozen=True)
class _PerSeed:
    """The judged number of each seed, both sides' figures, and words for what went wrong.

    `missing` says what it means when a number is not there, `block` why the claim may not be judged at all.
    """

    judged: Array
    method: Array
    baseline: Array
    missing: str
    block: str = ""


def _per_seed(claim: Claim, evidence: Evidence, baseline: str, resampled: bool) -> _PerSeed:
    missing = f"{claim.metric} is missing or not finite"
    if isinstance(claim, Comparison):
        return _compare(claim, evidence, baseline, resampled, missing)
    if isinstance(claim, Slope):
        table = _table(evidence, claim.metric, claim.method, list(claim.sizes))
        slopes = np.array([st.slope(list(claim.sizes.values()), row) for row in table])
        return _PerSeed(slopes, table.mean(axis=1), slopes, f"{missing}, or not positive")
    figure = _table(evidence, claim.metric, claim.method, _all_conditions(claim, evidence, baseline)).mean(axis=1)
    return _PerSeed(figure, figure, figure, missing)


def _compare(claim: Comparison, evidence: Evidence, baseline: str, resampled: bool, missing: str) -> _PerSeed:
    here, there = _conditions(claim, evidence, baseline)
    other_metric = claim.baseline_metric or claim.metric
    if other_metric != claim.metric:
        missing = f"{claim.metric} or {other_metric} is missing or not finite"
    if not here or not there:
        missing = f"{claim.method} and {baseline} share no condition"
    ours, theirs = _table(evidence, claim.metric, claim.method, here), _table(evidence, other_metric, baseline, there)
    method, other = ours.mean(axis=1), theirs.mean(axis=1)
    if isinstance(claim, Ratio):
        positive = np.all(ours > 0, axis=1) & np.all(theirs > 0, axis=1)
        logs = np.log(np.where(positive, method, np.nan)) - np.log(np.where(positive, other, np.nan))
        return _PerSeed(logs if claim.higher else -logs, method, other, f"{missing}, or not positive")

    sign = 1.0 if claim.higher or isinstance(claim, Same) else -1.0
    difference = sign * _subtract(method, other)
    if isinstance(claim, NotWorse) and claim.margin_of:
        gap, block = _gap(claim, evidence, baseline, here, sign, resampled)
        return _PerSeed(difference + claim.margin * gap, method, other, missing, block)
    return _PerSeed(difference, method, other, missing)


def _gap(
    claim: NotWorse, evidence: Evidence, baseline: str, conditions: Sequence[str], sign: float, resampled: bool
) -> tuple[Array, str]:
    """How much better, per seed, the baseline is than the other arm of `margin_of` (the first, if neither is it).

    A share of a gap is a margin only where there is a gap: unless it is significantly above 0 the claim is not judged.
    The gap keeps its sign in single seeds, as the mean of |gap| would be a margin made of noise.
    """
    first, second = claim.margin_of or ("", "")
    if second == baseline:
        first, second = second, first
    better, worse = (_table(evidence, claim.metric, arm, conditions).mean(axis=1) for arm in (first, second))
    gap = sign * _subtract(better, worse)
    p = st.t_p(gap, 0.0, "greater", st.resampled_error(gap) if resampled else None)
    if p <= 0.025:
        return gap, ""
    mean = f"{_mean(st.finite(gap)):.3g}"
    return (
        gap,
        f"the margin is a share of the gap by which {first} beats {second}; that is not clearly above 0 ({mean})",
    )


def region_of(claim: Claim) -> Region:
    """Where the mean of the judged number should lie."""
    if isinstance(claim, Better):
        return Region(f"> {claim.by:g}", low=claim.by)
    if isinstance(claim, NotWorse) and claim.margin_of:
        return Region("> 0", low=0.0)
    if isinstance(claim, NotWorse):
        return Region(f"> {-claim.margin:g}", low=-claim.margin)
    if isinstance(claim, Same):
        return Region(f"within ±{claim.margin:g}", low=-claim.margin, high=claim.margin)
    if isinstance(claim, Ratio):
        return Region(f">= {claim.at_least:g}", low=float(np.log(claim.at_least)), closed=True)
    if isinstance(claim, Slope) or (isinstance(claim, Bound) and claim.at_most is not None):
        return Region(f"<= {claim.at_most:g}", high=float(claim.at_most or 0.0), closed=True)
    if isinstance(claim, Bound):
        return Region(f">= {claim.at_least:g}", low=float(claim.at_least or 0.0), closed=True)
    raise TypeError(f"no rule for a claim of kind {claim.kind!r}")


def _conditions(claim: Comparison, evidence: Evidence, baseline: str) -> tuple[list[str], list[str]]:
    """Conditions of both sides; where the claim names none, those that both arms run in, so that like meets like."""
    here, there = list(claim.conditions), claim.baseline_conditions
    if there is not None:
        return here or evidence.conditions_of(claim.method), list(there) or evidence.conditions_of(baseline)
    if here:
        return here, here
    arms = {claim.method, baseline, *(getattr(claim, "margin_of", None) or ())}
    shared = [c for c in evidence.conditions_of(claim.method) if all(c in evidence.conditions_of(a) for a in arms)]
    return shared, shared


def _all_conditions(claim: Claim, evidence: Evidence, baseline: str) -> list[str]:
    """Every condition whose figures a claim rests on."""
    if isinstance(claim, Comparison):
        here, there = _conditions(claim, evidence, baseline)
        return list(dict.fromkeys([*here, *there]))
    if isinstance(claim, Slope):
        return list(claim.sizes)
    return list(claim.conditions) or evidence.conditions_of(claim.method)


def _table(evidence: Evidence, metric: str, arm: str, conditions: Sequence[str]) -> Array:
    """The metric by seed and condition, `(S, C)`; one column of NaN when there is no condition."""
    columns = [evidence.values(metric, arm, condition) for condition in conditions]
    return np.stack(columns or [np.full(len(evidence.seeds), np.nan)], axis=1)


def _subtract(a: Array, b: Array) -> Array:
    """a - b, with what rounding leaves of equal numbers set to 0."""
    d = a - b
    tiny = np.abs(d) <= st.ROUNDING * np.maximum(np.abs(a), np.abs(b))
    return np.where(tiny, 0.0 * d, d)  # 0 * d, as d from an infinite side must end up NaN and not 0


def _mean(x: Array) -> float:
    return float(x.mean()) if x.size else np.nan
