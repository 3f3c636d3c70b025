"""MVoT: the discrepancy loss against its definition, contexts, samples, the tokenizer and the small model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch import Tensor

from assay.methods.mllm.visualization_of_thought import (
    InterleavedContext,
    PatchCodebook,
    Steps,
    TraceFit,
    TraceLM,
    Traces,
    TraceThinker,
    TraceWords,
    answer_of,
    codebook_distance,
    context_at,
    fit_traces,
    think,
    token_discrepancy,
    trace_samples,
)

ACTIONS = ["left", "down", "right", "up"]
IDS = torch.tensor([2, 5, 6, 9])  # of four codes in a vocabulary of eleven


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels (pictures, text and masked places) and a codebook."""
    g = gen(seed)
    logits = torch.randn(2, 6, 11, generator=g, dtype=dtype)
    labels = torch.tensor([[0, 2, 5, -100, 9, 1], [6, 6, -100, 3, 2, 10]])
    return logits, labels, torch.randn(4, 3, generator=g, dtype=dtype)


def test_distances_are_scipys_and_a_metric() -> None:
    codebook = torch.randn(40, 7, generator=gen())
    found = codebook_distance(codebook)
    torch.testing.assert_close(found, torch.from_numpy(cdist(codebook.double(), codebook.double())).float())
    assert torch.equal(found, found.T)
    assert (found.diagonal() == 0).all()
    assert (found[:, None, :] <= found[:, :, None] + found[None, :, :] + 1e-6).all()
    with pytest.raises(ValueError, match="expected"):
        codebook_distance(codebook[0])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_loss_is_its_definition(seed: int) -> None:
    logits, labels, codebook = drawn(seed, torch.float64)
    distance = codebook_distance(codebook)
    terms = []
    for b in range(2):
        for t in range(1, 6):
            if int(labels[b, t]) in IDS.tolist():
                chance = logits[b, t - 1, IDS].softmax(0)
                terms.append((distance[IDS.tolist().index(int(labels[b, t]))] * chance).sum())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(token_discrepancy(logits, labels, IDS, distance), expected)
    assert expected >= 0


def test_only_look_alikes_are_free() -> None:
    distance = codebook_distance(torch.tensor([[0.0, 0], [0, 0], [3, 4], [6, 8]]))
    labels = torch.tensor([[2, 2]])
    for code, cost in enumerate((0.0, 0.0, 5.0, 10.0)):
        logits = torch.full((1, 2, 11), -1e4)
        logits[..., IDS[code]] = 0
        assert float(token_discrepancy(logits, labels, IDS, distance, shift=False)) == pytest.approx(cost)
    one = token_discrepancy(torch.randn(1, 3, 11), torch.full((1, 3), 2), IDS[:1], torch.zeros(1, 1))
    assert float(one) == 0


def test_turning_and_moving_the_codebook_changes_nothing_and_scaling_scales() -> None:
    logits, labels, codebook = drawn(1, torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=gen(5)))[0]
    plain = token_discrepancy(logits, labels, IDS, codebook_distance(codebook))
    moved = token_discrepancy(logits, labels, IDS, codebook_distance(codebook @ turn + 7))
    torch.testing.assert_close(moved, plain)
    scaled = token_discrepancy(logits, labels, IDS, codebook_distance(codebook * 2.5))
    torch.testing.assert_close(scaled, 2.5 * plain)


def test_text_has_no_part_in_it() -> None:
    logits, labels, codebook = drawn(2)
    distance = codebook_distance(codebook)
    plain = token_discrepancy(logits, labels, IDS, distance)
    other = logits.clone()
    words = [k for k in range(11) if k not in IDS.tolist()]
    other[..., words] += 50 * torch.randn(2, 6, len(words), generator=gen(3))
    torch.testing.assert_close(token_discrepancy(other, labels, IDS, distance), plain)
    other = logits.clone()
    other[0, 2] += 9  # predicts a masked place
    other[:, -1] += 9  # predicts nothing
    torch.testing.assert_close(token_discrepancy(other, labels, IDS, distance), plain)
    text = logits.clone().requires_grad_()
    none = token_discrepancy(text, torch.full((2, 6), 3), IDS, distance)
    none.backward()
    assert float(none.detach()) == 0
    assert not text.grad.any()


def test_the_gradient_is_the_analytic_one() -> None:
    logits, labels, codebook = drawn(4, torch.float64)
    distance = codebook_distance(codebook)
    logits.requires_grad_()
    token_discrepancy(logits, labels, IDS, distance, shift=False).backward()
    places = [(b, t) for b in range(2) for t in range(6) if int(labels[b, t]) in IDS.tolist()]
    for b, t in places:
        chance = logits[b, t, IDS].detach().softmax(0)
        row = distance[IDS.tolist().index(int(labels[b, t]))]
        expected = chance * (row - (row * chance).sum()) / len(places)
        torch.testing.assert_close(logits.grad[b, t, IDS], expected)
    assert torch.autograd.gradcheck(lambda x: token_discrepancy(x, labels, IDS, distance), logits)
    with pytest.raises(ValueError, match="image ids"):
        token_discrepancy(logits, labels, IDS[:3], distance)
    with pytest.raises(ValueError, match="expected"):
        token_discrepancy(logits, labels[:, :3], IDS, distance)


def test_a_context_holds_the_first_and_the_newest_picture() -> None:
    first, *others = torch.arange(5).view(5, 1)
    context = InterleavedContext(first, None, ["question"])
    for number, picture in enumerate(others):
        context.push(f"thought {number}", picture)
        assert len(context.images) <= 2
        assert torch.equal(context.images[-1], picture)
        assert torch.equal(context.images[0], first)
    assert context.texts == ["question", "thought 0", "thought 1", "thought 2", "thought 3"]
    assert [type(s) is str for s in context.segments] == [True, False, True, True, True, True, False]
    every = InterleavedContext(first, None, ["question"], keep_all=True)
    for picture in others:
        every.push(image=picture)
    assert len(every.images) == 5


def test_a_trace_of_t_actions_gives_two_t_plus_one_samples() -> None:
    frames = list(torch.arange(4).view(4, 1))
    samples = trace_samples(frames, ["right", "down", "up"], "B", "where to")
    draws = [s for s in samples if s.kind == "visualise"]
    says = [s for s in samples if s.kind == "reason"]
    assert (len(draws), len(says)) == (3, 4)
    assert [s.target for s in says] == ["right", "down", "up", "The answer is B."]
    assert [int(s.target) for s in draws] == [1, 2, 3]

    def short(sample: object) -> list[str]:
        return [s if isinstance(s, str) else f"f{int(s)}" for s in sample.context]

    assert short(draws[0]) == ["where to", "f0", "right"]
    assert short(draws[2]) == ["where to", "f0", "right", "down", "f2", "up"]
    assert short(says[0]) == ["where to", "f0"]
    assert short(says[2]) == ["where to", "f0", "right", "down", "f2"]
    assert all(sum(isinstance(s, Tensor) for s in sample.context) <= 2 for sample in samples)
    with pytest.raises(ValueError, match="one frame more"):
        trace_samples(frames, ["right"], "B")


class Scripted:
    image_length = 2

    def __init__(self, *segments: str | Tensor) -> None:
        self.segments, self.most = list(segments), 0

    def next_segment(self, context: InterleavedContext, generator: torch.Generator | None = None) -> str | Tensor:
        self.most = max(self.most, len(context.images))
        return self.segments.pop(0) if len(self.segments) > 1 else self.segments[0]


def test_thinking_ends_with_the_answer_or_when_rounds_are_spent() -> None:
    picture = torch.zeros(2)
    model = Scripted("right", picture, "down", picture, "So THE ANSWER IS b.", "never said")
    trace = think(model, "where to", picture)
    assert trace.texts == ["right", "down", "So THE ANSWER IS b."]
    assert (trace.answer, len(trace.images), trace.rounds, model.most) == ("b", 2, 5, 2)
    endless = think(Scripted("hm"), "where to", picture, max_rounds=7)
    assert (endless.answer, endless.rounds) == (None, 7)
    with pytest.raises(ValueError, match="3 codes, expected 2"):
        think(Scripted(torch.zeros(3)), "where to", picture)
    assert answer_of("The answer is: C, surely") == "C"
    assert answer_of("no idea") is None


def test_a_codebook_gives_every_patch_its_nearest_centroid() -> None:
    images = torch.rand(6, 12, 8, 3, generator=gen())
    book = PatchCodebook(5, 4, coarse=3).fit(images, generator=gen(1))
    codes = book.encode(images)
    assert codes.shape == (6, 3, 2)
    back = book.decode(codes)
    for b, i, j in ((0, 0, 0), (3, 2, 1), (5, 1, 0)):
        patch = images[b, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        gaps = (book.centroids - patch.flatten()).square().sum(1)
        assert int(codes[b, i, j]) == int(gaps.argmin())
        torch.testing.assert_close(
            back[b, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4], book.centroids[gaps.argmin()].view(4, 4, 3)
        )
    again = PatchCodebook(5, 4, coarse=3).fit(images, generator=gen(1))
    assert torch.equal(again.centroids, book.centroids)
    for bad in (images[:, :10], images[0], images[..., :1]):
        with pytest.raises(ValueError, match=r"expected|codebook has"):
            book.encode(bad)
    with pytest.raises(ValueError, match="not been fitted"):
        PatchCodebook(5, 4).encode(images)
    with pytest.raises(ValueError, match="too few"):
        PatchCodebook(50, 4).fit(images[:1])


def test_rare_patches_get_codes_of_their_own() -> None:
    common = 0.5 + 0.02 * torch.rand(60, 8, 8, 1, generator=gen())
    common[7, :4, :4] = torch.eye(4)[..., None]
    book = PatchCodebook(6, 4, coarse=4).fit(common, each=20, generator=gen(2))
    code = book.encode(common)[7, 0, 0]
    torch.testing.assert_close(book.centroids[code].view(4, 4), torch.eye(4))


def model(seed: int = 0, **changes: object) -> TraceLM:
    torch.manual_seed(seed)
    words = TraceWords(6, [*ACTIONS, "A", "B", "C", "<count>", "two"])
    return TraceLM(words, **{"width": 16, "heads": 2, "hidden": 16, "steps": 3, "largest": 3, **changes}).eval()


def traces(lm: TraceLM, rows: int = 8) -> Traces:
    g, words = gen(3), lm.words
    lengths = torch.randint(1, 4, (rows,), generator=g)
    actions = torch.randint(words.id("left"), words.id("up") + 1, (rows, 3), generator=g)
    actions = torch.where(torch.arange(3) < lengths[:, None], actions, lm.pad)
    frames = torch.randint(0, 6, (rows, 4, 4), generator=g)
    answers = torch.randint(words.id("A"), words.id("C") + 1, (rows,), generator=g)
    return Traces(actions, lengths, frames, answers, (2, 2), torch.full((rows,), words.id("two")))


def test_batches_hold_the_contexts_of_the_samples() -> None:
    lm = model(pictures=4)
    some = traces(lm)
    for row in range(len(some.lengths)):
        length = int(some.lengths[row])
        words = [lm.words.word(int(a)) for a in some.actions[row, :length]]
        frames = [f.view(2, 2) for f in some.frames[row, : length + 1]]
        samples = trace_samples(frames, words, "A", " ".join(words))
        for sample in samples:
            context = InterleavedContext(None, None)
            context.segments = list(sample.context)
            done = len(context.texts) - 1
            seen = done - 1 if sample.kind == "visualise" else done
            batch = context_at(some, *(torch.full((8,), n) for n in (done, seen, 0)), lm.pad)
            single = TraceThinker(lm, (2, 2)).steps(context)
            for mine, theirs in ((batch.question[row], single.question[0]), (batch.thoughts[row], single.thoughts[0])):
                assert torch.equal(mine, theirs)
            assert torch.equal(batch.pictures[:, row], single.pictures[:, 0])


def test_no_picture_is_lost_when_all_are_kept() -> None:
    lm = model(pictures=4)
    some = traces(lm)
    context = InterleavedContext(some.frames[0, 0], None, ["left"], keep_all=True)
    for k in (1, 2):
        context.push("left", some.frames[0, k])
    batch = context_at(some, *(torch.full((8,), n) for n in (2, 2, 0)), lm.pad, keep_all=True)
    assert torch.equal(batch.pictures[:3, 0], TraceThinker(lm, (2, 2)).steps(context).pictures[:, 0])
    assert (batch.pictures[3] == -1).all()


def test_a_model_that_draws_code_by_code_looks_back_only() -> None:
    lm = model(parallel=False)
    some = traces(lm)
    steps = context_at(some, *(torch.ones(8, dtype=torch.long) * n for n in (1, 0, 0)), lm.pad)
    target = some.frames[:, 1]
    other = target.clone()
    other[:, 2] = (other[:, 2] + 1) % 6
    first, second = lm.draw_logits(steps, target), lm.draw_logits(steps, other)
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert (first[:, 3] - second[:, 3]).abs().max() > 1e-4
    made = lm.draw(steps, temperature=0)
    torch.testing.assert_close(lm.draw_logits(steps, made)[..., :6].argmax(-1), made)
    with pytest.raises(ValueError, match="codes so far"):
        lm.draw_logits(steps)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_lambda_of_zero_is_cross_entropy_training(parallel: bool) -> None:
    ends = []
    for weight, scale in ((0.0, 1.0), (1.0, 0.0), (1.0, 1.0)):
        lm = model(parallel=parallel)
        distance = scale * codebook_distance(torch.rand(6, 3, generator=gen(4)))
        fit = TraceFit(updates=3, batch=4, discrepancy=weight, asked=0.3, final=0.3)
        losses = fit_traces(lm, [traces(lm)], fit, distance, gen(5), count=lm.words.id("<count>"))
        assert len(losses) == 3
        ends.append(torch.cat([p.detach().flatten() for p in lm.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_a_model_learns_to_draw_and_to_say() -> None:
    lm = model(width=32, hidden=32)
    some = traces(lm, 4)
    distance = codebook_distance(torch.rand(6, 3, generator=gen(4)))
    fit_traces(lm, [some], TraceFit(updates=150, batch=16, rate=1e-2, final=0.3), distance, gen(6))
    right = 0
    for row in range(4):
        length = int(some.lengths[row])
        question = " ".join(lm.words.word(int(a)) for a in some.actions[row, :length])
        trace = think(TraceThinker(lm, (2, 2), temperature=0), question, some.frames[row, 0])
        assert len(trace.images) == len(trace.texts) - 1
        right += trace.answer == lm.words.word(int(some.answers[row]))
        right += all(torch.equal(a, b) for a, b in zip(trace.images, some.frames[row, 1:], strict=False))
    assert right >= 7


def test_codes_that_look_alike_start_alike() -> None:
    lm = model(width=32, hidden=16)
    looks = torch.tensor([[0.0, 0], [0.01, 0], [5, 1], [5, 1.01], [-4, 6], [9, 9]])
    lm.start_from(looks, 0.95)
    gaps = codebook_distance(lm.lm.token.weight[:6].detach())
    assert max(gaps[0, 1], gaps[2, 3]) < gaps[[0, 0, 1, 2], [2, 4, 3, 5]].min()


def test_a_model_comes_back_from_its_files(tmp_path: Path) -> None:
    lm = model(per_step=2)
    lm.save(tmp_path / "model")
    back = TraceLM.load(tmp_path / "model")
    some = traces(lm)
    steps = context_at(some, *(torch.ones(8, dtype=torch.long) * n for n in (1, 0, 0)), lm.pad)
    torch.testing.assert_close(back.draw_logits(steps), lm.draw_logits(steps))
    assert back.words.words == lm.words.words
    (tmp_path / "model" / "config.json").write_text('{"codes": 6}')
    with pytest.raises(ValueError, match="holds no model"):
        TraceLM.load(tmp_path / "model")
    with pytest.raises(ValueError, match="holds no model"):
        TraceLM.load(tmp_path)


def test_bad_input_is_told() -> None:
    lm = model()
    some = traces(lm)
    with pytest.raises(ValueError, match="unknown word 'jump'"):
        TraceThinker(lm, (2, 2)).next_segment(InterleavedContext(some.frames[0, 0], None, ["jump"]))
    with pytest.raises(ValueError, match="4 steps"):
        TraceThinker(lm, (2, 2)).next_segment(InterleavedContext(some.frames[0, 0], None, ["up up up up"]))
    with pytest.raises(ValueError, match="on a grid"):
        lm.draw_logits(Steps(some.actions, some.actions, some.frames[None, :, 0], (3, 3)))
    with pytest.raises(ValueError, match="in context"):
        lm.draw_logits(Steps(some.actions, some.actions, some.frames[:, :3].transpose(0, 1), (2, 2)))
    with pytest.raises(ValueError, match="no word twice"):
        TraceWords(4, ["a", "a"])
