"""A small language model of traces: one vocabulary for the codes of board pictures and for words.

    tokens      [question and thoughts, one place a step] [cells of the pictures in context] [what is made next]
    step s      E[q_s] + E'[z_s] + step_s                        z_s empty while the step is still to come
    cell c      sum over pictures p of W_p E[code_pc], + row + column + E'[newest thought]
    word j      E[word] + step s of which it speaks + E'[q_s]

W_p tells the first picture from the newest one (and, where all are kept, from older ones); cells of all pictures share
their position. A next picture is drawn either code by code (`parallel=False`, as large models do), or all cells at once
by two 3x3 convolutions over the cells' last hidden states, which is far cheaper to train.

Source: the small-scale model of the study of 2501.07542; the trunk is `assay.nn.causal_lm`
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.causal_lm import CausalLM

PAD, SAY = "<pad>", "<say>"


class TraceWords:
    """Vocabulary of codes 0 to K - 1 and, after them, words; `<pad>` and `<say>` come first.

    Args:
        codes: K. words: the other words, without repeats.

    Raises:
        ValueError: K below 1, or a word twice.
    """

    def __init__(self, codes: int, words: list[str]) -> None:
        self.codes, self.words = codes, [PAD, SAY, *words]
        if codes < 1 or len(set(self.words)) != len(self.words):
            raise ValueError(f"{codes} codes and words {words}: expected at least one code and no word twice")
        self._ids = {word: codes + k for k, word in enumerate(self.words)}

    def __len__(self) -> int:
        return self.codes + len(self.words)

    @property
    def image_ids(self) -> Tensor:
        """(K,) vocabulary numbers of the codes."""
        return torch.arange(self.codes)

    def id(self, word: str) -> int:
        """Number of a word.

        Raises:
            ValueError: it is not in the vocabulary.
        """
        if word not in self._ids:
            raise ValueError(f"unknown word {word!r}; known are {', '.join(self.words[2:])}")
        return self._ids[word]

    def word(self, number: int) -> str:
        """The word of a number."""
        return self.words[number - self.codes]


@dataclass(frozen=True)
class Steps:
    """What the model has before it, for a batch.

    Attributes:
        question: (B, S) word numbers, `<pad>` where there is none.
        thoughts: (B, S) what was thought at each step so far, `<pad>` where nothing was.
        pictures: (P, B, n) codes: the first picture, the newest one, then older ones; -1 where there is none.
        grid: rows and columns of the cells, n of them.
    """

    question: Tensor
    thoughts: Tensor
    pictures: Tensor
    grid: tuple[int, int]


class TraceLM(nn.Module):
    """The model.

    Args:
        words: vocabulary.
        width, depth, heads, hidden: shape of the transformer.
        steps: S, steps of the longest question.
        pictures: P, pictures that may be in context.
        largest: cells along the longest side of a board.
        said: words said at most after a context.
        per_step: words said for one step (a chain of thought in words may take several).
        parallel: draw all cells at once.
    """

    def __init__(
        self, words: TraceWords, *, width: int = 48, depth: int = 2, heads: int = 4, hidden: int = 96,
        steps: int = 8, pictures: int = 2, largest: int = 8, said: int = 32, per_step: int = 1, parallel: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape = {"width": width, "depth": depth, "heads": heads, "hidden": hidden, "steps": steps,
                      "pictures": pictures, "largest": largest, "said": said, "per_step": per_step,
                      "parallel": parallel}  # fmt: skip
        self.words, self.steps, self.per_step, self.parallel, self.width = words, steps, per_step, parallel, width
        longest = steps + largest * largest + max(said + 1, largest * largest)
        self.lm = CausalLM(vocabulary=len(words), width=width, depth=depth, heads=heads, hidden=hidden, longest=longest)
        self.thought = nn.Embedding(len(words) - words.codes, width)
        self.step = nn.Embedding(steps + 2, width)  # before the first step, the steps, after the last
        self.row, self.column = nn.Embedding(largest, width), nn.Embedding(largest, width)
        self.slot = nn.Parameter(torch.randn(pictures, width, width) / math.sqrt(width))
        with torch.no_grad():
            self.slot[1:2] = torch.eye(width)  # most cells stay as they are: the newest picture passes through at first
        for table in (self.thought, self.step, self.row, self.column):
            nn.init.normal_(table.weight, std=0.5)  # what is seen comes before where and when
        self.start = nn.Parameter(torch.randn(width))
        self.local = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2 * parallel)])
        self.pad = words.id(PAD)

    @torch.no_grad()
    def start_from(self, codebook: Tensor, share: float = 0.5) -> None:
        """Let codes that look alike start alike: a share of their embedding's variance comes from a projection of the
        codebook (K, d) to the model's width, the rest stays as drawn."""
        looks = codebook.to(self.slot) - codebook.to(self.slot).mean(0)
        looks = looks @ torch.randn(looks.shape[1], self.width) / looks.norm(dim=1).mean()
        own = self.lm.token.weight[: self.words.codes]
        own.copy_(math.sqrt(1 - share) * own + math.sqrt(share / self.width) * looks)

    def draw_logits(self, steps: Steps, target: Tensor | None = None) -> Tensor:
        """Logits of the next picture's cells, (B, n, V), logits at c for cell c.

        Args:
            target: (B, n) the codes themselves, of which cell c sees those before it; needed unless `parallel`.

        Raises:
            ValueError: pictures that do not fill the grid, or no target for a model that draws code by code.
        """
        context, cells = self._context(steps), steps.grid[0] * steps.grid[1]
        if self.parallel:
            hidden = self._hidden(context)[:, -cells:]
            board = hidden.transpose(1, 2).unflatten(2, steps.grid)
            board = board + self.local[1](F.gelu(self.local[0](board)))
            return self.lm.out(board.flatten(2).transpose(1, 2))
        if target is None:
            raise ValueError("a model that draws code by code needs the codes so far")
        return self.lm.out(self._hidden(torch.cat([context, self._drawn(target, steps.grid)], 1))[:, -cells:])

    @torch.no_grad()
    def draw(self, steps: Steps, *, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """The next picture, (B, n) codes; temperature 0 takes the likeliest."""
        codes = self.words.codes
        if self.parallel:
            return _pick(self.draw_logits(steps)[..., :codes], temperature, generator)
        made = torch.zeros_like(steps.pictures[0])
        for cell in range(made.shape[1]):
            made[:, cell] = _pick(self.draw_logits(steps, made)[:, cell, :codes], temperature, generator)
        return made

    def say_logits(self, steps: Steps, said: Tensor, place: Tensor, opening: int | Tensor | None = None) -> Tensor:
        """Logits of the words after a context, (B, M + 1, V): first with nothing said, last after all of `said`.

        Args:
            said: (B, M) word numbers. place: (B,) the step that the first word speaks of (0: before the first one).
            opening: word that asks, `<say>` when None; or one for each row, (B,).
        """
        batch, count = said.shape
        asked = torch.as_tensor(self.words.id(SAY) if opening is None else opening, device=said.device).expand(batch)
        spoken = torch.arange(count + 1, device=said.device) // self.per_step
        where = (place[:, None] + spoken).clamp(max=self.steps + 1)
        asks = F.pad(steps.question, (1, 1), value=self.pad).gather(1, where)
        vectors = self._embedded(torch.cat([asked[:, None], said], 1)) + self.step(where)
        vectors = vectors + self.thought(asks - self.words.codes)
        return self.lm.out(self._hidden(torch.cat([self._context(steps), vectors], 1))[:, -count - 1 :])

    @torch.no_grad()
    def say(
        self, steps: Steps, count: int, place: Tensor, *, opening: int | Tensor | None = None, temperature: float = 1.0,
        stop: Tensor | None = None, generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """`count` words after a context, (B, count); never codes. After a word of `stop` a row is filled with it."""
        said = steps.question.new_zeros(len(steps.question), 0)
        for _ in range(count):
            logits = self.say_logits(steps, said, place, opening)[:, -1, self.words.codes :]
            new = _pick(logits, temperature, generator) + self.words.codes
            if stop is not None and said.shape[1]:
                new = torch.where(torch.isin(said[:, -1], stop), said[:, -1], new)
            said = torch.cat([said, new[:, None]], 1)
        return said

    def _embedded(self, numbers: Tensor) -> Tensor:
        return self.lm.token(numbers) * math.sqrt(self.width)

    def _context(self, steps: Steps) -> Tensor:
        """(B, S + n, D)"""
        rows, columns = steps.grid
        if steps.pictures.shape[2] != rows * columns:
            raise ValueError(f"pictures of {steps.pictures.shape[2]} codes on a grid of {rows} x {columns}")
        if steps.pictures.shape[0] > len(self.slot):
            raise ValueError(f"{steps.pictures.shape[0]} pictures in context; the model takes {len(self.slot)}")
        thoughts = self.thought(steps.thoughts - self.words.codes)
        places = torch.arange(1, steps.question.shape[1] + 1, device=steps.question.device)
        text = self._embedded(steps.question) + thoughts + self.step(places)
        there = (steps.pictures >= 0)[..., None]
        seen = self._embedded(steps.pictures.clamp(min=0)) * there
        cells = torch.einsum("pbnd,pde->bne", seen, self.slot[: len(seen)])
        last = ((steps.thoughts != self.pad) * places).argmax(1)
        newest = thoughts.gather(1, last[:, None, None].expand(-1, 1, self.width))
        return torch.cat([text, cells + self._where(steps.grid) + newest], 1)

    def _where(self, grid: tuple[int, int]) -> Tensor:
        """(n, D) where a cell lies."""
        rows = self.row.weight[: grid[0], None] + self.column.weight[None, : grid[1]]
        return rows.flatten(0, 1)

    def _drawn(self, target: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, n, D): at cell c the code before it, and where c lies."""
        before = torch.cat([self.start.expand(len(target), 1, -1), self._embedded(target[:, :-1])], 1)
        return before + self._where(grid)

    def _hidden(self, vectors: Tensor) -> Tensor:
        tokens = torch.zeros(vectors.shape[:2], dtype=torch.long, device=vectors.device)
        return self.lm.hidden(tokens, vectors, torch.ones_like(tokens, dtype=torch.bool))

    def save(self, folder: Path, **about: str) -> None:
        """Write `config.json` (with what there is to say `about` the model) and `model.safetensors` into a folder."""
        from safetensors.torch import save_model

        folder.mkdir(parents=True, exist_ok=True)
        config = {"about": about, "codes": self.words.codes, "words": self.words.words[2:], **self.shape}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_model(self, str(folder / "model.safetensors"))

    @staticmethod
    def load(folder: Path) -> TraceLM:
        """The model that `save` wrote.

        Raises:
            ValueError: the files are missing or do not fit one another.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_model

        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config.pop("about", None)
            words = TraceWords(int(config.pop("codes")), list(config.pop("words")))
            model = TraceLM(words, **config)
            load_model(model, str(folder / "model.safetensors"))
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
            raise ValueError(f"{folder} holds no model of traces: {str(error).splitlines()[0]}") from error
        return model.eval()


def _pick(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Draw from (..., V) logits; temperature 0: the largest."""
    if temperature == 0:
        return logits.argmax(-1)
    chance = (logits / temperature).softmax(-1)
    return torch.multinomial(chance.flatten(0, -2), 1, generator=generator).view(logits.shape[:-1])
