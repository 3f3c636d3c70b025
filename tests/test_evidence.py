"""What is published agrees with the code that is here, and with itself."""

import pytest

from assay.lab import record
from assay.lab.judge import judge
from assay.lab.paths import checkout_folder
from assay.lab.registry import load_study
from assay.papers import catalogue

PUBLISHED = sorted(path.stem for path in (checkout_folder() / "evidence").glob("*.json"))


@pytest.mark.parametrize("paper", PUBLISHED)
def test_published_evidence(paper):
    card = catalogue.cards()[paper]
    recorded = record.read(paper)
    study = load_study(card)
    assert not record.is_stale(recorded, study.module), f"evidence is stale: assay run {paper} && assay record {paper}"
    seeds = list(range(study.seed_count("pocket")))
    planned = {(t.arm, t.condition, t.seed) for t in study.trials("pocket", seeds)}
    assert {(t.arm, t.condition, t.seed) for t in recorded.trials} == planned
    verdicts = judge(study.claims, study.gates, recorded.evidence())
    assert [(v.name, v.outcome) for v in verdicts] == [(v["name"], v["outcome"]) for v in recorded.verdicts]


def test_every_published_file_is_of_a_paper_that_runs():
    cards = catalogue.cards()
    assert all(catalogue.runs(cards[paper]) for paper in PUBLISHED)
