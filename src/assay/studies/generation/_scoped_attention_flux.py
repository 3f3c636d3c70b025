"""PKA on a FLUX pipeline of diffusers: pictures in and out, drawing, training, timing."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from assay import __version__
from assay.errors import InputError, require
from assay.methods.generation._scoped_flux import FluxCondition, appended, pka_processors
from assay.methods.generation.scoped_attention import (
    FluxConditionLoRA,
    FluxConditions,
    Pattern,
    ScopeTracker,
    SensitivitySampler,
    cache_flux_conditions,
    pair_count,
    scope,
    scope_from_mask,
)
from assay.metrics.cost import median_seconds, peak_memory
from assay.nn.flow import path_point, velocity_target

PAPER = "2602.06850"
PKA = Pattern()


@dataclass(frozen=True)
class Sample:
    """A training picture.

    Attributes:
        image, text: the picture's file and its caption.
        depth: a depth map beside it, if there is one. subject, keyword: another view of something the caption names.
        mask: where the subject stands in the picture, if known.
    """

    image: Path
    text: str
    depth: Path | None = None
    subject: Path | None = None
    keyword: str = ""
    mask: Path | None = None


def read_samples(folder: Path) -> list[Sample]:
    """Training pictures of a folder with `captions.jsonl`.

    One JSON object a line: `{"image": "a.jpg", "text": "a corgi on a beach"}` and, where there are such files,
    `"depth"`, `"subject"` with `"keyword"`, and `"mask"`; all paths inside the folder. Subjects200K and COCO are
    written out in this form by a few lines of `datasets` or `pycocotools`.

    Raises:
        InputError: no such file, a line that is no such object, a file that is missing or lies outside the folder,
            a keyword that the caption does not contain.
    """
    listing = folder / "captions.jsonl"
    if not listing.is_file():
        raise InputError(f"{folder}: expected a folder with pictures and captions.jsonl")
    samples = []
    for number, line in enumerate(listing.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{listing}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON ({error.msg})") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("image", "text")):
            raise InputError(f'{where}: expected an object with "image" and "text"')
        files = {key: _inside(folder, row[key], where) for key in ("image", "depth", "subject", "mask") if row.get(key)}
        keyword = str(row.get("keyword", ""))
        if ("subject" in files) != bool(keyword):
            raise InputError(f'{where}: "subject" and "keyword" belong together')
        if keyword not in row["text"]:
            raise InputError(f"{where}: keyword {keyword!r} is not in the text {row['text']!r}")
        samples.append(Sample(files.pop("image"), row["text"], keyword=keyword, **files))
    if not samples:
        raise InputError(f"{listing}: no pictures listed")
    return samples


def _inside(folder: Path, name: str, where: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"{where}: {name} lies outside {folder}")
    if not path.is_file():
        raise InputError(f"{where}: no file {name}")
    return path


def open_picture(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture in RGB, resized to `(height, width)` when given.

    Raises:
        InputError: no such file, or no picture.
    """
    try:
        picture = Image.open(path).convert("RGB")
    except FileNotFoundError as error:
        raise InputError(f"no such picture: {path}") from error
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path}: not a picture that can be read") from error
    return picture if size is None else picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)


def edge_picture(picture: Image.Image, sigma: float = 1.5) -> Image.Image:
    """Canny edges, white on black."""
    from skimage.feature import canny

    edges = canny(np.asarray(picture.convert("L"), dtype=float) / 255, sigma=sigma)
    return Image.fromarray(edges.astype(np.uint8) * 255).convert("RGB")


def load_pipeline(model: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A `FluxPipeline` from a folder in diffusers' format or a Hugging Face id; safetensors only.

    Raises:
        InputError: no such model, no access to it, or another kind of pipeline.
    """
    diffusers = require("diffusers", "generation")
    transformers = require("transformers", "generation")
    for library in (diffusers, transformers):  # one line of ours says what matters; their bars and notes do not
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    folder = Path(model).expanduser()
    if folder.is_dir():
        index = folder / "model_index.json"
        if not index.is_file():
            raise InputError(f"{model}: no model_index.json; expected a FLUX pipeline saved by diffusers")
        kind = json.loads(index.read_text("utf-8")).get("_class_name")
        if kind != "FluxPipeline":
            raise InputError(f"{model} holds a {kind}; expected a FluxPipeline")
    elif folder.suffix or model.startswith((".", "/", "~")):
        raise InputError(f"no such model folder: {model}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            pipe = diffusers.FluxPipeline.from_pretrained(
                str(folder) if folder.is_dir() else model, torch_dtype=dtype, use_safetensors=True,
                local_files_only=folder.is_dir(),
            )  # fmt: skip
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"cannot load the model {model}: {first}") from error
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        part.requires_grad_(False).eval()
    return pipe.to(device)


def check_size(height: int, width: int) -> None:
    """Raises InputError unless both are positive multiples of 16 (8 of the autoencoder, 2 of the patches)."""
    if height < 16 or width < 16 or height % 16 or width % 16:
        raise InputError(f"picture of {width}x{height} pixels: both sides must be multiples of 16")


def token_grid(pipe: Any, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of image tokens of a picture."""
    step = 2 * pipe.vae_scale_factor
    return height // step, width // step


@torch.no_grad()
def encode_picture(pipe: Any, picture: Image.Image, kind: str, aside: int | None = None) -> FluxCondition:
    """A picture as packed latents with positions; `aside` columns to the right for a subject, None if spatial."""
    transformer = pipe.transformer
    pixels = pipe.image_processor.preprocess(picture).to(transformer.device, pipe.vae.dtype)
    latents = pipe.vae.encode(pixels).latent_dist.mode()
    latents = (latents - (pipe.vae.config.shift_factor or 0.0)) * pipe.vae.config.scaling_factor
    batch, channels, h, w = latents.shape
    packed = pipe._pack_latents(latents, batch, channels, h, w).to(transformer.dtype)
    ids = pipe._prepare_latent_image_ids(batch, h // 2, w // 2, transformer.device, transformer.dtype)
    if aside is not None:
        ids[:, 2] += aside
    return FluxCondition(kind, packed, ids, (h // 2, w // 2), aside is None)


def keyword_span(tokenizer: Any, prompt: str, keyword: str, length: int) -> tuple[int, int]:
    """Where the tokens of a keyword stand in a prompt.

    Raises:
        InputError: the keyword is not in the prompt, or beyond the tokens that are read.
    """
    start = prompt.lower().find(keyword.lower())
    if not keyword or start < 0:
        raise InputError(f"keyword {keyword!r} is not in the prompt {prompt!r}")

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False).input_ids) if text else 0

    first, last = count(prompt[:start].rstrip()), count(prompt[: start + len(keyword)])
    first = min(first, last - 1)
    if last > length:
        raise InputError(f"keyword {keyword!r} stands beyond the {length} text tokens that are read")
    return first, last


@torch.no_grad()
def draw_flux(
    pipe: Any,
    lora: FluxConditionLoRA | None,
    prompt: str,
    pictures: dict[str, Image.Image],
    subjects: Sequence[tuple[str, Image.Image]],
    size: tuple[int, int],
    steps: int = 20,
    guidance: float = 3.5,
    seed: int = 0,
    text_tokens: int = 512,
    pattern: Pattern = PKA,
    rho: float = 0.3,
    free_steps: int = 2,
    scopes: Tensor | None = None,
) -> tuple[Image.Image, Tensor | None, tuple[int, int]]:
    """Draw a picture under conditions.

    Args:
        pictures: spatial condition by kind. subjects: keyword and picture. size: height and width (pixels).
        pattern: who attends to whom. scopes: fixed scopes `(1, J, N)`.

    Returns:
        the picture, the last scopes `(1, J, N)` or None, and the grid of image tokens.
    """
    grid = token_grid(pipe, *size)
    conditions = _encode(pipe, pictures, [picture for _, picture in subjects], size)
    shared = FluxConditions(text_tokens, grid)
    with ExitStack() as stack:
        if conditions and lora is not None:
            if pattern.one_way:
                shared.near, shared.scoped = cache_flux_conditions(pipe.transformer, lora, conditions)
                shared.window = pattern.window if pattern.aligned else None
                shared.scopes = scopes
                if subjects and pattern.scoped and scopes is None:
                    shared.spans = [keyword_span(pipe.tokenizer_2, prompt, word, text_tokens) for word, _ in subjects]
                    shared.tracker = ScopeTracker(grid, rho, free_steps=free_steps)
            else:
                _append(stack, pipe, lora, conditions, shared)
        stack.enter_context(pka_processors(pipe.transformer, shared))
        image = pipe(
            prompt=prompt, height=size[0], width=size[1], num_inference_steps=steps, guidance_scale=guidance,
            generator=torch.Generator("cpu").manual_seed(seed), max_sequence_length=text_tokens,
        ).images[0]  # fmt: skip
    return image, shared.scopes, grid


def _encode(
    pipe: Any, pictures: dict[str, Image.Image], subjects: Sequence[Image.Image], size: tuple[int, int]
) -> list[FluxCondition]:
    grid = token_grid(pipe, *size)
    near = [encode_picture(pipe, picture, kind) for kind, picture in pictures.items()]
    side = min(size)
    return near + [
        encode_picture(pipe, picture.resize((side, side)), "subject", aside=grid[1] * (number + 1))
        for number, picture in enumerate(subjects)
    ]


def _append(
    stack: ExitStack, pipe: Any, lora: Any, conditions: Sequence[FluxCondition], shared: FluxConditions
) -> None:
    """Concatenate-and-attend: condition latents go through the transformer behind the image's, at every step."""
    transformer = pipe.transformer
    extra = torch.cat([condition.latents for condition in conditions], dim=1)
    ids = torch.cat([condition.ids for condition in conditions])
    shared.extra, shared.lora = extra.shape[1], lora
    stack.enter_context(appended(transformer, lora, conditions))

    def lengthen(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = kwargs["hidden_states"]
        behind = extra.to(hidden).expand(len(hidden), -1, -1)
        return args, {
            **kwargs,
            "hidden_states": torch.cat([hidden, behind], dim=1),
            "img_ids": torch.cat([kwargs["img_ids"], ids]),
        }

    def shorten(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        return (output[0][:, : -extra.shape[1]], *output[1:])

    for handle in (
        transformer.register_forward_pre_hook(lengthen, with_kwargs=True),
        transformer.register_forward_hook(shorten),
    ):
        stack.callback(handle.remove)


@dataclass
class FluxTraining:
    """What training gives: the LoRA, the time sampler, and the loss of every step."""

    lora: FluxConditionLoRA
    sampler: SensitivitySampler | None
    losses: list[float]


def train_flux(
    pipe: Any,
    samples: Sequence[Sample],
    steps: int,
    size: tuple[int, int],
    rank: int = 16,
    learning_rate: float = 1e-4,
    seed: int = 0,
    text_tokens: int = 512,
    pattern: Pattern = PKA,
    uniform: bool = False,
    shift: int = 0,
    style: bool = False,
    random_scope: bool = False,
) -> FluxTraining:
    """Train the LoRA of conditions by flow matching, one picture a step.

    Args:
        uniform: times uniform instead of by sensitivity. shift: misaligns the conditions by so many pixels.
        style: the subject is a crop of the picture itself. random_scope: scopes of the same size at random places.
    """
    transformer, generator = pipe.transformer, torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    kinds = ["edges"]
    kinds += ["depth"] if any(sample.depth for sample in samples) else []
    kinds += ["subject"] if style or any(sample.subject for sample in samples) else []
    grid = token_grid(pipe, *size)
    near = grid[0] * grid[1] / pattern.window**2 if pattern.one_way and pattern.aligned else 1.0
    lora = FluxConditionLoRA(transformer, kinds, rank, near).to(transformer.device, torch.float32)
    sampler = None if uniform else SensitivitySampler()
    optimizer = torch.optim.AdamW(lora.parameters(), learning_rate, weight_decay=0.0)
    losses = []
    for step in range(steps):
        sample = samples[int(torch.randint(len(samples), (), generator=generator))]
        x, pictures, subjects, scopes = _training_input(pipe, sample, size, grid, shift, style)
        conditions = _encode(pipe, pictures, subjects, size)
        keep = torch.rand(len(conditions), generator=generator) >= 0.1
        keep &= bool(torch.rand((), generator=generator) >= 0.1)
        conditions = [condition for condition, kept in zip(conditions, keep, strict=True) if kept]
        t = (torch.rand(1, generator=generator) if sampler is None else sampler.sample(1, generator)).to(x.latents)
        noise = torch.randn(x.latents.shape, generator=generator).to(x.latents)
        x_t = path_point(x.latents, noise, t)
        text = sample.text if torch.rand((), generator=generator) >= 0.1 else ""
        with torch.no_grad():
            prompt, pooled, text_ids = pipe.encode_prompt(text, text, max_sequence_length=text_tokens)
        inputs = _inputs(transformer, x_t, t, prompt, pooled, text_ids, x.ids)
        shared = FluxConditions(text_tokens, grid, window=pattern.window if pattern.aligned else None)
        with ExitStack() as stack:
            if conditions and pattern.one_way:
                shared.near, shared.scoped = cache_flux_conditions(transformer, lora, conditions)
                if shared.scoped[0] and pattern.scoped:
                    shared.scopes = scopes if scopes is not None else _scopes_by_map(pipe, inputs, shared, sample, text)
                    if random_scope:
                        order = torch.rand(shared.scopes.shape, generator=generator).argsort(-1).argsort(-1)
                        shared.scopes = order.to(shared.scopes.device) < shared.scopes.sum(-1, keepdim=True)
            elif conditions:
                _append(stack, pipe, lora, conditions, shared)
            stack.enter_context(pka_processors(transformer, shared))
            velocity = transformer(**inputs, return_dict=False)[0]
        loss = (velocity - velocity_target(x.latents, noise)).square().mean()
        losses.append(float(loss.detach()))
        if loss.requires_grad:  # all conditions dropped: nothing trains on this picture
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if sampler is not None and conditions and step % 8 == 0:
            with torch.no_grad(), pka_processors(transformer, FluxConditions(text_tokens, grid)):
                free = transformer(**inputs, return_dict=False)[0]
            sampler.update(t, velocity.detach(), free)
    return FluxTraining(lora, sampler, losses)


def _training_input(
    pipe: Any, sample: Sample, size: tuple[int, int], grid: tuple[int, int], shift: int, style: bool
) -> tuple[FluxCondition, dict[str, Image.Image], list[Image.Image], Tensor | None]:
    picture = open_picture(sample.image, size)
    spatial = {"edges": edge_picture(picture)}
    if sample.depth is not None:
        spatial["depth"] = open_picture(sample.depth, size)
    if shift:
        spatial = {kind: Image.fromarray(np.roll(np.asarray(p), shift, 1)) for kind, p in spatial.items()}
    if style:
        subjects = [picture.crop((0, 0, size[1] // 2, size[0] // 2))]
    else:
        subjects = [open_picture(sample.subject)] if sample.subject is not None else []
    scopes = None
    if sample.mask is not None and subjects and not style:
        mask = torch.from_numpy(np.asarray(open_picture(sample.mask, size).convert("L")) > 127)
        scopes = scope_from_mask(mask[None, None], grid).to(pipe.transformer.device)
    return encode_picture(pipe, picture, "image"), spatial, subjects, scopes


@torch.no_grad()
def _scopes_by_map(
    pipe: Any, inputs: dict[str, Any], shared: FluxConditions, sample: Sample, text: str
) -> Tensor | None:
    """Scope read from the attention of a pass without conditions; None (everywhere) where there is no keyword."""
    if not sample.keyword or not text:
        return None
    tracker = ScopeTracker(shared.grid, free_steps=1)
    span = keyword_span(pipe.tokenizer_2, text, sample.keyword, shared.text_length)
    none = [[] for _ in shared.near]
    scoped = shared.scoped  # seen everywhere during this pass, so that the processors report the map
    watch = FluxConditions(shared.text_length, shared.grid, none, scoped, 1, [span], tracker)
    with pka_processors(pipe.transformer, watch):
        pipe.transformer(**inputs, return_dict=False)
    return tracker.current(1, 1, inputs["hidden_states"].device)


def _inputs(
    transformer: Any, x_t: Tensor, t: Tensor, prompt: Tensor, pooled: Tensor, text_ids: Tensor, ids: Tensor
) -> dict[str, Any]:
    guidance = torch.ones(1, device=x_t.device) if transformer.config.guidance_embeds else None
    return {
        "hidden_states": x_t, "timestep": t, "guidance": guidance, "pooled_projections": pooled,
        "encoder_hidden_states": prompt, "txt_ids": text_ids, "img_ids": ids,
    }  # fmt: skip


def disc_scope(grid: tuple[int, int], rho: float = 0.3) -> Tensor:
    """A compact scope around the centre, as a drawn subject's is: bool `(1, 1, N)`."""
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in grid), indexing="ij")
    return scope(-(rows**2 + columns**2).flatten()[None, None], grid, rho)


@torch.no_grad()
def profile_flux(
    pipe: Any,
    size: tuple[int, int],
    conditions: int,
    subjects: int,
    steps: int = 20,
    text_tokens: int = 512,
    window: int = 1,
    rho: float = 0.3,
    repeats: int = 3,
) -> list[dict[str, float | str]]:
    """Seconds a picture, memory of a step and key-query pairs of a layer, for dense, cached and PKA attention.

    Latents are random: only sizes matter. Memory is what a step holds at its peak beyond the weights.
    """
    transformer, grid = pipe.transformer, token_grid(pipe, *size)
    n, device, dtype = grid[0] * grid[1], transformer.device, transformer.dtype
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    channels, config = transformer.config.in_channels, transformer.config
    ids = pipe._prepare_latent_image_ids(1, *grid, device, dtype)
    lora = FluxConditionLoRA(transformer, ("spatial", "subject"), 16).to(device, dtype)
    pictures = [FluxCondition("spatial", noise(1, n, channels), ids, grid) for _ in range(conditions)]
    for number in range(subjects):
        beside = ids.clone()
        beside[:, 2] += grid[1] * (number + 1)
        pictures.append(FluxCondition("subject", noise(1, n, channels), beside, grid, False))
    inputs = _inputs(
        transformer, noise(1, n, channels), torch.full((1,), 0.5, device=device, dtype=dtype),
        noise(1, text_tokens, config.joint_attention_dim), noise(1, config.pooled_projection_dim),
        torch.zeros(text_tokens, 3, device=device, dtype=dtype), ids,
    )  # fmt: skip
    seen = disc_scope(grid, rho).expand(1, max(subjects, 1), -1)[:, :subjects].to(device)
    pairs = pair_count(n, text_tokens, conditions, window, subjects, n, rho, grid, [int(s.sum()) for s in seen[0]])
    rows: list[dict[str, float | str]] = []
    for name in ("dense", "cached", "pka"):
        shared, once = FluxConditions(text_tokens, grid, window=window if name == "pka" else None), 0.0
        with ExitStack() as stack:
            if pictures and name == "dense":
                _append(stack, pipe, lora, pictures, shared)
            elif pictures:
                inner = 3 if name == "pka" else None

                def build(inner: int | None = inner) -> Any:
                    return cache_flux_conditions(transformer, lora, pictures, window=inner)

                shared.near, shared.scoped = build()
                once = median_seconds(build, 1, 0, device)
                shared.scopes = seen if name == "pka" and subjects else None
            stack.enter_context(pka_processors(transformer, shared))

            def step() -> Any:
                return transformer(**inputs, return_dict=False)

            seconds = median_seconds(step, repeats, 1, device)
            memory = peak_memory(step, device)
        rows.append(
            {
                "attention": name, "seconds a picture": once + steps * seconds, "seconds a step": seconds,
                "seconds once": once, "peak MB a step": memory / 1e6, "million pairs a layer": pairs[name] / 1e6,
            }
        )  # fmt: skip
    return rows


def save_lora(lora: FluxConditionLoRA, folder: Path, **settings: Any) -> None:
    """Write `pka.safetensors` and `config.json`."""
    safetensors = require("safetensors.torch", "generation")
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"paper": PAPER, "version": __version__, "kinds": list(lora.kinds), "rank": lora.rank, **settings}
    state = {name: value.detach().cpu().contiguous() for name, value in lora.state_dict().items()}
    safetensors.save_file(state, folder / "pka.safetensors", metadata={"assay": json.dumps(facts)})
    (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


def load_lora(path: Path, transformer: Any) -> FluxConditionLoRA:
    """Read a LoRA that `save_lora` wrote, from its file or folder.

    Raises:
        InputError: not such a file, or made for a transformer of other sizes.
    """
    safetensors = require("safetensors", "generation")
    file = path / "pka.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"no LoRA at {path}; expected pka.safetensors as written by --train")
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            facts = json.loads((opened.metadata() or {}).get("assay", "{}"))
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{file}: not a safetensors file that can be read") from error
    if facts.get("paper") != PAPER:
        raise InputError(f"{file}: not a PKA LoRA; train one with --train")
    lora = FluxConditionLoRA(transformer, facts["kinds"], int(facts["rank"]))
    try:
        lora.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{file}: trained for a transformer of other sizes") from error
    return lora.to(transformer.device, transformer.dtype).requires_grad_(False)


def scope_picture(image: Image.Image, scopes: Tensor, grid: tuple[int, int], words: Sequence[str]) -> Image.Image:
    """The picture once for every keyword, with what lies outside its scope darkened, side by side."""
    pixels = np.asarray(image, dtype=float)
    shown = []
    for seen in scopes[0, : len(words)].cpu().numpy().reshape(-1, *grid):
        mask = Image.fromarray(seen.astype(np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
        shown.append(pixels * (0.25 + 0.75 * np.asarray(mask, dtype=float)[..., None] / 255))
    return Image.fromarray(np.concatenate(shown, axis=1).astype(np.uint8))


def rounded(rows: Sequence[dict[str, float | str]], digits: int = 4) -> list[dict[str, float | str]]:
    """Numbers to so many significant digits, for reading."""
    return [{k: v if isinstance(v, str) else _significant(v, digits) for k, v in row.items()} for row in rows]


def _significant(value: float, digits: int) -> float:
    return 0.0 if not value else round(value, digits - 1 - math.floor(math.log10(abs(value))))
