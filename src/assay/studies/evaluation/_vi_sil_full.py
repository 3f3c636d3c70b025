"""Full scale of the ViSIL study: multiple-choice questions on real videos, a judge and a reader of different families.

`--data` is a folder of LongVideoBench or MVBench (see `assay.data.video.questions`). The judge is what the environment
names (`ASSAY_LLM_URL` and `ASSAY_LLM_MODEL`, or `ASSAY_LLM_MODEL=local:...`), else Qwen2.5-VL-7B here; the reader
`ASSAY_READER_MODEL` (with `ASSAY_READER_URL` for a server), else LLaVA-OneVision-7B; the embedder of `embed-sim` is
`ASSAY_CLIP_MODEL`, else CLIP ViT-B/32. `ASSAY_VISIL_VIDEOS` bounds the videos (60).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.data.video.frames import read_frames
from assay.data.video.questions import Question, read_questions
from assay.errors import InputError, require
from assay.llm.client import Client
from assay.llm.local_vision import LocalVision
from assay.llm.messages import user
from assay.llm.model import Model
from assay.methods.evaluation.vi_sil import Summary, cost, grounding, visil_many
from assay.metrics.text import rouge_l
from assay.studies.evaluation._vi_sil_apply import LENGTHS, made
from assay.studies.evaluation._vi_sil_bench import Video
from assay.studies.evaluation._vi_sil_models import ModelEvidence, named_model

JUDGE, READER, CLIP = (
    "Qwen/Qwen2.5-VL-7B-Instruct", "llava-hf/llava-onevision-qwen2-7b-ov-hf", "openai/clip-vit-base-patch32",
)  # fmt: skip
FRAMES, FRAME_TOKENS = 16, 256
BUDGETS = (320.0, 640.0, 1280.0)
MEASURED = ("visil", "nvisil", "vibe-grounding", "rouge-l", "embed-sim", "random")
LETTERS = "ABCDEFGH"


@dataclass
class RealBench:
    """As `Bench` of the pocket scale, for real videos; one condition of data under both names."""

    judge: ModelEvidence
    mode: str
    embed: Any
    videos: dict[str, list[Video]]
    seed: int
    budgets: tuple[float, ...] = BUDGETS
    measured: tuple[str, ...] = MEASURED
    kept: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)

    def scores(self, name: str, condition: str) -> list[NDArray[np.float64]]:
        """A score of every candidate of every video, higher is better."""
        if name not in self.kept:
            rng = np.random.default_rng((self.seed, 3))
            self.kept[name] = [self._score(name, video, rng) for video in self.videos[condition]]
        return self.kept[name]

    def _score(self, name: str, video: Video, rng: np.random.Generator) -> NDArray[np.float64]:
        if name == "random":
            return rng.random(len(video.candidates))
        if name == "rouge-l":  # against the judge's own description: a real video has no true one
            return np.array([rouge_l(c.text or "", video.caption).recall for c in video.candidates])
        if name == "vibe-grounding":
            return np.array([0.0 if c.frames else grounding(self.judge, video.whole, c.text or "", mode=self.mode)
                             for c in video.candidates])  # fmt: skip
        if name == "embed-sim":
            return self.embed(video.whole, video.candidates)
        found = visil_many(self.judge, video.whole, video.candidates, video.captions, mode=self.mode, resamples=0)
        return np.array([-(score.normalised if name == "nvisil" else score.loss) for score in found])


def prepare(seed: int, device: str, data: Path | None) -> RealBench:
    """Videos with candidates, and answers of the reader from each.

    Raises:
        InputError: no data folder, or a model that cannot be used.
    """
    if data is None:
        raise InputError("the full scale needs --data FOLDER with LongVideoBench or MVBench")
    by_video: dict[Path, list[Question]] = {}
    for question in read_questions(data):
        by_video.setdefault(question.video, []).append(question)
    rng = np.random.default_rng(seed)
    names = sorted(by_video)
    chosen = [names[n] for n in rng.permutation(len(names))[: int(os.environ.get("ASSAY_VISIL_VIDEOS", "60"))]]
    named = os.environ.get("ASSAY_LLM_MODEL")
    chat = named_model(None, None) if named else LocalVision(JUDGE, device=device)
    judge, reader = ModelEvidence(chat), _reader(device)
    videos = [_video(judge, reader, path, by_video[path]) for path in chosen]
    mode = "forced" if judge.can_force() else "masked"
    return RealBench(judge, mode, _Clip(device), {"paraphrased": videos, "same-words": videos}, seed)


def _reader(device: str) -> Model:
    name, url = os.environ.get("ASSAY_READER_MODEL", READER), os.environ.get("ASSAY_READER_URL")
    if url:
        return Client(url, name, os.environ.get("ASSAY_LLM_KEY"))
    return LocalVision(name.removeprefix("local:"), device=device)


def _video(judge: ModelEvidence, reader: Model, path: Path, questions: Sequence[Question]) -> Video:
    shown = read_frames(path, FRAMES)
    whole = Summary(None, shown.images)
    captions = judge.captions(whole, 2, 120)
    given = {one.name: one.summary for one in made(judge.model, shown)}
    candidates = list(given.values())
    costs = np.array([cost(c, FRAME_TOKENS) for c in candidates])
    right = [np.mean([_right(reader, q, c) for q in questions]) for c in candidates]
    return Video(
        np.zeros((0, 4), dtype=np.int64), captions[0], whole, candidates, captions, costs, correct=np.array(right),
        fixed=_fixed(list(given), costs),
    )  # fmt: skip


def _fixed(names: Sequence[str], costs: NDArray[np.float64]) -> dict[str, list[int]]:
    """The candidate each simple rule takes at each budget: the costliest of its kind within it, else its cheapest."""
    kinds = {"text-only": "made-text", "frames-only": "made-uniform", "length-heuristic": "made-mixed"}
    found: dict[str, list[int]] = {}
    for arm, kind in kinds.items():
        mine = sorted((n for n, name in enumerate(names) if name.startswith(kind)), key=lambda n: costs[n])
        if not mine:
            raise InputError(f"the judge made no summary of the kind {kind} at any of {LENGTHS} words")
        found[arm] = [([n for n in mine if costs[n] <= budget] or mine[:1])[-1] for budget in BUDGETS]
    return found


def _right(reader: Model, question: Question, summary: Summary) -> bool:
    letters = LETTERS[: len(question.options)]
    options = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, question.options, strict=False))
    told = f"A summary of the video: {summary.text}\n" if summary.text else ""
    asked = f"{told}{question.text}\n{options}\nAnswer with one letter."
    chance = reader.choose([user(asked, *(summary.frames or ()))], list(letters))
    return max(chance, key=lambda letter: chance[letter]) == letters[question.answer]


class _Clip:
    """Cosine of a summary's mean CLIP embedding with the video's."""

    def __init__(self, device: str) -> None:
        transformers = require("transformers", "evaluation")
        name = os.environ.get("ASSAY_CLIP_MODEL", CLIP)
        try:
            self.model = transformers.CLIPModel.from_pretrained(name).to(device).eval()
            self.processor = transformers.CLIPProcessor.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise InputError(f"CLIP model {name} cannot be loaded: {str(error).splitlines()[0][:160]}") from error
        self.device = device

    def __call__(self, whole: Summary, candidates: Sequence[Summary]) -> NDArray[np.float64]:
        goal = self._rows(whole).mean(0)
        found = [self._rows(c).mean(0) for c in candidates]
        return np.array([float(row @ goal / np.linalg.norm(row) / np.linalg.norm(goal)) for row in found])

    def _rows(self, summary: Summary) -> NDArray[np.float64]:
        import torch

        rows = []
        with torch.inference_mode():
            if summary.frames:
                inputs = self.processor(images=list(summary.frames), return_tensors="pt").to(self.device)
                rows.append(_tensor(self.model.get_image_features(**inputs)))
            if summary.text:
                inputs = self.processor(text=[summary.text], return_tensors="pt", truncation=True).to(self.device)
                rows.append(_tensor(self.model.get_text_features(**inputs)))
        values = torch.cat([torch.nn.functional.normalize(r.float(), dim=1) for r in rows])
        return values.double().cpu().numpy()


def _tensor(found: Any) -> Any:
    return found if hasattr(found, "float") else found.pooler_output
