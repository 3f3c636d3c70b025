import numpy as np
import pytest
from PIL import Image

from assay.data.image import emoji


@pytest.fixture(scope="module")
def corpus():
    return emoji.load()


def test_what_the_sources_are_known_to_hold(corpus):
    assert len(corpus) == 1592
    assert corpus.images.shape == (2, 1592, 32, 32, 3)
    assert all(concept.keywords for concept in corpus.concepts)
    assert len({concept.group for concept in corpus.concepts}) == 9
    assert len({concept.subgroup for concept in corpus.concepts}) == 94
    assert len({concept.name for concept in corpus.concepts}) == len({c.code for c in corpus.concepts}) == 1592
    fresh = {word for concept in corpus.concepts for word in concept.keywords if word not in concept.name.lower()}
    assert len(fresh) == 3202
    assert not any("flag" in concept.subgroup and "country" in concept.subgroup for concept in corpus.concepts)


def test_pictures_belong_to_their_names(corpus):
    """A named colour shows: hearts and circles of one colour have that colour in both artists' drawings."""
    place = {concept.name: i for i, concept in enumerate(corpus.concepts)}
    for name, strong in [("red circle", 0), ("green circle", 1), ("blue circle", 2), ("blue heart", 2)]:
        for artist in range(2):
            covered = corpus.alpha[artist, place[name]] > 200
            assert corpus.images[artist, place[name]][covered].mean(axis=0).argmax() == strong, (name, artist)
    black = corpus.images[:, place["black circle"], 16, 16]
    assert (black < 90).all()


def test_no_glyph_is_empty_and_artists_differ(corpus):
    assert ((corpus.alpha > 128).mean(axis=(2, 3)) > 0.02).all()
    assert (corpus.images[0] != corpus.images[1]).any(axis=(1, 2, 3)).mean() > 0.99
    for artist in range(2):
        assert len({image.tobytes() for image in corpus.images[artist]}) > 1560


def test_composition_over_white_agrees_with_pillow(corpus):
    with Image.open(emoji.ATLAS / "google.png") as sheet:
        tile = sheet.convert("RGBA").crop((32 * 7, 32 * 3, 32 * 8, 32 * 4))
    white = Image.new("RGBA", tile.size, "white")
    expected = np.asarray(Image.alpha_composite(white, tile).convert("RGB"), dtype=int)
    assert np.abs(corpus.images[1, 3 * 40 + 7].astype(int) - expected).max() <= 1


def test_labels_follow_the_taxonomy(corpus):
    index, names = corpus.labels("subgroup")
    assert names == tuple(sorted(names))
    assert all(names[i] == concept.subgroup for i, concept in zip(index, corpus.concepts, strict=True))
    with pytest.raises(ValueError, match="group or subgroup"):
        corpus.labels("kind")


def test_arrays_cannot_be_spoilt(corpus):
    with pytest.raises(ValueError, match="read-only"):
        corpus.images[0, 0, 0, 0, 0] = 0


def test_features_match_the_other_artist_better_than_chance(corpus):
    pick = np.random.default_rng(0).permutation(1592)[:200]
    a, b = (emoji.features(corpus.images[i, pick]) for i in range(2))
    assert a.shape == (200, 704)
    assert a.dtype == np.float32
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    assert (np.argmax(a @ b.T, axis=1) == np.arange(200)).mean() > 0.3  # chance: 0.005


def test_features_of_plain_pictures():
    flat = np.full((1, 32, 32, 3), 51, dtype=np.uint8)
    found = emoji.features(flat)[0]
    np.testing.assert_allclose(found[:512], 0)
    np.testing.assert_allclose(found[512:], 0.2, atol=1e-6)
    edge = flat.copy()
    edge[:, :, 16:] = 255  # a vertical edge: gradients along x only, in the two columns of cells that touch it
    shape = emoji.features(edge)[0, :512].reshape(8, 8, 8)
    assert shape[:, [3, 4]].any()
    assert not shape[:, [0, 1, 2, 5, 6, 7]].any()
    assert (np.count_nonzero(shape[:, [3, 4]], axis=-1) == 1).all()


@pytest.mark.parametrize("bad", [np.zeros((2, 16, 16, 3), np.uint8), np.zeros((2, 32, 32, 3)), np.zeros((32, 32, 3))])
def test_bad_pictures(bad):
    with pytest.raises(ValueError, match="uint8 pictures"):
        emoji.features(bad)


def test_attribution_ships_beside_the_files():
    text = (emoji.ATLAS / "ATTRIBUTION.md").read_text()
    assert all(word in text for word in ("CC BY 4.0", "Apache License 2.0", "CC BY-SA 4.0", "Twemoji", "OpenMoji"))
    assert sum(file.stat().st_size for file in emoji.ATLAS.iterdir()) < 6e6
