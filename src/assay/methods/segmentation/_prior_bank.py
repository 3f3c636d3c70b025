"""Banks of annotated tokens, and what they say about a new token.

Source: 2602.06912
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from assay.methods.segmentation._graph_cut import unit

BACKGROUND = "background"
DUPLICATE = 0.98


@dataclass(frozen=True)
class PriorBank:
    """Tokens marked as foreground and as background, from a few images of a data set.

    Attributes:
        fg, bg: `(F, D)` and `(B, D)`, l2-normalised here.
        extra: tensors kept with the bank, such as the statistics of hand-made tokens.

    Raises:
        ValueError: no foreground or no background token, sizes that differ, or a zero token.
    """

    fg: Tensor
    bg: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bank = ClassBank(("foreground",), (self.fg,), self.bg)  # checks
        object.__setattr__(self, "fg", bank.tokens[0])
        object.__setattr__(self, "bg", bank.bg)

    @classmethod
    def from_points(
        cls, tokens: Sequence[Tensor], points: Sequence[tuple[int, int, int, bool]], **extra: Tensor
    ) -> PriorBank:
        """The bank of annotated cells.

        Args:
            tokens: images as `(h, w, D)`.
            points: (image, row, column, whether foreground).

        Raises:
            ValueError: a cell that does not exist, or one side without a point.
        """
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for image, row, column, wanted in points:
            sides[0 if wanted else 1].append(cell_of(tokens, image, row, column))
        if not sides[0] or not sides[1]:
            raise ValueError(
                f"a bank needs points on both sides, got {len(sides[0])} foreground and {len(sides[1])} background"
            )
        return cls(torch.stack(sides[0]), torch.stack(sides[1]), extra)

    @property
    def swapped(self) -> PriorBank:
        """The bank with its two sides exchanged."""
        return PriorBank(self.bg, self.fg, self.extra)

    def compact(self, limit: float = DUPLICATE) -> PriorBank:
        """Without tokens whose cosine with an earlier one of their side is above `limit`."""
        return PriorBank(without_duplicates(self.fg, limit), without_duplicates(self.bg, limit), self.extra)

    def similarities(self, x: Tensor, nearest: int = 3) -> Tensor:
        """`(N, 2)`: mean of the largest cosines of tokens `(N, D)` with the foreground, and with the background."""
        return torch.stack([nearest_mean(x, side, nearest) for side in (self.fg, self.bg)], dim=1)

    def prior(self, x: Tensor, temperature: float = 0.05, nearest: int = 3) -> Tensor:
        """p `(N,)` = sigmoid((s^F - s^B) / T), the share of each token in the foreground."""
        sides = self.similarities(x, nearest)
        return torch.sigmoid((sides[:, 0] - sides[:, 1]) / temperature)

    def save(self, file: Path) -> None:
        """Write a safetensors file."""
        ClassBank(("foreground",), (self.fg,), self.bg, self.extra).save(file)

    @staticmethod
    def load(file: Path) -> PriorBank:
        """The bank that `save` wrote.

        Raises:
            ValueError: another kind of file, or a bank of several classes.
        """
        bank = ClassBank.load(file)
        if len(bank.names) != 1:
            raise ValueError(f"{file}: a bank of {len(bank.names)} classes, expected foreground and background")
        return PriorBank(bank.tokens[0], bank.bg, bank.extra)


@dataclass(frozen=True)
class ClassBank:
    """Tokens of K named classes and of the background.

    Attributes:
        names: K class names.
        tokens: K tensors `(F_k, D)`, l2-normalised here.
        bg: `(B, D)`.
        extra: tensors kept with the bank.

    Raises:
        ValueError: a class or the background without tokens, sizes that differ, a name twice, or a zero token.
    """

    names: tuple[str, ...]
    tokens: tuple[Tensor, ...]
    bg: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.tokens) or len({*self.names, BACKGROUND}) <= len(self.names):
            raise ValueError(f"expected distinct class names with tokens each, got {list(self.names)}")
        for name, side in zip((*self.names, BACKGROUND), (*self.tokens, self.bg), strict=True):
            if side.ndim != 2 or not len(side):
                raise ValueError(
                    f"bank of {name}: expected tokens (F, D) with F of at least 1, got {tuple(side.shape)}"
                )
            if side.shape[1] != self.bg.shape[1]:
                raise ValueError(f"bank of {name}: tokens of size {side.shape[1]} beside {self.bg.shape[1]}")
        object.__setattr__(self, "tokens", tuple(unit(side) for side in self.tokens))
        object.__setattr__(self, "bg", unit(self.bg))

    def compact(self, limit: float = DUPLICATE) -> ClassBank:
        """Without near duplicates inside a class."""
        kept = tuple(without_duplicates(side, limit) for side in self.tokens)
        return ClassBank(self.names, kept, without_duplicates(self.bg, limit), self.extra)

    def prior(self, x: Tensor, temperature: float = 0.05, nearest: int = 3) -> Tensor:
        """Shares `(N, K + 1)`, background last: softmax of s / T."""
        sides = torch.stack([nearest_mean(x, side, nearest) for side in (*self.tokens, self.bg)], dim=1)
        return torch.softmax(sides / temperature, dim=1)

    def save(self, file: Path) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save_file

        held = {f"class.{i}.{name}": side for i, (name, side) in enumerate(zip(self.names, self.tokens, strict=True))}
        held |= {BACKGROUND: self.bg} | {f"extra.{name}": value for name, value in self.extra.items()}
        save_file({name: value.detach().cpu().contiguous() for name, value in held.items()}, file)

    @staticmethod
    def load(file: Path) -> ClassBank:
        """The bank that `save` wrote.

        Raises:
            ValueError: not a bank.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            held = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file}: not a safetensors file ({error})") from error
        classes = sorted((name.split(".", 2) for name in held if name.startswith("class.")), key=lambda p: int(p[1]))
        if not classes or BACKGROUND not in held:
            raise ValueError(f"{file}: not a bank of annotated tokens")
        return ClassBank(
            tuple(parts[2] for parts in classes),
            tuple(held[".".join(parts)] for parts in classes),
            held[BACKGROUND],
            {name[6:]: value for name, value in held.items() if name.startswith("extra.")},
        )


def cell_of(tokens: Sequence[Tensor], image: int, row: int, column: int) -> Tensor:
    """One token `(D,)`; a cell that does not exist is a `ValueError`."""
    if not 0 <= image < len(tokens):
        raise ValueError(f"a point names image {image} of {len(tokens)}")
    height, width = tokens[image].shape[:2]
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"a point at cell ({row}, {column}) of a grid of {height}x{width}")
    return tokens[image][row, column]


def nearest_mean(x: Tensor, side: Tensor, nearest: int) -> Tensor:
    """Mean of the `nearest` largest cosines of each token `(N, D)` with a side `(F, D)`: `(N,)`."""
    cosines = unit(x) @ side.to(x).T
    return cosines.topk(min(nearest, cosines.shape[1]), dim=1).values.mean(dim=1)


def without_duplicates(tokens: Tensor, limit: float) -> Tensor:
    """The tokens whose cosine with every earlier one kept is at most `limit`."""
    kept: list[int] = []
    cosines = (tokens @ tokens.T).tolist()
    for row in range(len(tokens)):
        if all(cosines[row][other] <= limit for other in kept):
            kept.append(row)
    return tokens[kept]
