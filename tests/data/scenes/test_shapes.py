import itertools
from dataclasses import replace

import numpy as np
import pytest

from assay.data.scenes import shapes
from assay.data.scenes.shapes import Item, Scene


def test_a_disk_covers_its_area_at_its_place():
    drawn = shapes.render(Scene((Item("disk", "red", 0.4, 0.6, 0.25),)), size=96)
    rows, columns = np.nonzero(drawn.masks[0])
    assert drawn.masks[0].mean() == pytest.approx(np.pi * (0.85 * 0.25) ** 2, rel=0.02)
    assert (columns.mean() + 0.5) / 96 == pytest.approx(0.4, abs=0.005)
    assert (rows.mean() + 0.5) / 96 == pytest.approx(0.6, abs=0.005)
    inner = drawn.image[int(0.6 * 96), int(0.4 * 96)]
    np.testing.assert_allclose(inner, shapes.COLOURS["red"])


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_silhouettes_stay_in_the_unit_circle_and_turn_with_the_item(shape):
    grid = np.linspace(-1.2, 1.2, 241)
    v, u = np.meshgrid(grid, grid, indexing="ij")
    inside = shapes.silhouette(shape, u, v)
    assert inside.any()
    assert np.hypot(u, v)[inside].max() <= 1.03
    item = Item(shape, "blue", 0.5, 0.5, 0.3, angle=0.0)
    quarter = shapes.render(Scene((replace(item, angle=np.pi / 2),)), 64).masks[0]
    # Turning by a quarter turns the picture, whose y axis points down, clockwise.
    np.testing.assert_array_equal(quarter, np.rot90(shapes.render(Scene((item,)), 64).masks[0], -1))


def test_the_nearer_item_hides_the_other_and_depth_says_so():
    near, far = Item("disk", "red", 0.45, 0.5, 0.25, depth=0), Item("square", "blue", 0.6, 0.5, 0.25, depth=1)
    for order in ((near, far), (far, near)):
        drawn = shapes.render(Scene(order), 64)
        i = order.index(near)
        np.testing.assert_array_equal(drawn.masks[i], drawn.silhouettes[i])
        assert not (drawn.masks[0] & drawn.masks[1]).any()
        assert drawn.depth[drawn.masks[i]].mean() > 0.95
        crossing = drawn.silhouettes[0] & drawn.silhouettes[1]
        assert crossing.any()
        scene = Scene(order)
        assert shapes.depth_order_accuracy(drawn.image, scene, drawn) > 0.9
        swapped = Scene(tuple(replace(item, depth=1 - item.depth) for item in order))
        assert shapes.depth_order_accuracy(shapes.render(swapped, 64).image, scene, drawn) < 0.1


def test_layout_is_right_for_the_picture_and_wrong_for_exchanged_items():
    a, b = Item("disk", "red", 0.3, 0.5, 0.2, "stripes", "white"), Item("square", "blue", 0.7, 0.5, 0.2)
    scene, drawn = Scene((a, b)), shapes.render(Scene((a, b)), 64)
    assert shapes.layout_accuracy(drawn.image, scene, drawn) > 0.97
    exchanged = Scene((replace(a, x=b.x), replace(b, x=a.x)))
    assert shapes.layout_accuracy(shapes.render(exchanged, 64).image, scene, drawn) < 0.2
    assert np.isnan(shapes.layout_accuracy(drawn.image, scene, replace(drawn, masks=drawn.masks & False)))


def test_depth_order_is_unknown_where_nothing_crosses():
    scene = Scene((Item("disk", "red", 0.2, 0.2, 0.15), Item("disk", "blue", 0.8, 0.8, 0.15)))
    drawn = shapes.render(scene)
    assert np.isnan(shapes.depth_order_accuracy(drawn.image, scene, drawn))


def test_the_reader_names_what_was_drawn():
    rng = np.random.default_rng(3)
    scenes = [shapes.sample_scene(rng, 2, overlap=0.0, textures=("plain",)) for _ in range(60)]
    scores = [shapes.caption_accuracy(shapes.render(scene, 64).image, scene) for scene in scenes]
    assert np.mean(scores) > 0.9
    wrong = [shapes.caption_accuracy(shapes.render(b, 64).image, a) for a, b in itertools.pairwise(scenes)]
    assert np.mean(wrong) < 0.35


def test_the_reader_finds_places_and_survives_noise():
    scene = Scene(
        (Item("ring", "green", 0.3, 0.4, 0.22), Item("square", "magenta", 0.75, 0.7, 0.2, angle=0.3)), "coffee"
    )
    image = shapes.render(scene, 64).image + np.random.default_rng(0).normal(0, 0.03, (64, 64, 3))
    found = {item.colour: item for item in shapes.read_items(image.clip(0, 1))}
    for item in scene.items:
        assert found[item.colour].shape == item.shape
        assert abs(found[item.colour].x - item.x) < 0.03
        assert abs(found[item.colour].y - item.y) < 0.03


def test_captions_say_the_relation_and_are_encoded_word_by_word():
    a, b = Item("disk", "red", 0.2, 0.5, 0.1), Item("star", "blue", 0.8, 0.6, 0.1)
    assert shapes.caption(Scene((a, b))) == "a red disk left of a blue star"
    assert shapes.caption(Scene((b, a))) == "a blue star right of a red disk"
    assert shapes.caption(Scene((replace(a, x=0.8, y=0.1), b))) == "a red disk above a blue star"
    assert shapes.caption(Scene((a, b, Item("ring", "cyan", 0, 0, 0.1)))).endswith("blue star and a cyan ring")
    words = shapes.encode_caption("a red disk left of a blue star", 7)
    assert [shapes.VOCABULARY[w] for w in words] == ["red", "disk", "left", "blue", "star", "<none>", "<none>"]
    with pytest.raises(ValueError, match="unknown words"):
        shapes.encode_caption("a red corgi")
    with pytest.raises(ValueError, match="over 2 words"):
        shapes.encode_caption("a red disk left of a blue star", 2)


def test_scenes_follow_their_generator_and_keep_their_promises():
    first = [shapes.sample_scene(np.random.default_rng(7), 3) for _ in range(2)]
    assert first[0] == first[1]
    rng = np.random.default_rng(0)
    for overlap, expected in ((0.0, False), (1.0, True)):
        crossing = []
        for _ in range(30):
            drawn = shapes.render(shapes.sample_scene(rng, 2, overlap), 48)
            crossing.append(bool((drawn.silhouettes[0] & drawn.silhouettes[1]).any()))
        assert np.mean(crossing) > 0.6 if expected else np.mean(crossing) < 0.2
    with pytest.raises(ValueError, match="items"):
        shapes.sample_scene(rng, 9)


def test_a_subject_crop_shows_the_same_colours_in_another_pose():
    item = Item("square", "yellow", 0.5, 0.5, 0.2, texture="stripes", accent="black")
    crops = [shapes.subject_crop(item, np.random.default_rng(seed), 32) for seed in (0, 1)]
    assert not np.allclose(*crops)
    plain = shapes.subject_crop(replace(item, texture="plain"), np.random.default_rng(0), 32)
    centre = (slice(10, 22), slice(10, 22))
    assert crops[0][centre].std(axis=(0, 1)).max() > plain[centre].std(axis=(0, 1)).max() + 0.1


def test_a_cover_fills_the_background_with_the_subject():
    item = Item("disk", "red", 0.5, 0.5, 0.2, texture="checks", accent="white")
    drawn = shapes.render(Scene((replace(item, texture="plain"),), cover=item), 32)
    background = drawn.image[~drawn.masks.any(0)]
    on_line = background - shapes.nearest_mix(item, background)
    assert np.abs(on_line).max() < 0.05
    assert background.std(axis=0).max() > 0.2


def test_edges_follow_the_outline():
    drawn = shapes.render(Scene((Item("square", "blue", 0.5, 0.5, 0.3),)), 48)
    edges = shapes.edge_map(drawn.image)
    inside, outside = drawn.masks[0][10:38, 10:38].mean(), edges[:8].sum()
    assert inside > 0.3
    assert outside == 0
    assert 60 < edges.sum() < 200


@pytest.mark.parametrize(
    "call",
    [
        lambda: shapes.silhouette("blob", np.zeros(1), np.zeros(1)),
        lambda: shapes.texture_value("fur", np.zeros(1), np.zeros(1), (0, 0)),
    ],
)
def test_unknown_names_are_refused(call):
    with pytest.raises(ValueError, match="choose from"):
        call()
