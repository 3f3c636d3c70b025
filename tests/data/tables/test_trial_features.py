"""Numbers for molecules, diagnoses and sentences, and the padded sets made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from assay.data.tables.top_trials import read_trials
from assay.data.tables.trial_features import (
    DESCRIPTORS,
    SentenceSVD,
    TrialFeatures,
    drug_descriptors,
    icd_levels,
    icd_vector,
    name_vector,
)

pytest.importorskip("rdkit")
ASPIRIN = "CC(=O)OC1=CC=CC=C1C(O)=O"


def test_descriptors_of_aspirin() -> None:
    found = dict(zip(DESCRIPTORS, drug_descriptors(ASPIRIN) or (), strict=True))
    assert np.expm1(found["MolWt"]) == pytest.approx(180.16, abs=0.01)
    assert np.expm1(found["TPSA"]) == pytest.approx(63.6, abs=0.01)
    assert np.expm1(found["NumHDonors"]) == pytest.approx(1)
    assert found["MolLogP"] == pytest.approx(1.31, abs=0.01)


@pytest.mark.parametrize("bad", ["not a molecule", "", "C" * 3000, "C1CC"])
def test_what_is_no_molecule_is_none(bad: str, capfd: pytest.CaptureFixture) -> None:
    assert drug_descriptors(bad) is None
    assert capfd.readouterr().err == ""


def test_icd_codes_share_what_their_hierarchy_shares() -> None:
    assert icd_levels("e11.9") == ["E", "E1", "E11", "E11.9"]
    assert icd_levels("C50") == ["C", "C5", "C50"]
    assert icd_levels("X?!") == ["X"]
    assert icd_levels("123") == []

    def cosine(a: str, b: str) -> float:
        x, y = icd_vector(a, 4096), icd_vector(b, 4096)
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    assert cosine("E11.9", "E11.2") == pytest.approx(0.75)
    assert cosine("E11.9", "E78.0") == pytest.approx(0.25)
    assert cosine("E11.9", "C50") == pytest.approx(0)
    assert np.linalg.norm(name_vector("breast cancer")) == pytest.approx(1)
    assert (name_vector("") == 0).all()


def test_sentence_svd_is_the_plain_formula() -> None:
    texts = [
        "pregnant women",
        "pregnant or nursing women",
        "prior chemotherapy",
        "no prior chemotherapy",
        "age over 18",
    ]
    svd = SentenceSVD.fit(texts, width=3)
    rows = svd(texts)
    full = rows @ rows.T
    assert full[0, 1] > full[0, 2]
    assert full[2, 3] > full[2, 4]
    assert_allclose(svd(texts[::-1])[::-1], rows, atol=1e-6)
    assert_allclose(SentenceSVD(svd.idf, svd.components)(texts), rows)
    assert svd([]).shape == (0, 3)
    with pytest.raises(ValueError, match="two different"):
        SentenceSVD.fit(["a", "a"])


def test_tokens_are_standardised_padded_and_warned_about(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(
        "nctid,diseases,icdcodes,smiless,criteria\n"
        f'a,asthma,"J45.2","{ASPIRIN}|CCO","Inclusion: adults"\n'
        'b,rare thing,,"???","Inclusion: adults\nExclusion: pregnant women"\n'
    )
    trials = read_trials(file)
    features = TrialFeatures.fit(trials, width=4)
    tokens, pad, warnings = features.tokens(trials)
    assert {k: v.shape for k, v in tokens.items()} == {
        "drug": (2, 5, 15), "disease": (2, 5, 64), "inclusion": (2, 5, 4), "exclusion": (2, 3, 4)
    }  # fmt: skip
    assert (~pad["drug"]).sum(axis=1).tolist() == [2, 0]
    assert_allclose(tokens["drug"][0, :2].mean(axis=0), 0, atol=1e-5)
    assert_allclose(tokens["disease"][0, 0], icd_vector("J45.2"))
    assert_allclose(tokens["disease"][1, 0], name_vector("rare thing"))
    assert pad["exclusion"][0].all()
    assert (tokens["drug"][1] == 0).all()
    assert warnings == ["b: 1 SMILES cannot be read and are left out"]
