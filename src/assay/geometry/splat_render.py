"""Fast rendering of Gaussian splats: by tiles in plain torch, or with gsplat on a CUDA device.

A tile computes only the Gaussians whose box (alpha at least 1/255) touches it, so the result is that of
`splats.render_dense` up to rounding. Tiles with similar numbers of Gaussians are computed together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from assay.errors import require
from assay.geometry.cameras import Camera
from assay.geometry.splats import BLUR, MAX_ALPHA, MIN_ALPHA, NEAR, Projected, Splats, project

Backend = Literal["torch", "gsplat"]

PAIRS = 1 << 19  # pixel-Gaussian pairs held at once; a few MB, so that they stay in the processor's cache


@dataclass(frozen=True)
class Tiles:
    """T tiles of one view that are computed together, with up to K Gaussians each.

    Attributes:
        rank: rows of the `Projected`, front to back, `(T, K)`; M (one past the end) where a tile has fewer.
        corner: image coordinates of the tiles' first corner, `(T, 2)`, whole pixels.
        size: side of a tile in pixels.
        rows: first and last (exclusive) pixel row of the tile that this batch holds.
    """

    rank: Tensor
    corner: Tensor
    size: int
    rows: tuple[int, int]


@dataclass(frozen=True)
class Block:
    """Blending weights of T tiles with P pixels and up to K Gaussians each, front to back.

    Attributes:
        ids: rows in the scene, `(T, K)`; 0 where `valid` is false.
        valid: which entries of `ids` stand for a Gaussian, `(T, K)`; the others have alpha 0.
        pixels: row-major pixel numbers, `(T, P)`; -1 outside of the image (alpha is 0 there).
        alpha, weight: `(T, P, K)`.
        leftover: transmittance behind all Gaussians, `(T, P)`.
        color: `(T, K, 3)`.
        mean, conic: projected centres and inverse covariances, `(T, K, 2)` and `(T, K, 3)`.
        centres: image coordinates of the pixels' centres, `(T, P, 2)`.
    """

    ids: Tensor
    valid: Tensor
    pixels: Tensor
    alpha: Tensor
    weight: Tensor
    leftover: Tensor
    color: Tensor
    mean: Tensor
    conic: Tensor
    centres: Tensor


def render(
    splats: Splats,
    camera: Camera,
    background: Tensor | None = None,
    *,
    near: float = NEAR,
    tile: int | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Image `(H, W, 3)` of a scene; differentiable in every parameter.

    Args:
        splats: the scene.
        camera: the view.
        background: colour behind everything, `(3,)`; black when not given.
        near: depth (scene units) in front of which Gaussians are not drawn.
        tile: side of a tile in pixels (torch backend); 8 for images up to 128 x 128 and 16 for larger ones by default.
        backend: `"gsplat"` needs CUDA and the extra `splat`; chosen by itself where both are there.

    Raises:
        MissingExtra: gsplat was asked for and is not installed.
    """
    background = splats.means.new_zeros(3) if background is None else background.to(splats.means)
    if (backend or default_backend(splats)) == "gsplat":
        return _render_gsplat(splats, camera, background, near)
    tile = tile or _tile_size(camera)
    view = project(splats, camera, near=near)
    wide, high = -(-camera.width // tile), -(-camera.height // tile)
    canvas = background.expand(wide * high * tile * tile, 3)
    indices, values = [], []
    for part in tiles(view, camera, tile):
        table = _gather(view, part, with_gradient=True)
        basis = _basis(part, view.mean)
        values.append(_Composite.apply(_coefficients(*table[:3], part), table[3], background, basis).reshape(-1, 3))
        number = (part.corner[:, 1] // tile * wide + part.corner[:, 0] // tile) * tile * tile
        inside = torch.arange(part.rows[0] * tile, part.rows[1] * tile, device=number.device)
        indices.append((number[:, None] + inside).reshape(-1))
    if indices:
        canvas = canvas.index_copy(0, torch.cat(indices), torch.cat(values))
    image = canvas.reshape(high, wide, tile, tile, 3).transpose(1, 2).reshape(high * tile, wide * tile, 3)
    return image[: camera.height, : camera.width]


@torch.no_grad()
def blocks(
    splats: Splats, camera: Camera, *, near: float = NEAR, tile: int | None = None, pairs: int = PAIRS
) -> Iterator[Block]:
    """One compositing pass over a view: the blending weights of every pixel, a batch of tiles at a time.

    Pixels that no Gaussian's box touches appear in no block. `pairs` bounds the pixel-Gaussian pairs held at once.
    """
    tile = tile or _tile_size(camera)
    view = project(splats, camera, near=near)
    ids = torch.cat([view.ids, view.ids.new_zeros(1)])
    for part in tiles(view, camera, tile, pairs):
        mean, conic, log_opacity, color = _gather(view, part, with_gradient=False)
        alpha, _ = _alpha(_coefficients(mean, conic, log_opacity, part), _basis(part, view.mean))
        spots = _offsets(part, view.mean.device)
        where = part.corner[:, None] + spots
        inside = (where[..., 0] < camera.width) & (where[..., 1] < camera.height)
        if not bool(inside.all()):
            alpha = alpha * inside[..., None]
        weight, leftover = _weights(alpha)
        pixels = torch.where(inside, where[..., 1] * camera.width + where[..., 0], -1)
        valid = part.rank < len(view.ids)
        centres = where.to(mean) + 0.5
        yield Block(ids[part.rank], valid, pixels, alpha, weight, leftover, color, mean, conic, centres)


def tiles(view: Projected, camera: Camera, size: int, pairs: int = PAIRS) -> Iterator[Tiles]:
    """Which Gaussians touch which tile, in batches of tiles of similar length; tiles without any are left out."""
    wide, high = -(-camera.width // size), -(-camera.height // size)
    with torch.no_grad():
        limit = view.ids.new_tensor([wide, high])
        first = torch.minimum(((view.mean - view.reach) / size).floor().clamp(min=0).long(), limit - 1)
        last = torch.minimum(((view.mean + view.reach) / size).floor().clamp(min=0).long(), limit - 1)
        span = last - first + 1
        count = span[:, 0] * span[:, 1]
        rank = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        place = torch.arange(len(rank), device=count.device) - (count.cumsum(0) - count)[rank]
        column = first[rank, 0] + place % span[rank, 0]
        row = first[rank, 1] + place // span[rank, 0]
        number, order = torch.sort(row * wide + column, stable=True)  # stable: stays front to back within a tile
        rank = rank[order]
        length = torch.bincount(number, minlength=wide * high)
        start = length.cumsum(0) - length
        sorted_length, by_length = torch.sort(length, descending=True, stable=True)
        lengths = sorted_length.tolist()
    at, used = 0, sum(n > 0 for n in lengths)
    while at < used:
        longest = lengths[at]
        end = at + 1
        while end < used and (end + 1 - at) * longest * size * size <= pairs and 2 * lengths[end] > longest:
            end += 1
        chosen = by_length[at:end]
        slot = torch.arange(longest, device=rank.device)
        pad = slot >= length[chosen, None]
        table = rank[(start[chosen, None] + slot).clamp(max=len(rank) - 1)].masked_fill(pad, len(view.ids))
        corner = torch.stack([chosen % wide, chosen // wide], -1) * size
        band = max(1, min(size, pairs // max(1, (end - at) * longest * size)))  # a very full tile goes in bands of rows
        for top in range(0, size, band):
            yield Tiles(table, corner, size, (top, min(size, top + band)))
        at = end


def default_backend(splats: Splats) -> Backend:
    """`"gsplat"` for a scene on CUDA where gsplat is installed, else `"torch"`."""
    if splats.means.device.type != "cuda":
        return "torch"
    from importlib.util import find_spec

    return "gsplat" if find_spec("gsplat") else "torch"


def _tile_size(camera: Camera) -> int:
    return 8 if camera.width * camera.height <= 128 * 128 else 16


def _render_gsplat(splats: Splats, camera: Camera, background: Tensor, near: float) -> Tensor:
    gsplat: Any = require("gsplat", "splat")
    camera = camera.to(device=splats.means.device, dtype=splats.means.dtype)
    pose = torch.eye(4, device=splats.means.device, dtype=splats.means.dtype)
    pose[:3, :3], pose[:3, 3] = camera.R, camera.t
    image, _, _ = gsplat.rasterization(
        means=splats.means,
        quats=splats.quats,
        scales=splats.log_scales.exp(),
        opacities=splats.opacity,
        colors=splats.sh,
        viewmats=pose[None],
        Ks=camera.K[None],
        width=camera.width,
        height=camera.height,
        sh_degree=splats.degree,
        backgrounds=background[None],
        near_plane=near,
        eps2d=BLUR,
    )
    return image[0]


def _gather(view: Projected, part: Tiles, *, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    table = torch.cat([view.mean, view.conic, view.log_opacity[:, None], view.color], -1)
    nothing = table.new_zeros(1, table.shape[1])  # what padding points to
    nothing[0, 5] = -1e4
    table = torch.cat([table, nothing])
    rows = table.index_select(0, part.rank.reshape(-1)).reshape(*part.rank.shape, -1)
    if not with_gradient:
        rows = rows.detach()
    return rows[..., 0:2], rows[..., 2:5], rows[..., 5], rows[..., 6:9]


def _offsets(part: Tiles, device: torch.device) -> Tensor:
    number = torch.arange(part.rows[0] * part.size, part.rows[1] * part.size, device=device)
    return torch.stack([number % part.size, number // part.size], -1)


def _basis(part: Tiles, like: Tensor) -> Tensor:
    """1, x, y, x², xy, y² at the pixel centres, from the middle of the tile, `(P, 6)`."""
    x, y = (_offsets(part, like.device).to(like.dtype) + 0.5 - part.size / 2).unbind(-1)
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], -1)


def _coefficients(mean: Tensor, conic: Tensor, log_opacity: Tensor, part: Tiles) -> Tensor:
    """log(alpha) as a polynomial on `_basis`, `(T, 6, K)`: one matrix product then gives it at every pixel."""
    centre = part.corner.to(mean) + part.size / 2
    x, y = (mean - centre[:, None]).unbind(-1)
    xx, xy, yy = conic.unbind(-1)
    right, down = xx * x + xy * y, xy * x + yy * y
    constant = log_opacity - 0.5 * (x * right + y * down)
    return torch.stack([constant, right, down, -0.5 * xx, -xy, -0.5 * yy], 1)


def _alpha(coefficients: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """alpha `(T, P, K)`, and where it follows its exponent (neither capped nor dropped)."""
    alpha = torch.matmul(basis, coefficients).exp_()
    capped = alpha > MAX_ALPHA
    alpha.clamp_(max=MAX_ALPHA)
    dropped = alpha < MIN_ALPHA
    alpha.masked_fill_(dropped, 0)
    return alpha, ~(capped | dropped)


def _weights(alpha: Tensor) -> tuple[Tensor, Tensor]:
    keep = 1 - alpha
    through = torch.cumprod(keep, -1)
    leftover = through[..., -1].clone()
    return through.div_(keep).mul_(alpha), leftover


class _Composite(torch.autograd.Function):
    """Colours `(T, P, 3)` of tiles from polynomial coefficients, colours and background, with the closed-form gradient.

    With g the gradient of a pixel: `dL/da_k = T_k g·c_k - g·(Σ_{i>k} w_i c_i + leftover background) / (1 - a_k)`.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, color: Tensor, background: Tensor, basis: Tensor) -> Tensor:
        alpha, live = _alpha(coefficients, basis)
        weight, leftover = _weights(alpha)
        ctx.save_for_backward(alpha, live, weight, leftover, color, background, basis)
        return torch.bmm(weight, color) + leftover[..., None] * background

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        alpha, live, weight, leftover, color, background, basis = ctx.saved_tensors
        share = torch.bmm(g, color.transpose(1, 2)) * weight  # w g·c, (T, P, K)
        last = (leftover * (g @ background))[..., None]
        behind = share.sum(-1, keepdim=True) - share.cumsum(-1) + last
        # dL/d log(alpha) = alpha dL/d alpha
        power = (share - alpha / (1 - alpha) * behind) * live
        d_coefficients = torch.matmul(basis.T, power)
        d_color = torch.bmm(weight.transpose(1, 2), g)
        d_background = (leftover[..., None] * g).sum((0, 1)) if ctx.needs_input_grad[2] else None
        return d_coefficients, d_color, d_background, None
