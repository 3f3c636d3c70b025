"""The text engine: determinism, truth beside the picture, limit cases, frequencies, visibility, bad input."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")

from PIL import Image, ImageDraw
from scipy.stats import chisquare

from assay.data.text import fonts
from assay.methods.detection.union_st import (
    BLENDS,
    CLASSIC,
    PLAIN,
    UNION,
    UNION_WEIGHTS,
    Corpus,
    Face,
    Geometry,
    Invisible,
    TextEngine,
    arc_radius,
    blend,
    colourise,
    elastic_field,
    grey_clusters,
    layout_curve,
    layout_flow,
    leak,
    midground,
    reweighted,
    style_border,
    style_extrusion,
    visible,
)

FILES = fonts.bundled()
FONTS = {name: FILES[name].read_bytes() for name in ("DejaVuSansMono", "DejaVuSans", "cmr10")}
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
SMALL = replace(UNION, scale=0.5)


@pytest.fixture(scope="module")
def engine() -> TextEngine:
    photo = np.random.default_rng(0).integers(0, 255, (40, 300, 3), dtype=np.uint8)
    return TextEngine(Corpus(WORDS), FONTS, SMALL, [photo])


def test_a_seed_gives_the_same_bytes_in_any_order_and_from_another_engine(engine: TextEngine) -> None:
    first = list(engine.samples(6, 3))
    again = TextEngine(Corpus(WORDS), FONTS, SMALL, engine.textures)
    for i in (5, 2, 0):
        other = again.numbered(i, 3)
        assert other.text == first[i].text
        assert other.image.tobytes() == first[i].image.tobytes()
    assert len({s.image.tobytes() for s in first}) == 6


def test_boxes_and_mask_tell_the_truth(engine: TextEngine) -> None:
    for sample in engine.samples(40, 1):
        assert len(sample.boxes) == len(sample.text.replace(" ", ""))
        assert sample.mask.shape == sample.image.shape[:2]
        covered = np.zeros_like(sample.mask, dtype=bool)
        for number, (x0, y0, x1, y1) in enumerate(sample.boxes, 1):
            assert (sample.mask[y0:y1, x0:x1] == number).any()
            covered[y0:y1, x0:x1] = True
        assert not (sample.mask > 0)[~covered].any()
        assert sample.leak <= SMALL.border
        assert max(sample.image.shape) <= SMALL.most_side


def test_plain_text_is_a_plain_pillow_rendering() -> None:
    engine = TextEngine(Corpus(["word"]), {"mono": FONTS["DejaVuSansMono"]}, replace(PLAIN, size=(40, 40)))
    sample = engine.sample(np.random.default_rng(0), "gravity")
    font = Face("mono", FONTS["DejaVuSansMono"]).at(40)
    wanted = Image.new("L", (400, 80))
    ImageDraw.Draw(wanted).text((10, 10), "gravity", fill=255, font=font)
    ink = np.asarray(wanted.crop(wanted.getbbox())) / 255
    background, colour = sample.image[ink == 0][0].astype(float), sample.image[ink == 1][0].astype(float)
    assert np.abs(sample.image - (background + (colour - background) * ink[..., None])).max() <= 1.01


def test_a_curve_of_infinite_radius_is_a_straight_line() -> None:
    advances = [10.0, 12.5, 8.0, 20.0]
    assert layout_curve(advances, float("inf"), spacing=2.0) == layout_flow(advances, 2.0)
    nearly = layout_curve(advances, 1e9, spacing=2.0)
    assert all(
        abs(a.x - b.x) < 1e-3 and abs(a.y) < 1e-3 for a, b in zip(nearly, layout_flow(advances, 2.0), strict=True)
    )


@pytest.mark.parametrize("up", [True, False])
def test_cells_lie_on_the_arc_and_the_middle_rises_as_asked(up: bool) -> None:
    advances = [20.0] * 9
    radius = arc_radius(180.0, 30.0)
    placed = layout_curve(advances, radius, up)
    middle = placed[4]
    centre_y = middle.y + radius if up else middle.y - radius
    for place in placed:
        assert np.hypot(place.x - middle.x, place.y - centre_y) == pytest.approx(radius, abs=1e-6)
    angle = 180.0 / radius
    assert radius * (1 - np.cos(angle / 2)) == pytest.approx(30.0, rel=1e-6)
    assert (placed[0].y > middle.y) == up
    assert (placed[0].turn > 0) == up
    assert arc_radius(180.0, 1e9) == pytest.approx(180.0 / np.pi)
    assert arc_radius(180.0, 0.0) == float("inf")


def test_turned_glyphs_keep_their_place_on_the_arc() -> None:
    config = replace(PLAIN, size=(40, 40), check=False)
    engine = TextEngine(Corpus(["oooo"]), {"mono": FONTS["DejaVuSansMono"]}, config)
    plan = replace(engine.plan(np.random.default_rng(0), "ooooo"), layout="curve", rise=25.0)
    sample = engine.render(plan)
    assert sample is not None
    x, y = (sample.boxes[:, :2] + sample.boxes[:, 2:]).T / 2
    a, b = np.linalg.lstsq(np.stack([x, y, np.ones(5)], 1), -(x**2 + y**2), rcond=None)[0][:2] / -2
    distance = np.hypot(x - a, y - b)
    assert np.ptp(distance) < 1.5


@pytest.mark.parametrize("kind", sorted(UNION.geometry))
def test_transforms_are_undone_by_their_inverse_and_turning_twice_by_180_is_nothing(kind: str) -> None:
    amount = {"rotation": 35.0, "skew_x": 20.0, "skew_y": 8.0}.get(kind, 0.7)
    for flip in (False, True):
        matrix = Geometry(kind, amount, flip).matrix(100, 40)
        assert abs(np.linalg.det(matrix)) > 0.1
        corners = matrix @ np.array([[0, 100, 100, 0], [0, 0, 40, 40], [1, 1, 1, 1.0]])
        x, y = corners[:2] / corners[2]
        if kind in ("perspective_x", "trapezoid_x"):
            sides = sorted([abs(y[3] - y[0]), abs(y[2] - y[1])])
            assert sides == pytest.approx([28, 40])
            assert np.ptp(x) == pytest.approx(85 if kind == "perspective_x" else 100)
        if kind == "rotation":
            turned = np.degrees(np.arctan2(-(y[1] - y[0]), x[1] - x[0]))
            assert turned == pytest.approx(-35 if flip else 35)
    if kind == "rotation_180":
        assert np.allclose(matrix @ matrix, np.eye(3))


def test_frequencies_are_the_weights(engine: TextEngine) -> None:
    rng = np.random.default_rng(0)
    plans = [engine.plan(rng) for _ in range(5000)]

    def fits(found: Counter, weights: dict) -> None:
        total = sum(found.values())
        expected = np.array(list(weights.values())) / sum(weights.values()) * total
        assert set(found) <= set(weights)
        assert chisquare([found[k] for k in weights], expected).pvalue > 1e-3

    fits(Counter(p.kind for p in plans), UNION_WEIGHTS)
    fits(Counter(p.shape for p in plans), {"elastic": 1, "weak": 1})
    fits(Counter(p.layout for p in plans if not p.vertical), {"flow": 4, "curve": 1})
    fits(Counter(p.geometry.kind for p in plans), dict(UNION.geometry))
    fits(Counter(p.style for p in plans), {"": 15, "border": 1, "shadow": 2, "extrusion": 2})
    fits(Counter(p.blends[0] for p in plans), dict.fromkeys(BLENDS, 1))
    fits(Counter(bool(p.other) for p in plans), {True: 1, False: 3})
    fits(Counter(p.bold for p in plans), {True: 1, False: 1})
    fits(Counter(p.vertical for p in plans), {True: 1, False: 4})
    fits(Counter(p.textures[1] is None for p in plans), {True: 1, False: 1})
    long = [p for p in plans if len(p.text) > 1]
    fits(Counter(p.script[0] > 0 for p in long), {True: 1, False: 19})
    assert min(p.jpeg for p in plans) >= 50
    assert max(p.jpeg for p in plans) <= 95
    turns = [p.geometry.amount for p in plans if p.geometry.kind == "rotation"]
    assert max(turns) > 170
    assert min(turns) < 10


def test_visibility() -> None:
    mask = np.zeros((30, 60), dtype=np.uint8)
    mask[8:22, 10:50] = 255
    picture = np.full((30, 60, 3), 255, dtype=np.uint8)
    assert not visible(picture, mask)
    picture[mask > 0] = 0
    assert visible(picture, mask)
    assert leak(picture, mask) == 0
    picture[mask > 0] = 245
    assert leak(picture, mask) == 1
    half = picture.copy()
    half[:, :30][mask[:, :30] > 0] = 60
    assert 0.4 < leak(half, mask) < 0.6
    rng = np.random.default_rng(0)
    noisy = rng.integers(60, 180, (30, 60)).astype(np.uint8)
    assert leak(noisy, mask) == leak(noisy + 40, mask)
    assert 0 < leak(noisy, mask) < 1
    with pytest.raises(ValueError, match="one shape"):
        leak(picture, mask[:5])


def test_a_text_that_cannot_be_seen_is_given_up_and_counted() -> None:
    same = np.array([[120.0, 120.0]])
    engine = TextEngine(Corpus(WORDS), FONTS, replace(PLAIN, tries=3), greys=same)
    with pytest.raises(Invisible, match="after 3"):
        engine.sample(np.random.default_rng(0))
    assert (engine.given_up, engine.drawn) == (1, 3)
    unchecked = TextEngine(Corpus(WORDS), FONTS, replace(PLAIN, check=False), greys=same)
    assert unchecked.sample(np.random.default_rng(0)).leak > 0.9


def test_blends_and_colours() -> None:
    rng = np.random.default_rng(0)
    b, s = (rng.random((4, 5, 3)).astype(np.float32) for _ in range(2))
    one, none = np.ones((4, 5), np.float32), np.zeros((4, 5), np.float32)
    for mode in BLENDS:
        mixed = blend(b, s, one, mode)
        assert mixed.min() >= 0
        assert mixed.max() <= 1
        assert np.array_equal(blend(b, s, none, mode), b)
    assert np.allclose(blend(b, s, one, "normal"), s)
    assert np.allclose(blend(b, s, one, "multiply"), b * s)
    for grey in (0, 37, 128, 255):
        colour = colourise(grey, rng)
        assert colour @ np.array([0.299, 0.587, 0.114]) == pytest.approx(grey / 255, abs=1e-5)
        assert -1e-5 <= colour.min() <= colour.max() <= 1 + 1e-5
    crop = np.repeat(np.array([20, 120, 230]), [300, 500, 200]).reshape(20, 50)
    assert grey_clusters([crop])[0] == pytest.approx([20, 120, 230], abs=1)


def test_styles_and_midground() -> None:
    alpha = np.zeros((40, 60), dtype=np.uint8)
    alpha[15:25, 20:40] = 255
    assert (style_border(alpha, 3) > 0).sum() == 16 * 26
    dragged = style_extrusion(alpha, (4, 0))
    assert (dragged[15:25, 20:44] == 255).all()
    assert (dragged > 0).sum() == 10 * 24
    other = np.full((10, 15), 255, dtype=np.uint8)
    between = midground(alpha, other, (0.0, 0.0), 5)
    assert not between[15:25, 15:45].any()
    assert not between[10:30, 20:40].any()
    assert between[:8].all()
    assert not midground(alpha, other, (0.5, 0.0), 5)[:, :30].any()


def test_elastic_fields_scale_with_the_picture() -> None:
    rng = np.random.default_rng(0)
    full, half = (elastic_field((160, 160), 20, 8, rng, scale) for scale in (1.0, 0.5))
    assert half.std() / full.std() == pytest.approx(0.5, rel=0.25)
    assert 0.1 < full.std() < 2


def test_corpus_kinds() -> None:
    corpus = Corpus(WORDS, length=(2, 12))
    rng = np.random.default_rng(0)
    for _ in range(300):
        assert 2 <= len(corpus.contextless(rng)) <= 12
        cut, part = corpus.cut(rng), corpus.incomplete(rng)
        assert any(cut in word for word in WORDS)
        assert any(word.startswith(part) or word.endswith(part) for word in WORDS)
        assert len(part) >= 2
        assert set(corpus.multi(rng).split()) <= set(WORDS)
        assert len(corpus.multi(rng).replace(" ", "")) <= 12
    assert len({corpus.contextless(rng) for _ in range(50)}) > 40
    assert any(" " in corpus.multi(rng) for _ in range(20))
    upper = Corpus(["straße"], {"lexicon": 1}, cases=(0, 1, 0))
    assert upper.sample(rng)[1] == "straße"  # capitals would change its length


def test_corpus_feedback_meets_lengths_and_characters() -> None:
    words = ["aaa", "bbb", "aaaaaa", "ccc"]
    weights = reweighted(words, ["bbb", "bab", "bbb", "bbb", "bab"])
    assert weights.sum() == pytest.approx(1)
    assert weights.argmax() == 1
    assert weights[2] == weights.min()
    assert np.allclose(reweighted(words, []), 0.25)
    biased = Corpus({"lexicon": words}, {"lexicon": 1}, pick={"lexicon": np.array([0, 0, 1.0, 0])})
    assert biased.word(np.random.default_rng(0)) == "aaaaaa"


def test_only_able_faces_write_and_the_others_are_named() -> None:
    engine = TextEngine(Corpus(["word"]), FONTS, PLAIN)
    assert engine.able("Жук") == ["DejaVuSansMono", "DejaVuSans"]
    assert engine.able("two words") == list(FONTS)
    with pytest.raises(ValueError, match=r"no font can render '東京'.*cmr10 lacks '京東'"):
        engine.sample(np.random.default_rng(0), "東京")
    last = fonts.bundled()["cmr10"].parent / "LastResortHE-Regular.ttf"
    if last.is_file():
        assert not Face("last", last.read_bytes()).has("abc")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Corpus([]), "empty corpus"),
        (lambda: Corpus(WORDS, {"lexicon": 0.0}), "weights must be positive"),
        (lambda: Corpus(WORDS, {"poems": 1.0}), "no word list or kind"),
        (lambda: Corpus(WORDS, length=(3, 2)), "length"),
        (lambda: TextEngine(Corpus(WORDS), {}), "no fonts"),
        (lambda: TextEngine(Corpus(WORDS), {"bad": b"xx"}), "FreeType"),
        (lambda: TextEngine(Corpus(WORDS), FONTS, greys=np.zeros((3, 4))), "greys"),
        (lambda: replace(UNION, geometry={"bend": 1.0}), "geometry"),
        (lambda: replace(UNION, layouts={"flow": -1.0}), "positive"),
        (lambda: replace(UNION, blends=("glow",)), "blends"),
        (lambda: replace(UNION, scale=0.01), "scale"),
        (lambda: reweighted([], ["a"]), "no words"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_classic_text_is_upright_and_straight() -> None:
    engine = TextEngine(Corpus(WORDS, {"lexicon": 1.0}), FONTS, replace(CLASSIC, scale=0.5))
    rng = np.random.default_rng(0)
    plans = [engine.plan(rng) for _ in range(300)]
    assert {p.layout for p in plans} == {"flow"}
    assert not any(p.vertical or p.other or p.geometry.kind.startswith("rotation") for p in plans)
    sample = engine.numbered(0, 0)
    assert sample.image.shape[1] > sample.image.shape[0]
