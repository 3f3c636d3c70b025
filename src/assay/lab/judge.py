"""From trials to verdicts: what the evidence says of each claim of a study.

`weigh.py` makes of every claim one number per seed and a region that its mean should lie in. Then

- supported: the 95% interval of the mean lies inside the region, and the Holm-adjusted p is at most 0.05;
- contradicted: it lies wholly outside, and the adjusted p is at most 0.05;
- inconclusive: all else.

p is two-sided and at most 0.05 exactly when the interval excludes the boundary, so the adjusted p and the side on which
the mean lies decide. Holm's family is every claim of the study that is judged at the scale, controls and gated claims
included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np

from assay.lab.claims import Claim, Gate
from assay.lab.evidence import Evidence
from assay.lab.statistics import holm
from assay.lab.weigh import Weighed, region_of, weigh

Outcome = Literal["supported", "contradicted", "inconclusive"]
Control = Literal["held", "failed", "undecided"]


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
        resampled: seeds are bootstrap resamples of one fixed data set (None: as the evidence says of the conditions of
            each claim). Then the spread over seeds is itself the standard error of the figure and is not divided by
            sqrt(n): more resamples are not more data (`statistics.resampled_error`). A sign-flip test takes seeds as
            independent and is not given.
        level: of the intervals; claims are tested at 1 - level.

    Returns:
        One verdict per claim, in order.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # infinite figures are looked after where they matter
        weighed = [weigh(claim, evidence, resampled, level) for claim in claims]
    judged = [i for i, claim in enumerate(claims) if evidence.scale in claim.scales]
    adjusted = dict(zip(judged, holm([weighed[i].p for i in judged]), strict=True))
    shut = [(gate, why) for gate in gates if (why := _failure(gate, evidence))]

    verdicts = []
    for i, (claim, weight) in enumerate(zip(claims, weighed, strict=True)):
        blocks = [why for gate, why in shut if not gate.claims or claim.name in gate.claims]
        if i not in adjusted:
            blocks = [f"not judged at {evidence.scale} scale"]
        verdicts.append(_verdict(claim, weight, evidence, blocks, adjusted.get(i), 1 - level))
    return verdicts


def _failure(gate: Gate, evidence: Evidence) -> str:
    """Why a gate is shut, in a sentence; empty when it holds."""
    x = evidence.values(gate.metric, gate.method, gate.condition or None)
    x = x[~np.isnan(x)]  # an infinite figure stays: a gate is there to catch what diverged
    mean = float(x.mean()) if x.size else np.nan
    limit = f"at most {gate.at_most:g}" if gate.at_most is not None else f"at least {gate.at_least:g}"
    holds = mean <= gate.at_most if gate.at_most is not None else mean >= (gate.at_least or 0.0)
    if holds:
        return ""
    where = f"{gate.metric} of {gate.method}" + (f" in {gate.condition}" if gate.condition else "")
    found = "could not be measured" if np.isnan(mean) else f"is {mean:.4g}"
    return f"{where} {found} and must be {limit}" + (f": {gate.why}" if gate.why else "")


def _verdict(
    claim: Claim, weight: Weighed, evidence: Evidence, blocks: list[str], p_holm: float | None, alpha: float
) -> Verdict:
    blocks = blocks or ([weight.block] if weight.block else [])
    outcome: Outcome = "inconclusive"
    if not blocks and p_holm is not None and p_holm <= alpha:
        outcome = "supported" if weight.inside else "contradicted"
    region = region_of(claim).words
    why = []
    if blocks:
        why = blocks
    elif outcome == "inconclusive" and weight.p_alone <= alpha:
        why = [f"p = {weight.p_alone:.2g} does not survive the correction for several tests"]
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


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
