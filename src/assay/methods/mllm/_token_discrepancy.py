"""The loss that knows how alike two picture codes look."""

from __future__ import annotations

import torch
from torch import Tensor


def codebook_distance(codebook: Tensor) -> Tensor:
    """Euclidean distance of every code to every other, D_jk = |C_j - C_k|.

    Computed in float64 from differences, so that the diagonal is exactly zero.

    Args:
        codebook: (N, d).

    Returns:
        (N, N) in the codebook's dtype.

    Raises:
        ValueError: not a matrix.
    """
    if codebook.ndim != 2:
        raise ValueError(f"codebook of shape {tuple(codebook.shape)}, expected (N, d)")
    exact = codebook.detach().double()
    return torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist").to(codebook.dtype)


def token_discrepancy(
    logits: Tensor, labels: Tensor, image_ids: Tensor, distance: Tensor, *, shift: bool = True
) -> Tensor:
    """Mean distance between the true code and the codes that the model would draw.

        L_D = mean_t sum_k D[y_t, k] p_t(k),      p_t = softmax of the logits of the N image codes

    over places t whose label is an image code. Other places (text, -100) and the logits of other tokens have no part.

    Args:
        logits: (B, T, V). labels: (B, T) token numbers, -100 where there is no loss.
        image_ids: (N,) the vocabulary number of every code. distance: (N, N) from `codebook_distance`.
        shift: logits at t predict the label at t + 1, as in language modelling; False: the label at t.

    Returns:
        a scalar; zero when no label is an image code.

    Raises:
        ValueError: shapes that do not fit.

    Source: 2501.07542
    """
    codes = len(image_ids)
    if distance.shape != (codes, codes):
        raise ValueError(f"distance of shape {tuple(distance.shape)} for {codes} image ids")
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}: expected (B, T, V) and (B, T)"
        )
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    code_of = torch.full((logits.shape[-1],), -1, dtype=torch.long, device=labels.device)
    code_of[image_ids.to(labels.device)] = torch.arange(codes, device=labels.device)
    true = torch.where(labels >= 0, code_of[labels.clamp(min=0)], -1)
    drawn = true >= 0
    if not drawn.any():
        return logits.sum() * 0
    chance = logits[drawn][:, image_ids.to(logits.device)].softmax(-1)
    return (distance.to(chance)[true[drawn]] * chance).sum(-1).mean()
