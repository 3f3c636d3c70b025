"""What the catalogue holds of a paper."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, field_validator

AREAS = (
    "generation", "imaging", "shape", "geometry3d", "driving", "embodied", "segmentation", "detection",
    "vision_language", "retrieval", "fusion", "mllm", "adaptation", "explanation", "labels", "forensics",
    "anomaly", "earth", "evaluation",
)  # fmt: skip

ARXIV_ID = re.compile(r"\d{4}\.\d{4,5}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class CardClaim(_Strict):
    """A claim as the paper makes it.

    Attributes:
        text: the claim in our words.
        figure: the paper's own figure, quoted; empty when the public text gives none.
        source: where the figure was read. `second-hand` figures come from summaries and are shown as such.
    """

    text: Annotated[str, Field(min_length=10)]
    figure: str = ""
    source: Literal["abstract", "paper", "code", "second-hand", "none"] = "none"


class Links(_Strict):
    """Addresses of a paper; `abs` and `pdf` always, the others where they exist."""

    abs: HttpUrl
    pdf: HttpUrl
    code: HttpUrl | None = None
    project: HttpUrl | None = None


class Card(_Strict):
    """Facts about a paper, its idea in our words, and its claims.

    Attributes:
        id: arXiv id without version.
        categories: arXiv categories, the main one first; empty when the digest names none.
        month: `YYYY-MM` of the id.
        area, file: the room and file name of method and study.
        idea: one or two sentences of our own.
        notes: what reading the authors' public code or page taught.
        digests: names of the digests the paper came from.
    """

    id: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")]
    title: Annotated[str, Field(min_length=3)]
    authors: Annotated[tuple[str, ...], Field(min_length=1)]
    categories: tuple[str, ...] = ()
    month: Annotated[str, Field(pattern=r"^\d{4}-\d{2}$")]
    area: str
    file: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    idea: Annotated[str, Field(min_length=20)]
    claims: Annotated[tuple[CardClaim, ...], Field(min_length=1)]
    notes: tuple[str, ...] = ()
    links: Links
    digests: tuple[str, ...] = ()

    @field_validator("area")
    @classmethod
    def _known_area(cls, area: str) -> str:
        if area not in AREAS:
            raise ValueError(f"unknown area {area!r}; choose from: {', '.join(AREAS)}")
        return area
