"""The kinds of claim a study can make, and the gates that must hold before any is judged.

A claim reduces to one number per seed and a region that number should lie in; `judge.py` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any, ClassVar, Literal

Expected = Literal["supported", "not supported", "contradicted"]


@dataclass(frozen=True)
class Claim:
    """What every claim states.

    Attributes:
        metric: name of the metric in a trial's result.
        method: the arm the claim is about.
        name: short name such as `"C1"`; given by position when empty.
        text: the claim in one sentence; written from the fields when empty.
        paper: the paper's own figure, quoted with its place; shown beside ours.
        conditions: where the claim is judged; a seed's number is the mean over them. Empty: all the arm's conditions.
        scales: the scales at which a verdict means something.
        expected: set for a negative control: the outcome that shows the study is honest.
        words: the metric in words; the study fills it in from its `metrics`.
    """

    kind: ClassVar[str] = "claim"

    metric: str
    _: KW_ONLY
    method: str
    name: str = ""
    text: str = ""
    paper: str = ""
    conditions: Sequence[str] = ()
    scales: Sequence[str] = ("pocket", "full")
    expected: Expected | None = None
    words: str = ""

    def arms(self) -> set[str]:
        """Every arm the claim needs trials of."""
        return {self.method}

    def sentence(self) -> str:
        """The claim in one sentence."""
        return self.text or self._what()

    def as_dict(self) -> dict[str, Any]:
        """The claim as plain data, with its kind and sentence."""
        return {"kind": self.kind, **asdict(self), "sentence": self.sentence()}

    def _what(self) -> str:
        return f"{self.words or self.metric} of {self.method}"

    def _where(self) -> str:
        return f" in {', '.join(self.conditions)}" if self.conditions else ""


@dataclass(frozen=True)
class Comparison(Claim):
    """A claim that compares the method with one or more baselines, all of which must be beaten.

    Attributes:
        baseline: baseline arm or arms. Empty: the method's own arm (then compare metrics or conditions).
        baseline_metric: metric of the baseline side, when it is another than `metric`.
        baseline_conditions: conditions of the baseline side, when they are others than `conditions`.
        higher: whether more of the metric is better.
    """

    _: KW_ONLY
    baseline: str | Sequence[str] = ()
    baseline_metric: str | None = None
    baseline_conditions: Sequence[str] | None = None
    higher: bool = True

    @property
    def baselines(self) -> tuple[str, ...]:
        """The baseline arms as a tuple."""
        given = (self.baseline,) if isinstance(self.baseline, str) else tuple(self.baseline)
        return given or (self.method,)

    def arms(self) -> set[str]:
        return {self.method, *self.baselines}

    def _against(self) -> str:
        other = " and ".join(self.baselines)
        if self.baseline_metric:
            other += f" ({self.baseline_metric})"
        if self.baseline_conditions is not None:
            other += f" in {', '.join(self.baseline_conditions)}"
        return other


@dataclass(frozen=True)
class Better(Comparison):
    """Superiority: the method's metric beats the baseline's by more than `by`, in the direction `higher` says."""

    kind: ClassVar[str] = "better"
    _: KW_ONLY
    by: float = 0.0

    def sentence(self) -> str:
        word = "higher" if self.higher else "lower"
        more = f" by more than {self.by:g}" if self.by else ""
        return self.text or f"{self._what()} is {word} than that of {self._against()}{more}{self._where()}"


@dataclass(frozen=True)
class NotWorse(Comparison):
    """Non-inferiority: not worse than the baseline by `margin` or more.

    With `margin_of=(a, b)` the margin is that share of the gap between the arms a and b in the same seed.
    """

    kind: ClassVar[str] = "not worse"
    _: KW_ONLY
    margin: float
    margin_of: tuple[str, str] | None = None

    def arms(self) -> set[str]:
        return super().arms() | set(self.margin_of or ())

    def sentence(self) -> str:
        margin = f"{self.margin:g}"
        if self.margin_of:
            margin = f"{self.margin:.0%} of the gap between {' and '.join(self.margin_of)}"
        return self.text or f"{self._what()} is not worse than that of {self._against()} by {margin}{self._where()}"


@dataclass(frozen=True)
class Same(Comparison):
    """Equivalence within ±`margin`, by two one-sided tests."""

    kind: ClassVar[str] = "same"
    _: KW_ONLY
    margin: float

    def sentence(self) -> str:
        return self.text or f"{self._what()} equals that of {self._against()} within {self.margin:g}{self._where()}"


@dataclass(frozen=True)
class Ratio(Comparison):
    """At least `at_least` times fewer (`higher=False`, the default) or more (`higher=True`) than the baseline.

    The number per seed is baseline/method when less is better, method/baseline when more is; judged on its logarithm.
    """

    kind: ClassVar[str] = "ratio"
    _: KW_ONLY
    higher: bool = False
    at_least: float

    def __post_init__(self) -> None:
        if not self.at_least > 0:
            raise ValueError(f"Ratio of {self.metric}: at_least must be positive, got {self.at_least}")

    def sentence(self) -> str:
        word = "more" if self.higher else "less"
        times = f"at least {self.at_least:g} times {word}"
        return self.text or f"{self._what()} is {times} than that of {self._against()}{self._where()}"


@dataclass(frozen=True)
class Bound(Claim):
    """A figure of one arm is at most `at_most`, or at least `at_least` (exactly one is given)."""

    kind: ClassVar[str] = "bound"
    _: KW_ONLY
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"Bound on {self.metric}: give exactly one of at_most and at_least")

    def sentence(self) -> str:
        limit = f"at most {self.at_most:g}" if self.at_most is not None else f"at least {self.at_least:g}"
        return self.text or f"{self._what()} is {limit}{self._where()}"


@dataclass(frozen=True)
class Slope(Claim):
    """A cost grows at most like size**at_most over conditions: the slope of log(metric) on log(size).

    Attributes:
        sizes: condition name -> size; at least three.
    """

    kind: ClassVar[str] = "slope"
    _: KW_ONLY
    sizes: Mapping[str, float] = field(default_factory=dict)
    at_most: float

    def __post_init__(self) -> None:
        if len(self.sizes) < 3:
            raise ValueError(f"Slope of {self.metric}: give at least three sizes")

    def sentence(self) -> str:
        return self.text or f"{self._what()} grows at most like size^{self.at_most:g} over {', '.join(self.sizes)}"


@dataclass(frozen=True)
class Gate:
    """A figure that must hold before claims may be judged at all; where it fails they are inconclusive and say why.

    Attributes:
        metric, method, condition: which figure (mean over seeds; over all conditions when `condition` is empty).
        at_least, at_most: the limit (exactly one).
        why: what a failure means, in one sentence.
        claims: names of the claims it guards; empty: all.
    """

    metric: str
    _: KW_ONLY
    method: str
    condition: str = ""
    at_least: float | None = None
    at_most: float | None = None
    why: str = ""
    claims: Sequence[str] = ()

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"Gate on {self.metric}: give exactly one of at_most and at_least")

    def as_dict(self) -> dict[str, Any]:
        """The gate as plain data."""
        return asdict(self)
