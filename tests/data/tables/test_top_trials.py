"""TOP's csv files, exports of ClinicalTrials.gov, and the splitting of criteria."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from assay.data import samples
from assay.data.tables.top_trials import COLUMNS, codes_in, names_in, read_split, read_trials, split_criteria
from assay.errors import InputError

CRITERIA = """
        Inclusion Criteria:

          -  Age 18 to 75 years, with
             measurable disease

          -  ECOG 0-1

        Key Exclusion Criteria:

          1. Pregnant or nursing

          2. Prior chemotherapy: none allowed
      """


def write_top(file: Path, rows: int = 4) -> None:
    """A file in TOP's own layout."""
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for i in range(rows):
            writer.writerow([
                f"NCT0000000{i}", "completed", "", i % 2, "phase 1", "['asthma', 'cough']",
                """["['J45.20', 'J45.21']", "['R05.9']"]""", "['aspirin', 'placebo']",
                r"['CC(=O)OC1=CC=CC=C1C(O)=O', 'F/C=C\\F']", CRITERIA,
            ])  # fmt: skip


def test_top_layout(tmp_path: Path) -> None:
    write_top(tmp_path / "a.csv")
    trials = read_trials(tmp_path / "a.csv")
    assert trials.nctid[3] == "NCT00000003"
    assert trials.label.tolist() == [0, 1, 0, 1]
    assert trials.icd[0] == (("J45.20", "J45.21"), ("R05.9",))
    assert trials.smiles[0] == ("CC(=O)OC1=CC=CC=C1C(O)=O", "F/C=C\\F")
    assert trials.diseases[0] == ("asthma", "cough")
    assert trials.inclusion[0] == ("Age 18 to 75 years, with measurable disease", "ECOG 0-1")
    assert trials.exclusion[0] == ("Pregnant or nursing", "Prior chemotherapy: none allowed")
    again = trials.take([2, 2, 0])
    assert again.nctid == ("NCT00000002", "NCT00000002", "NCT00000000")
    assert again.label.tolist() == [0, 0, 0]


@pytest.mark.parametrize("inside", ["", "data"])
def test_split_of_any_folder(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    for rows, part in enumerate(("train", "valid", "test"), 2):
        write_top(folder / f"phase_II_{part}.csv", rows)
    assert {k: len(v) for k, v in read_split(tmp_path, "II").items()} == {"train": 2, "valid": 3, "test": 4}
    with pytest.raises(InputError, match="phase_I_train"):
        read_split(tmp_path)
    with pytest.raises(InputError, match="phase is one of"):
        read_split(tmp_path, "4")


def test_real_files() -> None:
    folder = samples.locate("top-clinical-trials")
    if folder is None:
        pytest.skip("the TOP sample is not here")
    split = read_split(folder)
    for trials in split.values():
        assert len(trials) >= 60
        assert set(np.unique(trials.label)) == {0, 1}
        assert all(trials.smiles)
        assert all(trials.icd)
        assert np.mean([len(x) for x in trials.inclusion]) > 5
        assert np.mean([bool(x) for x in trials.exclusion]) > 0.8
    assert not set(split["train"].nctid) & set(split["test"].nctid)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("", 0, 0),
        ("Adults only. No header here.", 1, 0),
        ("EXCLUSION CRITERIA\n - a1\n - b2", 0, 2),
        ("Inclusion: over 18\nExclusion: under 18", 1, 1),
        ("DISEASE CHARACTERISTICS:\n\n - x1\n\nPATIENT CHARACTERISTICS:\n\n - y2", 4, 0),
        ("Inclusion Criteria:\n\n- exclusion of other causes of anaemia\n", 1, 0),
    ],
)
def test_criteria(text: str, inside: int, outside: int) -> None:
    a, b = split_criteria(text)
    assert (len(a), len(b)) == (inside, outside)


def test_fields() -> None:
    assert names_in("a|b; c") == ("a", "b", "c")
    assert names_in('["x", "y"]') == ("x", "y")
    assert names_in("[broken") == ("[broken",)
    assert names_in(None) == ()
    assert codes_in("E11.9, I10") == (("E11.9",), ("I10",))
    assert codes_in("['E11.9', 'I10']") == (("E11.9",), ("I10",))
    assert codes_in("") == ()
    assert names_in("__import__('os').system('true')") == ("__import__('os').system('true')",)  # text, never run


def test_clinicaltrials_gov_exports(tmp_path: Path) -> None:
    file = tmp_path / "ctg-studies.csv"
    file.write_text(
        "\ufeffNCT Number,Study Status,Conditions,Interventions,Phases,Start Date\n"
        "NCT01234567,COMPLETED,Asthma|Cough,DRUG: aspirin|DRUG: placebo,PHASE2,2014-05\n"
    )
    trials = read_trials(file)
    assert (trials.nctid, trials.phase, trials.start) == (("NCT01234567",), ("phase2",), ("2014-05-01",))
    assert trials.diseases == (("Asthma", "Cough"),)
    assert np.isnan(trials.label).all()
    study = {
        "protocolSection": {
            "identificationModule": {"nctId": "NCT7"},
            "conditionsModule": {"conditions": ["Asthma"]},
            "eligibilityModule": {"eligibilityCriteria": CRITERIA},
            "statusModule": {"startDateStruct": {"date": "2020-02-30"}},
        }
    }
    export = tmp_path / "ctg.json"
    for content in ([study], {"studies": [study]}, study):
        export.write_text(json.dumps(content))
        trials = read_trials(export)
        assert (trials.nctid, trials.start, len(trials.exclusion[0])) == (("NCT7",), ("",), 2)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "", "no trials"),
        ("a.csv", "x,y\n1,2\n", "none of the columns"),
        ("a.csv", "# Title\n\nSome text, with commas, and more.\n", "none of the columns"),
        ("a.csv", "criteria,label\nold,maybe\n", "maybe"),
        ("a.csv", b"criteria\n\xff\xfe\n", "UTF-8"),
        ("a.json", "{", "not JSON"),
        ("a.json", "[1]", "protocolSection"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=says):
        read_trials(tmp_path / name)
