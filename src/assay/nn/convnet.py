"""Small convolutional classifiers for images of 8 to 84 pixels.

`ConvNet` is the plain classifier of the small studies: stages of 3x3 convolutions, each halving the resolution, global
average pooling, one linear layer. `Conv4` is the backbone of few-shot work: four blocks of equal width.

Both expose the steps of their forward pass, so that explanation, adaptation and pruning methods can reach in:
`features` (B, C, h, w) -> `embed` (B, D) -> `forward` (B, K).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "group", "none"]


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """Normalisation of `channels` feature maps.

    `"batch"` learns statistics over the batch (they exist to be adapted or folded away), `"group"` normalises each
    sample over up to 8 groups of channels (nothing depends on the batch), `"none"` does nothing.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm is 'batch', 'group' or 'none', not {kind!r}")


def conv_block(inputs: int, outputs: int, *, norm: Norm = "batch", stride: int = 1) -> nn.Sequential:
    """3x3 convolution, normalisation, ReLU: (B, inputs, H, W) -> (B, outputs, ceil(H/stride), ceil(W/stride))."""
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=norm == "none")
    return nn.Sequential(conv, norm_layer(norm, outputs), nn.ReLU(inplace=True))


class ConvNet(nn.Module):
    """Stages of 3x3 convolutions, global pooling, linear classifier.

    Stage i has `convs` blocks of width `widths[i]`; between stages the maps are max-pooled by 2 (never below 1 pixel).

    Args:
        channels: channels of the image.
        classes: number of logits K.
        widths: feature maps of each stage.
        norm: normalisation, see `norm_layer`.
        convs: convolution blocks in a stage.
        stem_stride: stride of the first convolution; 2 saves three quarters of the cost on images above 32 pixels.
        dropout: probability of zeroing an embedding entry in training.
        pool: `"mean"` over the last maps, or their `"max"`, which sees a small finding in a large frame.

    Shapes:
        (B, channels, H, W) -> (B, K), H and W at least `stem_stride`.

    Raises:
        ValueError: no stages, fewer than one class or convolution.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int] = (16, 32, 64),
        *,
        norm: Norm = "batch",
        convs: int = 1,
        stem_stride: int = 1,
        dropout: float = 0.0,
        pool: Literal["mean", "max"] = "mean",
    ) -> None:
        super().__init__()
        if pool not in ("mean", "max"):
            raise ValueError(f"pool is 'mean' or 'max', not {pool!r}")
        if not widths or classes < 1 or convs < 1:
            raise ValueError(f"widths, classes and convs must be positive, got {tuple(widths)}, {classes}, {convs}")
        stages, inputs = [], channels
        for i, width in enumerate(widths):
            stride = stem_stride if i == 0 else 1
            blocks = [conv_block(inputs, width, norm=norm, stride=stride)]
            blocks += [conv_block(width, width, norm=norm) for _ in range(convs - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.pool = pool
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inputs, classes)

    def features(self, images: Tensor) -> Tensor:
        """Feature maps of the last stage, (B, D, h, w)."""
        x = images
        for i, stage in enumerate(self.stages):
            x = stage(_halve(x) if i else x)
        return x

    def embed(self, images: Tensor) -> Tensor:
        """Spatial mean (or maximum) of the feature maps, (B, D)."""
        maps = self.features(images)
        return maps.mean(dim=(2, 3)) if self.pool == "mean" else maps.amax(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, K)."""
        return self.head(self.dropout(self.embed(images)))


class Conv4(nn.Module):
    """Four blocks of convolution, normalisation, ReLU and max-pooling by 2; the usual few-shot backbone.

    Args:
        channels: channels of the image.
        width: feature maps of every block.
        classes: number of logits; None for a backbone without classifier, whose forward is the embedding.
        norm: normalisation, see `norm_layer`.
        pool: True: the embedding is the spatial mean (B, width). False: the flattened maps (B, width*h*w),
            as prototypical networks use it; a classifier then needs `image_size`.
        image_size: side of the image in pixels, needed only for a classifier on flattened maps.

    Shapes:
        (B, channels, H, W) -> (B, classes) or the embedding.

    Raises:
        ValueError: a classifier on flattened maps without `image_size`.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        classes: int | None = None,
        *,
        norm: Norm = "batch",
        pool: bool = True,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        if classes is not None and not pool and image_size is None:
            raise ValueError("a classifier on flattened feature maps needs image_size")
        self.pool = pool
        self.blocks = nn.ModuleList(conv_block(channels if i == 0 else width, width, norm=norm) for i in range(4))
        side = 1 if pool else _side_after(image_size or 1, 4)
        self.head = nn.Identity() if classes is None else nn.Linear(width * side * side, classes)

    def features(self, images: Tensor) -> Tensor:
        """Feature maps after the fourth pooling, (B, width, h, w)."""
        x = images
        for block in self.blocks:
            x = _halve(block(x))
        return x

    def embed(self, images: Tensor) -> Tensor:
        """Spatial mean or flattened feature maps, (B, D)."""
        maps = self.features(images)
        return maps.mean(dim=(2, 3)) if self.pool else maps.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, or the embedding when there is no classifier."""
        return self.head(self.embed(images))


def _halve(maps: Tensor) -> Tensor:
    """Max-pooling by 2 that leaves an axis of one pixel alone."""
    height, width = (2 if side > 1 else 1 for side in maps.shape[-2:])
    return nn.functional.max_pool2d(maps, (height, width))


def _side_after(side: int, halvings: int) -> int:
    for _ in range(halvings):
        side = max(1, side // 2)
    return side
