"""Prior-aware normalised cut: a few annotated tokens say where the token graph of a frozen backbone is cut.

    p_i  = sigmoid((s_i^F - s_i^B) / T),   s_i: mean of the three largest cosines with the bank's tokens of that side
    W_if = kappa d p_i,   W_ib = kappa d (1 - p_i)            two anchor nodes f and b; d: mean degree of the tokens
    (D - W) y = lambda D y                                    second smallest pair of the N + 2 nodes
    foreground: y_i > (y_f + y_b) / 2                         with the sign for which y_f > y_b

No training. Without anchors the cut is TokenCut's: the threshold is the mean of y, the foreground is the side of the
token with the largest |y|. All steps are deterministic; permuting tokens permutes the mask, scaling W changes nothing.

The public sources describe the ingredients; the weights of anchors, the threshold and the rule for several classes are
this package's own forms.

Source: 2602.06912; TokenCut (2202.11539)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.methods.segmentation._graph_cut import Kind, Solver, Spectrum, add_anchors, affinity, fiedler, fixed_start
from assay.methods.segmentation._guided_filter import guided_filter
from assay.methods.segmentation._prior_bank import BACKGROUND, ClassBank, PriorBank

__all__ = [
    "BACKGROUND", "PANC", "ClassBank", "ClassCut", "Cut", "Link", "PixelMask", "PriorBank", "Solver", "Spectrum",
    "UndecidedCut", "add_anchors", "affinity", "fiedler", "guided_filter", "hard_links", "segment_image", "tokencut",
    "upsample",
]  # fmt: skip

Backbone = Callable[[Tensor], Tensor]
Link = Literal["soft", "hard"]
Threshold = Literal["midpoint", "otsu"]

NO_GAP = 1e-9
CERTAIN = 0.1  # share of the tokens on each side that the hard links reach
WEAK_LINK = 1e-5


class UndecidedCut(UserWarning):
    """The anchors fell on the same side, so the cut was thresholded like TokenCut's."""


@dataclass(frozen=True)
class Cut:
    """A cut of one image.

    Attributes:
        y: `(h, w)` eigenvector, root of its degree-weighted mean square 1.
        mask: `(h, w)` bool, foreground.
        anchors: y of the foreground and of the background anchor; None without anchors.
        gap: y_f - y_b, how far the prior is followed; NaN without anchors.
        threshold: value of y that divides the sides.
        value: lambda, in [0, 2].
        prior: `(h, w)` p; None without anchors.
    """

    y: Tensor
    mask: Tensor
    anchors: tuple[float, float] | None
    gap: float
    threshold: float
    value: float
    prior: Tensor | None = None

    @property
    def score(self) -> Tensor:
        """`(h, w)`, above 0 in the foreground; scaled so that anchors lie at +-1/2 where there are any."""
        scale = self.gap if self.gap > NO_GAP else float(self.y.std().clamp_min(1e-12))
        return (self.y - self.threshold) / scale


@dataclass(frozen=True)
class ClassCut:
    """A cut into several classes.

    Attributes:
        labels: `(h, w)` int64, index of the class; K is the background.
        closeness: `(h, w, K + 1)` cosine of each token's row of eigenvectors with each anchor's.
        values: `(K,)` eigenvalues.
    """

    labels: Tensor
    closeness: Tensor
    values: Tensor


@dataclass(frozen=True)
class PANC:
    """Prior-aware normalised cut.

    Attributes:
        kappa: strength of the anchors relative to the mean degree.
        temperature: T of the prior.
        tau, eps, kind, beta: of the affinity.
        link: `soft` ties every token to both anchors; `hard` only the tenth of the tokens most certain of each side.
        threshold: half way between the anchors, or Otsu's value of y between them.
        nearest: how many of the most similar bank entries count.
        solver: of the eigenvector.
        dtype: of the computation.
    """

    kappa: float = 0.3
    temperature: float = 0.05
    tau: float = 0.2
    eps: float = 1e-5
    kind: Kind = "hard"
    beta: float = 0.15
    link: Link = "soft"
    threshold: Threshold = "midpoint"
    nearest: int = 3
    solver: Solver = "lobpcg"
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if not self.kappa > 0 or not self.temperature > 0 or self.nearest < 1:
            raise ValueError("kappa, temperature and nearest must be positive")
        if self.link not in ("soft", "hard") or self.threshold not in ("midpoint", "otsu"):
            raise ValueError(f"unknown link {self.link!r} or threshold {self.threshold!r}")

    def __call__(
        self,
        tokens: Tensor,
        bank: PriorBank | None = None,
        marks: Mapping[tuple[int, int], bool] | None = None,
        *,
        start: Tensor | None = None,
    ) -> Cut:
        """Cut one image.

        Args:
            tokens: `(h, w, D)`.
            bank: annotated tokens; None cuts without anchors.
            marks: cells (row, column) of this image that were annotated, True for foreground; p is 1 or 0 there.
            start: `(h w,)` start of the solver; another start changes nothing but rounding.

        Raises:
            ValueError: tokens of another shape or size than the bank's, or a mark outside the grid.
        """
        x, grid = self._flat(tokens)
        W = affinity(x, self.tau, self.eps, self.kind, self.beta)
        if bank is None:
            return _plain_cut(W, grid, self.solver, start)
        p = self.prior(tokens, bank, marks).flatten()
        return self.cut(W, p, grid, start=start)

    def prior(self, tokens: Tensor, bank: PriorBank, marks: Mapping[tuple[int, int], bool] | None = None) -> Tensor:
        """p of every token, `(h, w)`."""
        x, (height, width) = self._flat(tokens)
        _same_size(x, bank.bg)
        p = bank.prior(x, self.temperature, self.nearest).view(height, width).clone()
        for (row, column), wanted in (marks or {}).items():
            if not (0 <= row < height and 0 <= column < width):
                raise ValueError(f"a mark at cell ({row}, {column}) of a grid of {height}x{width}")
            p[row, column] = float(wanted)
        return p

    def cut(self, W: Tensor, p: Tensor, grid: tuple[int, int], *, start: Tensor | None = None) -> Cut:
        """Cut a graph `(N, N)` with a prior `(N,)` given by the caller; N = h w."""
        links = p if self.link == "soft" else hard_links(p)
        whole = add_anchors(W, links, self.kappa)
        # The prior itself is a good start. Zero at both anchors keeps a prior without preference exactly undecided.
        first = (p - p.mean() if start is None else start.reshape(-1).to(p))[:, None]
        first = torch.cat([first, fixed_start(len(p), 2, p)], dim=1)
        y = fiedler(whole, solver=self.solver, start=F.pad(first, (0, 0, 0, 2)))
        value, vector = float(y.values[0]), y.vectors[:, 0]
        if bool(vector[-2] < vector[-1]):
            vector = -vector
        nodes, f, b = vector[:-2], float(vector[-2]), float(vector[-1])
        if f - b < NO_GAP:
            warnings.warn("the prior says nothing about this image: cut without it", UndecidedCut, stacklevel=2)
            plain = _by_extreme(nodes, grid, value)
            return Cut(plain.y, plain.mask, (f, b), f - b, plain.threshold, value, p.view(grid))
        limit = (f + b) / 2 if self.threshold == "midpoint" else otsu(nodes.clamp(b, f))
        return Cut(nodes.view(grid), (nodes > limit).view(grid), (f, b), f - b, limit, value, p.view(grid))

    def classes(self, tokens: Tensor, bank: ClassBank) -> ClassCut:
        """Cut one image into the classes of a bank and the background.

        K + 1 anchors share each token's links by a softmax; rows of the first K eigenvectors, scaled to length 1, are
        compared with the anchors' rows. One class is cut at the middle between its anchors, as `__call__` does.

        Raises:
            ValueError: as `__call__`.
        """
        x, grid = self._flat(tokens)
        _same_size(x, bank.bg)
        W = affinity(x, self.tau, self.eps, self.kind, self.beta)
        shares, k = bank.prior(x, self.temperature, self.nearest), len(bank.names)
        if k == 1:
            one = self.cut(W, shares[:, 0], grid)
            closeness = torch.stack([one.score, -one.score], dim=-1)
            return ClassCut((~one.mask).long(), closeness, torch.tensor([one.value], dtype=self.dtype))
        whole = add_anchors(W, shares, self.kappa)
        first = F.pad(shares[:, :k] - shares[:, :k].mean(dim=0), (0, 0, 0, k + 1))
        found = fiedler(whole, k, self.solver, start=first)
        rows = F.normalize(found.vectors, dim=1)
        closeness = (rows[: len(x)] @ rows[len(x) :].T).view(*grid, k + 1)
        return ClassCut(closeness.argmax(dim=-1), closeness, found.values)

    def _flat(self, tokens: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if tokens.ndim != 3 or tokens.shape[0] * tokens.shape[1] < 4:
            raise ValueError(f"tokens must be (h, w, D) with at least 4 cells, got {tuple(tokens.shape)}")
        height, width = tokens.shape[:2]
        return tokens.reshape(height * width, -1).to(self.dtype), (height, width)


def tokencut(tokens: Tensor, tau: float = 0.2, eps: float = 1e-5, **options: Any) -> Cut:
    """The cut without a prior, of tokens `(h, w, D)`: threshold at the mean of y, foreground is the side of max |y|.

    Args:
        options: further ones of `PANC`.
    """
    return PANC(tau=tau, eps=eps, **options)(tokens)


@dataclass(frozen=True)
class PixelMask:
    """A mask of an image's own size.

    Attributes:
        mask: `(H, W)` bool.
        score: `(H, W)`, above 0 in the foreground; anchors lie at +-1/2.
        cut: what it was made from.
    """

    mask: Tensor
    score: Tensor
    cut: Cut


def segment_image(
    image: Tensor,
    backbone: Backbone,
    bank: PriorBank | None,
    size: tuple[int, int] | None = None,
    *,
    method: PANC | None = None,
    marks: Mapping[tuple[int, int], bool] | None = None,
    refine: bool = False,
) -> PixelMask:
    """Tokens, cut, bilinear upsampling, and on request a guided filter that draws the border along the image's edges.

    Args:
        image: `(C, H, W)` in [0, 1].
        backbone: image -> tokens `(h, w, D)`.
        size: (height, width) of the mask; the image's own when None.
    """
    cut = (method or PANC())(backbone(image), bank, marks)
    return upsample(cut, image, size, refine=refine)


def upsample(cut: Cut, image: Tensor, size: tuple[int, int] | None = None, *, refine: bool = False) -> PixelMask:
    """A cut at pixel size; see `segment_image`."""
    size = size or (int(image.shape[-2]), int(image.shape[-1]))
    score = F.interpolate(cut.score[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    if refine:
        guide = image.to(score).mean(dim=0)
        if guide.shape != score.shape:
            guide = F.interpolate(guide[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        radius = max(1, round(max(size[0] / cut.y.shape[0], size[1] / cut.y.shape[1])))
        score = guided_filter(guide, score.clamp(-1, 1), radius, 1e-3)
    return PixelMask(score > 0, score, cut)


def hard_links(p: Tensor) -> Tensor:
    """Links `(N, 2)`: 1 for the tenth of the tokens with the largest, and with the smallest, p; nearly 0 elsewhere.

    Tokens that tie with the last one of a tenth are linked too; a prior without any preference links nothing.
    """
    links = torch.full((len(p), 2), WEAK_LINK, dtype=p.dtype, device=p.device)
    count = max(1, round(CERTAIN * len(p)))
    ordered = p.sort().values
    if bool(ordered[-1] > ordered[0]):
        links[p >= ordered[-count], 0] = 1.0
        links[p <= ordered[count - 1], 1] = 1.0
    return links


def otsu(values: Tensor, bins: int = 256) -> float:
    """The threshold that leaves the least variance inside the two sides."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low
    counts = torch.histc(values.double().cpu(), bins, low, high)
    centres = low + (torch.arange(bins, dtype=torch.float64) + 0.5) * (high - low) / bins
    below, mass = counts.cumsum(0), (counts * centres).cumsum(0)
    above = below[-1] - below
    between = (mass[-1] * below / below[-1] - mass) ** 2 / (below * above).clamp_min(1e-12)
    best = int(between[:-1].argmax())
    return low + (best + 1) * (high - low) / bins


def _plain_cut(W: Tensor, grid: tuple[int, int], solver: Solver, start: Tensor | None) -> Cut:
    found = fiedler(W, solver=solver, start=start)
    return _by_extreme(found.vectors[:, 0], grid, float(found.values[0]))


def _by_extreme(y: Tensor, grid: tuple[int, int], value: float) -> Cut:
    """TokenCut's choice: the side, seen from the mean of y, of the token with the largest |y|."""
    limit = float(y.mean())
    if float(y[y.abs().argmax()]) < limit:
        y, limit = -y, -limit
    return Cut(y.view(grid), (y > limit).view(grid), None, float("nan"), limit, value)


def _same_size(x: Tensor, bank: Tensor) -> None:
    if x.shape[1] != bank.shape[1]:
        raise ValueError(f"tokens of size {x.shape[1]}, but the bank holds tokens of size {bank.shape[1]}")
