"""Topics of the field, by the words that name them, counted over days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assay.papers.digests.store import Store

TOPICS: Mapping[str, Sequence[str]] = {
    "diffusion and flow models": ('"diffusion model"', '"diffusion transformer"', '"flow matching"', "denoising"),
    "multimodal language models": ("mllm", '"multimodal large language"', '"vision language"', "vlm"),
    "language models and agents": ("llm", '"large language"', "agentic"),
    "video": ("video",),
    "Gaussian splatting, radiance fields": ('"gaussian splatting"', "3dgs", "nerf", '"radiance field"'),
    "3D shape and scenes": ('"point cloud"', "mesh", '"3d reconstruction"', "3d"),
    "driving": ('"autonomous driving"', "lidar"),
    "robots and embodied AI": ("robot", "embodied", '"vision language action"'),
    "segmentation": ("segmentation",),
    "detection": ('"object detection"', "detector"),
    "medical imaging": ("medical", "clinical", "mri", "ct", "pathology"),
    "remote sensing": ('"remote sensing"', "satellite", '"earth observation"'),
    "retrieval": ("retrieval",),
    "adaptation and transfer": ('"domain adaptation"', '"test time adaptation"', '"few shot"', "lora"),
    "explanation": ("explainable", "interpretability", "attribution"),
    "forgery, attack and safety": ("deepfake", "adversarial", "watermark", "jailbreak"),
    "benchmarks and data sets": (
        '"new benchmark"',
        '"benchmark for"',
        '"new dataset"',
        '"large scale dataset"',
        '"dataset of"',
    ),
}
_CATEGORIES = 12
_MOST_PERIODS = 62


@dataclass(frozen=True)
class Trend:
    """Papers of a topic in each period. `search`: what to search for to see them; `category`: its arXiv category."""

    name: str
    counts: tuple[int, ...]
    search: str = ""
    category: str = ""

    @property
    def total(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True)
class Trends:
    """Topics and categories over the same periods (days, or months where there are many days), the oldest first."""

    periods: tuple[str, ...]
    papers: tuple[int, ...]
    topics: tuple[Trend, ...]
    categories: tuple[Trend, ...]


def trends(store: Store) -> Trends:
    """Count every topic and the fullest categories; a topic without papers is left out."""
    papers = store.count_by_day()
    periods = _periods(papers)
    topics = [
        Trend(name, _by_period(store.count_by_day(any_of=words), periods), search=words[0])
        for name, words in TOPICS.items()
    ]
    categories = [
        Trend(category, _by_period(store.count_by_day(category=category), periods), category=category)
        for category, _ in store.categories()[:_CATEGORIES]
    ]
    return Trends(
        tuple(periods),
        _by_period(papers, periods),
        tuple(sorted((t for t in topics if t.total), key=lambda t: -t.total)),
        tuple(t for t in categories if t.total),
    )


def _periods(days: Mapping[str, int]) -> list[str]:
    """The days; or, of many days, the months."""
    known = {day for day in days if day}
    if len(known) > _MOST_PERIODS:
        known = {day[:7] for day in known}
    return sorted(known)[-_MOST_PERIODS:]


def _by_period(days: Mapping[str, int], periods: Sequence[str]) -> tuple[int, ...]:
    places = {period: place for place, period in enumerate(periods)}
    counts = [0] * len(periods)
    for day, count in days.items():
        place = places.get(day, places.get(day[:7]))
        if place is not None:
            counts[place] += count
    return tuple(counts)
