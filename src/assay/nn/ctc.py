"""A small convolutional reader of word images, trained with connectionist temporal classification (CTC).

CTC: the network gives, for each of `T` columns, probabilities of the alphabet's characters and of a blank. A text's
probability is the sum over all paths of `T` symbols that become the text when repeats are merged and blanks dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Reading:
    """A decoded text.

    Attributes:
        text: characters of the alphabet; may be empty.
        confidence: `exp(mean log p)` over the decoded characters, in (0, 1]; for an empty text over the blanks.
    """

    text: str
    confidence: float


class CtcRecogniser(nn.Module):
    """Five convolution blocks and a linear layer; the height is folded away, each two pixels of width give a column.

    Args:
        alphabet: characters that can be read, each once.
        width: channels of the first block; later ones have two to four times as many.
        height: height of the images in pixels, a multiple of 8.

    Raises:
        ValueError: empty alphabet, a character twice, or a height that is no multiple of 8.
    """

    def __init__(self, alphabet: str, width: int = 24, height: int = 32) -> None:
        super().__init__()
        if not alphabet or len(set(alphabet)) < len(alphabet):
            raise ValueError(f"the alphabet must hold each character once, got {alphabet!r}")
        if height < 8 or height % 8:
            raise ValueError(f"height must be a multiple of 8, got {height}")
        self.alphabet, self.width, self.height = alphabet, width, height
        self._code = {c: i for i, c in enumerate(alphabet, 1)}  # 0 is the blank
        w = width
        self.blocks = nn.Sequential(
            _block(1, w, 3, (2, 2), (1, 1)),
            _block(w, 2 * w, 3, (2, 1), (1, 1)),
            _block(2 * w, 3 * w, 3, (2, 1), (1, 1)),
            _block(3 * w, 4 * w, (height // 8, 3), 1, (0, 1)),
            _block(4 * w, 4 * w, (1, 5), 1, (0, 2)),
        )
        self.head = nn.Linear(4 * w, len(alphabet) + 1)
        self.to(memory_format=torch.channels_last)  # a quarter faster on a CPU

    def columns(self, images: Tensor) -> Tensor:
        """Features of each column, (B, T, 4 width), of grey images (B, 1, height, W); T = ceil(W / 2).

        Images are floats in [0, 1] or uint8, on any device.
        """
        images = unit(images).to(self.head.weight.device)
        if images.dim() != 4 or images.shape[1:3] != (1, self.height):
            raise ValueError(f"images must be (B, 1, {self.height}, W), got {tuple(images.shape)}")
        return self.blocks((images - 0.5) * 4).squeeze(2).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Log probabilities (B, T, 1 + characters); symbol 0 is the blank."""
        return self.head(self.columns(images)).log_softmax(2)

    def features(self, images: Tensor) -> Tensor:
        """One vector per image, (B, 4 width): the mean over columns."""
        return self.columns(images).mean(1)

    def encode(self, text: str) -> list[int]:
        """Symbols of a text.

        Raises:
            ValueError: characters outside the alphabet; they are listed.
        """
        if unknown := sorted(set(text) - set(self._code)):
            raise ValueError(f"not in the alphabet: {''.join(unknown)!r} (in {text!r})")
        return [self._code[c] for c in text]

    def loss(self, images: Tensor, texts: Sequence[str], weights: Tensor | None = None) -> Tensor:
        """Mean over images of `weight * (-log p(text)) / max(length, 1)`; impossible texts (too long) count nothing.

        Args:
            images: (B, 1, height, W).
            texts: B texts.
            weights: (B,); all one when None.

        Raises:
            ValueError: characters outside the alphabet.
        """
        codes = [self.encode(text) for text in texts]
        lengths = torch.tensor([len(text) for text in codes])
        given = torch.tensor([code for text in codes for code in text], dtype=torch.long)
        log_probs = self(images).cpu()  # the sums are small, and exact there
        columns = torch.full((len(texts),), log_probs.shape[1], dtype=torch.long)
        each = F.ctc_loss(
            log_probs.transpose(0, 1), given, columns, lengths, reduction="none", zero_infinity=True
        ) / lengths.clamp(min=1)  # fmt: skip
        return (each if weights is None else each * weights.to(each)).mean()

    def aligned_loss(self, images: Tensor, symbols: Tensor) -> Tensor:
        """Mean cross-entropy of columns whose symbols are known, (B, T); it leads past the all-blank plateau of CTC.

        Raises:
            ValueError: not one symbol for each column.
        """
        log_probs = self(images)
        if symbols.shape != log_probs.shape[:2]:
            raise ValueError(f"expected symbols {tuple(log_probs.shape[:2])}, got {tuple(symbols.shape)}")
        return F.nll_loss(log_probs.flatten(0, 1), symbols.flatten().to(log_probs.device))

    @torch.no_grad()
    def decode(self, images: Tensor, batch: int = 256) -> list[Reading]:
        """Greedy reading of each image, in evaluation mode."""
        was_training = self.training
        self.eval()
        try:
            return [reading for part in images.split(batch) for reading in self.greedy(self(part))]
        finally:
            self.train(was_training)

    def greedy(self, log_probs: Tensor) -> Iterator[Reading]:
        """Best symbol of each column, repeats merged, blanks dropped.

        A character's probability is the largest among its repeated columns.
        """
        best, symbols = log_probs.max(2)
        for path, logs in zip(symbols.tolist(), best.tolist(), strict=True):
            text, kept, before = [], [], 0
            for symbol, log in zip(path, logs, strict=True):
                if symbol and symbol == before:
                    kept[-1] = max(kept[-1], log)
                elif symbol:
                    text.append(self.alphabet[symbol - 1])
                    kept.append(log)
                before = symbol
            kept = kept or logs
            yield Reading("".join(text), min(float(torch.tensor(kept, dtype=torch.float64).mean().exp()), 1.0))


def unit(images: Tensor) -> Tensor:
    """Images of uint8 as floats in [0, 1]; others as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _block(inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int | tuple[int, int],
           padding: tuple[int, int]) -> nn.Sequential:  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
