"""A control branch: a trained copy of a frozen U-Net's encoder half, joined to it by convolutions that start at zero.

Source: ControlNet (2302.05543)
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from assay.nn.unet import UNet


def zero_conv(inputs: int, outputs: int | None = None, kernel: int = 1) -> nn.Conv2d:
    """A convolution whose weights and bias are zero; it passes gradients to itself from the first step on."""
    conv = nn.Conv2d(inputs, inputs if outputs is None else outputs, kernel, padding=kernel // 2)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class ControlBranch(nn.Module):
    """Encoder half of a U-Net that also sees a control picture.

    The picture enters through a zero 3x3 convolution added to the first layer's output, which equals one convolution
    of both stacked; what the levels find leaves through zero 1x1 convolutions.

    Args:
        unet: whose encoder is copied.
        hint_channels: of the control picture, which has the sample's height and width.
    """

    def __init__(self, unet: UNet, hint_channels: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(unet)
        self.encoder.requires_grad_(True)
        for unused in ("up", "grow", "leave"):  # the decoder half is the frozen network's own
            delattr(self.encoder, unused)
        widths = unet.config["widths"]
        self.enter = zero_conv(hint_channels, widths[0], kernel=3)
        self.leave = nn.ModuleList(zero_conv(width) for width in (*widths, widths[-1]))

    @classmethod
    def from_unet(cls, unet: UNet, hint_channels: int) -> ControlBranch:
        """A branch that starts with the U-Net's own weights."""
        return cls(unet, hint_channels)

    def forward(self, x: Tensor, t: Tensor | None, hint: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """Tensors to add to the frozen network's skips and middle."""
        encoded = self.encoder.encode(x, t, condition, self.enter(hint))
        return [leave(h) for leave, h in zip(self.leave, (*encoded.skips, encoded.middle), strict=True)]


class ControlledUNet(nn.Module):
    """A frozen U-Net and its control branch; only the branch is trained.

    Args:
        unet: the base; its parameters stop asking for gradients.
        branch: made from it.
    """

    def __init__(self, unet: UNet, branch: ControlBranch) -> None:
        super().__init__()
        self.unet, self.branch = unet.requires_grad_(False), branch

    def forward(self, x: Tensor, t: Tensor | None, hint: Tensor, condition: Tensor | None = None) -> Tensor:
        """The base's output under control of `hint`."""
        return self.unet(x, t, condition, self.branch(x, t, hint, condition))
