"""Train the classifier of sentence roles and write its weights: python scripts/train_roles.py [--check]

Strengths are chosen by five-fold cross-validation over the training abstracts; the held-out abstracts are looked at
once, at the end. Runs of sentences cut out of an abstract are trained on too, so that the place of a sentence weighs no
more than it should: real abstracts often lack a part. The weights are the same on every run.
"""

from __future__ import annotations

import json
import math
import random
import sys
from itertools import pairwise

import numpy as np
from sklearn.linear_model import LogisticRegression

from assay.papers import roles
from assay.papers.roles import ROLES, Labelled


def design(groups: list[list[Labelled]], names: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    rows = [have for group in groups for have in roles.features([row.text for row in group])]
    table = np.zeros((len(rows), len(names)))
    for i, have in enumerate(rows):
        for name in have & names.keys():
            table[i, names[name]] = 1
    return table, np.array([ROLES.index(row.role) for group in groups for row in group])


def fit(groups: list[list[Labelled]], strength: float, trust: float) -> dict:
    counts: dict[str, int] = {}
    for group in groups:
        for have in roles.features([row.text for row in group]):
            for name in have:
                counts[name] = counts.get(name, 0) + 1
    names = {name: i for i, name in enumerate(sorted(name for name, count in counts.items() if count >= 2))}
    table, truth = design([*groups, *spans(groups)], names)
    model = LogisticRegression(C=strength, max_iter=2000, tol=1e-8).fit(table, truth)
    start, step = np.ones(len(ROLES)), np.ones((len(ROLES), len(ROLES)))
    for group in groups:
        order = [ROLES.index(row.role) for row in group]
        start[order[0]] += 1
        for a, b in pairwise(order):
            step[a, b] += 1
    prior = np.log(np.bincount(truth, minlength=len(ROLES)) / len(truth))  # the classifier has counted it already
    return {
        "bias": [round(float(x), 3) for x in model.intercept_],
        "weights": {name: [round(float(x), 3) for x in model.coef_[:, i]] for name, i in names.items()},
        "start": [round(float(trust * x), 3) for x in np.log(start / start.sum()) - prior],
        "step": [
            [round(float(trust * x), 3) for x in row - prior] for row in np.log(step / step.sum(1, keepdims=True))
        ],
    }


def spans(groups: list[list[Labelled]]) -> list[list[Labelled]]:
    chance = random.Random(0)
    found = []
    for group in groups:
        for _ in range(2):
            first = chance.randrange(max(1, len(group) - 1))
            found.append(group[first : chance.randrange(first + 1, len(group) + 1)])
    return found


def accuracy(weights: dict, groups: list[list[Labelled]]) -> float:
    right = total = 0
    for group in groups:
        path = roles._best_path(roles._scores([row.text for row in group], weights), weights)
        right += sum(ROLES[p] == row.role for p, row in zip(path, group, strict=True))
        total += len(group)
    return right / total


def main() -> None:
    training = list(roles.by_abstract(roles.labelled(held_out=False)).values())
    best, chosen = -math.inf, (1.0, 1.0)
    for strength in (0.1, 0.3, 1.0, 3.0):
        for trust in (0.0, 0.25, 0.5, 1.0):
            folds = [
                accuracy(fit([g for i, g in enumerate(training) if i % 5 != k], strength, trust), training[k::5])
                for k in range(5)
            ]
            if np.mean(folds) > best + 1e-9:
                best, chosen = float(np.mean(folds)), (strength, trust)
    weights = fit(training, *chosen)
    held_out = list(roles.by_abstract(roles.labelled(held_out=True)).values())
    count = sum(map(len, held_out))
    print(f"strength {chosen[0]}, trust in transitions {chosen[1]}, cross-validated accuracy {best:.3f}")
    print(f"held out: {count} sentences of {len(held_out)} abstracts, accuracy {accuracy(weights, held_out):.3f}")
    if "--check" not in sys.argv:
        lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in weights.pop("weights").items()]
        head = json.dumps(weights)[:-1]
        (roles.DATA / "roles.json").write_text(
            head + ', "weights": {\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
