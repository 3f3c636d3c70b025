"""Pictures drawn as SVG by hand: a forest plot of claims, and topics over days."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.lab.tables import interval

WIDTH, LEFT, RIGHT, ROW = 760, 330, 150, 26


@dataclass(frozen=True)
class Effect:
    """A claim's effect on a scale that all claims share.

    `place`, `low`, `high` lie in -1 .. 1: the share by which the figure passes (right) or misses (left) its limit,
    |x| / (1 + |x|) of the relative difference, so that a tenth and a thousandfold both stay on the page.
    """

    paper: str
    name: str
    sentence: str
    outcome: str
    words: str
    place: float
    low: float
    high: float


def effects(claims: Sequence[tuple[Any, Any, Mapping[str, Any]]]) -> list[Effect]:
    """Claims whose effect could be measured, as effects."""
    found = []
    for card, _, verdict in claims:
        places = [_place(verdict, verdict[key]) for key in ("estimate", "low", "high")]
        if places[0] is None:
            continue
        place = places[0]
        low, high = (place if p is None else p for p in places[1:])
        found.append(
            Effect(
                card.id,
                f"{card.file} {verdict['name']}",
                verdict["sentence"],
                verdict["outcome"],
                interval(verdict),
                place,
                min(low, high),
                max(low, high),
            )
        )
    return found


def forest(rows: Sequence[Effect]) -> dict[str, Any]:
    """Coordinates of a forest plot for the template."""
    span = WIDTH - LEFT - RIGHT
    middle = LEFT + span / 2

    def x(value: float) -> float:
        return round(middle + value * span / 2, 1)

    lines = [
        {"effect": row, "y": 30 + ROW * i, "x": x(row.place), "low": x(row.low), "high": x(row.high)}
        for i, row in enumerate(rows)
    ]
    ticks = [
        (x(_squash(value)), label)
        for value, label in ((-1, "-100 %"), (-0.1, "-10 %"), (0, "limit"), (0.1, "+10 %"), (1, "+100 %"))
    ]
    return {
        "rows": lines,
        "width": WIDTH,
        "height": 50 + ROW * len(rows),
        "ticks": ticks,
        "zero": x(0),
        "right": WIDTH - RIGHT,
    }


def trend(days: Sequence[str], counts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Coordinates of small bars per topic over days for the template."""
    most = max((max(values) for values in counts.values() if values), default=1) or 1
    bar = max(6, min(40, 520 // max(1, len(days))))
    rows = []
    for i, (topic, values) in enumerate(counts.items()):
        base = 30 + 34 * i + 24
        bars = [
            {
                "x": 190 + bar * j,
                "y": base - round(22 * value / most, 1),
                "height": round(22 * value / most, 1),
                "words": f"{topic}, {day}: {value}",
            }
            for j, (day, value) in enumerate(zip(days, values, strict=True))
            if value
        ]
        rows.append({"topic": topic, "y": base, "bars": bars, "total": sum(values)})
    marks = [{"x": 190 + bar * j, "day": day} for j, day in enumerate(days) if j % max(1, len(days) // 6) == 0]
    return {
        "rows": rows,
        "marks": marks,
        "width": 190 + bar * max(1, len(days)) + 60,
        "height": 50 + 34 * len(rows),
        "bar": bar - 1,
    }


def _place(verdict: Mapping[str, Any], value: float | None) -> float | None:
    """Where a figure stands to its limit, relative to what it is compared with."""
    if value is None or not math.isfinite(value) or verdict["estimate"] is None:
        return None
    limit, upward = _limit(verdict["region"])
    if verdict["kind"] == "ratio":
        return _squash(math.log(value / limit)) if value > 0 and limit > 0 else None
    means = [abs(mean) for mean in (verdict.get("baseline_means") or {}).values() if mean]
    size = (
        max([*means, abs(limit) if verdict["kind"] in {"bound", "slope"} else 0.0]) or abs(verdict["estimate"]) or 1.0
    )
    if verdict["kind"] == "same":
        return _squash((limit - abs(value)) / (limit or size))
    return _squash((value - limit) / size * (1 if upward else -1))


def _limit(region: str) -> tuple[float, bool]:
    """The limit in a region's words, and whether the claim wants to be above it."""
    number = "".join(c for c in region.replace("−", "-") if c in "0123456789.-+eE").strip("eE") or "0"
    try:
        return float(number), "<" not in region and "≤" not in region
    except ValueError:
        return 0.0, True


def _squash(value: float) -> float:
    return value / (1 + abs(value))
