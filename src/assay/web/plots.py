"""Pictures drawn as SVG by hand: strips of a forest plot, all claims at a glance, and bars over days."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.lab.tables import interval

STRIP = 240
"""Width of a strip; it is drawn on a scale from -1 to 1."""
_NUMBER = re.compile(r"[-−]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Effect:
    """A claim's effect on a scale that all claims share.

    `place`, `low`, `high` lie in -1 .. 1: how far the figure passes (right) or misses (left) its limit, r / (1 + r)
    with r the root of the relative difference, so that a hundredth and a thousandfold are both seen. None: the effect
    could not be measured.
    """

    verdict: Mapping[str, Any]
    words: str
    place: float | None
    low: float = 0.0
    high: float = 0.0

    @property
    def control(self) -> str:
        """For a negative control: whether it held."""
        return str(self.verdict.get("control") or "")

    @property
    def x(self) -> float:
        return _x(self.place or 0.0)

    @property
    def left(self) -> float:
        return _x(self.low)

    @property
    def right(self) -> float:
        return _x(self.high)


def effect(verdict: Mapping[str, Any]) -> Effect:
    """A judged claim as an effect."""
    place, low, high = (_place(verdict, verdict[key]) for key in ("estimate", "low", "high"))
    if place is None:
        return Effect(verdict, interval(verdict), None)
    ends = [place, *(end for end in (low, high) if end is not None)]
    if verdict["kind"] == "same" and None not in (low, high) and verdict["low"] < 0 < verdict["high"]:
        ends.append(_place(verdict, 0.0) or 0.0)  # the nearest to equal lies within the interval
    return Effect(verdict, interval(verdict), place, min(ends), max(ends))


def ticks() -> list[tuple[float, str]]:
    """Where the scale of the strips is marked, and with what words."""
    marks = ((-1, "−100 %"), (-0.01, ""), (0, "limit"), (0.01, ""), (1, "+100 %"))
    return [(_x(_squash(value)), label) for value, label in marks]


def glance(effects: Iterable[Effect]) -> dict[str, Any]:
    """All measured effects, one thin line each, from the furthest missed to the furthest passed; a path a verdict."""
    found = sorted((e for e in effects if e.place is not None), key=lambda e: e.place or 0.0)
    step = max(4.0, min(14.0, 480 / max(1, len(found))))
    spans: dict[str, list[str]] = {}
    dots: dict[str, list[str]] = {}
    for i, row in enumerate(found):
        outcome, y = str(row.verdict["outcome"]), _short(8 + step * (i + 0.5))
        spans.setdefault(outcome, []).append(f"M{_short(3 * row.left)} {y}H{_short(3 * row.right)}")
        dots.setdefault(outcome, []).append(f"M{_short(3 * row.x)} {y}h0")
    paths = [(outcome, "".join(spans[outcome]), "".join(dots[outcome])) for outcome in sorted(spans)]
    size = round(min(step / 1.4, 9.0), 1)
    return {"paths": paths, "count": len(found), "height": round(16 + step * len(found), 1), "size": size}


def bars(counts: Sequence[int], most: int, width: int = 300, height: int = 28) -> list[dict[str, float | int]]:
    """Bars of counts beside each other, as rectangles."""
    step = width / max(1, len(counts))
    thick = min(step - min(2.0, step / 4), 28.0)
    found = []
    for place, count in enumerate(counts):
        tall = max(1.5, height * count / max(1, most)) if count else 0.0
        box = {"x": round(step * place, 1), "y": round(height - tall, 1), "w": round(thick, 1), "h": round(tall, 1)}
        found.append({**box, "count": count, "place": place})
    return [bar for bar in found if bar["count"]]


def shares(counts: Sequence[int], width: int = 120) -> list[tuple[float, float]]:
    """Parts of one bar: where each begins and how wide it is."""
    total = sum(counts) or 1
    found, at = [], 0.0
    for count in counts:
        found.append((round(at, 1), round(width * count / total, 1)))
        at += width * count / total
    return found


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _x(place: float) -> float:
    return round(STRIP / 2 + place * (STRIP / 2 - 6), 1)


def _place(verdict: Mapping[str, Any], value: float | None) -> float | None:
    """Where a figure stands to its limit, relative to what it is compared with."""
    if value is None or not math.isfinite(value) or verdict["estimate"] is None:
        return None
    limit, upward = _limit(verdict["region"])
    if verdict["kind"] == "ratio":
        return _squash(math.log(value / limit) * (1 if upward else -1)) if value > 0 and limit > 0 else None
    means = [abs(mean) for mean in (verdict.get("baseline_means") or {}).values() if mean]
    size = (
        max([*means, abs(limit) if verdict["kind"] in {"bound", "slope"} else 0.0]) or abs(verdict["estimate"]) or 1.0
    )
    if verdict["kind"] == "same":
        return _squash((limit - abs(value)) / (limit or size))
    return _squash((value - limit) / size * (1 if upward else -1))


def _limit(region: str) -> tuple[float, bool]:
    """The limit in a region's words (`> 0.1`, `<= 2`, `within ±0.2`), and whether the claim wants to be above it."""
    number = _NUMBER.search(region.replace("−", "-"))
    return (float(number[0]) if number else 0.0), "<" not in region and "≤" not in region


def _squash(value: float) -> float:
    root = math.sqrt(abs(value))
    return math.copysign(root / (1 + root), value)
