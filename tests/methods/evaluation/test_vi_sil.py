"""ViSIL with an exact Bayesian reader of the facts grammar, where the information lost is known."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data.video import fact_grammar as grammar
from assay.data.video.fact_grammar import Seen, posterior
from assay.data.video.fact_summaries import write_text
from assay.methods.evaluation.vi_sil import (
    FLOOR,
    Candidate,
    Summary,
    content_positions,
    cost,
    grounding,
    medoid_keyframes,
    pareto,
    select,
    shot_keyframes,
    uniform_keyframes,
    visil,
    visil_many,
    words,
)


class Bayes:
    """Exact log-probabilities of captions of the grammar; ordinals are certain. Frames are (Seen, facts)."""

    def __init__(self, error=0.0):
        self.error = error

    def logprobs(self, queries):
        return [self._one(query) for query in queries]

    def _one(self, query):
        said = words(query.caption)
        facts = np.array([v for _, _, v in grammar.told(said)]).reshape(-1, 4)
        evidence = query.evidence or Summary()
        chance = posterior(len(facts), words(evidence.text or ""), evidence.frames or (), self.error)
        logs = np.concatenate([np.zeros((len(facts), 1)), grammar.word_logprobs(chance, facts)], 1).ravel()
        return [float(logs[place]) for place in query.positions]


class Independent:
    """Words do not depend on one another: filling in and forcing agree."""

    def __init__(self, table, seen=0.9):
        self.table, self.seen = table, seen

    def logprobs(self, queries):
        return [
            [math.log(self.seen if q.evidence and w in words(q.evidence.text or "") else self.table[w])
             for w in np.array(words(q.caption))[list(q.positions)]]
            for q in queries
        ]  # fmt: skip

    masked_logprobs = logprobs


def video_of(events):
    return Summary(frames=[(Seen(k, False, True), facts) for k, facts in enumerate(events)])


def exact(events, summary, **options):
    return visil(Bayes(**options), video_of(events), summary, grammar.caption(events), -math.inf, resamples=0)


def test_the_video_itself_loses_nothing_and_nothing_loses_all():
    events = grammar.draw_events(4, np.random.default_rng(0))
    whole = exact(events, video_of(events))
    assert whole.loss == 0
    assert whole.normalised == 0
    nothing = exact(events, None)
    assert nothing.normalised == 1
    assert exact(events, Summary("  ", [])).normalised == 1
    assert nothing.loss * 20 == pytest.approx(grammar.surprisal(posterior(4), events))
    retold = exact(events, Summary(grammar.caption(events)))
    assert retold.loss == pytest.approx(0)


def test_on_average_it_is_the_conditional_entropy():
    rng = np.random.default_rng(1)
    losses, entropies = [], []
    for _ in range(400):
        events = grammar.draw_events(2, rng)
        text = write_text(events, 5, rng, synonyms=0.5)
        frames = [(Seen(1, bool(rng.random() < 0.5), False), events[1])]
        losses.append(exact(events, Summary(text, frames)).loss * 10)
        entropies.append(grammar.entropy(posterior(2, text.split(), frames)))
    difference = np.array(losses) - entropies
    assert abs(difference.mean()) < 3 * difference.std() / math.sqrt(len(difference))
    assert np.mean(losses) > 1


def test_a_true_fact_more_never_raises_the_expected_loss_and_facts_of_other_events_add_up():
    rng = np.random.default_rng(2)
    changes = []
    for _ in range(200):
        events = grammar.draw_events(2, rng)
        facts = grammar.caption(events).split()
        less, more = " ".join(facts[:3]), " ".join(facts[:4])
        changes.append(exact(events, Summary(less)).loss - exact(events, Summary(more)).loss)
        first, second = " ".join(facts[:3]), " ".join(facts[5:8])
        whole = exact(events, None).loss
        gain = [whole - exact(events, Summary(t)).loss for t in (first, second, f"{first} {second}")]
        assert gain[0] + gain[1] == pytest.approx(gain[2])
        assert exact(events, Summary(f"{second} {first}")).loss == pytest.approx(whole - gain[2])
    assert np.mean(changes) > 0


def test_the_floor_bounds_and_opens():
    events = np.array([[0, 0, 0, 0], [5, 4, 3, 5]])
    wrong = Summary("first white triangle second red ball")
    model, video, said = Bayes(error=1e-6), video_of(events), grammar.caption(events)
    plain = visil(model, video, wrong, said, -math.inf, resamples=0)
    bounded = visil(model, video, wrong, said, resamples=0)
    assert all(w.lost <= w.video - FLOOR + 1e-12 for w in bounded.per_word)
    assert bounded.loss < plain.loss
    assert visil(model, video, wrong, said, -1e9, resamples=0).loss == plain.loss
    lost = {w.word: w.lost for w in bounded.per_word}
    assert lost["white"] > 1 > lost["second"]


def test_forced_and_masked_agree_for_independent_words():
    table = dict.fromkeys(["dog", "runs", "two", "not", "red"], 0.1)
    model, video = Independent(table), Summary("the dog runs two not red")
    for text in ("dog", "dog runs", "red two"):
        forced = visil(model, video, Summary(text), "the dog runs two red", mode="forced")
        masked = visil(model, video, Summary(text), "the dog runs two red", mode="masked")
        assert forced == masked
        assert forced.normalised == pytest.approx(1 - len(text.split()) / 4)


def test_several_captions_are_averaged_and_the_interval_holds_the_mean():
    table = dict.fromkeys(["dog", "runs", "two", "not", "red"], 0.1)
    model, video = Independent(table), Summary("dog runs two not red")
    scores = visil_many(model, video, [Summary("dog two"), None], ["the dog runs", "two red, not"], seed=3)
    one = [visil(model, video, Summary("dog two"), c).loss for c in ("the dog runs", "two red, not")]
    assert scores[0].loss == pytest.approx(np.mean(one))
    low, high = scores[0].ci
    assert low <= scores[0].loss <= high
    assert low < high
    assert scores[1].ci[0] == pytest.approx(scores[1].ci[1])
    again = visil_many(model, video, [Summary("dog two")], ["the dog runs", "two red, not"], seed=3)
    assert again[0] == scores[0]
    assert [w.word for w in scores[0].per_word] == ["dog", "runs", "two", "red", "not"]


def test_a_model_that_cannot_read_the_video_is_named():
    table = dict.fromkeys(["dog", "runs"], 0.1)
    with pytest.warns(UserWarning, match="cannot read this video"):
        score = visil(Independent(table, seen=0.05), Summary("dog runs"), Summary("dog"), "the dog runs")
    assert math.isnan(score.normalised)


def test_bad_input_is_refused():
    model = Independent({"dog": 0.1})
    with pytest.raises(ValueError, match="no content word"):
        visil(model, Summary("x"), None, "of the and")
    with pytest.raises(ValueError, match="floor"):
        visil(model, Summary("x"), None, "dog", floor=0.5)
    with pytest.raises(ValueError, match="mode"):
        visil(model, Summary("x"), None, "dog", mode="guess")

    class Short:
        def logprobs(self, queries):
            return [[] for _ in queries]

    with pytest.raises(ValueError, match="0 log-probabilities for 1"):
        visil(Short(), Summary("x"), None, "dog")


def test_content_words_keep_numbers_and_negations():
    text = "The two dogs don't run over 3.5 m, and never at the third hydrant."
    assert [words(text)[n] for n in content_positions(text)] == [
        "two", "dogs", "don't", "run", "3.5", "m", "never", "third", "hydrant",
    ]  # fmt: skip
    assert content_positions("") == []


def test_grounding_is_the_information_of_the_text():
    """All true words of the grammar: what the video adds is the surprise of the text itself."""
    events = grammar.draw_events(3, np.random.default_rng(5))
    said = grammar.caption(events)
    assert grounding(Bayes(), video_of(events), said, -math.inf, mode="forced") == pytest.approx(
        grammar.surprisal(posterior(3), events)
    )


points = st.lists(st.tuples(st.integers(0, 20), st.integers(-5, 20)), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(points)
def test_the_front_is_what_no_other_dominates(values):
    front = pareto(values)
    for row, (price, loss) in enumerate(values):
        worse = any(p <= price and v <= loss and (p, v) != (price, loss) for p, v in values)
        same = any(values[other] == (price, loss) for other in front)
        assert same == (not worse)
        assert row not in front or not worse
    assert len({values[row] for row in front}) == len(front)


@settings(max_examples=60, deadline=None)
@given(points)
def test_choice_is_within_budget_best_and_monotone(values):
    candidates = [Candidate(Summary(str(n)), *v) for n, v in enumerate(values)]
    cheapest = min(c.cost for c in candidates)
    last = math.inf
    for budget in range(cheapest, 22):
        chosen = select(candidates, budget)
        assert chosen.cost <= budget
        assert chosen.loss == min(c.loss for c in candidates if c.cost <= budget) <= last
        last = chosen.loss
    with pytest.raises(ValueError, match="cheapest"):
        select(candidates, cheapest - 1)


def test_costs():
    assert cost(Summary("A dog, running.", [1, 2]), 100) == 205
    assert cost(Summary("abc", None), tokens=len) == 3
    with pytest.raises(ValueError, match="frame_tokens"):
        cost(Summary(), -1)
    with pytest.raises(ValueError, match="budget"):
        select([], 3)
    with pytest.raises(ValueError, match="shape"):
        pareto([1, 2, 3])


def test_keyframes():
    assert uniform_keyframes(10, 2) == [2, 7]
    assert uniform_keyframes(3, 3) == [0, 1, 2]
    shots = np.repeat(np.eye(3), [4, 2, 6], axis=0)
    assert shot_keyframes(shots, 3) == [1, 4, 8]
    assert shot_keyframes(shots, 1) == [5]
    noisy = shots + 0.01 * np.random.default_rng(0).normal(size=shots.shape)
    found = medoid_keyframes(noisy, 3)
    assert [int(np.searchsorted([4, 6, 12], n, side="right")) for n in found] == [0, 1, 2]
    for group, start, end in ((0, 0, 4), (2, 6, 12)):
        part = noisy[start:end]
        best = np.linalg.norm(part[:, None] - part, axis=2).sum(1).argmin()
        assert found[group] == start + best
    assert medoid_keyframes(np.zeros((5, 2)), 5) == [0, 1, 2, 3, 4]
    for choose in (shot_keyframes, medoid_keyframes):
        with pytest.raises(ValueError, match="keyframes"):
            choose(shots, 13)


def test_no_warning_where_the_video_is_read():
    events = grammar.draw_events(2, np.random.default_rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact(events, None)
