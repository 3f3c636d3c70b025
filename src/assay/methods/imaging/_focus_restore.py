"""Stage 2: a diffusion model redraws the fused picture under its control.

Source: 2512.21495; starting from a noised picture: SDEdit (2108.01073); colour fix by wavelets: StableSR (2305.07015)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.control import ControlBranch, ControlledUNet, zero_conv
from assay.nn.diffusion import Prediction, Schedule, ddim, quadratic_times
from assay.nn.unet import UNet

Start = Literal["image", "noise"]
OPPONENT = [[3**-0.5] * 3, [2**-0.5, 0.0, -(2**-0.5)], [6**-0.5, -2 * 6**-0.5, 6**-0.5]]


class Codec(Protocol):
    """Pictures `(B, 3, H, W)` in [0, 1] to latents and back; sides must be multiples of `multiple`."""

    multiple: int

    def encode(self, image: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...


class PixelCodec:
    """No latent space: pixels stretched to [-1, 1], turned to brightness and two opponent colours (orthonormal)."""

    multiple = 1

    def encode(self, image: Tensor) -> Tensor:
        return _turned(2 * image - 1, image.new_tensor(OPPONENT))

    def decode(self, latent: Tensor) -> Tensor:
        return (_turned(latent, latent.new_tensor(OPPONENT).T) + 1) / 2


class DiffusersCodec:
    """Latents of a diffusers `AutoencoderKL`: the mean of its posterior times its scaling factor.

    Args:
        vae: frozen here.
        multiple: sides must be multiples of it: the encoder's factor times the denoiser's.
    """

    def __init__(self, vae: nn.Module, multiple: int = 64) -> None:
        self.vae, self.multiple = vae.requires_grad_(False).eval(), multiple

    def encode(self, image: Tensor) -> Tensor:
        return self.vae.encode(2 * image - 1).latent_dist.mean * self.vae.config.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        return (self.vae.decode(latent / self.vae.config.scaling_factor).sample + 1) / 2


class Denoiser(nn.Module):
    """A network that predicts noise, data or v from a noisy latent, the step and the latent of the fused picture.

    Attributes:
        schedule, prediction: what its steps and outputs mean.
    """

    schedule: Schedule
    prediction: Prediction

    def draw_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Steps to train at, uniform."""
        return (torch.rand(count, generator=generator) * len(self.schedule)).long()

    def loss_weight(self, z: Tensor, t: Tensor) -> Tensor:
        """Weight of the squared error at a step, broadcast over `z`."""
        return torch.ones_like(z[:, :1, :1, :1])


class PixelDenoiser(Denoiser):
    """A small U-Net that is told what a Gaussian around the fused picture J would predict, and learns the rest.

    Were the latent x = J + s n with white n, the best prediction of v = a e - b x from x_t = a x + b e would be

        v* = a b (1 - s^2) / D (x_t - a J) - b J,    D = s^2 a^2 + b^2

    with error of standard deviation s / sqrt(D); s is a number per channel. The network sees (x_t - a J) / sqrt(D),
    J and the step, and its output is multiplied by s / sqrt(D) and added. Most of the detail a defocused picture
    lacks is weaker than the noise of most steps, so steps are drawn as T u^3, dense near the data.

    Args:
        unet: `(3 + 3) -> 3` channels with a time embedding.
        spread: s, the standard deviation of what the fused picture lacks, of each channel or of all alike.
        schedule: None for 1000 linear steps.
    """

    prediction: Prediction = "v"

    def __init__(self, unet: UNet, spread: float | Sequence[float] = 0.1, schedule: Schedule | None = None) -> None:
        super().__init__()
        self.unet, self.schedule = unet, schedule or Schedule.linear()
        self.register_buffer("spread", torch.zeros(1, 3, 1, 1) + torch.tensor(spread).reshape(-1, 1, 1))

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        a, b = self.schedule.scales(t, x_t)
        s = self.spread
        total = s**2 * a**2 + b**2
        apart = x_t - a * condition
        gaussian = a * b * (1 - s**2) / total * apart - b * condition
        return gaussian + s / total.sqrt() * self.unet(apart / total.sqrt(), t, condition)

    def draw_times(self, count: int, generator: torch.Generator) -> Tensor:
        return (torch.rand(count, generator=generator) ** 3 * len(self.schedule)).long()

    def loss_weight(self, z: Tensor, t: Tensor) -> Tensor:
        """D over the largest s^2: steps count alike, channels by how much there is to be restored in them."""
        a, b = self.schedule.scales(t, z)
        return (self.spread**2 * a**2 + b**2) / self.spread.square().max()


class ControlledDenoiser(Denoiser):
    """A frozen U-Net of this package under its control branch, which sees the fused picture's latent.

    Args:
        unet: base with a time embedding; frozen.
        schedule, prediction: of the base.
    """

    def __init__(self, unet: UNet, schedule: Schedule, prediction: Prediction = "eps") -> None:
        super().__init__()
        branch = ControlBranch.from_unet(unet, unet.config["in_channels"])
        self.net, self.schedule, self.prediction = ControlledUNet(unet, branch), schedule, prediction

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.net(x_t, t, condition)


class LatentDenoiser(Denoiser):
    """A frozen diffusers U-Net with a `ControlNetModel`, both given the embedding of the empty text.

    The branch sees [z_t, z_c]: its first layer's output and a zero convolution of z_c are added, which is one
    convolution of both stacked, with new weights that start at zero.

    Args:
        unet: `UNet2DConditionModel`, frozen.
        control: `ControlNetModel` made from it (`ControlNetModel.from_unet`); its picture encoder is replaced.
        text: `(1, L, D)` hidden states of the empty text.
        schedule, prediction: of the base.
    """

    def __init__(
        self, unet: Any, control: Any, text: Tensor, schedule: Schedule, prediction: Prediction = "eps"
    ) -> None:
        super().__init__()
        control.controlnet_cond_embedding = zero_conv(unet.config.in_channels, unet.config.block_out_channels[0], 3)
        self.unet, self.control = unet.requires_grad_(False), control.requires_grad_(True)
        self.schedule, self.prediction = schedule, prediction
        self.register_buffer("text", text, persistent=False)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        text = self.text.expand(len(x_t), -1, -1)
        skips, middle = self.control(
            x_t, t, encoder_hidden_states=text, controlnet_cond=condition, return_dict=False
        )  # fmt: skip
        return self.unet(
            x_t, t, encoder_hidden_states=text, down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
        ).sample  # fmt: skip


def denoising_loss(denoiser: Denoiser, z: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
    """`E w_t ||target(z, e, t) - output(z_t, t, z_c)||^2` over random steps and noise.

    Args:
        z, condition: latents of the truth and of the fused picture, `(B, C, H, W)`.
    """
    t = denoiser.draw_times(len(z), generator).to(z.device)
    noise = torch.randn(z.shape, generator=generator).to(z)
    output = denoiser(denoiser.schedule.noisy(z, noise, t), t, condition)
    target = denoiser.schedule.target(z, noise, t, denoiser.prediction)
    return (denoiser.loss_weight(z, t) * (output - target).square()).mean()


def lacking(codec: Codec, fused: Tensor, truth: Tensor) -> list[float]:
    """Standard deviation by channel of what latents of fused pictures lack, for `PixelDenoiser(spread=...)`."""
    return (codec.encode(truth) - codec.encode(fused)).square().mean((0, 2, 3)).sqrt().tolist()


def low_band(image: Tensor, levels: int = 4) -> Tensor:
    """Coarse band of an undecimated wavelet (cubic B-spline): `levels` smoothings with holes of 1, 2, 4, ... pixels."""
    kernel = image.new_tensor([1, 4, 6, 4, 1]) / 16
    channels = image.shape[-3]
    x = image
    for level in range(levels):
        step = 2**level
        for view in ((1, 1, 5, 1), (1, 1, 1, 5)):
            weight = kernel.reshape(view).expand(channels, *view[1:])
            pad = (0, 0, 2 * step, 2 * step) if view[2] == 5 else (2 * step, 2 * step, 0, 0)
            x = F.conv2d(F.pad(x, pad, mode="replicate"), weight, dilation=step, groups=channels)
    return x


class Restorer:
    """Draws a picture near the fused one from the diffusion model.

    The latent of the fused picture, noised to step t0 = strength T, is where sampling starts (`start="noise"`: pure
    noise at the last step); DDIM without fresh noise follows; coarse colours are the fused picture's own.

    Args:
        denoiser: what removes noise.
        codec: pictures to latents and back.
        colour_levels: wavelet levels kept from the sample; 0 leaves the sample's colours.
    """

    def __init__(self, denoiser: Denoiser, codec: Codec | None = None, colour_levels: int = 4) -> None:
        self.denoiser, self.codec, self.colour_levels = denoiser, codec or PixelCodec(), colour_levels

    @torch.no_grad()
    def __call__(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        steps: int = 20,
        strength: float = 0.6,
        seed: int = 0,
        start: Start = "image",
    ) -> Tensor:
        """A restored picture.

        Args:
            image: `(3, H, W)` or `(B, 3, H, W)` in [0, 1].
            mask: `([B,] H, W)` from 0 (keep the pixel) to 1 (take the sample's); None takes all of the sample.
            steps: of sampling.
            strength: 0 returns the image, 1 starts at the noisiest step.
            seed: of the noise; the same gives the same picture.

        Raises:
            ValueError: another shape, a strength outside [0, 1], or an unknown start.
        """
        if not 0 <= strength <= 1 or start not in ("image", "noise"):
            raise ValueError(f"expected a strength in 0..1 and start image or noise, got {strength} and {start!r}")
        batch = image if image.ndim == 4 else image[None]
        if batch.ndim != 4 or batch.shape[1] != 3:
            raise ValueError(f"expected pictures ([B,] 3, H, W), got {tuple(image.shape)}")
        if (start == "image" and strength == 0) or (mask is not None and not mask.any()):
            return image.clone()
        height, width = batch.shape[-2:]
        multiple = self.codec.multiple
        padded = F.pad(batch, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        condition = self.codec.encode(padded)
        schedule = self.denoiser.schedule
        last = len(schedule) - 1 if start == "noise" else round(strength * (len(schedule) - 1))
        times = quadratic_times(min(steps, last + 1), last) if last else [0]
        g = torch.Generator().manual_seed(seed)
        noise = torch.randn(condition.shape, generator=g).to(condition)
        begin = noise if start == "noise" else schedule.noisy(condition, noise, last)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self.denoiser(x_t, t, condition)

        latent = ddim(schedule, predict, begin, times, self.denoiser.prediction)
        sample = self.codec.decode(latent)[..., :height, :width]
        if self.colour_levels:
            sample = sample + low_band(batch, self.colour_levels) - low_band(sample, self.colour_levels)
        sample = sample.clamp(0, 1)
        if mask is not None:
            share = (mask if mask.ndim == 3 else mask[None])[:, None].to(batch)
            sample = batch + share * (sample - batch)
        return sample if image.ndim == 4 else sample[0]

    @classmethod
    def from_pretrained(cls, model: str | Path, control: dict[str, Tensor] | None = None) -> Restorer:
        """A latent diffusion model in diffusers' layout (such as Stable Diffusion 2.1 base) with a control branch.

        Args:
            model: folder, or id on the Hugging Face hub.
            control: state of a trained branch (`restorer.denoiser.control.state_dict()`); None: an untrained one, with
                which the base samples as if there were no control.
        """
        from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        where = str(model)
        safe = {"use_safetensors": True}
        vae = AutoencoderKL.from_pretrained(where, subfolder="vae", **safe)
        unet = UNet2DConditionModel.from_pretrained(where, subfolder="unet", **safe)
        scheduler = DDIMScheduler.from_pretrained(where, subfolder="scheduler")
        tokenizer = CLIPTokenizer.from_pretrained(where, subfolder="tokenizer")
        encoder = CLIPTextModel.from_pretrained(where, subfolder="text_encoder", **safe)
        words = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
        with torch.no_grad():
            text = encoder(words.input_ids)[0]
        named: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x"}
        schedule = Schedule(scheduler.alphas_cumprod.float())
        denoiser = LatentDenoiser(
            unet, ControlNetModel.from_unet(unet), text, schedule, named[scheduler.config.prediction_type]
        )
        if control is not None:
            denoiser.control.load_state_dict(control)
        factor = 2 ** (len(vae.config.block_out_channels) - 1) * 2 ** (len(unet.config.block_out_channels) - 1)
        return cls(denoiser.eval(), DiffusersCodec(vae, factor))


def _turned(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix, x)


def samples(restorer: Restorer, image: Tensor, count: int, **options: Any) -> Tensor:
    """Several draws of one picture, seeds 0, 1, ...: `(count, 3, H, W)`; their spread shows what is guessed."""
    return torch.stack([restorer(image, seed=seed, **options) for seed in range(count)])


def parameters_that_train(denoiser: Denoiser) -> Sequence[nn.Parameter]:
    """Those that ask for gradients: all of a small U-Net, the branch of a controlled one."""
    return [p for p in denoiser.parameters() if p.requires_grad]
