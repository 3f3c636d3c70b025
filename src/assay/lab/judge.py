"""From trials to verdicts: every claim becomes one number per seed and a region that its mean should lie in.

| claim | number per seed | region |
|---|---|---|
| Better | method - baseline, sign flipped when less is better | > by |
| NotWorse | the same | > -margin |
| NotWorse, `margin_of` | the same + margin * gap of the two named arms | > 0 |
| Same | method - baseline | within ±margin |
| Ratio | log(baseline / method), or of its inverse when more is better | >= log(at_least) |
| Bound | the figure | <= at_most or >= at_least |
| Slope | slope of log(figure) on log(size) | <= at_most |

Supported: the 95% interval of the mean lies inside the region, and the Holm-adjusted p is at most 0.05.
Contradicted: it lies wholly outside, and the adjusted p of that direction is at most 0.05. Inconclusive: all else.

p is the two-sided Student t p against the boundary (the nearer one of `Same`), so that p <= 0.05 exactly when the
interval excludes that boundary. Inside the region of `Same` that is twice the p of the two one-sided tests: these at 5%
would ask only for the 90% interval inside ±margin. Each claim enters Holm's correction with the p of the direction it
points in; the family is every claim of the study that is judged at the scale, controls and gated claims included.

Several baselines: supported only if all are beaten, so p is the largest of theirs and needs no correction; contradicted
if one of k baselines contradicts, p = k times the smallest of those that do. Shown are the numbers of the hardest one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from assay.lab import statistics as st
from assay.lab.claims import Better, Bound, Claim, Comparison, Gate, NotWorse, Ratio, Same, Slope
from assay.lab.evidence import Evidence
from assay.lab.statistics import Array

Outcome = Literal["supported", "contradicted", "inconclusive"]
Control = Literal["held", "failed", "undecided"]
OUTCOMES: tuple[Outcome, ...] = ("supported", "contradicted", "inconclusive")


@dataclass(frozen=True)
class Verdict:
    """What the evidence says of one claim. A number that could not be had is None.

    Attributes:
        name, kind, sentence, metric, method, paper: of the claim; `paper` is the paper's own figure.
        outcome: supported, contradicted or inconclusive.
        estimate, low, high: mean and 95% interval of the judged number in its natural unit: the paired difference
            (positive is good; of `Same`, method - baseline), the ratio (geometric mean), the figure, the slope.
        region: where the claim wants it, such as `"> 0"` or `"within ±0.2"`.
        p, p_holm: two-sided, and adjusted over the study's claims (None where the claim is not judged at the scale).
        p_sign_flip: two-sided sign-flip permutation p; None where seeds are resamples of one data set.
        n, n_planned: pairs used, of how many seeds.
        method_mean, baseline_means: plain means of the metric over the pairs used.
        baseline: the arm the numbers are against, the hardest of several; empty for `Bound` and `Slope`.
        expected: the declared outcome of a negative control.
        control: whether the control held; None for an ordinary claim.
        reason: why it is inconclusive, what was left out, which baseline was hardest; may be empty.
    """

    name: str
    kind: str
    sentence: str
    metric: str
    method: str
    outcome: Outcome
    region: str
    paper: str = ""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    p_sign_flip: float | None = None
    n: int = 0
    n_planned: int = 0
    method_mean: float | None = None
    baseline_means: Mapping[str, float | None] = field(default_factory=dict)
    baseline: str = ""
    expected: str | None = None
    control: Control | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain data, fit for strict JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """The verdict that `as_dict` gave; unknown fields are left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})


def judge(
    claims: Sequence[Claim],
    gates: Sequence[Gate],
    evidence: Evidence,
    *,
    resampled: bool | None = None,
    level: float = 0.95,
) -> list[Verdict]:
    """Judge a study's claims at the scale of the evidence.

    Args:
        claims: in the study's order; all of them, as they are corrected together.
        gates: figures that must hold; a failing one makes the claims it guards inconclusive.
        evidence: the finished trials. A seed that lacks one side of a pair is dropped and counted in the reason.
        resampled: seeds are bootstrap resamples of one fixed data set (None: as the evidence says). Then the spread
            over seeds is itself the standard error of the figure and is not divided by sqrt(n): more resamples are not
            more data (`statistics.resampled_error`). A sign-flip test takes seeds as independent and is not given.
        level: of the intervals; claims are tested at 1 - level.

    Returns:
        One verdict per claim, in order.
    """
    resampled = evidence.resampled if resampled is None else resampled
    weighed = [_weigh(claim, evidence, resampled, level) for claim in claims]
    judged = [i for i, claim in enumerate(claims) if evidence.scale in claim.scales]
    adjusted = dict(zip(judged, st.holm([weighed[i].p for i in judged]), strict=True))
    shut = [(gate, why) for gate in gates if (why := _failure(gate, evidence))]

    verdicts = []
    for i, (claim, weight) in enumerate(zip(claims, weighed, strict=True)):
        blocks = [why for gate, why in shut if not gate.claims or claim.name in gate.claims]
        if i not in adjusted:
            blocks = [f"not judged at {evidence.scale} scale"]
        verdicts.append(_verdict(claim, weight, evidence, blocks, adjusted.get(i), 1 - level))
    return verdicts


def overall(verdicts: Iterable[Verdict]) -> Outcome:
    """The word for a whole study: the outcome of its first claim that is not a control; inconclusive if it has none."""
    return next((v.outcome for v in verdicts if v.expected is None), "inconclusive")


def counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many claims came out each way, and how many controls failed."""
    found = list(verdicts)
    tally: dict[str, int] = {word: sum(v.expected is None and v.outcome == word for v in found) for word in OUTCOMES}
    return {**tally, "failed controls": sum(v.control == "failed" for v in found)}


@dataclass(frozen=True)
class _Region:
    """low < mean < high on the scale that is judged; closed where a figure may equal its limit."""

    words: str
    low: float = -np.inf
    high: float = np.inf
    closed: bool = False

    def nearer(self, mean: float) -> float:
        return self.low if abs(mean - self.low) <= abs(mean - self.high) else self.high


@dataclass(frozen=True)
class _Weighed:
    """The numbers of a claim against one baseline (or none), before correction for the other claims."""

    estimate: float
    low: float
    high: float
    inside: bool
    p: float
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


def _weigh(claim: Claim, evidence: Evidence, resampled: bool, level: float) -> _Weighed:
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
    return replace(
        hardest, p=p, baseline_means=means, block=block, notes=(*notes, f"the hardest baseline was {hardest.baseline}")
    )


def _weigh_one(claim: Claim, evidence: Evidence, baseline: str, resampled: bool, level: float) -> _Weighed:
    region = _region(claim)
    numbers, method, other, block, wrong = _numbers(claim, evidence, baseline, resampled)
    used = np.isfinite(numbers)
    x = numbers[used]
    error = st.resampled_error(x) if resampled else None
    mean, low, high = st.t_interval(x, level, error)
    boundary = region.nearer(mean)
    inside = region.low < mean < region.high
    p = st.t_p(x, boundary, standard_error=error)
    if isinstance(claim, Same) and inside:
        p = min(1.0, 2 * st.tost_p(x, claim.margin, error))
    if region.closed and st.constant_at(x, boundary):  # a figure that always equals its limit keeps it
        inside, p = True, 0.0
    flip = None if resampled else st.sign_flip_p(x, boundary)
    natural = np.exp if isinstance(claim, Ratio) else np.asarray
    with np.errstate(over="ignore"):
        estimate, low, high = (float(natural(value)) for value in (mean, low, high))
    notes: tuple[str, ...] = ()
    if 0 < x.size < len(numbers):
        notes = (f"{len(numbers) - x.size} of {len(numbers)} seeds were left out ({wrong})",)
    elif x.size == 0:
        block = f"nothing was measured ({wrong})"
    elif x.size == 1:
        block = "one seed has no interval"
    means = {baseline: _mean(other[used])} if baseline else {}
    return _Weighed(
        estimate, low, high, inside, p, flip, int(x.size), _mean(method[used]), baseline, means, block, notes
    )


def _numbers(claim: Claim, evidence: Evidence, baseline: str, resampled: bool) -> tuple[Array, Array, Array, str, str]:
    """Per seed the judged number and both sides' means; why it may not be judged; what a missing number means."""
    wrong = f"{claim.metric} is missing or not finite"
    if isinstance(claim, Slope):
        table = _table(evidence, claim.metric, claim.method, list(claim.sizes))
        sizes = list(claim.sizes.values())
        slopes = np.array([st.slope(sizes, row) for row in table])
        return slopes, table.mean(axis=1), table.mean(axis=1), "", f"{wrong}, or not positive"
    if not isinstance(claim, Comparison):
        table = _table(evidence, claim.metric, claim.method, claim.conditions or evidence.conditions_of(claim.method))
        return table.mean(axis=1), table.mean(axis=1), table.mean(axis=1), "", wrong

    here, there = _conditions(claim, evidence, baseline)
    metric = claim.baseline_metric or claim.metric
    ours, theirs = _table(evidence, claim.metric, claim.method, here), _table(evidence, metric, baseline, there)
    method, other = ours.mean(axis=1), theirs.mean(axis=1)
    if metric != claim.metric:
        wrong = f"{claim.metric} or {metric} is missing or not finite"
    if not here or not there:
        return method, method, other, "", f"{claim.method} and {baseline} share no condition"
    if isinstance(claim, Ratio):
        usable = np.all(ours > 0, axis=1) & np.all(theirs > 0, axis=1)
        top, bottom = (method, other) if claim.higher else (other, method)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(usable, np.log(top) - np.log(bottom), np.nan)
        return logs, method, other, "", f"{wrong}, or not positive"

    sign = 1.0 if claim.higher or isinstance(claim, Same) else -1.0
    difference = sign * _subtract(method, other)
    if isinstance(claim, NotWorse) and claim.margin_of:
        gap, block = _gap(claim, evidence, baseline, here, sign, resampled)
        return difference + claim.margin * gap, method, other, block, wrong
    return difference, method, other, "", wrong


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
    mean = _mean(st.finite(gap))
    return (
        gap,
        f"the margin is a share of the gap by which {first} beats {second}, which is not clearly above 0 ({mean:.3g})",
    )


def _region(claim: Claim) -> _Region:
    if isinstance(claim, Better):
        return _Region(f"> {claim.by:g}", low=claim.by)
    if isinstance(claim, NotWorse) and claim.margin_of:
        return _Region("> 0", low=0.0)
    if isinstance(claim, NotWorse):
        return _Region(f"> {-claim.margin:g}", low=-claim.margin)
    if isinstance(claim, Same):
        return _Region(f"within ±{claim.margin:g}", low=-claim.margin, high=claim.margin)
    if isinstance(claim, Ratio):
        return _Region(f">= {claim.at_least:g}", low=float(np.log(claim.at_least)), closed=True)
    if isinstance(claim, Slope) or (isinstance(claim, Bound) and claim.at_most is not None):
        return _Region(f"<= {claim.at_most:g}", high=float(claim.at_most or 0.0), closed=True)
    if isinstance(claim, Bound):
        return _Region(f">= {claim.at_least:g}", low=float(claim.at_least or 0.0), closed=True)
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


def _table(evidence: Evidence, metric: str, arm: str, conditions: Sequence[str]) -> Array:
    """The metric by seed and condition, `(S, C)`; one column of NaN when there is no condition."""
    columns = [evidence.values(metric, arm, condition) for condition in conditions]
    return np.stack(columns or [np.full(len(evidence.seeds), np.nan)], axis=1)


def _subtract(a: Array, b: Array) -> Array:
    """a - b, with what rounding leaves of equal numbers set to 0."""
    with np.errstate(invalid="ignore"):
        d = a - b
        tiny = np.abs(d) <= st.ROUNDING * np.maximum(np.abs(a), np.abs(b))
        return np.where(tiny, 0.0 * d, d)  # 0 * d, as d from an infinite side must end up NaN and not 0


def _failure(gate: Gate, evidence: Evidence) -> str:
    """Why a gate is shut, in a sentence; empty when it holds."""
    x = evidence.values(gate.metric, gate.method, gate.condition or None)
    mean = _mean(x[~np.isnan(x)])  # an infinite figure counts: a gate is there to catch what diverged
    limit = f"at most {gate.at_most:g}" if gate.at_most is not None else f"at least {gate.at_least:g}"
    holds = mean <= gate.at_most if gate.at_most is not None else mean >= (gate.at_least or 0.0)
    if holds:
        return ""
    where = f"{gate.metric} of {gate.method}" + (f" in {gate.condition}" if gate.condition else "")
    found = "could not be measured" if np.isnan(mean) else f"is {mean:.4g}"
    return f"{where} {found} and must be {limit}" + (f": {gate.why}" if gate.why else "")


def _verdict(
    claim: Claim, weight: _Weighed, evidence: Evidence, blocks: list[str], p_holm: float | None, alpha: float
) -> Verdict:
    blocks = blocks or ([weight.block] if weight.block else [])
    outcome: Outcome = "inconclusive"
    if not blocks and p_holm is not None and p_holm <= alpha:
        outcome = "supported" if weight.inside else "contradicted"
    region = _region(claim).words
    why = []
    if blocks:
        why = blocks
    elif outcome == "inconclusive" and weight.p <= alpha:
        why = [f"p = {weight.p:.2g} does not survive the correction over the study's claims"]
    elif outcome == "inconclusive":
        why = [f"the interval reaches across the limit ({region})"]
    return Verdict(
        name=claim.name,
        kind=claim.kind,
        sentence=claim.sentence(),
        metric=claim.metric,
        method=claim.method,
        outcome=outcome,
        region=region,
        paper=claim.paper,
        estimate=_number(weight.estimate),
        low=_number(weight.low),
        high=_number(weight.high),
        p=_number(weight.p),
        p_holm=p_holm,
        p_sign_flip=weight.p_sign_flip,
        n=weight.n,
        n_planned=len(evidence.seeds),
        method_mean=_number(weight.method_mean),
        baseline_means={arm: _number(mean) for arm, mean in weight.baseline_means.items()},
        baseline=weight.baseline,
        expected=claim.expected,
        control=_control(claim, outcome, judged=not blocks),
        reason="; ".join([*why, *weight.notes]),
    )


def _control(claim: Claim, outcome: Outcome, judged: bool) -> Control | None:
    """Whether a negative control held. One that could not be judged is undecided, whatever was expected."""
    if claim.expected is None:
        return None
    if not judged:
        return "undecided"
    if claim.expected == "not supported":
        return "failed" if outcome == "supported" else "held"
    if outcome == "inconclusive":
        return "undecided"
    return "held" if outcome == claim.expected else "failed"


def _mean(x: Array) -> float:
    return float(x.mean()) if x.size else np.nan


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
