"""Windows: every character of a passage is in one, gold spans are exact, and nothing is tokenised twice."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from src.config import ModelConfig, UserError
from src.data import features, sample
from src.data.features import Batches, batch_order, make_windows
from src.data.sources import to_dataset

MODEL = ModelConfig(name="m", path="x", max_length=48, doc_stride=16)
WORDS = [
    "plain",
    "naïve",
    "e\u0301tude",
    "👩‍🔬",
    "שלום",
    "Ünïcode",
    "1990s",
    "\r\n",
    "(brackets)",
    "東京",
    "—",
    "it's",
    "\t",
]


def record(id, context, question="What?", answer=None):
    answers = {"text": [answer[0]], "answer_start": [answer[1]]} if answer else {"text": [], "answer_start": []}
    return {"id": id, "title": "", "context": context, "question": question, "answers": answers}


def windows_of(records, tokenizer, model=MODEL):
    return make_windows(to_dataset(records), tokenizer, model, "first")


def test_windows_cover_every_character_and_hold_the_gold_span(minilm_tokenizer):
    generator = random.Random(0)
    records = []
    for i in range(60):
        context = " ".join(generator.choice(WORDS) for _ in range(generator.randint(3, 120)))
        words = [w for w in context.split(" ") if w.strip()]
        answer = generator.choice(words)
        records.append(record(str(i), context, answer=(answer, context.index(answer))))
    windows, _ = windows_of(records, minilm_tokenizer)
    assert len(windows) > len(records)
    spans, covered = {}, {i: set() for i in range(len(records))}
    for window in windows:
        row = int(window["question"])
        text, start = records[row]["answers"]["text"][0], records[row]["answers"]["answer_start"][0]
        for first, last in zip(window["char_start"], window["char_end"], strict=True):
            covered[row].update(range(first, last))
        assert window["length"] == len(window["input_ids"]) <= MODEL.max_length
        assert window["labelled"]
        if window["end"]:
            offset = int(window["context_start"])
            first, last = window["char_start"][window["start"] - offset], window["char_end"][window["end"] - offset]
            spans.setdefault(row, set()).add((first <= start, last >= start + len(text), last - first))
    for i, item in enumerate(records):
        # What no token stands for is space and the characters that BERT's cleaning takes away.
        missing = {c for at, c in enumerate(item["context"]) if at not in covered[i]}
        assert all(c.isspace() or c in "\u200d\u0301" for c in missing), missing
        assert spans[i], "the gold span is in no window"
        assert all(before and after for before, after, _ in spans[i])


def test_gold_spans_are_the_answer_itself_on_the_sample(minilm_tokenizer):
    records = sample.generate(200, 0, "train")
    windows, _ = windows_of(records, minilm_tokenizer, ModelConfig(name="m", path="x", max_length=384, doc_stride=128))
    assert len(windows) == 200
    for window in windows:
        item = records[int(window["question"])]
        offset = int(window["context_start"])
        first, last = window["char_start"][window["start"] - offset], window["char_end"][window["end"] - offset]
        assert item["context"][first:last] == item["answers"]["text"][0]


def test_neighbouring_windows_share_doc_stride_tokens(minilm_tokenizer):
    windows, _ = windows_of([record("1", " ".join(f"w{i}" for i in range(100)))], minilm_tokenizer)
    one, two = windows[0], windows[1]
    assert list(one["char_start"][-MODEL.doc_stride :]) == list(two["char_start"][: MODEL.doc_stride])


def test_an_answer_outside_the_window_is_labelled_cls(minilm_tokenizer):
    context = "answer " + " ".join("word" for _ in range(150))
    windows, _ = windows_of([record("1", context, answer=("answer", 0))], minilm_tokenizer)
    assert windows[0]["start"] == windows[0]["end"] == windows[0]["context_start"]
    assert all((w["start"], w["end"]) == (0, 0) for w in list(windows)[1:])


def test_answers_without_a_place_are_not_labelled(minilm_tokenizer):
    windows, _ = windows_of(
        [record("1", "some words", answer=("gone", -1)), record("2", "more words")], minilm_tokenizer
    )
    assert windows["labelled"][:].tolist() == [False, True]


def test_one_very_long_word_is_still_a_window(minilm_tokenizer):
    windows, _ = windows_of([record("1", "x" * 10_000, answer=("x" * 10_000, 0))], minilm_tokenizer)
    assert (int(windows[0]["char_start"][0]), int(windows[0]["char_end"][-1])) == (0, 10_000)
    assert windows[0]["start"] == windows[0]["end"] == windows[0]["context_start"]


@pytest.mark.parametrize(("answer", "start"), [(" Paris", 12), ("Paris ", 13), (" Paris ", 12), ("now.\n", 19)])
def test_spaces_around_an_answer_are_not_part_of_the_label(minilm_tokenizer, answer, start):
    context = "Ada lives in Paris now.\n"
    assert context[start : start + len(answer)] == answer
    windows, notes = windows_of([record("1", context, answer=(answer, start))], minilm_tokenizer)
    offset = int(windows[0]["context_start"])
    first, last = (
        windows[0]["char_start"][windows[0]["start"] - offset],
        windows[0]["char_end"][windows[0]["end"] - offset],
    )
    assert context[first:last] == answer.strip()
    assert notes == []


def test_characters_of_several_tokens_are_labelled_whole():
    """Byte-level tokenizers, as RoBERTa's, give each byte of a rare character a token of its own."""
    backend = Tokenizer(BPE({character: i for i, character in enumerate(sorted(ByteLevel.alphabet()))}, []))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    windows, _ = windows_of(
        [record("1", "a 火 b", answer=("火", 2))], PreTrainedTokenizerFast(tokenizer_object=backend)
    )
    offset = int(windows[0]["context_start"])
    assert (windows[0]["start"] - offset, windows[0]["end"] - offset) == (2, 4)  # "a", " ", and three bytes
    assert windows[0]["exact"]


def test_answers_inside_a_token_are_said(minilm_tokenizer):
    records = [record("1", "x" * 10_000, answer=("x" * 9, 0)), record("2", "in the 1990s", answer=("1990", 7))]
    windows, notes = windows_of([*records, record("3", "a b", answer=("b", 2))], minilm_tokenizer)
    assert windows["exact"][:].tolist() == [False, False, True]
    assert notes == ["2 of 3 answers begin or end inside a token; the smallest span around them is the label."]


def test_long_questions_are_cut_and_said(minilm_tokenizer):
    long = " ".join(f"why{i}" for i in range(200))
    windows, notes = windows_of([record("7", "a b c " * 60, question=long), record("8", "short")], minilm_tokenizer)
    assert "1 questions (the first has id 7)" in notes[0]
    assert max(windows["length"]) <= MODEL.max_length
    last = max(int(w["char_end"][-1]) for w in windows if w["question"] == 0)
    assert last == len(("a b c " * 60).rstrip())


def test_slow_tokenizers_are_refused():
    with pytest.raises(UserError, match=r"slow one \(ByT5Tokenizer\).*tokenizer.json"):
        windows_of([record("1", "context")], ByT5Tokenizer())


def test_the_second_time_nothing_is_tokenised(minilm_tokenizer, monkeypatch):
    records = sample.generate(30, 123, "train")
    first, _ = windows_of(records, minilm_tokenizer)
    monkeypatch.setattr(features, "_tokenize", lambda *args, **kwargs: pytest.fail("tokenised again"))
    again, _ = windows_of(records, minilm_tokenizer)
    assert [w.tolist() for w in again["input_ids"]] == [w.tolist() for w in first["input_ids"]]
    for changed in (ModelConfig(name="m", path="x", max_length=47, doc_stride=16), MODEL):
        with pytest.raises(BaseException, match="tokenised again"):
            windows_of(records if changed is not MODEL else records[:-1], minilm_tokenizer, changed)


def test_batches_hold_every_window_once_and_differ_between_epochs_and_seeds():
    sizes = np.random.default_rng(0).integers(20, 384, 1003)
    orders = {(s, e): batch_order(sizes, 16, seed=s, epoch=e) for s in (0, 1) for e in (1, 2)}
    for order in orders.values():
        assert sorted(row for rows in order for row in rows) == list(range(1003))
        assert [len(rows) for rows in order].count(16) == 62
    assert batch_order(sizes, 16, 0, 1) == orders[0, 1]
    assert len({str(order) for order in orders.values()}) == 4


def test_batches_are_of_like_length_in_random_order():
    sizes = np.random.default_rng(0).integers(20, 384, 4000)
    order = batch_order(sizes, 16, 0, 1)
    longest = np.array([sizes[rows].max() for rows in order])
    padding = 1 - sizes.sum() / sum(len(rows) * sizes[rows].max() for rows in order)
    assert padding < 0.05
    assert abs(np.corrcoef(longest, np.arange(len(order)))[0, 1]) < 0.2


def test_collated_batches_are_padded_to_a_multiple_and_no_further_than_max_length(minilm_tokenizer):
    records = [record("1", "word " * 20), record("2", "word " * 200)]
    model = ModelConfig(name="m", path="x", max_length=100, doc_stride=16)
    windows, _ = windows_of(records, minilm_tokenizer, model)
    batches = Batches(windows, minilm_tokenizer.pad_token_id, 100)
    short = batches.collate([0])
    assert short["input_ids"].shape == (1, 32)
    assert short["attention_mask"].sum() == batches.lengths[0]
    assert (short["input_ids"][0, batches.lengths[0] :] == minilm_tokenizer.pad_token_id).all()
    both = batches.collate([0, 1])
    assert both["input_ids"].shape == (2, 100)
    assert both["token_type_ids"][1, -1] == 1
    assert both["token_type_ids"][0, batches.lengths[0] :].sum() == 0


def test_evaluation_batches_go_from_long_to_short(minilm_tokenizer):
    windows, _ = windows_of([record(str(i), "word " * (i + 1)) for i in range(9)], minilm_tokenizer)
    batches = Batches(windows, 0, MODEL.max_length)
    order = [row for rows in batches.evaluation(4) for row in rows]
    assert sorted(order) == list(range(9))
    assert batches.lengths[order].tolist() == sorted(batches.lengths.tolist(), reverse=True)
