"""Batches of prompts: the loss at the answers' tokens, and the answers that a model generates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from src.config import EvaluationConfig
from src.tasks.base import Answer, Batches, Questions, padded, unwrapped
from src.tasks.generative.answers import answer_questions
from src.tasks.generative.cache import by_prefix
from src.tasks.generative.decode import Prediction, Stops, write_answers


class PromptBatches(Batches):
    """The prompts of one data set.

    Args:
        prompts: in PROMPT_SCHEMA, numpy format.
        stops: determines where an answer ends, and decodes its tokens.
        null_answer: the tokens of "no answer"; None if every question has an answer.
    """

    # Each generated token reads all weights, so many prompts are answered at the same time. Of most of them only the
    # question is read, since they share their passage with other prompts.
    more_in_prediction = 12

    def __init__(self, prompts: Any, stops: Stops, null_answer: list[int] | None) -> None:
        self.prompts = prompts
        self.stops = stops
        self.null_answer = null_answer
        self.lengths = np.asarray(prompts["length"][:])
        self.terms = np.array([len(answer) for answer in prompts["answer"][:]], dtype=self.lengths.dtype)
        self.questions = np.asarray(prompts["question"][:])

    @property
    def highest_token(self) -> int:
        from src.tasks.examples import highest_token  # needs datasets, which training does not

        return highest_token(self.prompts, "prompt", "answer")

    def loss(self, model: Any, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """The cross entropy of the answers' tokens, including the end token.

        Prompts are padded on the right, which causal attention never sees, so no mask is needed.
        """
        chosen = self.prompts[list(rows)]
        tokens = np.zeros((len(rows), padded(max(chosen["length"]))), dtype=np.int64)
        places: list[tuple[int, int]] = []  # row and column of the token before each target
        for i, (prompt, answer) in enumerate(zip(chosen["prompt"], chosen["answer"], strict=True)):
            tokens[i, : len(prompt)] = prompt
            tokens[i, len(prompt) : len(prompt) + len(answer)] = answer
            places += [(i, len(prompt) - 1 + j) for j in range(len(answer))]
        at = torch.tensor(places, device=device)
        learnt = torch.from_numpy(np.concatenate(chosen["answer"]).astype(np.int64)).to(device)
        with logits_at(model, at):
            logits = model(input_ids=torch.from_numpy(tokens).to(device), use_cache=False).logits
        return cross_entropy(logits.float(), learnt, reduction="sum")

    def evaluation(self, batch_size: int) -> list[list[int]]:
        """The rows of each batch, with questions about one passage together; the longest prompts come first."""
        order = by_prefix(self.prompts["prompt"][:])
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def predict(
        self, model: Any, rows: Sequence[int], device: torch.device, limits: EvaluationConfig
    ) -> list[Prediction]:
        """Generate answers to some prompts, and compute the likelihood of the labelled answers."""
        chosen = self.prompts[list(rows)]
        prompts = [prompt.tolist() for prompt in chosen["prompt"]]
        answers = [answer.tolist() for answer in chosen["answer"]]
        return write_answers(model, prompts, answers, self.null_answer, self.stops, device, limits.max_answer_length)

    def answers(
        self,
        questions: Questions,
        predictions: Sequence[Prediction],
        limits: EvaluationConfig,
        may_be_unanswerable: bool,
    ) -> list[Answer]:
        return answer_questions(questions, self.questions, predictions, limits, may_be_unanswerable)

    def mean_loss(self, predictions: Sequence[Prediction]) -> float | None:
        terms = int(self.terms.sum())
        return -sum(prediction.gold for prediction in predictions) / terms if terms else None

    def select(self, rows: np.ndarray, questions: np.ndarray) -> PromptBatches:
        from src.tasks.examples import chosen  # needs datasets, which training does not

        return PromptBatches(chosen(self.prompts, rows, questions), self.stops, self.null_answer)


@contextmanager
def logits_at(model: Any, places: torch.Tensor) -> Iterator[None]:
    """Make the output matrix compute only the logits at some positions, (places, vocabulary).

    With a small model, computing all logits takes a quarter of all arithmetic and most of the memory.

    Args:
        model: a decoder, possibly wrapped by peft and DDP.
        places: row and column of each position, shape (places, 2).
    """

    def choose(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][places[:, 0], places[:, 1]],)

    hook = unwrapped(model).get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()
