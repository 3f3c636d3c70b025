"""The seed digests, and a fresh store."""

from __future__ import annotations

from pathlib import Path

import pytest

SEEDS = Path(__file__).resolve().parents[4] / "shared" / "seeds"


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
