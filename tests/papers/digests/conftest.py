"""Generated entries and digests, and how many cases a property is tried on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SEEDS = Path(__file__).resolve().parents[4] / "shared" / "seeds"
CASES = 10_000 if os.environ.get("ASSAY_FUZZ") else 150

settings.register_profile("digests", max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


def pytest_collection_modifyitems(items):
    settings.load_profile("digests")


@pytest.fixture(scope="session")
def seeds():
    if not SEEDS.is_dir():
        pytest.skip("the seed digests are not beside the checkout (../shared/seeds)")
    return sorted(SEEDS.iterdir())


@pytest.fixture
def store(tmp_path):
    from assay.papers.digests.store import Store

    with Store(tmp_path / "digests.sqlite") as made:
        yield made
