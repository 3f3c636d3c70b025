import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.web import prose
from assay.web.addresses import LONGEST, key_of, paper_path, slug


@given(st.text(max_size=LONGEST).filter(bool))
def test_a_key_survives_its_address(key):
    name = slug(key)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
    assert name.strip(".")
    assert key_of(name) == key


def test_addresses_that_people_know_stay_as_they_are():
    assert paper_path("2602.06830") == "paper/2602.06830/"
    assert slug("hep-th/9901001") == "hep-th_2f9901001"
    assert slug("..") == "_2e_2e"


def test_long_keys_have_short_addresses():
    assert len(slug("doi:" + "x" * 5000)) < 60
    assert key_of(slug("doi:" + "x" * 5000)) is None


@pytest.mark.parametrize("name", ["a b", "a/b", "_zz", "_", "_2F", "_41", "é", "_ff", ""])
def test_a_name_that_no_key_gives_is_none(name):
    assert key_of(name) is None or slug(key_of(name)) == name
    assert name == "" or key_of(name) is None


@given(st.text(max_size=300), st.integers(1, 200))
def test_cut_text_fits_its_room(text, limit):
    shown = prose.cut(text, limit)
    assert len(shown.rstrip("…").encode("utf-8", "replace")) <= limit
    assert shown == text or shown.endswith("…")


def test_escaping_counts():
    assert prose.clean("<" * 1000, 100) == "<" * 25 + "…"
    assert prose.clean("a\u202eb\x07c", 100) == "abc"
    assert prose.prose("one\n\n<b>two", 100) == '<p dir="auto">one</p><p dir="auto">&lt;b&gt;two</p>'
