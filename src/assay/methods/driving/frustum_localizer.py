"""Frustum Localizer: a 3-D box from the lidar points inside a 2-D detection (Frustum PointNet with a centre prior).

The points come in a frame whose x axis runs through the middle of the 2-D box. Four steps: (a) segment the points of
the object; (b) take 64 of them about their mean; (c) a small T-Net moves the origin near the object's centre;
(d) a box network gives the rest of the centre, the size as an anchor and its relative residual, and the heading as one
of 12 bins and a residual in half bins. Each point carries, beside xyz and intensity, the likelihood that its pixel
belongs to the object, a Gaussian about the 2-D box (`late_cascade_fusion.point_likelihood`).

Source: 2601.09812; Frustum PointNets (1711.08488) for the heads.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.geometry.boxes3d import box_corners, rotate_z, wrap_angle
from assay.nn.pointnet import FeaturePropagation, GlobalAbstraction, PointNet, SetAbstraction, SharedMLP, gather_rows

KITTI_SIZES = ((0.8, 0.6, 1.73), (1.76, 0.6, 1.73), (3.9, 1.6, 1.56))
"""Anchors (l, w, h) in metres of pedestrian, cyclist and car."""

OBJECT_POINTS = 64


class Crops(NamedTuple):
    """Frustums as a batch.

    Attributes:
        points: `(B, N, F)` in the frustum's frame: xyz in metres, intensity, likelihood.
        labels: class of the 2-D box, `(B,)`.
        boxes: true boxes in the same frame, `(B, 7)`.
        inside: which points lie in the true box, `(B, N)` bool.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor
    inside: Tensor


class FrustumLocalizer(nn.Module):
    """Boxes from frustum points.

    Args:
        num_classes: C.
        point_features: F, columns of a point; the first three are xyz.
        sizes: anchors (l, w, h) `(C, 3)` in metres.
        heading_bins: H.
        backbone: `"pointnet2"` (PointNet++ with several radii, as published) or `"pointnet"` (plain and quick).

    Raises:
        ValueError: anchors that do not fit the classes or are not positive, fewer than three point columns.

    Source: 2601.09812.
    """

    def __init__(
        self,
        num_classes: int,
        point_features: int = 5,
        sizes: Sequence[Sequence[float]] = KITTI_SIZES,
        heading_bins: int = 12,
        backbone: Literal["pointnet2", "pointnet"] = "pointnet2",
    ) -> None:
        super().__init__()
        anchors = torch.tensor(sizes, dtype=torch.float32)
        if anchors.shape != (num_classes, 3) or not bool((anchors > 0).all()):
            raise ValueError(f"sizes must be {num_classes} positive (l, w, h); got {tuple(anchors.shape)}")
        if point_features < 3 or heading_bins < 1:
            raise ValueError(f"got {point_features} point columns and {heading_bins} heading bins")
        if backbone not in ("pointnet", "pointnet2"):
            raise ValueError(f"backbone is 'pointnet2' or 'pointnet', not {backbone!r}")
        self.num_classes, self.point_features, self.heading_bins = num_classes, point_features, heading_bins
        self.backbone = backbone
        self.register_buffer("sizes", anchors)
        whole = backbone == "pointnet2"
        self.segment = (_SegmentMSG if whole else _SegmentPlain)(point_features, num_classes)
        self.tnet = PointNet(3, (128, 128, 256) if whole else (64, 128))
        self.tnet_head = nn.Sequential(SharedMLP(self.tnet.mlp.width + num_classes, (256, 128)), nn.Linear(128, 3))
        self.box = _BoxSSG() if whole else _BoxPlain()
        outputs = 3 + 4 * num_classes + 2 * heading_bins
        self.box_head = nn.Sequential(
            SharedMLP(self.box.width + num_classes, (512, 256) if whole else (256,)), nn.Linear(256, outputs)
        )

    def forward(self, points: Tensor, onehot: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Heads for frustums.

        Args:
            points: `(B, N, F)`.
            onehot: class of the 2-D box, `(B, C)`.
            generator: chooses the 64 object points; an even spread over the points' order when not given.

        Returns:
            `mask` logits `(B, N, 2)`; `stage` (centre after the T-Net) and `centre` `(B, 3)`; `size` logits `(B, C)`;
            `size_residual` `(B, C, 3)` relative to the anchor; `heading` logits `(B, H)`; `heading_residual` `(B, H)`
            in half bins.

        Raises:
            ValueError: wrong widths.
        """
        if points.ndim != 3 or points.shape[-1] != self.point_features or onehot.shape[-1] != self.num_classes:
            raise ValueError(
                f"expected points (B, N, {self.point_features}) and onehot (B, {self.num_classes});"
                f" got {tuple(points.shape)} and {tuple(onehot.shape)}"
            )
        mask = self.segment(points, onehot)
        chosen = _object_points(points[..., :3], mask.argmax(-1).bool(), generator)
        mean = chosen.mean(1)
        local = chosen - mean[:, None]
        shift = self.tnet_head(torch.cat([self.tnet(local)[1], onehot], -1))
        stage = mean + shift
        out = self.box_head(torch.cat([self.box(local - shift[:, None]), onehot], -1))
        C, H = self.num_classes, self.heading_bins
        centre, size, residual, heading, turn = out.split([3, C, 3 * C, H, H], -1)
        return {
            "mask": mask,
            "stage": stage,
            "centre": stage + centre,
            "size": size,
            "size_residual": residual.view(-1, C, 3),
            "heading": heading,
            "heading_residual": turn,
        }

    def decode(self, out: dict[str, Tensor]) -> Tensor:
        """Boxes `(B, 7)` in the frustum's frame from the likeliest anchor and heading bin."""
        return self._boxes(out, out["size"].argmax(-1), out["heading"].argmax(-1))

    def loss(self, out: dict[str, Tensor], crops: Crops) -> Tensor:
        """Weighted sum of the heads' losses.

        segmentation 1, T-Net centre 5, centre 1, size class 1, size residual 5, heading class 1, heading residual 10
        (smooth L1 with beta 1/9), corners 0.1 (mean distance of corners, to the box or the box turned about).
        """
        boxes, labels = crops.boxes, crops.labels
        rows = torch.arange(len(labels), device=labels.device)
        bin_, turn = self.heading_target(boxes[:, 6])
        anchor = self.sizes[labels]
        total = F.cross_entropy(out["mask"].flatten(0, 1), crops.inside.long().flatten())
        total = total + 5 * _smooth(out["stage"], boxes[:, :3]) + _smooth(out["centre"], boxes[:, :3])
        total = total + F.cross_entropy(out["size"], labels) + F.cross_entropy(out["heading"], bin_)
        total = total + 5 * _smooth(out["size_residual"][rows, labels], boxes[:, 3:6] / anchor - 1)
        total = total + 10 * _smooth(out["heading_residual"][rows, bin_], turn)
        return total + 0.1 * corner_loss(self._boxes(out, labels, bin_), boxes)

    def heading_target(self, yaw: Tensor) -> tuple[Tensor, Tensor]:
        """Bin `(B,)` and residual in half bins `(B,)`, in [-1, 1), of headings in radians; bin 0 is centred on 0."""
        width = 2 * math.pi / self.heading_bins
        bins = torch.remainder(torch.div(yaw + width / 2, width, rounding_mode="floor"), self.heading_bins).long()
        return bins, wrap_angle(yaw - bins * width) / (width / 2)

    def _boxes(self, out: dict[str, Tensor], kind: Tensor, bin_: Tensor) -> Tensor:
        rows = torch.arange(len(kind), device=kind.device)
        size = (self.sizes[kind] * (1 + out["size_residual"][rows, kind])).clamp(min=0.05)
        width = 2 * math.pi / self.heading_bins
        yaw = wrap_angle(bin_ * width + out["heading_residual"][rows, bin_] * width / 2)
        return torch.cat([out["centre"], size, yaw[:, None]], -1)


def corner_loss(boxes: Tensor, truth: Tensor) -> Tensor:
    """Mean corner distance of boxes `(B, 7)` to the true ones or those turned by pi, the nearer; scalar, metres."""
    corners = box_corners(boxes)
    turned = torch.cat([truth[:, :6], truth[:, 6:] + math.pi], -1)
    both = [(corners - box_corners(t)).norm(dim=-1).mean(-1) for t in (truth, turned)]
    return torch.minimum(*both).mean()


def fit_localizer(
    localizer: FrustumLocalizer,
    crops: Crops,
    *,
    steps: int,
    batch: int = 32,
    lr: float = 5e-4,
    warmup: int = 1000,
    patience: int = 5,
    generator: torch.Generator,
    held_out: Crops | None = None,
) -> list[float]:
    """Train in place: AdamW (betas .95 and .99, decay .01), gradient norm at most 10, linear warm-up, rate halved when
    the loss of a round (held out where given, else training) has not fallen for `patience` rounds.

    Args:
        crops: training frustums; held_out: others that the rate follows; the best weights on them are kept.
        steps: optimiser steps; a round is one pass over the data.
        warmup: steps of rising rate; cut to a tenth of `steps` where that is less.

    Returns:
        The loss of every round.

    Raises:
        ValueError: fewer than two frustums.

    Source: 2601.09812.
    """
    count = len(crops.points)
    if count < 2:
        raise ValueError(f"training needs at least two frustums; got {count}")
    optimizer = torch.optim.AdamW(localizer.parameters(), lr=lr, betas=(0.95, 0.99), weight_decay=0.01)
    warmup = max(1, min(warmup, steps // 10))
    rate, best, waiting, rounds = 1.0, math.inf, 0, []
    kept = None
    done = 0
    while done < steps:
        localizer.train()
        losses = []
        order = torch.randperm(count, generator=generator)
        for rows in order.split(batch):
            if done >= steps or (len(rows) < 2):
                continue
            for group in optimizer.param_groups:
                group["lr"] = lr * rate * min(1.0, (done + 1) / warmup)
            loss = _step(localizer, Crops(*(part[rows] for part in crops)), optimizer, generator)
            losses.append(loss)
            done += 1
        rounds.append(sum(losses) / max(len(losses), 1))
        if held_out is not None:
            rounds[-1] = _evaluate(localizer, held_out)
        if rounds[-1] < best:
            best, waiting = rounds[-1], 0
            kept = copy.deepcopy(localizer.state_dict()) if held_out is not None else None
        else:
            waiting += 1
            if waiting > patience:
                rate, waiting = rate / 2, 0
    if kept is not None:
        localizer.load_state_dict(kept)
    localizer.eval()
    return rounds


def jitter_rects(rects: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """2-D boxes `(N, 4)` shifted and scaled by up to `amount` of their size, evenly at random."""
    centre, size = (rects[:, :2] + rects[:, 2:]) / 2, rects[:, 2:] - rects[:, :2]
    noise = (torch.rand(len(rects), 4, generator=generator, dtype=rects.dtype) * 2 - 1) * amount
    centre, size = centre + noise[:, :2] * size, size * (1 + noise[:, 2:])
    return torch.cat([centre - size / 2, centre + size / 2], 1)


def mirrored(crops: Crops) -> Crops:
    """The same frustums seen in a mirror (y to -y), for augmentation."""
    points, boxes = crops.points.clone(), crops.boxes.clone()
    points[..., 1] *= -1
    boxes[:, [1, 6]] *= -1
    return crops._replace(points=points, boxes=boxes)


class _SegmentMSG(nn.Module):
    """PointNet++ segmentation with several radii; dropout 0.3 before the last layer."""

    def __init__(self, point_features: int, classes: int) -> None:
        super().__init__()
        extra = point_features - 3
        self.first = SetAbstraction(
            extra, 128, (0.2, 0.4, 0.8), (32, 64, 128), ((32, 32, 64), (64, 64, 128), (64, 96, 128))
        )
        self.second = SetAbstraction(
            self.first.width, 32, (0.4, 0.8, 1.6), (64, 64, 128), ((64, 64, 128), (128, 128, 256), (128, 128, 256))
        )
        self.whole = GlobalAbstraction(self.second.width, (128, 256, 1024))
        self.up = nn.ModuleList(
            [
                FeaturePropagation(1024 + classes + self.second.width, (128, 128)),
                FeaturePropagation(128 + self.first.width, (128, 128)),
                FeaturePropagation(128 + extra, (128, 128)),
            ]
        )
        self.head = nn.Sequential(SharedMLP(128, (128,)), nn.Dropout(0.3), nn.Linear(128, 2))

    def forward(self, points: Tensor, onehot: Tensor) -> Tensor:
        xyz0, f0 = points[..., :3], points[..., 3:]
        xyz1, f1 = self.first(xyz0, f0)
        xyz2, f2 = self.second(xyz1, f1)
        xyz3, f3 = self.whole(xyz2, f2)
        f3 = torch.cat([f3, onehot[:, None]], -1)
        f2 = self.up[0](xyz2, xyz3, f2, f3)
        f1 = self.up[1](xyz1, xyz2, f1, f2)
        return self.head(self.up[2](xyz0, xyz1, f0, f1))


class _SegmentPlain(nn.Module):
    """PointNet segmentation: 64-128-256 with maximum, head on point and set features; depth taken about its median."""

    def __init__(self, point_features: int, classes: int) -> None:
        super().__init__()
        self.net = PointNet(point_features, (64, 128, 256))
        self.early = SharedMLP(point_features, (64,))
        self.whole = nn.Linear(256 + classes, 64)
        self.head = nn.Sequential(SharedMLP(64, (64,)), nn.Dropout(0.3), nn.Linear(64, 2))

    def forward(self, points: Tensor, onehot: Tensor) -> Tensor:
        middle = points[..., :3].median(1, keepdim=True).values
        local = torch.cat([points[..., :2] - middle[..., :2], points[..., 2:]], -1)
        whole = self.whole(torch.cat([self.net(local)[1], onehot], -1))
        return self.head(self.early(local) + whole[:, None])


class _BoxSSG(nn.Module):
    """PointNet++ with one radius a level, 512 features."""

    width = 512

    def __init__(self) -> None:
        super().__init__()
        self.first = SetAbstraction(0, 32, (0.2,), (64,), ((64, 64, 128),))
        self.second = SetAbstraction(128, 16, (0.4,), (64,), ((128, 128, 256),))
        self.whole = GlobalAbstraction(256, (256, 256, 512))

    def forward(self, xyz: Tensor) -> Tensor:
        return self.whole(*self.second(*self.first(xyz, xyz[..., :0])))[1][:, 0]


class _BoxPlain(nn.Module):
    """PointNet, 256 features."""

    width = 256

    def __init__(self) -> None:
        super().__init__()
        self.net = PointNet(3, (64, 128, 256))

    def forward(self, xyz: Tensor) -> Tensor:
        return self.net(xyz)[1]


def _object_points(xyz: Tensor, mask: Tensor, generator: torch.Generator | None) -> Tensor:
    """64 points of the mask `(B, 64, 3)`, repeated where there are fewer; all points where the mask is empty."""
    B, N, _ = xyz.shape
    mask = mask | ~mask.any(1, keepdim=True)
    if generator is None:
        key = torch.frac(torch.arange(N, device=xyz.device) * 0.6180339887).expand(B, N)
    else:
        key = torch.rand(B, N, generator=generator).to(xyz.device)
    order = torch.where(mask, key, 2.0).argsort(1)  # points of the mask first, in an order free of their place
    take = torch.arange(OBJECT_POINTS, device=xyz.device) % mask.sum(1, keepdim=True)
    return gather_rows(xyz, order.gather(1, take))


def _smooth(a: Tensor, b: Tensor) -> Tensor:
    return (
        F.smooth_l1_loss(a, b, beta=1 / 9, reduction="none").sum(-1).mean()
        if a.ndim > 1
        else F.smooth_l1_loss(a, b, beta=1 / 9)
    )


def _step(localizer, crops: Crops, optimizer, generator) -> float:
    if torch.rand((), generator=generator) < 0.5:
        crops = mirrored(crops)
    onehot = F.one_hot(crops.labels, localizer.num_classes).to(crops.points)
    loss = localizer.loss(localizer(crops.points, onehot, generator), crops)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(localizer.parameters(), 10.0)
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def _evaluate(localizer, crops: Crops) -> float:
    localizer.eval()
    onehot = F.one_hot(crops.labels, localizer.num_classes).to(crops.points)
    losses = [
        float(localizer.loss(localizer(crops.points[r], onehot[r]), Crops(*(part[r] for part in crops)))) * len(r)
        for r in torch.arange(len(crops.points)).split(64)
    ]
    return sum(losses) / len(crops.points)


def turned_back(boxes: Tensor, angle: Tensor) -> Tensor:
    """Boxes `(B, 7)` turned by `angle` `(B,)` radians about z: from the frustums' frames to the lidar's."""
    moved = rotate_z(boxes, angle)
    return torch.cat([moved[:, :6], wrap_angle(moved[:, 6:] + angle[:, None])], -1)
