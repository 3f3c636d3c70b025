"""Networks of two times: `net(x, t, r, condition=None)`, the average velocity of a flow from t back to r <= t.

A perceptron for vectors, and a wrapper that gives a `diffusers` image model of one time a second one. Both meet one
interface: x `(N, ...)`, t and r `(N,)` in [0, 1], condition None or class indices `(N,)`; the result has x's shape.

Source: two-time networks of MeanFlow (2505.13447) and shortcut models (2410.12557).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WAVES = 16  # of the interval that the wrapper embeds


def smooth_features(t: Tensor, waves: int = 4) -> Tensor:
    """A time `(N,)` in [0, 1] with its cosines and sines, `cos, sin(pi k t / 2)`, k = 1..waves: `(N, 1 + 2 waves)`.

    Slow waves only: where the derivative by time is learned from, fast ones would drown it.
    """
    angle = t[:, None] * (math.pi / 2) * torch.arange(1, waves + 1, device=t.device, dtype=t.dtype)
    return torch.cat([t[:, None], angle.cos(), angle.sin()], dim=1)


class TwoTimeMLP(nn.Module):
    """Residual perceptron of two times for vectors.

    Every block adds `W2 silu(W1 silu(h) + c)`, c a linear map of an embedding of (t, t - r) and the class. The output
    layer starts at zero.

    Args:
        dim: entries of x.
        hidden: width.
        blocks: residual blocks.
        classes: number of classes; 0 for none. A missing condition is embedded as a class of its own.
        waves: see `smooth_features`.

    Shapes: x `(N, dim)`, t and r `(N,)`, condition None or `(N,)` with entries 0..classes (the last means "none").
    """

    def __init__(self, dim: int, hidden: int = 96, blocks: int = 3, classes: int = 0, waves: int = 4):
        super().__init__()
        self.classes, self.waves = classes, waves
        self.enter = nn.Linear(dim, hidden)
        self.times = nn.Sequential(nn.Linear(2 * (1 + 2 * waves), hidden), nn.SiLU())
        self.label = nn.Embedding(classes + 1, hidden) if classes else None
        self.shifts = nn.Linear(hidden, blocks * hidden)
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks))
        self.leave = nn.Linear(hidden, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @property
    def null(self) -> int:
        """The class index that means "no condition"."""
        return self.classes

    def forward(self, x: Tensor, t: Tensor, r: Tensor, condition: Tensor | None = None) -> Tensor:
        about = self.times(torch.cat([smooth_features(t, self.waves), smooth_features(t - r, self.waves)], dim=1))
        if self.label is not None:
            labels = torch.full((len(x),), self.null, device=x.device) if condition is None else condition
            about = about + self.label(labels)
        h = self.enter(x)
        act = nn.functional.silu
        for inner, outer, shift in zip(
            self.inner, self.outer, self.shifts(about).chunk(len(self.inner), dim=1), strict=True
        ):
            h = h + outer(act(inner(act(h)) + shift))
        return self.leave(act(h))


class TwoTimeDiffusers(nn.Module):
    """A `diffusers` `UNet2DModel` or `DiTTransformer2DModel` as a network of two times.

    The model keeps its own embedding of t. An embedding of the interval t - r is added to it, wherever the model makes
    use of it; its last layer starts at zero, so that a pretrained model first gives what it gave before, for every r.

    Args:
        model: the model; it is changed in place. Of a model with more output than input channels (a learned variance)
            the first are used. Weights come by its own `from_pretrained`, before it is wrapped.
        scale: what times in [0, 1] are multiplied with before the model sees them.

    Attributes:
        classes: classes of the model, the one for "none" not counted; 0 for a model without classes.

    Shapes: x `(N, C, H, W)`, t and r `(N,)`, condition None or `(N,)` with entries 0..classes (the last means "none").
    A U-Net wants `num_class_embeds = classes + 1`; a DiT has the additional class on its own.

    Raises:
        TypeError: a model of another kind.
    """

    def __init__(self, model: nn.Module, scale: float = 1000.0):
        super().__init__()
        self.model, self.scale = model, scale
        blocks = getattr(model, "transformer_blocks", None)
        if isinstance(getattr(model, "time_embedding", None), nn.Module):
            part = model.time_embedding = _Shifted(model.time_embedding)
            given = model.config.num_class_embeds
            self.classes = given - 1 if given else 0
        elif blocks is not None and hasattr(getattr(blocks[0].norm1, "emb", None), "timestep_embedder"):
            for block in blocks:
                part = block.norm1.emb.timestep_embedder = _Shifted(block.norm1.emb.timestep_embedder)
                block.norm1.emb.class_embedder.dropout_prob = 0.0  # labels are dropped by whoever trains, with a seed
            self.classes = int(model.config.num_embeds_ada_norm)
        else:
            raise TypeError(f"{type(model).__name__}: a UNet2DModel or a DiTTransformer2DModel is expected")
        width = part.inner.linear_2.out_features
        self.interval = nn.Sequential(nn.Linear(1 + 2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.zeros_(self.interval[2].weight)
        nn.init.zeros_(self.interval[2].bias)

    @property
    def null(self) -> int:
        """The class index that means "no condition"."""
        return self.classes

    def forward(self, x: Tensor, t: Tensor, r: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is not None and not self.classes:
            raise ValueError("a condition was given to a model without classes")
        if condition is None and self.classes:
            condition = torch.full((len(x),), self.null, device=x.device)
        shift = self.interval(smooth_features(t - r, WAVES))
        parts = [part for part in self.model.modules() if isinstance(part, _Shifted)]
        try:
            for part in parts:
                part.shift = shift
            out = self.model(x, t * self.scale, class_labels=condition, return_dict=False)[0]
        finally:
            for part in parts:
                part.shift = None
        return out[:, : x.shape[1]]


class _Shifted(nn.Module):
    """A model's embedding of its time, with what the wrapper sets added to it."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.shift: Tensor | None = None

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        out = self.inner(features, condition)
        return out if self.shift is None else out + self.shift.to(out.dtype)
