"""Windows: every character of a passage is in one, gold spans are exact, and nothing is tokenised twice."""

from __future__ import annotations

import os
import random
import time
from copy import deepcopy
from pathlib import Path

import datasets
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFKC
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from src.config import ModelConfig, UserError
from src.data import sample
from src.data.cache import cached
from src.data.shorten import shorten_questions
from src.data.sources import to_dataset
from src.tasks.base import batch_order
from src.tasks.extractive import windows as windows_module
from src.tasks.extractive.batches import SpanBatches
from src.tasks.extractive.windows import labelled_windows, make_windows

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
    assert notes == [
        "2 of 3 answers begin or end inside a token (id 1, id 2); the smallest span around them is the label."
    ]


def test_long_questions_are_cut_and_said(minilm_tokenizer):
    long = " ".join(f"why{i}" for i in range(200))
    windows, notes = windows_of([record("7", "a b c " * 60, question=long), record("8", "short")], minilm_tokenizer)
    assert notes[0].startswith("1 of 2 questions are longer than")
    assert "(id 7); they are cut to 28 tokens" in notes[0]
    assert max(windows["length"]) <= MODEL.max_length
    last = max(int(w["char_end"][-1]) for w in windows if w["question"] == 0)
    assert last == len(("a b c " * 60).rstrip())


@pytest.mark.parametrize("text", ["日本" * 100, "a日" * 100, "\ufdfa" * 30, "\ufdfa" * 6, "日" * 12, "x" * 27 + "日本"])
@pytest.mark.parametrize("normalizer", [None, NFKC()])
def test_a_cut_question_is_not_tokenised_into_more_than_the_limit(text, normalizer):
    """A byte-level tokenizer cuts inside a character, and what is left of the text are other tokens."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=300, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    backend.train_from_iterator(["日本の首都", "本日は晴天なり", "The capital of Japan"], trainer)
    if normalizer is not None:
        backend.normalizer = normalizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    passage = "The capital of Japan is 東京. " * 9
    made = [record("7", passage, question=text), record("8", passage, question="Which?")]
    windows, notes = windows_of(made, tokenizer)
    limit = MODEL.max_length - MODEL.doc_stride - 1
    assert max(windows["context_start"]) <= limit
    for row in (0, 1):
        last = max(int(w["char_end"][-1]) for w in windows if w["question"] == row)
        assert last == len(passage)
    too_long = len(tokenizer(text)["input_ids"]) > limit
    assert bool(notes) == too_long
    kept = shorten_questions(to_dataset(made), tokenizer, MODEL)[0]["question"][:]
    assert kept[1] == "Which?"
    assert text.startswith(kept[0])
    assert len(tokenizer(kept[0])["input_ids"]) <= limit
    assert (kept[0] != text) == too_long
    if too_long:  # no shorter than it must be
        assert len(tokenizer(text[: len(kept[0]) + 1])["input_ids"]) > limit


def test_slow_tokenizers_are_refused():
    with pytest.raises(UserError, match=r"slow one \(ByT5Tokenizer\).*tokenizer.json"):
        windows_of([record("1", "context")], ByT5Tokenizer())


def test_the_second_time_nothing_is_tokenised(minilm_tokenizer, monkeypatch):
    records = sample.generate(30, 123, "train")
    first, _ = windows_of(records, minilm_tokenizer)
    monkeypatch.setattr(windows_module, "_tokenize", lambda *args, **kwargs: pytest.fail("tokenised again"))
    again, _ = windows_of(records, minilm_tokenizer)
    assert [w.tolist() for w in again["input_ids"]] == [w.tolist() for w in first["input_ids"]]
    for changed in (ModelConfig(name="m", path="x", max_length=47, doc_stride=16), MODEL):
        with pytest.raises(BaseException, match="tokenised again"):
            windows_of(records if changed is not MODEL else records[:-1], minilm_tokenizer, changed)


def test_windows_of_models_that_take_other_inputs_are_kept_apart(minilm_tokenizer):
    records = sample.generate(3, 7, "train")
    without = deepcopy(minilm_tokenizer)
    without.model_input_names = ["input_ids", "attention_mask"]
    from_the_left = deepcopy(minilm_tokenizer)
    from_the_left.truncation_side = "left"
    first, *_ = (windows_of(records, tokenizer)[0] for tokenizer in (without, minilm_tokenizer, from_the_left))
    second, third = windows_of(records, minilm_tokenizer)[0], windows_of(records, from_the_left)[0]
    assert [len(types) for types in first["token_type_ids"]] == [0] * len(first)
    assert [len(types) for types in second["token_type_ids"]] == second["length"][:].tolist()
    assert third["char_start"][0][0] != second["char_start"][0][0] == 0


# The cache of windows


@pytest.mark.parametrize("damage", ["empty", "truncated", "batch missing", "one bit", "text"])
def test_a_damaged_cache_is_made_again(minilm_tokenizer, damage):
    records = sample.generate(30, 99, "train")
    first, notes = windows_of(records, minilm_tokenizer)
    file = Path(first.cache_files[0]["filename"])
    whole = file.read_bytes()
    assert notes == []
    file.unlink()  # the windows above have it in memory still
    middle = len(whole) // 2
    file.write_bytes(
        {
            "empty": b"",
            "truncated": whole[:middle],
            "batch missing": whole[: whole.rindex(b"\xff\xff\xff\xff")],
            "one bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "text": b"Dear Sir or Madam " * 999,
        }[damage]
    )
    again, notes = windows_of(records, minilm_tokenizer)
    assert notes == [f"The cached file {file} is damaged; it is made again."]
    assert [w.tolist() for w in again["input_ids"]] == [w.tolist() for w in first["input_ids"]]
    assert again["start"][:].tolist() == first["start"][:].tolist()
    assert windows_of(records, minilm_tokenizer)[1] == []


def test_two_processes_may_make_the_same_cache(tmp_path, monkeypatch):
    """Each under a name of its own; what one has begun, or given up, is never seen by the other."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)

    def write(file, rows):
        datasets.Dataset.from_dict({"row": [-1] * rows}).map(
            lambda batch, at: {"row": at}, batched=True, with_indices=True, cache_file_name=str(file)
        )

    def fail(file):
        file.write_bytes(b"half")
        raise OSError("no room left")

    with pytest.raises(OSError, match="no room"):
        cached("a.arrow", fail)
    assert list((tmp_path / "tuneoff").iterdir()) == []

    def slow(file):
        write(file, 2000)
        inner.append(cached("a.arrow", lambda other: write(other, 2000)))

    inner = []
    outer, notes = cached("a.arrow", slow)
    assert (outer["row"][:], notes) == (list(range(2000)), [])
    assert (inner[0][0]["row"][:], inner[0][1]) == (list(range(2000)), [])
    assert [file.name for file in (tmp_path / "tuneoff").iterdir()] == ["a.arrow"]


def test_what_a_killed_process_has_left_in_the_cache_goes_a_day_later(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    old, young = (tmp_path / "tuneoff" / f"unfinished-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "a.arrow").write_bytes(b"half")
    a_day_ago = time.time() - 25 * 3600
    os.utime(old, (a_day_ago, a_day_ago))
    cached("b.arrow", lambda file: datasets.Dataset.from_dict({"row": [1]}).map(cache_file_name=str(file)))
    assert {path.name for path in (tmp_path / "tuneoff").iterdir()} == {"unfinished-young", "b.arrow"}


# Characters that the tokenizer drops


@pytest.mark.parametrize(
    ("context", "answer", "kept"),
    [
        ("\u200bParis\u200b is old.", "\u200bParis\u200b", "Paris"),
        ("It is Paris\x00", "Paris\x00", "Paris"),
        ("It is \ufeff Paris", "\ufeff Paris", "Paris"),
        ("It is Beyonce\u0301", "Beyonce\u0301", "Beyonce"),
        ("Old \u200bParis\u200b is", "\u200bParis\u200b is", "Paris\u200b is"),
    ],
)
def test_the_label_is_what_the_tokenizer_keeps_of_an_answer(minilm_tokenizer, context, answer, kept):
    item = record("1", context, answer=(answer, context.index(answer)))
    windows, notes = windows_of([item], minilm_tokenizer)
    offset = int(windows[0]["context_start"])
    assert windows[0]["start"] >= offset
    first, last = (
        windows[0]["char_start"][windows[0]["start"] - offset],
        windows[0]["char_end"][windows[0]["end"] - offset],
    )
    assert context[first:last] == kept
    assert (windows[0]["labelled"], windows[0]["exact"], notes) == (True, True, [])


def test_dropped_characters_at_the_end_of_a_window(minilm_tokenizer):
    """Whether they are dropped or in the next window is known from all windows together."""
    words = " ".join(f"w{i}" for i in range(100))
    windows, _ = windows_of([record("1", words)], minilm_tokenizer)
    last = int(windows[0]["char_end"][-1])
    context = f"{words[:last]}\u200b{words[last:]}"
    answer = (context[last - 1 : last + 1], last - 1)
    assert answer[0].endswith("\u200b")
    windows, _ = windows_of([record("1", context, answer=answer)], minilm_tokenizer)
    assert windows[0]["end"] == windows[0]["context_start"] + len(windows[0]["char_end"]) - 1
    assert windows[1]["start"] > 0


def test_an_answer_of_nothing_but_dropped_characters_is_not_labelled(minilm_tokenizer):
    records = [
        record("1", "In\u200b\u200b Rome.", answer=("\u200b\u200b", 2)),
        record("2", "In Rome.", answer=("Rome", 3)),
    ]
    windows, notes = windows_of(records, minilm_tokenizer)
    assert (windows[0]["start"], windows[0]["end"]) == (0, 0)
    assert windows["labelled"][:].tolist() == [False, True]
    assert labelled_windows(windows)["question"][:].tolist() == [1]
    assert notes == [
        "1 of 2 answers consist of characters that the tokenizer drops (id 1); they are scored but not trained on."
    ]


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
    batches = SpanBatches(windows, minilm_tokenizer.pad_token_id, 100)
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
    batches = SpanBatches(windows, 0, MODEL.max_length)
    order = [row for rows in batches.evaluation(4) for row in rows]
    assert sorted(order) == list(range(9))
    assert batches.lengths[order].tolist() == sorted(batches.lengths.tolist(), reverse=True)
