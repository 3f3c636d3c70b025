"""Aligned sparse autoencoders: which directions of picture and text embeddings carry the matching.

A sparse autoencoder on the embeddings of both sides tends to spend two atoms, one per side, on a concept that both
share. A concept common to both should be as strong in pictures as in texts (equal energy): added as a soft penalty,
this sorts the atoms into shared ones, which do the matching, and one-sided ones, which make the modality gap.

    loss = mean (A - A_hat)^2 + beta * penalty

`fit` trains, `modality_scores` sorts the atoms, `intervene`, `close_gap` and `edit` use them, `bridge` and `rho` look
at how the two sides are joined. Works on any two embedding matrices of one width.

Source: 2602.06218
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from assay.methods.vision_language._iso_bridge import bridge, fisher_ratio, probe_accuracy, rho
from assay.nn.sae import Kind, SparseAutoencoder

__all__ = [
    "FitOptions",
    "Scores",
    "SparseAutoencoder",
    "align_cosine",
    "align_energy",
    "as_rows",
    "bridge",
    "close_gap",
    "drop_coordinates",
    "edit",
    "explained",
    "fisher_ratio",
    "fit",
    "intervene",
    "modality_scores",
    "ood_distance",
    "probe_accuracy",
    "rho",
    "score_rows",
    "shift_means",
]

Align = Literal["none", "cosine", "energy"]
BIMODAL = (0.05, 0.95)
DEAD = 1e-9
CHUNK = 4096


@dataclass(frozen=True)
class FitOptions:
    """How an autoencoder is trained.

    Attributes:
        k_atoms: atoms K; None for 8 d, the paper's.
        k: atoms that describe a vector, 20 in the paper.
        kind: `"mp"`, the paper's, or `"topk"`.
        align: penalty: `"cosine"` on pairs, `"energy"` on populations, or `"none"`.
        beta: weight of the penalty; 0 trains a plain autoencoder, whatever `align` says.
        epochs, batch, learning_rate: of Adam with a one-cycle schedule; a batch has that many rows of each side.
        clip: largest norm of the gradient.
    """

    k_atoms: int | None = None
    k: int = 20
    kind: Kind = "mp"
    align: Align = "cosine"
    beta: float = 4e-4
    epochs: int = 5
    batch: int = 512
    learning_rate: float = 5e-4
    clip: float = 1.0


@dataclass(frozen=True)
class Scores:
    """What the codes of both sides say of each atom; all `(K,)`.

    Attributes:
        energy_img, energy_txt: mean squared code.
        mu: share of the energy that comes from pictures, in [0, 1]; NaN for dead atoms.
        dead: atoms with (almost) no energy.
        bimodal: atoms whose mu lies in [0.05, 0.95].
    """

    energy_img: NDArray[np.float64]
    energy_txt: NDArray[np.float64]
    mu: NDArray[np.float64]
    dead: NDArray[np.bool_]
    bimodal: NDArray[np.bool_]

    @property
    def energy(self) -> NDArray[np.float64]:
        """Mean energy over both sides."""
        return (self.energy_img + self.energy_txt) / 2

    @property
    def unimodal(self) -> NDArray[np.bool_]:
        """Atoms of one side: neither bimodal nor dead."""
        return ~self.bimodal & ~self.dead

    @property
    def bimodal_share(self) -> float:
        """Share of all energy in bimodal atoms."""
        return float(self.energy[self.bimodal].sum() / max(self.energy.sum(), 1e-30))


def align_cosine(z_img: Tensor, z_txt: Tensor) -> Tensor:
    """Penalty on pairs, in [-1, 0] for non-negative codes.

        L = -mean_i cos(z_I,i * m_i, z_T,i * m_i),  m_i = 0 at the strongest atom of either code, 1 elsewhere

    The strongest atoms are left out because each side has one that is always on and belongs to it alone.

    Args:
        z_img, z_txt: `(B, K)` codes, row i of one a pair with row i of the other.

    Raises:
        ValueError: codes of different shape.
    """
    if z_img.shape != z_txt.shape:
        raise ValueError(f"codes of pairs expected, got {tuple(z_img.shape)} and {tuple(z_txt.shape)}")
    keep = torch.ones_like(z_img)
    keep.scatter_(1, z_img.argmax(1, keepdim=True), 0.0).scatter_(1, z_txt.argmax(1, keepdim=True), 0.0)
    return -F.cosine_similarity(z_img * keep, z_txt * keep, dim=1).mean()


def align_energy(z_img: Tensor, z_txt: Tensor, eps: float = 1e-5) -> Tensor:
    """Penalty on populations, in [0, 1); needs no pairs.

        L = mean_j |E_I,j - E_T,j| / (E_I,j + E_T,j + eps),  E_m,j = mean_i z_m,ij^2

    Args:
        z_img, z_txt: `(B, K)` and `(B', K)` codes.

    Raises:
        ValueError: different numbers of atoms.
    """
    if z_img.shape[1] != z_txt.shape[1]:
        raise ValueError(f"codes over the same atoms expected, got {tuple(z_img.shape)} and {tuple(z_txt.shape)}")
    img, txt = z_img.square().mean(0), z_txt.square().mean(0)
    return ((img - txt).abs() / (img + txt + eps)).mean()


def fit(
    img: ArrayLike | Tensor, txt: ArrayLike | Tensor, options: FitOptions | None = None, seed: int = 0
) -> tuple[SparseAutoencoder, dict[str, list[float]]]:
    """Train an autoencoder on both sides.

    Batches depend on the seed alone, so that runs with different penalties see the same rows.

    Args:
        img, txt: `(n, d)` and `(m, d)` embeddings, scaled to unit length here. n = m and rows in pairs for `"cosine"`.

    Returns:
        The autoencoder in eval mode, and per epoch `"loss"` (mean squared error), `"penalty"` (0 where it is not used)
        and `"r2"`, all means over batches.

    Raises:
        ValueError: rows that are not finite or of length zero, widths that differ, unpaired rows with `"cosine"`, or
            options out of range.
    """
    how = options or FitOptions()
    a, b = as_rows(img, "img"), as_rows(txt, "txt")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"embeddings of one width expected, got {a.shape[1]} and {b.shape[1]}")
    if how.align not in ("none", "cosine", "energy"):
        raise ValueError(f"align must be none, cosine or energy, got {how.align!r}")
    if how.beta < 0 or min(how.epochs, how.batch) < 1:
        raise ValueError(f"expected beta >= 0, epochs and batch >= 1, got {how.beta}, {how.epochs}, {how.batch}")
    penalised = how.align != "none" and how.beta > 0
    if len(a) != len(b) and how.align == "cosine":
        raise ValueError(f"the cosine penalty needs pairs, got {len(a)} and {len(b)} rows; use energy")
    sae = SparseAutoencoder(a.shape[1], how.k_atoms or 8 * a.shape[1], how.k, how.kind, seed)
    generator = torch.Generator().manual_seed(seed)
    steps = math.ceil(max(len(a), len(b)) / how.batch)
    optimiser = torch.optim.Adam(sae.parameters(), lr=how.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.learning_rate, total_steps=max(steps * how.epochs, 2))
    log: dict[str, list[float]] = {"loss": [], "penalty": [], "r2": []}
    for _ in range(how.epochs):
        sums = np.zeros(3)
        for rows_a, rows_b in _batches(len(a), len(b), how.batch, generator):
            batch = torch.cat([a[rows_a], b[rows_b]])
            z = sae.encode(batch)[1]
            mse = (batch - sae.decode(z)).square().mean()
            loss, penalty = mse, 0.0
            if penalised:
                both = z[: len(rows_a)], z[len(rows_a) :]
                value = align_cosine(*both) if how.align == "cosine" else align_energy(*both)
                loss, penalty = mse + how.beta * value, float(value.detach())
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(sae.parameters(), how.clip)
            optimiser.step()
            schedule.step()
            sae.unit_rows_()
            error = float(mse.detach())
            sums += (error, penalty, 1 - error / float(batch.var(0, correction=0).mean()))
        for name, value in zip(log, sums / steps, strict=True):
            log[name].append(float(value))
    return sae.eval(), log


def modality_scores(
    z_img: ArrayLike | Tensor, z_txt: ArrayLike | Tensor, band: tuple[float, float] = BIMODAL
) -> Scores:
    """Energies and modality of atoms from codes `(n, K)` and `(m, K)`.

        E_m,j = mean_i z_m,ij^2        mu_j = E_I,j / (E_I,j + E_T,j)        dead: (E_I,j + E_T,j) / 2 < 1e-9

    Args:
        band: an atom is bimodal when mu lies in it.

    Raises:
        ValueError: different numbers of atoms, or no rows.
    """
    img, txt = (torch.as_tensor(np.asarray(z) if not isinstance(z, Tensor) else z) for z in (z_img, z_txt))
    if img.ndim != 2 or txt.ndim != 2 or img.shape[1] != txt.shape[1] or not len(img) or not len(txt):
        raise ValueError(f"codes over the same atoms expected, got {tuple(img.shape)} and {tuple(txt.shape)}")
    return _scores(*(z.detach().double().square().mean(0).cpu().numpy() for z in (img, txt)), band)


def score_rows(
    sae: SparseAutoencoder, img: ArrayLike | Tensor, txt: ArrayLike | Tensor, band: tuple[float, float] = BIMODAL
) -> Scores:
    """`modality_scores` of embeddings, without holding all codes at once."""
    sums = []
    for rows in (as_rows(img, "img"), as_rows(txt, "txt")):
        total = torch.zeros(sae.k_atoms, dtype=torch.float64)
        with torch.no_grad():
            for part in rows.split(CHUNK):
                total += sae.encode(part)[1].double().square().sum(0)
        sums.append((total / len(rows)).numpy())
    return _scores(*sums, band)


@torch.no_grad()
def intervene(sae: SparseAutoencoder, a: ArrayLike | Tensor, mask: ArrayLike | None = None) -> Tensor:
    """Rows rebuilt from the atoms of `mask` `(K,)` alone (all atoms when None), `(n, d)`; not scaled."""
    rows = as_rows(a, "a")
    keep = torch.ones(sae.k_atoms) if mask is None else torch.as_tensor(np.asarray(mask), dtype=torch.float32)
    return torch.cat([sae.decode(sae.encode(part)[1] * keep) for part in rows.split(CHUNK)])


def close_gap(
    img: ArrayLike | Tensor, txt: ArrayLike | Tensor, sae: SparseAutoencoder, scores: Scores
) -> tuple[Tensor, Tensor]:
    """Both sides from their bimodal atoms, scaled to unit length; a row without any stays zero."""
    return _unit(intervene(sae, img, scores.bimodal)), _unit(intervene(sae, txt, scores.bimodal))


def edit(
    sae: SparseAutoencoder,
    scores: Scores,
    ref: ArrayLike | Tensor,
    delta_text: ArrayLike | Tensor,
    scale: float = 1.0,
) -> Tensor:
    """Queries "this picture, but ...": unit(ref + scale * unit(delta_bi)), `(n, d)`.

    delta_bi is the text rebuilt from bimodal atoms: what it says, without what makes it a text.

    Args:
        ref: `(n, d)` picture embeddings.
        delta_text: `(n, d)` embeddings of what is to be added.
        scale: weight of the text; below 0 it is taken away.

    Raises:
        ValueError: rows that cannot be used, or different numbers of them.
    """
    start, step = as_rows(ref, "ref"), _unit(intervene(sae, delta_text, scores.bimodal))
    if start.shape != step.shape:
        raise ValueError(f"one text for each picture expected, got {len(step)} and {len(start)}")
    return _unit(start + scale * step)


def ood_distance(query: ArrayLike | Tensor, gallery: ArrayLike | Tensor, neighbour: int = 5) -> NDArray[np.float64]:
    """Cosine distance of each query to its `neighbour`-th nearest row of the gallery: how foreign it is there.

    Raises:
        ValueError: a gallery with fewer rows.
    """
    q, g = as_rows(query, "query"), as_rows(gallery, "gallery")
    if not 1 <= neighbour <= len(g):
        raise ValueError(f"neighbour must lie in 1..{len(g)}, got {neighbour}")
    return (1 - (q @ g.T).topk(neighbour, dim=1).values[:, -1]).double().numpy()


def shift_means(
    img: ArrayLike | Tensor,
    txt: ArrayLike | Tensor,
    means: tuple[Tensor, Tensor] | None = None,
    to: Literal["zero", "common"] = "zero",
) -> tuple[Tensor, Tensor]:
    """The usual fix of the gap: each side minus its mean (plus the mean of both means for `"common"`), unit rows.

    Args:
        means: of the two sides, such as those of training rows; None takes them from the rows given.
    """
    a, b = as_rows(img, "img"), as_rows(txt, "txt")
    mean_a, mean_b = means or (a.mean(0), b.mean(0))
    place = torch.zeros_like(mean_a) if to == "zero" else (mean_a + mean_b) / 2
    return _unit(a - mean_a + place), _unit(b - mean_b + place)


def drop_coordinates(
    img: ArrayLike | Tensor, txt: ArrayLike | Tensor, count: int, means: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Another fix: the `count` coordinates in which the means differ most are set to 0, unit rows."""
    a, b = as_rows(img, "img"), as_rows(txt, "txt")
    mean_a, mean_b = means or (a.mean(0), b.mean(0))
    keep = torch.ones(a.shape[1])
    keep[(mean_a - mean_b).abs().topk(count).indices] = 0
    return _unit(a * keep), _unit(b * keep)


def explained(a: ArrayLike | Tensor, rebuilt: Tensor) -> float:
    """R^2 = 1 - |A - A_hat|^2 / |A - mean A|^2 over all entries."""
    rows = as_rows(a, "a")
    return float(1 - (rows - rebuilt).square().sum() / (rows - rows.mean(0)).square().sum())


def as_rows(given: ArrayLike | Tensor, name: str = "rows") -> Tensor:
    """Embeddings as float32 rows of unit length.

    Raises:
        ValueError: not a table, no rows, values that are not finite, or rows of length zero.
    """
    rows = given.detach().float() if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given)).float()
    if rows.ndim != 2 or not rows.numel():
        raise ValueError(f"{name}: a table (n, d) of embeddings expected, got shape {tuple(rows.shape)}")
    bad = ~torch.isfinite(rows).all(1)
    if bad.any():
        raise ValueError(f"{name}: {int(bad.sum())} rows are not finite, the first is row {int(bad.nonzero()[0])}")
    empty = rows.norm(dim=1) == 0
    if empty.any():
        raise ValueError(f"{name}: {int(empty.sum())} rows are zero, the first is row {int(empty.nonzero()[0])}")
    return F.normalize(rows, dim=1)


def _batches(n: int, m: int, batch: int, generator: torch.Generator):
    """Rows of both sides for one epoch: the same for pairs, each side its own order where they are not."""
    order = torch.randperm(max(n, m), generator=generator)
    if n == m:
        for rows in order.split(batch):
            yield rows, rows
        return
    few = torch.cat([torch.randperm(min(n, m), generator=generator) for _ in range(math.ceil(max(n, m) / min(n, m)))])
    for rows, other in zip(order.split(batch), few[: max(n, m)].split(batch), strict=True):
        yield (rows, other) if n > m else (other, rows)


def _scores(img: NDArray[np.float64], txt: NDArray[np.float64], band: tuple[float, float]) -> Scores:
    dead = (img + txt) / 2 < DEAD
    mu = np.where(dead, np.nan, img / np.maximum(img + txt, 1e-300))
    with np.errstate(invalid="ignore"):
        bimodal = ~dead & (mu >= band[0]) & (mu <= band[1])
    return Scores(img, txt, mu, dead, bimodal)


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=1)
