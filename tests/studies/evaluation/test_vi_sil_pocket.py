"""The pocket world of ViSIL's study: what models are shown, what is asked, what simple rules take."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from assay.data.video.fact_grammar import COUNTS, ORDINALS, WORDS  # noqa: E402
from assay.data.video.fact_videos import STEPS  # noqa: E402
from assay.methods.evaluation.vi_sil import Query, Summary, visil, words  # noqa: E402
from assay.studies.evaluation import _vi_sil_bench as world  # noqa: E402
from assay.studies.evaluation._vi_sil_sight import EVENTS, FRAME, ID, VOCABULARY  # noqa: E402
from assay.studies.evaluation._vi_sil_training import draw_question, random_words, whole_row  # noqa: E402
from assay.studies.evaluation.vi_sil import SIZES, SYNONYMS, choices  # noqa: E402


@pytest.fixture(scope="module")
def bench():
    return world.build(SIZES["smoke"], 7, SYNONYMS)


def test_a_summary_is_one_row_of_tokens(bench):
    video = bench.videos["same-words"][0]
    row = world.row_of(video.whole)
    assert row.tokens == whole_row(np.array([f.clip for f in video.whole.frames[::STEPS]])).tokens
    assert row.tokens.count(FRAME) == len(row.features) == EVENTS * STEPS
    assert [VOCABULARY[t] for t in row.tokens if t != FRAME] == list(ORDINALS[:EVENTS])
    mixed = world.row_of(video.candidates[-1])
    told = words(video.candidates[-1].text)
    assert [VOCABULARY[t] for t in mixed.tokens[: len(told)]] == told
    assert world.price(video.candidates[-1]) == len(told) + 3 * len(video.candidates[-1].frames)


def test_the_judge_answers_the_same_alone_and_together(bench):
    video = bench.videos["paraphrased"][1]
    queries = [Query(video.caption, s, (1, 7, 29)) for s in (None, *video.candidates, video.whole)]
    together = bench.judge.logprobs(queries)
    for query, found in zip(queries, together, strict=True):
        assert bench.judge.logprobs([query])[0] == pytest.approx(found, abs=1e-4)
    assert visil(bench.judge, video.whole, video.whole, video.captions).loss == 0
    assert len(words(video.captions[0])) == 5 * EVENTS


def test_truth_orders_summaries(bench):
    for video in bench.videos["paraphrased"]:
        texts = video.true_loss[:12].reshape(4, 3)
        assert (np.diff(texts[:, 0]) < 0).all()
        assert (video.entropy_loss > -1e-9).all()
        assert video.formats.tolist() == ["text"] * 12 + ["frames"] * 6 + ["mixed"] * 6
    plain, other = (bench.videos[c][0].true_loss for c in ("same-words", "paraphrased"))
    assert plain == pytest.approx(other)


def test_simple_rules_spend_the_budget(bench):
    for arm, fit in (("text-only", 0.7), ("frames-only", 1.0), ("length-heuristic", 0.7)):
        picks = choices(arm, "paraphrased", bench)
        for video, row in zip(bench.videos["paraphrased"], picks, strict=True):
            for pick, budget in zip(row, bench.budgets, strict=True):
                assert fit * budget <= video.costs[pick] <= budget
                kind = {"text-only": "text", "frames-only": "frames"}.get(arm, "mixed")
                assert video.formats[pick] == kind
    best = choices("oracle-select", "paraphrased", bench)
    for video, row in zip(bench.videos["paraphrased"], best, strict=True):
        for pick, budget in zip(row, bench.budgets, strict=True):
            assert video.true_loss[pick] == video.true_loss[video.costs <= budget].min()


def test_questions_have_true_answers():
    rng = np.random.default_rng(0)
    facts = np.array([[rng.integers(0, n) for n in COUNTS] for _ in range(EVENTS)])
    for _ in range(100):
        event, attribute, answer = (VOCABULARY[n] for n in draw_question(facts, rng, "fact"))
        a = ["colour?", "shape?", "action?", "place?"].index(attribute)
        assert answer == WORDS[a][facts[ORDINALS.index(event), a]]
        colour, what, number = (VOCABULARY[n] for n in draw_question(facts, rng, "count"))
        assert what == "count?"
        assert int(number) == (facts[:, 0] == WORDS[0].index(colour)).sum()
    codes = {VOCABULARY[draw_question(facts, rng, "code")[2]] for _ in range(200)}
    assert len(codes) == 4
    text = random_words(facts, np.random.default_rng(3), 0.0)
    assert VOCABULARY[text[0]] in ORDINALS
    assert ID["<pad>"] not in text
    assert Summary("").empty
