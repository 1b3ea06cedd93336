"""Prompts as batches: the loss at the answers' tokens, and the answers that a model writes."""

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
        stops: where an answer ends, and how its tokens become text.
        null_answer: the tokens of "no answer"; None where every question has an answer.
    """

    # Each token that is written reads all weights, so many prompts are answered at once; of most of them only the
    # question is read, since they share their passage with others.
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
        """The cross entropy of the answers' tokens, the end token among them.

        Prompts are padded behind their end, where causal attention does not look, so that no mask is needed.
        """
        chosen = self.prompts[list(rows)]
        tokens = np.zeros((len(rows), padded(max(chosen["length"]))), dtype=np.int64)
        places: list[tuple[int, int]] = []  # row and column of the token before each that is learnt
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
        """The rows of each batch, questions about one passage together; the longest prompts first."""
        order = by_prefix(self.prompts["prompt"][:])
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def predict(
        self, model: Any, rows: Sequence[int], device: torch.device, limits: EvaluationConfig
    ) -> list[Prediction]:
        """What the model writes after some prompts, and how likely it finds their answers."""
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
    """Have the output matrix compute the logits at some places alone, (places, vocabulary).

    With a small model it is a quarter of all arithmetic, and most of the memory, if it computes all of them.

    Args:
        model: a decoder, or what peft and DDP have put around one.
        places: row and column of each, shape (places, 2).
    """

    def choose(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][places[:, 0], places[:, 1]],)

    hook = unwrapped(model).get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()
