"""Greedy decoding of a batch of prompts with a key-value cache.

A prefix that several prompts share, such as the passage of several questions, is read once. Prompts are padded on the
left, so that all answers begin in the same column. An answer ends at a line break, at any special token, or after a
maximum number of tokens; finished rows leave the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from src.tasks.base import unwrapped
from src.tasks.generative.cache import compacted, left_padded, make_cache, shared_prefixes


@dataclass(frozen=True)
class Candidate:
    """A text that follows a prompt, with its likelihood under the model."""

    text: str
    log_probability: float  # natural logarithm, over all tokens including the one that ends it
    tokens: int

    @property
    def score(self) -> float:
        """The mean log-probability of a token."""
        return self.log_probability / self.tokens


@dataclass(frozen=True)
class Prediction:
    """The prediction for one prompt."""

    written: Candidate
    null_answer: Candidate | None  # "no answer", with an empty text; None if every question has an answer
    gold: float  # the log-probability of the labelled answer; 0 if there is none


@dataclass(frozen=True)
class Stops:
    """Determines which tokens end an answer, and decodes the others.

    Args:
        tokenizer: of the model.
    """

    tokenizer: Any
    special: frozenset[int] = field(init=False)
    texts: dict[int, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "special", frozenset(self.tokenizer.all_special_ids))

    def ends(self, token: int) -> bool:
        """Whether a token ends an answer: a special token, or one with a line break."""
        if token in self.special:
            return True
        if token not in self.texts:
            self.texts[token] = self.tokenizer.decode([token])
        return "\n" in self.texts[token]

    def text(self, tokens: Sequence[int]) -> str:
        """The first line of the decoded tokens."""
        said: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return said.partition("\n")[0].strip()


def write_answers(
    model: Any,
    prompts: Sequence[list[int]],
    golds: Sequence[list[int]],
    null_answer: list[int] | None,
    stops: Stops,
    device: torch.device,
    longest: int,
) -> list[Prediction]:
    """Generate answers to prompts, and compute the likelihood of given answers.

    Args:
        model: a decoder in evaluation mode.
        prompts: the tokens of each prompt.
        golds: the tokens of the labelled answer of each prompt; empty for none.
        null_answer: the tokens of "no answer"; None if it is not needed.
        stops: determines where an answer ends.
        device: of the model.
        longest: the maximum number of tokens of an answer.
    """
    room = max(longest + max(map(len, golds)), len(null_answer or ()))
    state, logits = _read_prompts(model, prompts, room, device)
    null_answers: list[Candidate | None] = [None] * len(prompts)
    if null_answer is not None:
        values = _sums(state.look_ahead(logits, [null_answer] * len(prompts)), [null_answer] * len(prompts))
        null_answers = [Candidate("", value, len(null_answer)) for value in values]
    after = state.look_ahead(logits, golds, remember=True)
    gold = _sums(after, golds)
    written = _decode(state, after, golds, stops, longest)
    return [
        Prediction(Candidate(stops.text(ids), value, len(ids)), null_answers[i], gold[i])
        for i, (ids, value) in enumerate(written)
    ]


def _read_prompts(model: Any, prompts: Sequence[list[int]], room: int, device: torch.device) -> tuple[_State, Tensor]:
    """Read prompts; returns the state, and the logits of the next token, (rows, vocabulary).

    Args:
        model: the decoder.
        prompts: the tokens of each prompt; neighbours may share a prefix.
        room: the maximum number of further tokens.
        device: of the model.
    """
    groups = shared_prefixes(prompts)
    group_of = [group for group, (rows, _) in enumerate(groups) for _ in range(rows)]
    rests = [prompt[groups[group][1] :] for prompt, group in zip(prompts, group_of, strict=True)]
    longest = max(shared for _, shared in groups) + max(len(rest) for rest in rests)
    state = _State(model, make_cache(unwrapped(model), longest + room))
    if state.cache is None or len(groups) == len(prompts):
        return state, state.read(*left_padded(prompts, device), keep=1)[:, -1]
    beginnings = [prompts[group_of.index(group)][:shared] for group, (_, shared) in enumerate(groups)]
    state.read(*left_padded(beginnings, device), keep=1)
    state.keep(torch.tensor(group_of, device=device))
    return state, state.read(*left_padded(rests, device), keep=1)[:, -1]


@dataclass
class _State:
    """The state of a batch while it is decoded.

    Args:
        model: the decoder.
        cache: from `make_cache`; None if the model makes its own.
        mask: 1 for tokens, 0 for padding, shape (rows, tokens).
    """

    model: Any
    cache: Any
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        self.ours = self.cache is not None

    def read(self, tokens: Tensor, mask: Tensor | None = None, keep: int = 0) -> Tensor:
        """Read further tokens; returns their logits in fp32.

        Args:
            tokens: ids, shape (rows, further tokens).
            mask: of these tokens; None if there is no padding.
            keep: the number of last positions to compute logits for; 0 for all.
        """
        mask = torch.ones_like(tokens) if mask is None else mask
        self.mask = mask if self.mask is None else torch.cat([self.mask, mask], dim=1)
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

    def look_ahead(self, logits: Tensor, answers: Sequence[list[int]], remember: bool = False) -> Tensor:
        """Log-probabilities at each token of one answer per row, (rows, tokens of the longest answer or 1, vocabulary).

        Args:
            logits: of the first tokens, (rows, vocabulary).
            answers: tokens that may follow. They are padded on the right, which causal attention never sees.
            remember: leave all tokens but the last in our cache; `forget` removes those that a row does not need.
        """
        longest = max(map(len, answers))
        if longest < 2:
            return logits[:, None].log_softmax(-1)
        tokens = torch.zeros(len(answers), longest - 1, dtype=torch.int64)
        for i, answer in enumerate(answers):
            read = answer[: longest - 1]
            tokens[i, : len(read)] = torch.tensor(read, dtype=torch.int64)
        mask = self.mask
        if self.ours:
            after = self.read(tokens.to(logits.device))
            if not remember:
                self.cache.crop(1 - longest)
                self.mask = mask
        else:
            after = _State(self.model, copy.deepcopy(self.cache), mask).read(tokens.to(logits.device))
        return torch.cat([logits[:, None], after], dim=1).log_softmax(-1)

    def forget(self, remembered: int, kept: Sequence[int]) -> None:
        """Mask the last `remembered` tokens in the cache, except for the first `kept[i]` of them in row i."""
        assert self.mask is not None
        places = torch.arange(remembered, device=self.mask.device)
        self.mask[:, self.mask.shape[1] - remembered :] = places < torch.tensor(kept, device=self.mask.device)[:, None]

    def keep(self, rows: Tensor) -> None:
        """Replace row i by row `rows[i]`."""
        assert self.mask is not None
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)


def _sums(log_probabilities: Tensor, answers: Sequence[list[int]]) -> list[float]:
    """The log-probability of one answer for each row; 0 for an empty answer.

    Args:
        log_probabilities: at each token of the answers, (rows, at least the tokens of the longest answer, vocabulary).
        answers: the tokens of each.
    """
    sums = []
    for each, answer in zip(log_probabilities, answers, strict=True):
        tokens = torch.tensor(answer, dtype=torch.int64, device=each.device)
        sums.append(float(each[: len(answer)].gather(1, tokens[:, None]).double().sum()))
    return sums


def _decode(
    state: _State, log_probabilities: Tensor, drafts: Sequence[list[int]], stops: Stops, longest: int
) -> list[tuple[list[int], float]]:
    """Decode greedily; returns the tokens of each row, and their log-probability.

    As long as the tokens of a draft are the most likely ones, they are taken over without another forward pass.

    Args:
        state: after the prompts, and the drafts if the cache is ours.
        log_probabilities: at each token of the drafts, (rows, tokens, vocabulary).
        drafts: tokens that may follow, for each row.
        stops: determines where an answer ends.
        longest: the maximum number of tokens of an answer.
    """

    def over(tokens: list[int]) -> bool:
        return stops.ends(tokens[-1]) or len(tokens) == longest

    device, remembered = log_probabilities.device, log_probabilities.shape[1] - 1 if state.ours else 0
    best = log_probabilities[:, : 1 + remembered].max(-1)
    written, total = [], []
    for draft, tokens, values in zip(drafts, best.indices.tolist(), best.values.tolist(), strict=True):
        known = 1
        while known <= remembered and tokens[:known] == draft[:known] and not over(tokens[:known]):
            known += 1
        written.append(tokens[:known])
        total.append(sum(values[:known]))
    state.forget(remembered, [len(tokens) - 1 for tokens in written])
    going = list(range(len(written)))  # the row of `written` for each row of the batch
    while still := [place for place, row in enumerate(going) if not over(written[row])]:
        if len(still) < len(going):
            still = compacted(still)
            state.keep(torch.tensor(still, device=device))
            going = [going[place] for place in still]
        last = torch.tensor([written[row][-1:] for row in going], device=device)
        best = state.read(last)[:, -1].log_softmax(-1).max(-1)
        for row, token, value in zip(going, best.indices.tolist(), best.values.tolist(), strict=True):
            written[row].append(token)
            total[row] += value
    return list(zip(written, total, strict=True))
