"""Small autoencoders: convolutional for pictures of 8 to 64 pixels, dense for vectors.

Both offer `encode` (B, ...) -> (B, P) with flat latents and `decode` (B, P) -> (B, ...).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PRESETS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # channels and kernels of DSC-Net's networks
    "coil-20": ((15,), (3,)),
    "orl": ((5, 3, 3), (5, 3, 3)),
    "yale-b": ((10, 20, 30), (5, 3, 3)),
    "coil-100": ((50,), (5,)),
}


class ConvAutoencoder(nn.Module):
    """Strided convolutions with ReLU, and transposed ones back; every layer halves the resolution (rounded up).

    Args:
        in_shape: C, H, W of the pictures.
        channels: feature maps of each encoder layer.
        kernels: odd kernel size of each.

    Shapes:
        `encode`: (B, C, H, W) -> (B, P), P = channels[-1] * ceil(H / 2^L) * ceil(W / 2^L); `decode`: back.

    Raises:
        ValueError: no layers, lengths that differ, or an even kernel.
    """

    def __init__(self, in_shape: Sequence[int], channels: Sequence[int] = (15,), kernels: Sequence[int] = (3,)) -> None:
        super().__init__()
        if not channels or len(channels) != len(kernels):
            raise ValueError(f"one kernel for each layer expected, got channels {channels} and kernels {kernels}")
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernels must be odd, got {kernels}")
        inputs, height, width = in_shape
        sizes = [(height, width)]
        down, up = [], []
        for outputs, kernel in zip(channels, kernels, strict=True):
            h, w = sizes[-1]
            down += [nn.Conv2d(inputs, outputs, kernel, 2, kernel // 2), nn.ReLU()]
            extra = ((h + 1) % 2, (w + 1) % 2)
            up.append(nn.ConvTranspose2d(outputs, inputs, kernel, 2, kernel // 2, output_padding=extra))
            sizes.append((math.ceil(h / 2), math.ceil(w / 2)))
            inputs = outputs
        self.encoder = nn.Sequential(*down)
        layers = [layer for conv in reversed(up) for layer in (nn.ReLU(), conv)]
        self.decoder = nn.Sequential(*layers[1:])  # latents are past a ReLU already
        self.maps = (channels[-1], *sizes[-1])
        self.config = {"in_shape": list(in_shape), "channels": list(channels), "kernels": list(kernels)}

    def encode(self, images: Tensor) -> Tensor:
        """Flat latents (B, P)."""
        return self.encoder(images).flatten(1)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, C, H, W), not bounded to [0, 1]."""
        return self.decoder(latents.unflatten(1, self.maps))

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


class DenseAutoencoder(nn.Module):
    """Two layers in, two layers out, for vectors: (B, D) -> (B, P) -> (B, D)."""

    def __init__(self, width: int, hidden: int = 64, latent: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.config = {"width": width, "hidden": hidden, "latent": latent}

    def encode(self, rows: Tensor) -> Tensor:
        """Latents (B, P)."""
        return self.encoder(rows)

    def decode(self, latents: Tensor) -> Tensor:
        """Rows (B, D)."""
        return self.decoder(latents)

    def forward(self, rows: Tensor) -> Tensor:
        return self.decode(self.encode(rows))


def encode_all(autoencoder: nn.Module, inputs: Tensor, batch: int = 512) -> Tensor:
    """Latents of many inputs without gradients, (N, P)."""
    with torch.no_grad():
        return torch.cat([autoencoder.encode(part) for part in inputs.split(batch)])
