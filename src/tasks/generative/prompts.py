"""Turns questions into prompts, which contain passage and question and which the model continues with the answer.

A passage that is too long for one prompt is cut into windows that overlap by `doc_stride` tokens, each with its own
prompt. All windows leave the same room for an answer, so that their length does not reveal the length of the answer.
Prompts are made once: they are cached by the content of everything that they depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from src.config import Config, UserError
from src.data.answers import training_answer
from src.data.notes import listed
from src.data.shorten import shorten_questions
from src.tasks.examples import content_key, need_fast, tokenised
from src.tasks.generative.answers import NO_ANSWER

PROMPT_SCHEMA = Features(
    {
        "question": Value("int32"),  # row of the question in its data set
        "length": Value("int32"),  # tokens of prompt and answer
        "prompt": List(Value("int32")),
        "answer": List(Value("int32")),  # with the end token; empty if there is no label
    }
)
CACHE_VERSION = 1  # part of the cache key; increase it when a change below results in different prompts
CHAT = "chat"  # as `model.prompt`: the tokenizer's chat template, with CHAT_MESSAGE as the user's message
CHAT_MESSAGE = "{context}\n\nQuestion: {question}\nAnswer with words of the passage alone."


@dataclass(frozen=True)
class Writer:
    """Writes prompts and answers as tokens.

    Args:
        tokenizer: a fast one.
        config: of the run.

    Raises:
        UserError: the tokenizer has no end token, or lacks the chat template that is requested.
    """

    tokenizer: Any
    config: Config

    def __post_init__(self) -> None:
        model = self.config.model
        name = model.tokenizer or model.path
        need_fast(self.tokenizer, model)
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"The tokenizer of {name} has no end token, so a model would not learn where an answer ends; set "
                "eos_token in its tokenizer_config.json."
            )
        if model.prompt == CHAT and not self.tokenizer.chat_template:
            raise UserError(f"The tokenizer of {name} has no chat template; leave model.prompt=chat out.")

    def text(self, context: str, question: str) -> str:
        """The prompt as text."""
        prompt = self.config.model.prompt
        if prompt != CHAT:
            return prompt.format(context=context, question=question)
        message = {"role": "user", "content": CHAT_MESSAGE.format(context=context, question=question)}
        text: str = self.tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return text

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of prompts, including those that the tokenizer adds before a text."""
        encoded = self.tokenizer(
            list(texts), add_special_tokens=self.config.model.prompt != CHAT, return_attention_mask=False, verbose=False
        )
        end = self.tokenizer.eos_token_id
        # Some tokenizers add an end token to every text, with which the model would consider the prompt finished.
        return [ids[:-1] if ids and ids[-1] == end else ids for ids in encoded["input_ids"]]

    def answer(self, text: str) -> list[int]:
        """The tokens of an answer, followed by the end token."""
        space = "" if self.config.model.prompt == CHAT or self.config.model.prompt[-1:].isspace() else " "
        words = " ".join(text.split())  # a line break ends an answer
        ids: list[int] = self.tokenizer(space + words, add_special_tokens=False)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id]

    @property
    def room(self) -> int:
        """The number of tokens that a prompt may have."""
        return self.config.model.max_length - self.config.evaluation.max_answer_length


def make_prompts(questions: Dataset, writer: Writer) -> tuple[Dataset, list[str]]:
    """Write prompts for questions, or take them from the cache.

    Args:
        questions: in the schema of `src.data.sources`.
        writer: of prompts and answers.

    Returns:
        Prompts in `PROMPT_SCHEMA`, and notes for the user.

    Raises:
        UserError: the window leaves no room for a passage.
    """
    config, tokenizer = writer.config, writer.tokenizer
    model = config.model
    [frame] = writer.prompts([writer.text("", "")])
    # Two more tokens, since concatenated texts may be tokenised differently at the boundaries.
    reserved = len(frame) + config.evaluation.max_answer_length + 2
    if model.max_length - model.doc_stride - reserved < 2:
        raise UserError(
            f"model.max_length={model.max_length} leaves no room for a passage: the prompt alone takes {len(frame)} "
            f"tokens, the answer evaluation.max_answer_length={config.evaluation.max_answer_length} and the overlap of "
            f"windows model.doc_stride={model.doc_stride}."
        )
    questions, notes = shorten_questions(questions, tokenizer, model, reserved)
    sizes = (model.max_length, model.doc_stride, config.evaluation.max_answer_length)
    answering = (model.prompt, tokenizer.chat_template, config.dataset.answer, bool(config.dataset.unanswerable))
    facts = ("prompts", CACHE_VERSION, type(tokenizer).__name__, *sizes, *answering)
    name = f"prompts-{content_key(questions, tokenizer, facts)}"
    prompts, cache_notes = tokenised(questions, _write, {"writer": writer}, PROMPT_SCHEMA, name)
    return prompts, notes + cache_notes + _label_notes(prompts, questions, config)


def labelled_prompts(prompts: Dataset) -> Dataset:
    """The prompts with a label, which can be trained on."""
    labelled = np.flatnonzero([len(answer) > 0 for answer in prompts["answer"][:]])
    return prompts if len(labelled) == len(prompts) else prompts.select(labelled)


def _label_notes(prompts: Dataset, questions: Dataset, config: Config) -> list[str]:
    """A note on answers that do not fit into any window."""
    pairs = zip(prompts["question"][:], prompts["answer"][:], strict=True)
    labelled = {int(row) for row, answer in pairs if len(answer)}
    lost = [
        f"id {questions[row]['id']}"
        for row in range(len(questions))
        if row not in labelled and training_answer(questions[row]["answers"], config.dataset.answer) is not None
    ]
    if not lost:
        return []
    note = (
        f"{len(lost):,} of {len(questions):,} answers do not fit into a window of model.max_length="
        f"{config.model.max_length} tokens with their passage ({listed(lost)}); they are scored but not trained on."
    )
    return [note]


def _write(batch: dict[str, list[Any]], indices: list[int], writer: Writer) -> dict[str, list[Any]]:
    """Convert one batch of questions to prompts, in PROMPT_SCHEMA."""
    columns: dict[str, list[Any]] = {name: [] for name in PROMPT_SCHEMA}
    rows = range(len(indices))
    asked = writer.prompts([writer.text("", question) for question in batch["question"]])
    encoded = writer.tokenizer(batch["context"], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = encoded["offset_mapping"]
    for row in rows:
        context, answers = batch["context"][row], batch["answers"][row]
        gold = training_answer(answers, writer.config.dataset.answer)
        tokens = writer.answer(gold[0] if gold else NO_ANSWER)

        def written(parts: list[tuple[int, int]], row: int = row, context: str = context) -> list[list[int]]:
            return writer.prompts([writer.text(context[a:b], batch["question"][row]) for a, b in parts])

        parts, prompts = _windows(offsets[row], len(context), len(asked[row]), writer, written)
        for (first, end), prompt in zip(parts, prompts, strict=True):
            inside = gold is not None and first <= gold[1] and gold[1] + len(gold[0]) <= end
            unanswerable = bool(writer.config.dataset.unanswerable) and not answers["text"]
            fits = len(prompt) + len(tokens) <= writer.config.model.max_length
            label = tokens if fits and (inside or unanswerable) else []
            columns["question"].append(indices[row])
            columns["length"].append(len(prompt) + len(label))
            columns["prompt"].append(prompt)
            columns["answer"].append(label)
    return columns


def _windows(
    offsets: list[tuple[int, int]],
    characters: int,
    asked: int,
    writer: Writer,
    written: Callable[[list[tuple[int, int]]], list[list[int]]],
) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """The windows of a passage, as start and end characters, and their prompts.

    Args:
        offsets: the characters of each token of the passage.
        characters: the number of characters of the passage.
        asked: the number of tokens of the prompt without a passage.
        writer: of prompts.
        written: makes the prompts of some windows.
    """
    stride, room = writer.config.model.doc_stride, writer.room - asked
    parts = [(0, characters)]
    while True:
        prompts = written(parts)
        over = max(len(prompt) for prompt in prompts) - writer.room
        if over <= 0:
            return parts, prompts
        if len(parts) > 1:  # a part may have more tokens than it had within the whole passage
            room -= over
        step = max(1, room - stride)
        starts = range(0, max(1, len(offsets) - stride), step)
        parts = [(offsets[a][0], offsets[min(a + max(room, 1), len(offsets)) - 1][1]) for a in starts]
