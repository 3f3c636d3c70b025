"""Simulated pairs of picture and text vectors that are made of known concepts.

    x_m = unit( sum_c a_mc d_mc + sum_u b_mu o_mu + noise * e ),   m = picture, text

A pair shares which concepts c are active; a concept's amplitude is partly the same on both sides and its direction
d_mc may turn from one side to the other. One-sided directions o_mu belong to one modality alone; some are always on and
push the two clouds apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """The directions that vectors are made of.

    Attributes:
        img, txt: `(C, d)` unit direction of each shared concept in a picture and in a text.
        img_only, txt_only: `(U, d)` unit one-sided directions; the first `always` are on in every vector.
        frequency: `(C,)` weights by which active concepts are drawn; they sum to 1.
        factor: `(C,)` by which a concept is stronger in texts than in pictures; all 1 where energies are equal.
        always: number of one-sided directions that are always on.
    """

    img: Floats
    txt: Floats
    img_only: Floats
    txt_only: Floats
    frequency: Floats
    factor: Floats
    always: int


@dataclass(frozen=True)
class Pairs:
    """Vectors and what they are made of.

    Attributes:
        img, txt: `(n, d)` unit vectors.
        amp_img, amp_txt: `(n, C)` amplitudes of the shared concepts, before scaling to unit length.
    """

    img: Floats
    txt: Floats
    amp_img: Floats
    amp_txt: Floats


def make_world(
    rng: np.random.Generator,
    *,
    d: int = 64,
    concepts: int = 96,
    one_sided: int = 8,
    always: int = 2,
    angle: float = 0.5,
    zipf: float = 1.0,
    unequal: float = 0.0,
) -> World:
    """Random directions.

    Args:
        angle: radians between a concept's direction in pictures and in texts, turned in a random plane.
        zipf: concept c has weight (c + 1)^-zipf.
        unequal: 0 gives each concept equal energy on both sides; otherwise texts have it stronger by a log-normal
            factor of this spread, the same for all texts.

    Raises:
        ValueError: sizes that are not positive, more directions always on than there are, or an angle outside
            [0, pi/2].
    """
    if min(d - 1, concepts, one_sided + 1) < 1 or not 0 <= always <= one_sided:
        raise ValueError(f"impossible sizes: d={d}, concepts={concepts}, one_sided={one_sided}, always={always}")
    if not 0 <= angle <= np.pi / 2:
        raise ValueError(f"angle must lie in [0, pi/2], got {angle}")
    if unequal < 0:
        raise ValueError(f"unequal must not be negative, got {unequal}")
    img = _unit(rng.normal(size=(concepts, d)))
    turn = rng.normal(size=(concepts, d))
    turn = _unit(turn - (turn * img).sum(axis=1, keepdims=True) * img)
    only = _unit(rng.normal(size=(2, one_sided, d)))
    frequency = np.arange(1, concepts + 1) ** -zipf
    factor = np.exp(unequal * rng.normal(size=concepts))
    return World(
        img, np.cos(angle) * img + np.sin(angle) * turn, only[0], only[1], frequency / frequency.sum(), factor, always
    )


def draw_pairs(
    world: World,
    n: int,
    rng: np.random.Generator,
    *,
    active: int = 5,
    agreement: float = 0.7,
    always_on: float = 0.9,
    sometimes: float = 0.2,
    noise: float = 0.05,
) -> Pairs:
    """`n` pairs from a world.

    Args:
        active: concepts in a pair.
        agreement: share of an amplitude that both sides have in common; amplitudes are Gamma(4, 1/4), of mean 1.
        always_on: amplitude of the one-sided directions that are always on.
        sometimes: how often each of the others is on.
        noise: standard deviation of each coordinate, before scaling to unit length.

    Raises:
        ValueError: more active concepts than there are, or a share outside [0, 1].
    """
    concepts = len(world.img)
    if not 1 <= active <= concepts:
        raise ValueError(f"active must lie in 1..{concepts}, got {active}")
    if not (0 <= agreement <= 1 and 0 <= sometimes <= 1):
        raise ValueError(f"agreement and sometimes must lie in [0, 1], got {agreement} and {sometimes}")
    # The largest of log-weight + Gumbel noise: draws without replacement, by weight.
    keys = np.log(world.frequency) + rng.gumbel(size=(n, concepts))
    on = np.zeros((n, concepts))
    np.put_along_axis(on, np.argpartition(-keys, active - 1, axis=1)[:, :active], 1.0, axis=1)
    common, own_img, own_txt = rng.gamma(4, 1 / 4, size=(3, n, concepts))
    amp_img = on * (agreement * common + (1 - agreement) * own_img)
    amp_txt = on * (agreement * common + (1 - agreement) * own_txt) * world.factor
    sides = []
    for amp, directions, only in ((amp_img, world.img, world.img_only), (amp_txt, world.txt, world.txt_only)):
        extra = (rng.random((n, len(only))) < sometimes) * rng.gamma(4, 1 / 4, size=(n, len(only)))
        extra[:, : world.always] = always_on
        rows = amp @ directions + extra @ only + noise * rng.normal(size=(n, directions.shape[1]))
        sides.append(_unit(rows))
    return Pairs(sides[0], sides[1], amp_img, amp_txt)


def _unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
