"""The grammar's exact sums against counting, and that pictures show what they are said to show."""

import numpy as np
import pytest

from assay.data.video import fact_grammar as grammar
from assay.data.video.fact_grammar import Seen, posterior
from assay.data.video.fact_videos import CENTRES, STEPS, draw_clips, draw_video, render


def test_the_table_is_a_distribution_and_events_follow_it():
    table = grammar.joint_table()
    assert table.sum() == pytest.approx(1)
    events = grammar.draw_events(40_000, np.random.default_rng(0))
    for axis, count in enumerate(grammar.COUNTS):
        share = np.bincount(events[:, axis], minlength=count) / len(events)
        others = tuple(a for a in range(4) if a != axis)
        assert np.abs(share - table.sum(axis=others)).max() < 0.01


def test_captions_are_read_back_and_synonyms_mean_the_same():
    events = grammar.draw_events(5, np.random.default_rng(1))
    words = grammar.caption(events).split()
    facts = [(k, a, v) for k, row in enumerate(events.tolist()) for a, v in enumerate(row)]
    assert grammar.told(words) == facts
    other = {word: synonym for names in grammar.SYNONYMS for word, synonym in names.items()}
    assert grammar.told([other.get(word, word) for word in words]) == facts
    with pytest.raises(ValueError, match="ordinal"):
        grammar.told(["red"])
    with pytest.raises(ValueError, match="grammar"):
        grammar.told(["first", "zebra"])


def test_posterior_is_what_counting_gives():
    """Rejection: draw events and words by the channel, keep those that say what was said."""
    rng = np.random.default_rng(2)
    error = 0.2
    events = grammar.draw_events(400_000, rng)
    wrong = rng.random(len(events)) < error
    said = np.where(wrong, (events[:, 1] + rng.integers(1, 5, len(events))) % 5, events[:, 1])
    kept = events[said == 3]
    chance = posterior(1, ["first", "ring"], error=error)[0]
    for axis, count in enumerate(grammar.COUNTS):
        share = np.bincount(kept[:, axis], minlength=count) / len(kept)
        others = tuple(a for a in range(4) if a != axis)
        assert np.abs(share - chance.sum(axis=others)).max() < 0.01


def test_chain_rule_entropy_and_what_frames_tell():
    events = grammar.draw_events(3, np.random.default_rng(3))
    frames = [(Seen(0, False, False), events[0]), (Seen(1, True, True), events[1])]
    chance = posterior(3, ["third", grammar.WORDS[0][events[2, 0]]], frames, error=0.0)
    assert -grammar.word_logprobs(chance, events).sum() == pytest.approx(grammar.surprisal(chance, events))
    assert grammar.word_logprobs(chance, events)[0, [0, 1, 3]] == pytest.approx(0)
    assert grammar.word_logprobs(chance, events)[0, 2] < 0
    assert grammar.word_logprobs(chance, events)[2, 0] == pytest.approx(0)
    both = posterior(3, [], [*frames, (Seen(0, False, True), events[0])])
    assert grammar.word_logprobs(both, events)[0] == pytest.approx(0)
    prior = posterior(3)
    half = prior[1].sum(axis=(0, 1, 2))[events[1, 3] // 3 * 3 :][:3].sum()
    assert grammar.surprisal(prior, events) - grammar.surprisal(
        posterior(3, frames=frames[1:]), events
    ) == pytest.approx(-np.log(half))
    table = grammar.joint_table()
    assert grammar.entropy(prior) == pytest.approx(-3 * (table * np.log(table)).sum())
    with pytest.raises(ValueError, match="contradicts"):
        posterior(1, ["first", "red", "blue"])


def test_pictures_show_the_facts_and_the_action_only_while_it_lasts():
    facts = np.array([(0, 1, a, p) for a in range(5) for p in range(6)] * 30)
    clips = render(facts, np.random.default_rng(4))
    red = (clips.frames[..., 0] > 180) & (clips.frames[..., 1] < 100)
    assert (red.sum(axis=(2, 3)) == np.where(clips.covered, 0, 25)).all()
    assert clips.covered.mean() == pytest.approx(0.25, abs=0.03)
    bright = (clips.frames > 250).all(axis=4)
    marks = {action: set() for action in range(5)}
    for n, t in np.argwhere(~clips.covered):
        middle = np.argwhere(red[n, t]).mean(0)
        assert np.abs(middle - CENTRES[facts[n, 3]]).max() <= 1
        seen = frozenset(map(tuple, (np.argwhere(bright[n, t]) - middle).astype(int)))
        if t < STEPS // 2:
            assert not seen
        else:
            marks[facts[n, 2]].add(seen)
    assert all(len(shapes) == 1 for shapes in marks.values())
    assert len(set.union(*marks.values())) == 5


def test_videos_by_seed_and_bounds():
    one, same = draw_video(np.random.default_rng(5), (2, 8)), draw_video(np.random.default_rng(5), (2, 8))
    assert (one.frames == same.frames).all()
    assert 2 <= len(one.facts) <= 8
    assert one.seen(STEPS)[0].event == 1
    assert len(draw_clips(7, np.random.default_rng(0))[2:5].facts) == 3
    with pytest.raises(ValueError, match="12"):
        draw_video(np.random.default_rng(0), (6, 13))
