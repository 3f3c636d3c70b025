"""Every paper that runs, at smoke scale: every arm and condition, the verdicts, the figure, the report."""

import pytest

from assay.lab import record, runner
from assay.lab.registry import load_study
from assay.lab.report import draw
from assay.papers import catalogue

RUNNING = [card for card in catalogue.cards().values() if catalogue.runs(card) and card.id not in catalogue.plugins()]


@pytest.mark.parametrize("card", RUNNING, ids=lambda card: f"{card.area}-{card.file}")
def test_smoke(card):
    study = load_study(card)
    assert study.paper == card.id
    outcome = runner.run(study, runner.Options(scale="smoke", jobs=1, device="cpu"), extra=card.area)
    assert not outcome.failed, "\n\n".join(f"{r.trial}: {r.error}" for r in outcome.failed)
    made = record.make(study, "smoke", outcome.seeds, outcome.results, "cpu")
    assert len(made.verdicts) == len(study.claims)
    assert all(claim.metric in _metrics(made, claim.method) for claim in study.claims), (
        "a claim names no measured metric"
    )
    assert study.apply_hook is not None, "every paper has an apply"
    assert (study.apply_hook.__doc__ or "").strip(), "apply's docstring is its help"
    assert draw(study, made.evidence())["png"][:4] == b"\x89PNG"


def _metrics(made, arm):
    return {metric for trial in made.trials if trial.arm == arm for metric in trial.metrics}
