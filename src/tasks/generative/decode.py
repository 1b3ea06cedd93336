"""Greedy decoding of a batch of prompts with a key-value cache.

Prompts are padded in front, so that all of them end, and all answers begin, in the same column. An answer ends at a
line break, at any special token, or after a number of tokens; rows that have ended leave the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidate:
    """A text after a prompt, and how likely the model finds it."""

    text: str
    log_probability: float  # natural, of all its tokens, the one that ends it among them
    tokens: int

    @property
    def score(self) -> float:
        """The mean log-probability of a token."""
        return self.log_probability / self.tokens


@dataclass(frozen=True)
class Prediction:
    """What a model makes of one prompt."""

    written: Candidate
    silence: Candidate | None  # "no answer", with an empty text; None where every question has an answer
    gold: float  # log-probability of the labelled answer; 0 where there is none


@dataclass(frozen=True)
class Stops:
    """Which tokens end an answer, and how the others become text.

    Args:
        tokenizer: of the model.
    """

    tokenizer: Any
    special: frozenset[int] = field(init=False)
    texts: dict[int, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "special", frozenset(self.tokenizer.all_special_ids))

    def ends(self, token: int) -> bool:
        """Whether an answer is over with this token: a special one, or one with a line break."""
        if token in self.special:
            return True
        if token not in self.texts:
            self.texts[token] = self.tokenizer.decode([token])
        return "\n" in self.texts[token]

    def text(self, tokens: Sequence[int]) -> str:
        """The first line of what the tokens say."""
        said: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return said.partition("\n")[0].strip()


def write_answers(
    model: Any,
    prompts: Sequence[list[int]],
    golds: Sequence[list[int]],
    silence: list[int] | None,
    stops: Stops,
    device: torch.device,
    longest: int,
) -> list[Prediction]:
    """Let a model continue prompts, and ask how likely it finds given answers.

    Args:
        model: a decoder, in evaluation.
        prompts: the tokens of each.
        golds: the tokens of the labelled answer of each; empty for none.
        silence: the tokens of "no answer", where it is asked for.
        stops: where an answer ends.
        device: of the model.
        longest: tokens of an answer, at most.
    """
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for i, prompt in enumerate(prompts):
        tokens[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    tokens, mask = tokens.to(device), mask.to(device)
    state = _State(model, mask)
    logits = state.read(tokens, keep=1)[:, -1]
    gold = state.log_probabilities(logits, golds)
    silences: list[Candidate | None] = [None] * len(prompts)
    if silence is not None:
        values = state.log_probabilities(logits, [silence] * len(prompts))
        silences = [Candidate("", value, len(silence)) for value in values]
    written = _decode(state, logits, stops, longest)
    return [
        Prediction(Candidate(stops.text(ids), value, len(ids)), silences[i], gold[i])
        for i, (ids, value) in enumerate(written)
    ]


@dataclass
class _State:
    """A batch that a model has read so far.

    Args:
        model: the decoder.
        mask: 1 for tokens, 0 for padding, shape (rows, tokens).
    """

    model: Any
    mask: Tensor
    cache: Any = None

    def read(self, tokens: Tensor, keep: int = 0) -> Tensor:
        """The logits, in fp32, after reading on; `tokens` are (rows, further tokens), the last ones of the mask.

        Args:
            tokens: ids.
            keep: how many of the last places are asked for; 0 for all.
        """
        places = self.mask.cumsum(1).sub(1).clamp(min=0)[:, -tokens.shape[1] :]
        out = self.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        self.cache = out.past_key_values
        logits: Tensor = out.logits
        return logits.float()

    def fork(self) -> _State:
        """The same state once more; what one of them reads, the other does not know."""
        return _State(self.model, self.mask, copy.deepcopy(self.cache))

    def grow(self, tokens: Tensor) -> Tensor:
        """Read on; the mask grows by as much."""
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)], dim=1)
        return self.read(tokens)

    def keep(self, rows: Tensor) -> None:
        """Leave out all other rows."""
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)

    def log_probabilities(self, logits: Tensor, answers: Sequence[list[int]]) -> list[float]:
        """The log-probability of an answer a row, given the logits of their first tokens, (rows, vocabulary)."""
        longest = max(len(answer) for answer in answers)
        if longest == 0:
            return [0.0] * len(answers)
        tokens = torch.zeros(len(answers), longest, dtype=torch.int64)
        inside = torch.zeros(len(answers), longest, dtype=torch.bool)
        for i, answer in enumerate(answers):
            tokens[i, : len(answer)] = torch.tensor(answer, dtype=torch.int64)
            inside[i, : len(answer)] = True
        tokens, inside = tokens.to(logits.device), inside.to(logits.device)
        # Padding stands behind the answers, where causal attention does not look.
        every = logits[:, None]
        if longest > 1:
            every = torch.cat([every, self.fork().grow(tokens[:, :-1])], dim=1)
        each = every.log_softmax(-1).gather(2, tokens[:, :, None])[:, :, 0]
        sums: list[float] = each.masked_fill(~inside, 0.0).double().sum(1).tolist()
        return sums


def _decode(state: _State, logits: Tensor, stops: Stops, longest: int) -> list[tuple[list[int], float]]:
    """The tokens that follow, greedily, and the log-probability of all of them, for each row."""
    written: list[list[int]] = [[] for _ in range(len(logits))]
    total = [0.0] * len(logits)
    going = list(range(len(logits)))  # the rows of `written` that the rows of the batch stand for
    while True:
        best = logits.log_softmax(-1).max(-1)
        still = []
        likely = zip(going, best.indices.tolist(), best.values.tolist(), strict=True)
        for place, (row, token, value) in enumerate(likely):
            written[row].append(token)
            total[row] += value
            if not stops.ends(token) and len(written[row]) < longest:
                still.append(place)
        if not still:
            return list(zip(written, total, strict=True))
        tokens = best.indices
        if len(still) < len(going):
            rows = torch.tensor(still, device=logits.device)
            state.keep(rows)
            tokens, going = tokens[rows], [going[place] for place in still]
        logits = state.grow(tokens[:, None])[:, -1]
