"""Learning rate and augmentation of the readers of 2602.06450, chosen on a seed that is not judged.

`python -m assay.studies.detection._union_tuning [classic|union]` prints the word accuracy and edit similarity that an
engine's reader reaches on simulated photographs of a development seed (its own words and draws), for every rate and
augmentation of the grid, after half of the study's updates.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product

from assay.studies.detection._union_arms import start, trained
from assay.studies.detection._union_world import Size, World, scores

SEED = 1001
RATES = (3e-3, 8e-3)
AUGMENTS = ("jitter", "shake")


def main(arms: list[str]) -> None:
    """The same start and the same grid for each engine; the best by edit similarity is printed last."""
    from assay.studies.detection.union_st import START_RATE

    world = World(SEED, replace(Size(), steps=Size().steps // 2))
    base, test = start(world, START_RATE), world.wild(world.size.test, pool=False)
    for arm in arms or ["classic", "union"]:
        words, _ = world.rendered(arm, world.size.rendered)
        reached = {}
        for rate, augment in product(RATES, AUGMENTS):
            found = scores(trained(world, words, base, rate, augment), test, "wild")
            reached[rate, augment] = found["similarity_wild"]
            print(arm, rate, augment, round(found["word_acc_wild"], 1), round(found["similarity_wild"], 1), flush=True)
        print("best", arm, *max(reached, key=lambda how: reached[how]), flush=True)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    main(sys.argv[1:])
