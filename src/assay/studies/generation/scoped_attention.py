"""PKA: conditions seen only where they matter make a multi-condition diffusion transformer cheap. (2602.06850)

A diffusion transformer is steered by appending the tokens of every condition to its sequence, and attention grows
with the square of their number. PKA lets an image token see of an edge or depth map its own place alone, of a subject
only where its keyword is being drawn, computes the conditions' keys once per picture, and trains at the times at
which the conditions change the velocity most. Three questions: is it faster, does fidelity suffer, and does the
choice of training times save steps?

Data: scenes of two coloured, textured shapes on faded photographs (`assay.data.scenes.shapes`; photographs and two
textures are real, shapes are drawn), 24x24 pixels, caption, Canny edges, depth order, and one crop of the first shape
in another pose. A small diffusion transformer in PCA latents of 4x4 patches learns captions once per seed; every arm
then trains LoRA and embedders for the conditions with the same batches, steps and noise. Learning rate and starting
weight of the conditions were tuned for concat and for pka alike, on a seed that is not judged: without a weight that
makes conditions loud from the start, neither design learns anything in so few steps.

`condition_error` is 1 minus the mean of edge F1, layout accuracy (item pixels that show the right item) and texture
similarity of the subject. Depth order where shapes cross is reported beside it. Layout and depth order stay near chance
in every arm after a hundred steps: what is learned, and compared, are edges and texture. Concatenation is given every
advantage it has: the same LoRA, flash attention, and its strongest form, caching one-way conditions, as its own arm.

What to read in the numbers. Speed and memory follow from the count of pairs, so the ratios grow with conditions and
tokens; caching alone already takes most of the gain at two conditions. A network this small learns a window more
easily than a search over all keys, which helps the method; a large pretrained model may find the place by itself.
Training times drawn by sensitivity peak in the noisy half, as the paper says, but the number of steps they save varies
much from seed to seed. The controls: shifted conditions are useless to a window of one token, while concatenation
still finds some of them; a style reference spreads beyond its scope only through the image's own attention.

The sizes (60 test scenes, 450 steps of the base model) were settled while fidelity was looked at on seeds 0 to 4 of an
earlier numbering, undecided with fewer scenes and decided with more. The seeds judged here were drawn afterwards
(numbers from 100 on). What was changed after their first run concerns timing alone: steps are timed in rounds, and C4
is judged over one to six conditions, since at two its ratio (1.2 to 1.3) is too near to one for the timer's noise.
Where the paper's own sizes (FLUX at 512 px) matter, run `--scale full` or `assay apply ... --profile`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from assay.data.scenes import shapes
from assay.errors import InputError
from assay.lab import Better, Evidence, Gate, NotWorse, Ratio, Study
from assay.methods.generation.scoped_attention import (
    Contexts,
    MultiConditionDiT,
    Pattern,
    ScopeTracker,
    SensitivitySampler,
    cache_conditions,
    draw,
    pair_count,
    scope_from_mask,
)
from assay.metrics.cost import median_seconds, peak_memory
from assay.metrics.edges import edge_f1
from assay.metrics.masked import masked_similarity
from assay.nn.dit import DiT, patchify, unpatchify
from assay.nn.flow import EMA, flow_loss, integrate, path_point, time_steps, velocity_target
from assay.studies.generation import _scoped_attention_flux as flux

SIZE, CROP, PATCH, CHANNELS, WORDS = 24, 12, 4, 16, 5
GRID = (SIZE // PATCH, SIZE // PATCH)
WIDTH, DEPTH, HEADS, RANK = 64, 3, 4, 16
SCALES: dict[str, dict[str, int]] = {
    "smoke": {"train": 16, "test": 3, "base": 3, "steps": 4, "controls": 2, "batch": 4, "draw": 2,
              "checks": 2, "width": 16},
    "pocket": {"train": 600, "test": 60, "base": 450, "steps": 100, "controls": 50, "batch": 12, "draw": 8,
               "checks": 5, "width": 96},
}  # fmt: skip
PICTURE_STEPS, SPEED_WORDS, SPEED_RHO = 20, 16, 0.3  # of the timed picture: solver steps, text tokens, scope's share
TIMED = {"concat": "dense", "concat-kvcache": "cached", "pka": "pka"}  # and how `pair_count` names their attention
FRESH = 100  # added to a seed: none of these was looked at while the study was built

PATTERNS = {
    "concat": Pattern(one_way=False, aligned=False, scoped=False),
    "concat-kvcache": Pattern(aligned=False, scoped=False),
    "pka": Pattern(),
    "paa-only": Pattern(scoped=False),
    "ksa-only": Pattern(aligned=False),
    "random-scope": Pattern(),
    "uniform-t": Pattern(),
}
# Learning rate and starting weights of edges, depth and subject, by whether conditions are seen in windows: the best
# of a dozen pairs (rates 0.003 to 0.06, weights 1 to 300) for concat, of eight for pka, on a seed that is not judged.
TUNED = {False: (0.02, (100.0, 100.0, 100.0)), True: (0.02, (36.0, 36.0, 12.0))}
DRAWN = ("aligned", "misaligned", "style")

study = Study(
    paper="2602.06850",
    seeds=4,  # two rounds of two workers: a seed takes two minutes
    arms={
        "no-condition": "the base model with the caption alone",
        "concat": "all tokens appended, everything attends to everything (what the paper replaces)",
        "concat-kvcache": "conditions do not look back and are cached, but are seen in full",
        "pka": "the method: own place, keyword scope, cache, sensitivity-aware times",
        "paa-only": "ablation: position-aligned, subjects seen everywhere",
        "ksa-only": "ablation: keyword-scoped, spatial conditions seen in full",
        "random-scope": "ablation: scopes of the same size at random places",
        "uniform-t": "ablation: training times uniform",
    },
    conditions={
        "aligned": "edges and depth lie where they belong, the subject belongs to one shape",
        "misaligned": "control: edges and depth shifted by 8 px in one of four directions",
        "style": "control: the subject's texture covers the whole background",
        "speed": "timing of random weights",
    },
    arm_conditions={
        "no-condition": DRAWN,
        "concat": (*DRAWN, "speed"),
        "concat-kvcache": ("aligned", "speed"),
        "pka": (*DRAWN, "speed"),
        "paa-only": ("aligned",),
        "ksa-only": ("aligned",),
        "random-scope": ("aligned",),
        "uniform-t": ("aligned",),
    },
    claims=[
        Ratio(
            "seconds_per_image", method="pka", baseline="concat", at_least=2.0, conditions=["speed"],
            paper="10.0x inference speedup (abstract; a summary adds: of the attention module)",
        ),
        Ratio(
            "growth_with_conditions", method="pka", baseline="concat", at_least=1.0, conditions=["speed"],
            text="the speedup of pka over concat grows from one condition to six",
        ),
        Ratio(
            "growth_with_tokens", method="pka", baseline="concat", at_least=1.0, conditions=["speed"],
            text="the speedup of pka over concat grows from 64 image tokens to 1024",
        ),
        Ratio(
            "seconds_one_to_six", method="pka", baseline="concat-kvcache", at_least=1.0, conditions=["speed"],
            text="pka is faster than caching alone, on average over one to six spatial conditions",
        ),
        Ratio(
            "peak_bytes", method="pka", baseline="concat", at_least=2.0, conditions=["speed"],
            paper="5.1x VRAM saving (abstract)",
        ),
        NotWorse(
            "condition_error", method="pka", baseline="concat", higher=False, margin=0.1,
            margin_of=("concat", "no-condition"), conditions=["aligned"], paper="high conditional fidelity (abstract)",
        ),
        Better(
            "steps_to_target", method="pka", baseline="uniform-t", higher=False, conditions=["aligned"],
            text="sensitivity-aware times reach the condition error of concat in fewer steps than uniform times",
            paper="'drastically accelerating convergence' (abstract)",
        ),
        Better(
            "subject_similarity", method="pka", baseline="random-scope", conditions=["aligned"],
            text="scopes at the keyword's place carry the subject better than scopes anywhere",
        ),
        NotWorse(
            "condition_error", method="pka", baseline="concat", higher=False, margin=0.1,
            margin_of=("concat", "no-condition"), conditions=["misaligned"], expected="not supported",
            text="control: with shifted conditions pka is not worse than concat",
        ),
        NotWorse(
            "subject_similarity", method="pka", baseline="concat", margin=0.1,
            margin_of=("concat", "no-condition"), conditions=["style"], expected="not supported",
            text="control: with a subject that covers the picture pka is not worse than concat",
        ),
    ],
    gates=[
        Gate(
            "gain", method="concat", condition="aligned", at_least=0.01, claims=["C6", "C7"],
            why="concat has not learned to follow its conditions, so there is nothing to be compared with",
        )
    ],
    metrics={
        "condition_error": "condition error",
        "edge_f1": "edge F1",
        "layout_accuracy": "item pixels that show the right item",
        "depth_accuracy": "depth-order accuracy where items cross",
        "subject_similarity": "subject similarity inside its region",
        "leakage": "subject similarity outside its region",
        "caption_accuracy": "caption accuracy (pixel reader)",
        "gain": "condition error below that of no condition",
        "steps_to_target": "training steps until the condition error of concat",
        "seconds_per_image": "seconds a picture",
        "seconds_one_to_six": "seconds a picture, mean over one to six spatial conditions",
        "peak_bytes": "peak memory of a step beyond weights (bytes)",
        "growth_with_conditions": "time at six conditions over time at one",
        "growth_with_tokens": "time at 1024 image tokens over time at 64",
        "pairs": "key-query pairs a layer",
    },
    data=lambda scale: "real" if scale == "full" else "simulated",
    tolerances=dict.fromkeys(
        ("seconds_per_image", "seconds_one_to_six", "seconds_by_conditions", "seconds_by_tokens",
         "growth_with_conditions", "growth_with_tokens")
    ),
)  # fmt: skip


# Data


def make_data(n: int, condition: str, rng: np.random.Generator) -> dict[str, Any]:
    """Scenes with everything that conditions, trains or judges them; pictures as `(n, C, H, W)` in [-1, 1]."""
    rows: dict[str, list[Any]] = {name: [] for name in ("image", "edges", "depth", "subject", "words", "mask")}
    scenes, renderings = [], []
    for _ in range(n):
        scene = shapes.sample_scene(rng, 2, 0.5, radius=(0.20, 0.28), textures=shapes.TEXTURES[1:5], fade=0.85)
        if condition == "style":
            scene = with_style(scene, rng)
        rendering = shapes.render(scene, SIZE)
        edges, depth = shapes.edge_map(rendering.image), rendering.depth
        if condition == "misaligned":
            axis, shift = int(rng.integers(2)), int(rng.choice([-8, 8]))
            edges, depth = np.roll(edges, shift, axis), np.roll(depth, shift, axis)
        rows["image"].append(2 * rendering.image - 1)
        rows["edges"].append(edges[..., None])
        rows["depth"].append(depth[..., None])
        rows["subject"].append(2 * shapes.subject_crop(scene.cover or scene.items[0], rng, CROP) - 1)
        rows["words"].append(shapes.encode_caption(shapes.caption(scene), WORDS))
        rows["mask"].append(rendering.masks[:1])
        scenes.append(scene)
        renderings.append(rendering)
    pictures = {
        name: torch.tensor(np.stack(rows[name]), dtype=torch.float32).permute(0, 3, 1, 2).contiguous()
        for name in ("image", "edges", "depth", "subject")
    }
    words, mask = torch.tensor(np.stack(rows["words"])), torch.tensor(np.stack(rows["mask"]))
    return {**pictures, "words": words, "mask": mask, "scenes": scenes, "renderings": renderings}


def with_style(scene: shapes.Scene, rng: np.random.Generator) -> shapes.Scene:
    """The scene with plain shapes on a background whose colour and texture only the subject's picture tells."""
    taken = {item.colour for item in scene.items}
    colour, accent = rng.choice([name for name in shapes.COLOURS if name not in taken], 2, replace=False)
    cover = replace(scene.items[0], colour=str(colour), accent=str(accent))
    return replace(scene, cover=cover, items=tuple(replace(item, texture="plain") for item in scene.items))


class Codec:
    """Linear latents: the leading principal directions of patches, at unit mean variance. `(n, 16, 6, 6)`."""

    def __init__(self, images: Tensor):
        rows = patchify(images, PATCH).flatten(0, 1)
        self.mean = rows.mean(dim=0)
        self.basis = torch.linalg.svd(rows - self.mean, full_matrices=True)[2][:CHANNELS]
        self.scale = ((rows - self.mean) @ self.basis.T).std()

    def encode(self, images: Tensor) -> Tensor:
        rows = (patchify(images, PATCH) - self.mean) @ self.basis.T / self.scale
        return unpatchify(rows, 1, (images.shape[-2] // PATCH, images.shape[-1] // PATCH))

    def decode(self, latents: Tensor) -> Tensor:
        rows = patchify(latents, 1) * self.scale @ self.basis + self.mean
        return unpatchify(rows, PATCH, (latents.shape[-2], latents.shape[-1]))

    def apply(self, data: dict[str, Any]) -> dict[str, Any]:
        """The same data with pictures as latents, and condition maps folded to one token a patch."""
        coded = {name: self.encode(data[name]) for name in ("image", "subject")}
        folded = {name: unpatchify(patchify(data[name], PATCH), 1, GRID) for name in ("edges", "depth")}
        return {**data, **coded, **folded}


def batch_of(data: dict[str, Any], size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, latents, captions (one in ten empty) and noise of a batch."""
    rows = torch.randint(len(data["image"]), (size,), generator=generator)
    words = data["words"][rows].clone()
    words[torch.rand(size, generator=generator) < 0.1] = 0
    x = data["image"][rows]
    return rows, x, words, torch.randn(x.shape, generator=generator)


# Training


def train_base(data: dict[str, Any], steps: int, generator: torch.Generator, batch: int = 24) -> DiT:
    """The base model: captions to pictures, averaged weights."""
    base = DiT(CHANNELS, 1, len(shapes.VOCABULARY), WORDS, WIDTH, DEPTH, HEADS, mlp_ratio=3.0, double=0)
    optimizer = torch.optim.AdamW(base.parameters(), 3e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    average = EMA(base, 0.99)
    for _ in range(steps):
        _, x, words, noise = batch_of(data, batch, generator)
        t = torch.rand(batch, generator=generator)
        loss = flow_loss(lambda x_t, t, words=words: base(x_t, t, words), x, noise, t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update(base)
    return average.average


class Training:
    """LoRA training of one arm, resumable between checks of its condition error."""

    def __init__(self, base: DiT, data: dict[str, Any], arm: str, seed: int, steps: int, batch: int):
        self.arm, self.data, self.batch, self.done = arm, data, batch, 0
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        pattern = PATTERNS[arm]
        rate, weights = TUNED[pattern.aligned]
        self.model = MultiConditionDiT(base, (PATCH**2, PATCH**2), 1, RANK, pattern, weights)
        self.optimizer = torch.optim.AdamW(self.model.trainable(), rate, weight_decay=0.0, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, steps, pct_start=0.1)
        self.sampler = SensitivitySampler() if arm == "pka" else None

    def run(self, steps: int) -> None:
        g, data, model = self.generator, self.data, self.model
        for _ in range(steps):
            rows, x, words, noise = batch_of(data, self.batch, g)
            t = torch.rand(self.batch, generator=g) if self.sampler is None else self.sampler.sample(self.batch, g)
            dropped = torch.rand(self.batch, 3, generator=g) < 0.1
            dropped |= torch.rand(self.batch, 1, generator=g) < 0.1
            contexts = contexts_of(model, data, rows, list(~dropped.T))
            scopes = scopes_of(self.arm, data["mask"][rows], g)
            x_t = path_point(x, noise, t)
            velocity = model(x_t, t, words, contexts, scopes)[0]
            loss = (velocity - velocity_target(x, noise)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            kept = ~dropped.any(dim=1)
            if self.sampler is not None and self.done % 8 == 0 and kept.any():
                with torch.no_grad():
                    free = model.base(x_t, t, words)
                self.sampler.update(t[kept], velocity.detach()[kept], free[kept])
            self.done += 1


def contexts_of(
    model: MultiConditionDiT, data: dict[str, Any], rows: Tensor | slice, present: Sequence[Tensor] | None = None
) -> Contexts:
    return model.contexts([data["edges"][rows], data["depth"][rows]], [data["subject"][rows]], present)


def scopes_of(arm: str, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Scopes where the subject is known: its mask's tokens, or as many anywhere for `random-scope`."""
    scopes = scope_from_mask(mask, GRID)
    if arm != "random-scope":
        return scopes
    order = torch.rand(scopes.shape, generator=generator).argsort(dim=-1).argsort(dim=-1)
    return order < scopes.sum(dim=-1, keepdim=True)


# Judging


@torch.no_grad()
def draw_test(
    model: DiT | MultiConditionDiT, data: dict[str, Any], count: int, steps: int, seed: int, arm: str = ""
) -> tuple[Tensor, Tensor | None]:
    """Latents drawn for the first test scenes, from the same noise for every arm; and the last scopes."""
    generator = torch.Generator().manual_seed(seed + 1)
    noise, words = torch.randn(data["image"][:count].shape, generator=generator), data["words"][:count]
    if isinstance(model, DiT):
        return integrate(lambda x, t: model(x, t, words), noise, time_steps(steps)), None
    spans = torch.zeros(len(noise), 1, WORDS, dtype=torch.bool)
    spans[:, 0, 1] = True  # the shape word of the first item
    fixed = scopes_of(arm, data["mask"][:count], generator) if arm == "random-scope" else None
    contexts = contexts_of(model, data, slice(0, count))
    return draw(model, noise, words, contexts, time_steps(steps), spans, ScopeTracker(GRID), scopes=fixed)


def measure(latents: Tensor, data: dict[str, Any], codec: Codec, style: bool = False) -> dict[str, float]:
    """Fidelity of drawn latents to the conditions, from the pixels."""
    images = ((codec.decode(latents).permute(0, 2, 3, 1).double().numpy() + 1) / 2).clip(0, 1)
    rows = []
    for image, scene, rendering in zip(images, data["scenes"], data["renderings"], strict=False):
        region = ~rendering.masks.any(axis=0) if style else rendering.masks[0]
        rows.append(
            (
                edge_f1(shapes.edge_map(image), shapes.edge_map(rendering.image), 0),
                shapes.layout_accuracy(image, scene, rendering),
                shapes.depth_order_accuracy(image, scene, rendering),
                masked_similarity(image, region, rendering.image, region),
                masked_similarity(image, ~region, rendering.image, region),
                shapes.caption_accuracy(image, scene),
            )
        )
    edge, layout, depth, subject, leakage, caption = (float(np.mean(c[np.isfinite(c)])) for c in np.array(rows).T)
    return {
        "condition_error": 1 - (edge + layout + subject) / 3, "edge_f1": edge, "layout_accuracy": layout,
        "depth_accuracy": depth,
        "subject_similarity": subject, "leakage": leakage, "caption_accuracy": caption,
    }  # fmt: skip


def check(model: DiT | MultiConditionDiT, shared: dict[str, Any], seed: int, arm: str = "") -> float:
    """Condition error with fewer solver steps, for curves over training."""
    test = shared["test", "aligned"]
    latents, _ = draw_test(model, test, len(test["image"]), max(1, shared["draw"] - 2), seed, arm)
    return measure(latents, test, shared["codec"])["condition_error"]


def steps_to(target: float, at: Sequence[int], errors: Sequence[float]) -> float:
    """First crossing of the target on the line through the checks; one interval past the end where it is not met."""
    for (a, high), (b, low) in zip(zip(at, errors, strict=True), zip(at[1:], errors[1:], strict=True), strict=False):
        if high <= target:
            return float(a)
        if low <= target:
            return float(a + (b - a) * (high - target) / (high - low))
    return float(2 * at[-1] - at[-2])


# Trials


@study.prepare
def prepare(seed: int, scale: str, device: str, data: Path | None) -> dict[str, Any]:
    if scale == "full":
        return prepare_full(device, data)
    size, seed = SCALES[scale], seed + FRESH
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    shared: dict[str, Any] = {"draw": size["draw"]}
    train = make_data(size["train"], "aligned", rng)
    codec = shared["codec"] = Codec(train["image"])
    shared["train", "aligned"] = codec.apply(train)
    shared["test", "aligned"] = codec.apply(make_data(size["test"], "aligned", rng))
    for condition in ("misaligned", "style"):
        shared["train", condition] = codec.apply(make_data(max(8, size["train"] // 2), condition, rng))
        shared["test", condition] = codec.apply(make_data(size["test"], condition, rng))
    shared["base"] = train_base(shared["train", "aligned"], size["base"], generator)
    # Every arm's target is the error that plain concatenation ends with, so it is trained here.
    concat = Training(shared["base"], shared["train", "aligned"], "concat", seed, size["steps"], size["batch"])
    concat.run(size["steps"])
    shared["concat"] = concat.model
    shared["target"] = check(concat.model, shared, seed)
    shared["untrained"] = check(shared["base"], shared, seed)
    for condition in DRAWN:
        test = shared["test", condition]
        plain, _ = draw_test(shared["base"], test, size["test"], size["draw"], seed)
        shared["floor", condition] = measure(plain, test, codec, condition == "style")
    shared["speed"] = speed(scale, seed)
    return shared


@study.trial
def trial(arm: str, condition: str, seed: int, scale: str, shared: dict[str, Any]) -> dict[str, Any]:
    if scale == "full":
        return trial_full(arm, condition, seed, shared)
    seed += FRESH
    if condition == "speed":
        return dict(shared["speed"][arm])
    size, codec, test = SCALES[scale], shared["codec"], shared["test", condition]
    style, floor = condition == "style", shared["floor", condition]
    if arm == "no-condition":
        return dict(floor)
    steps = size["steps"] if condition == "aligned" else size["controls"]
    curve, at = [shared["untrained"]], [0]
    if arm == "concat" and condition == "aligned":
        training, model = None, shared["concat"]
    else:
        training = Training(shared["base"], shared["train", condition], arm, seed, steps, size["batch"])
        model = training.model
        checks = size["checks"] if condition == "aligned" and arm in ("pka", "uniform-t") else 1
        for _ in range(checks):
            training.run(steps // checks)
            if checks > 1:
                at.append(training.done)
                curve.append(check(model, shared, seed, arm))
    latents, _ = draw_test(model, test, size["test"], size["draw"], seed, arm)
    found: dict[str, Any] = measure(latents, test, codec, style)
    found["gain"] = floor["condition_error"] - found["condition_error"]
    if len(at) > 1:
        found |= {"steps_to_target": steps_to(shared["target"], at, curve), "checked_at": at, "curve": curve}
        found["target"] = shared["target"]
    if arm == "pka" and condition == "aligned" and training is not None and training.sampler is not None:
        found["density"] = training.sampler.density() * training.sampler.bins
        found |= two_scopes(model, test, codec, size["draw"], seed)
    return found


def two_scopes(
    model: MultiConditionDiT, data: dict[str, Any], codec: Codec, steps: int, seed: int
) -> dict[str, list[Any]]:
    """A drawn test picture with the scopes of both its shape words, for the figure."""
    count = min(4, len(data["image"]))
    one = {name: data[name][:count] for name in ("image", "edges", "depth", "subject", "words", "mask")}
    spans = torch.zeros(count, 2, WORDS, dtype=torch.bool)
    spans[:, 0, 1] = spans[:, 1, 4] = True
    noise = torch.randn(one["image"].shape, generator=torch.Generator().manual_seed(seed + 1))
    contexts, tracker = contexts_of(model, one, slice(None)), ScopeTracker(GRID, dilate=0)
    ready, x = cache_conditions(model, contexts), noise
    with torch.no_grad():
        for now, later in zip(time_steps(steps)[:-1].tolist(), time_steps(steps)[1:].tolist(), strict=True):
            seen = tracker.current(count, 2)
            v, relevance = model(x, torch.full((count,), now), one["words"], ready, seen[:, :1], spans)
            tracker.observe(relevance)
            x = x + (later - now) * v
    image = ((codec.decode(x) + 1) / 2).clip(0, 1).permute(0, 2, 3, 1)
    scopes = tracker.current(count, 2).float().reshape(count, 2, *GRID)
    return {"pictures": image.mul(1000).round().div(1000).tolist(), "scopes": scopes.tolist()}


def speed(scale: str, seed: int) -> dict[str, dict[str, Any]]:
    """Seconds of a picture for growing numbers of conditions and image tokens, by arm; random weights.

    Processor time of one thread. The arms take turns at every size, in rounds, and the least of the rounds counts: a
    while in which other programs crowd the memory then falls on all alike, and can only add.
    """
    smoke = scale == "smoke"
    sides, numbers = ((4, 6), (0, 1, 6)) if smoke else ((8, 16, 32), (0, 1, 2, 4, 6))
    middle = sides[-2]
    sizes = dict.fromkeys([(middle, number) for number in numbers] + [(side, 2) for side in sides])
    least: dict[Any, float] = {}
    with torch.no_grad():
        work = {arm: {size: picture_parts(arm, scale, seed, *size) for size in sizes} for arm in TIMED}
        for round_ in range(1 if smoke else 5):
            for size in sizes:
                if round_ < 2 or size[0] < 32:
                    for arm in TIMED:
                        for name, run in work[arm][size].items():
                            once = median_seconds(run, 1, warmup=int(round_ == 0), clock=time.process_time)
                            least[arm, size, name] = min(once, least.get((arm, size, name), once))
        memory = {arm: peak_memory(work[arm][middle, 2]["step"]) for arm in TIMED}

    def cost(arm: str, *size: int) -> float:
        step, free, once = (least.get((arm, size, name), 0.0) for name in ("step", "free", "once"))
        return once + 2 * free + (PICTURE_STEPS - 2) * step if free else PICTURE_STEPS * step

    n = middle**2
    scope = int(flux.disc_scope((middle, middle), SPEED_RHO).sum())
    pairs = pair_count(n, SPEED_WORDS, 2, 1, 1, n, SPEED_RHO, (middle, middle), [scope])
    found: dict[str, dict[str, Any]] = {}
    for arm, kind in TIMED.items():
        by_conditions = [cost(arm, middle, number) for number in numbers]
        by_tokens = [cost(arm, side, 2) for side in sides]
        found[arm] = {
            "seconds_per_image": cost(arm, middle, 2),
            "seconds_one_to_six": sum(by_conditions[1:]) / len(by_conditions[1:]),
            "seconds_by_conditions": by_conditions,
            "seconds_by_tokens": by_tokens,
            "growth_with_conditions": by_conditions[-1] / by_conditions[1],
            "growth_with_tokens": by_tokens[-1] / by_tokens[0],
            "peak_bytes": memory[arm],
            "pairs": pairs[kind],
            "conditions_timed": numbers,
        }
    return found


def picture_parts(arm: str, scale: str, seed: int, side: int, conditions: int) -> dict[str, Callable[[], Any]]:
    """What a picture consists of, with one subject: a step; with a cache also what fills it and a step before scopes.

    Weights and input are the same for every arm.
    """
    torch.manual_seed(seed)
    base = DiT(
        CHANNELS, 1, len(shapes.VOCABULARY), SPEED_WORDS, SCALES[scale]["width"], 1 if scale == "smoke" else 4, 4,
        double=0,
    )  # fmt: skip
    model = MultiConditionDiT(base, (PATCH**2,) * 6, 2, RANK, PATTERNS[arm]).eval()
    g = torch.Generator().manual_seed(seed)
    x, words = torch.randn(1, CHANNELS, side, side, generator=g), torch.randint(18, (1, SPEED_WORDS), generator=g)
    maps = [torch.randn(1, PATCH**2, side, side, generator=g) for _ in range(conditions)]
    things = [torch.randn(1, CHANNELS, side, side, generator=g)]
    t = torch.full((1,), 0.5)
    contexts = model.contexts(maps, things)
    if not model.pattern.one_way:
        return {"step": lambda: model(x, t, words, contexts)}
    everywhere = torch.ones(1, 1, side * side, dtype=torch.bool)
    compact = flux.disc_scope((side, side), SPEED_RHO).expand(1, 1, -1)
    ready = cache_conditions(model, contexts)
    watch = [(0, 1)] if model.pattern.scoped else None
    return {
        "step": lambda: model(x, t, words, ready, compact, watch),
        "free": lambda: model(x, t, words, ready, everywhere, watch),
        "once": lambda: cache_conditions(model, model.contexts(maps, things)),
    }


# Full scale: FLUX


def prepare_full(device: str, data: Path | None) -> dict[str, Any]:
    """FLUX and the user's pictures: `--data FOLDER` with captions.jsonl, and `model/` or the gated FLUX.1-dev."""
    if data is None:
        raise InputError("full scale needs --data: a folder with pictures and captions.jsonl (Subjects200K, COCO)")
    samples = flux.read_samples(data)
    folder = data / "model"
    settings = {"steps": 2000, "size": 512, "text": 512, "draw": 28, "rate": 1e-4}
    if (data / "full.json").is_file():
        settings |= json.loads((data / "full.json").read_text("utf-8"))
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    pipe = flux.load_pipeline(str(folder) if folder.is_dir() else "black-forest-labs/FLUX.1-dev", device, dtype)
    held = max(1, len(samples) // 10)
    return {"pipe": pipe, "train": samples[held:] or samples, "test": samples[:held], **settings}


def trial_full(arm: str, condition: str, seed: int, shared: dict[str, Any]) -> dict[str, Any]:
    """The same arms on FLUX: LoRA training, then drawing of held-out captions."""
    pipe, size = shared["pipe"], (shared["size"], shared["size"])
    if condition == "speed":
        kind = {"concat": "dense", "concat-kvcache": "cached"}.get(arm, arm)

        def row(conditions: int, side: int) -> dict[str, Any]:
            rows = flux.profile_flux(pipe, (side, side), conditions, 1, shared["draw"], shared["text"])
            return next(row for row in rows if row["attention"] == kind)

        one, two, four, six = (row(number, size[0]) for number in (1, 2, 4, 6))
        half = row(2, max(32, size[0] // 32 * 16))
        name = "seconds a picture"
        return {
            "seconds_per_image": two[name], "peak_bytes": two["peak MB a step"] * 1e6,
            "seconds_one_to_six": (one[name] + two[name] + four[name] + six[name]) / 4,
            "growth_with_conditions": six[name] / one[name], "growth_with_tokens": two[name] / half[name],
            "pairs": two["million pairs a layer"] * 1e6,
        }  # fmt: skip
    trained = None
    shift, style = (size[0] // 3 if condition == "misaligned" else 0), condition == "style"
    if arm != "no-condition":
        trained = flux.train_flux(
            pipe, shared["train"], shared["steps"], size, RANK, shared["rate"], seed, shared["text"], PATTERNS[arm],
            uniform=arm != "pka", shift=shift, style=style, random_scope=arm == "random-scope",
        )  # fmt: skip
    rows = []
    for number, sample in enumerate(shared["test"]):
        truth = flux.open_picture(sample.image, size)
        pictures, subjects = {"edges": flux.edge_picture(truth)}, []
        if sample.depth is not None:
            pictures["depth"] = flux.open_picture(sample.depth, size)
        if shift:
            pictures = {k: flux.Image.fromarray(np.roll(np.asarray(p), shift, 1)) for k, p in pictures.items()}
        if sample.subject is not None:
            subjects = [(sample.keyword, flux.open_picture(sample.subject))]
        if style:
            subjects = [(sample.keyword or sample.text.split()[0], truth.crop((0, 0, size[1] // 2, size[0] // 2)))]
        lora = None if trained is None else trained.lora
        if lora is not None:
            pictures = {kind: p for kind, p in pictures.items() if kind in lora.kinds}
            subjects = subjects if "subject" in lora.kinds else []
        drawn, _, _ = flux.draw_flux(
            pipe, lora, sample.text, pictures, subjects, size, shared["draw"], seed=seed + number,
            text_tokens=shared["text"], pattern=PATTERNS.get(arm, Pattern()),
        )  # fmt: skip
        image, true = (np.asarray(p, dtype=float) / 255 for p in (drawn, truth))
        whole = np.ones(image.shape[:2], dtype=bool)
        region = whole
        if sample.mask is not None and not style:
            region = np.asarray(flux.open_picture(sample.mask, size).convert("L")) > 127
        edges = (np.asarray(flux.edge_picture(p).convert("L")) > 127 for p in (drawn, truth))
        rows.append((edge_f1(*edges, 2), masked_similarity(image, region, true, region)))
    edge, subject = np.mean(rows, axis=0)
    found = {"condition_error": 1 - (edge + subject) / 2, "edge_f1": edge, "subject_similarity": subject}
    if trained is not None:
        found["gain"] = float(np.mean(trained.losses[: len(trained.losses) // 4 + 1])) - float(
            np.mean(trained.losses[-(len(trained.losses) // 4 + 1) :])
        )
        found["curve"] = trained.losses
    return found


# Figure


@study.figure
def figure(evidence: Evidence) -> plt.Figure:
    """Time, fidelity, convergence, learned times, and two scopes on a drawn picture."""
    shown, axes = plt.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    colours = {"concat": "tab:red", "concat-kvcache": "tab:orange", "pka": "tab:blue", "uniform-t": "tab:green"}
    for arm in ("concat", "concat-kvcache", "pka"):
        seconds, numbers = (
            evidence.series("seconds_by_conditions", arm, "speed"),
            evidence.series("conditions_timed", arm, "speed"),
        )
        if len(seconds):
            axes[0, 0].plot(numbers[0], np.median(seconds, axis=0), "o-", color=colours[arm], label=arm)
    axes[0, 0].set(
        xlabel="spatial conditions",
        ylabel=evidence.label("seconds_per_image"),
        yscale="log",
        title="256 image tokens, one subject",
    )
    arms = [arm for arm in evidence.arms if np.isfinite(evidence.values("condition_error", arm, "aligned")).any()]
    marks = {"aligned": "o", "misaligned": "s", "style": "^"}
    for offset, (condition, mark) in enumerate(marks.items()):
        for place, arm in enumerate(arms):
            mean, low, high = evidence.mean_interval("condition_error", arm, condition)
            if np.isfinite(mean):
                bar = [[mean - low], [high - mean]] if np.isfinite(low) else None
                label = condition if arm == "pka" else None
                axes[0, 1].errorbar(
                    mean, place + 0.18 * (offset - 1), xerr=bar, fmt=mark, color=f"C{offset}", label=label, capsize=2
                )
    axes[0, 1].set(
        yticks=range(len(arms)),
        yticklabels=arms,
        xlabel=evidence.label("condition_error"),
        title="fidelity (95 % interval over seeds)",
    )
    axes[0, 1].invert_yaxis()
    for arm in ("pka", "uniform-t"):
        curve, at = evidence.series("curve", arm, "aligned"), evidence.series("checked_at", arm, "aligned")
        if len(curve) and len(at):
            axes[0, 2].plot(
                at[0],
                curve.mean(axis=0),
                "o-",
                color=colours[arm],
                label={"pka": "by sensitivity"}.get(arm, "uniform times"),
            )
    target = evidence.values("target", "pka", "aligned")
    if np.isfinite(target).any():
        axes[0, 2].axhline(np.nanmean(target), color=colours["concat"], ls="--", label="concat at the end")
    axes[0, 2].set(xlabel="training steps", ylabel=evidence.label("condition_error"), title="convergence of pka")
    density = evidence.series("density", "pka", "aligned")
    if len(density):
        bins = density.shape[1]
        axes[1, 0].stairs(
            density.mean(axis=0),
            np.linspace(0, 1, bins + 1),
            fill=True,
            alpha=0.4,
            color=colours["pka"],
            label="learned",
        )
        axes[1, 0].axhline(1, color="k", ls="--", label="uniform")
    axes[1, 0].set(xlabel="time (0 data, 1 noise)", ylabel="density", title="where training times are drawn")
    pictures, scopes = evidence.series("pictures", "pka", "aligned"), evidence.series("scopes", "pka", "aligned")
    for number, axis in enumerate(axes[1, 1:]):
        axis.set_axis_off()
        if not len(pictures):
            continue
        bright = np.kron(scopes[0, :, number], np.ones((PATCH, PATCH)))[..., None]
        shown_scopes = pictures[0] * (0.25 + 0.75 * bright)
        axis.imshow(np.concatenate([np.concatenate(row, axis=1) for row in (pictures[0], shown_scopes)]).clip(0, 1))
        axis.set_title(f"scope of the {('first', 'second')[number]} shape's word")
    for axis in axes.flat[:4]:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    return shown


# Apply


@study.apply
def apply(
    model: str = "black-forest-labs/FLUX.1-dev",
    prompt: str = "",
    edges: Path | None = None,
    depth: Path | None = None,
    subject: list[str] = [],  # noqa: B006  the command line wants a list
    lora: Path | None = None,
    out: Path = Path("img.png"),
    profile: bool = False,
    train: Path | None = None,
    size: int = 512,
    steps: int = 20,
    guidance: float = 3.5,
    seed: int = 0,
    window: int = 1,
    rho: float = 0.3,
    text_tokens: int = 512,
    conditions: int = 2,
    subjects: int = 1,
    train_steps: int = 2000,
    rank: int = 16,
    learning_rate: float = 1e-4,
    device: str = "cpu",
) -> Any:
    """Draw with FLUX under edges, depth and subjects at a fraction of the attention; time it, or train it.

    Three uses. With --prompt and --lora: draws OUT and, beside it, scopes.png (where each subject was seen).
    With --profile: prints seconds, memory and key-query pairs of dense, cached and PKA attention for the model and
    sizes; no LoRA is needed. With --train FOLDER (pictures and captions.jsonl; edges are derived): trains a LoRA
    and writes it to OUT/model.

    Args:
        model: FLUX pipeline: a folder in diffusers' format, or a Hugging Face id.
        prompt: what to draw.
        edges: edge map, white on black; its size is the picture's.
        depth: depth map, near is bright; of the same size.
        subject: keyword of the prompt and a picture of it, such as "corgi=dog.jpg"; may be repeated.
        lora: trained by --train: pka.safetensors or its folder.
        out: the picture; a folder with --train.
        profile: only measure.
        train: folder with pictures and captions.jsonl.
        size: side of the picture where no map gives it (pixels).
        steps: solver steps.
        guidance: guidance of the distilled model.
        seed: of noise and training.
        window: side of the window on spatial conditions (tokens, odd).
        rho: share of image tokens that see a subject.
        text_tokens: length of the text (FLUX.1-dev 512, schnell 256).
        conditions: spatial conditions of the profile.
        subjects: subjects of the profile.
        train_steps: training steps, one picture each.
        rank: of the LoRA.
        learning_rate: of the training.
        device: cpu or cuda.
    """
    if sum((profile, train is not None, bool(prompt))) != 1:
        raise InputError("give exactly one of --prompt (draw), --profile (measure) and --train FOLDER")
    if window < 1 or window % 2 == 0:
        raise InputError(f"--window {window}: an odd number of tokens is needed")
    if not 0 < rho <= 1:
        raise InputError(f"--rho {rho}: a share above 0 and up to 1 is needed")
    pattern = Pattern(window=window)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    if train is not None:
        samples = flux.read_samples(train)
        flux.check_size(size, size)
        pipe = flux.load_pipeline(model, device, dtype)
        done = flux.train_flux(
            pipe, samples, train_steps, (size, size), rank, learning_rate, seed, text_tokens, pattern
        )
        flux.save_lora(done.lora, out / "model", window=window, base=model)
        lines = ["step,loss", *(f"{step},{loss:.6f}" for step, loss in enumerate(done.losses, 1))]
        (out / "losses.csv").write_text("\n".join(lines) + "\n", "utf-8")
        return {"pictures": len(samples), "conditions": list(done.lora.kinds), "last loss": round(done.losses[-1], 5)}
    if profile:
        flux.check_size(size, size)
        pipe = flux.load_pipeline(model, device, dtype)
        rows = flux.profile_flux(pipe, (size, size), conditions, subjects, steps, text_tokens, window, rho)
        return table(flux.rounded(rows))
    return _draw(
        model,
        prompt,
        edges,
        depth,
        subject,
        lora,
        out,
        size,
        steps,
        guidance,
        seed,
        pattern,
        rho,
        text_tokens,
        device,
        dtype,
    )


def _draw(
    model: str, prompt: str, edges: Path | None, depth: Path | None, subject: Sequence[str], lora: Path | None,
    out: Path, size: int, steps: int, guidance: float, seed: int, pattern: Pattern, rho: float, text_tokens: int,
    device: str, dtype: torch.dtype,
) -> dict[str, Any]:  # fmt: skip
    pictures = {k: flux.open_picture(p) for k, p in (("edges", edges), ("depth", depth)) if p is not None}
    sizes = {p.size for p in pictures.values()} or {(size, size)}
    if len(sizes) > 1:
        raise InputError(f"edges are {pictures['edges'].size} and depth {pictures['depth'].size} pixels; give one size")
    width, height = sizes.pop()
    flux.check_size(height, width)
    things = []
    for given in subject:
        keyword, _, name = given.partition("=")
        if not keyword or not name:
            raise InputError(f'subject {given!r}: expected KEYWORD=PICTURE, such as "corgi=dog.jpg"')
        if keyword.lower() not in prompt.lower():
            raise InputError(f"keyword {keyword!r} is not in the prompt {prompt!r}")
        things.append((keyword, flux.open_picture(Path(name))))
    if (pictures or things) and lora is None:
        raise InputError("conditions need --lora; train one with --train FOLDER, or use --profile")
    pipe = flux.load_pipeline(model, device, dtype)
    adapter = None if lora is None else flux.load_lora(lora, pipe.transformer)
    asked = [*pictures, *(["subject"] if things else [])]
    unknown = [] if adapter is None else [kind for kind in asked if kind not in adapter.kinds]
    if unknown and adapter is not None:
        raise InputError(f"the LoRA was not trained for {', '.join(unknown)}; it knows {', '.join(adapter.kinds)}")
    image, scopes, grid = flux.draw_flux(
        pipe, adapter, prompt, pictures, things, (height, width), steps, guidance, seed, text_tokens, pattern, rho
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    image.save(out)
    words = [keyword for keyword, _ in things]
    if scopes is not None:
        flux.scope_picture(image, scopes, grid, words).save(out.parent / "scopes.png")
    shares = (
        {} if scopes is None else {w: round(float(s.float().mean()), 3) for w, s in zip(words, scopes[0], strict=True)}
    )
    return {"picture": [width, height], "conditions": asked, "share of the picture that sees": shares}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as aligned text."""
    names = list(rows[0])
    cells = [
        names,
        *([f"{row[name]:.4g}" if not isinstance(row[name], str) else row[name] for name in names] for row in rows),
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells)
