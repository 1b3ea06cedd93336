"""Random passages, questions and logits: windows and prompts cover every character, answers and scores stay in bounds.

The inputs are the same at every run of one version of hypothesis. `python -m benchmarks.torture fuzz` tries others, as
many as TUNEOFF_EXAMPLES says.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import EvaluationConfig, ModelConfig
from src.evaluation.score import score
from src.evaluation.squad_metric import exact_match, f1
from src.model.byte_tokenizer import byte_tokenizer
from src.tasks.base import NO_PLACE
from src.tasks.extractive.spans import answer_questions as choose_spans
from src.tasks.extractive.windows import WINDOW_SCHEMA, _kept, _tokenize
from src.tasks.generative import answers as texts
from src.tasks.generative.decode import Candidate, Prediction
from src.tasks.generative.prompts import Writer, _write
from tests.test_fuzz import MORE, quick

LETTERS = st.characters(exclude_categories=["Cs"])
WORDS = ["Ada", "wrote", "naïve", "e\u0301", "👩\u200d🔬", "שלום", "東京", "\r\n", "\u2028", "—", "1990s", "(x)", "\0"]
PASSAGES = st.text(LETTERS, min_size=1, max_size=120) | st.lists(st.sampled_from(WORDS), min_size=1).map(" ".join)
READ = [name for name in WINDOW_SCHEMA if name not in ("input_ids", "token_type_ids")]
FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


@st.composite
def questions(draw):
    """A question in the schema of `src.data.sources`, whose answer is any part of the passage."""
    context = draw(PASSAGES)
    answers = {"text": [], "answer_start": []}
    if draw(st.booleans()):
        start = draw(st.integers(0, len(context) - 1))
        end = draw(st.integers(start + 1, len(context)))
        answers = {"text": [context[start:end]], "answer_start": [start]}
    return {
        "id": "q",
        "title": "",
        "context": context,
        "question": "Who" + draw(st.text(LETTERS, max_size=20)),
        "answers": answers,
    }


def columns(row):
    return {key: [value] for key, value in row.items()}


@pytest.fixture(scope="module", params=["words", "bytes"])
def tokenizer(request, minilm_tokenizer):
    return minilm_tokenizer if request.param == "words" else byte_tokenizer()


def windows_of(row, tokenizer, stride=16):
    """The windows of a question, in numpy format."""
    asked = len(tokenizer(row["question"], add_special_tokens=False)["input_ids"])
    model = ModelConfig(name="m", path="x", max_length=asked + stride + 24, doc_stride=stride)
    made = _tokenize(columns(row), [0], tokenizer, model, "first")
    assert all(length <= model.max_length for length in made["length"])
    for name in ("char_start", "char_end"):
        made[name] = [np.array(each, dtype=int) for each in made[name]]
    return {name: made[name] if name.startswith("char") else np.array(made[name]) for name in READ}


@settings(quick, max_examples=int(MORE or 30))
@given(row=questions(), at=st.integers(0, 15))
def test_windows_cover_the_passage_and_their_labels_are_the_answer(tokenizer, row, at):
    windows = windows_of(row, tokenizer, at)
    context, answers = row["context"], row["answers"]
    whole = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    pairs = list(zip(windows["char_start"], windows["char_end"], strict=True))
    covered = {place for starts, ends in pairs for place in zip(map(int, starts), map(int, ends), strict=True)}
    assert covered == {tuple(pair) for pair in whole}, "the tokens of the windows are those of the passage"
    labelled = np.flatnonzero(windows["end"] > 0)
    gold = (
        _kept((answers["text"][0], answers["answer_start"][0]), np.array(whole).reshape(-1, 2))
        if answers["text"]
        else None
    )
    assert len(labelled) == 0 or gold is not None
    for w in labelled:
        first, last = (int(windows[side][w] - windows["context_start"][w]) for side in ("start", "end"))
        assert 0 <= first <= last
        start, end = int(pairs[w][0][first]), int(pairs[w][1][last])
        assert start <= gold[0] and gold[1] <= end, "the label holds the whole answer"
        assert not windows["exact"][w] or context[start:end].strip() == context[gold[0] : gold[1]]
    if gold is not None and len(pairs) == 1:
        assert len(labelled) == 1 and windows["labelled"].all()


@settings(quick, max_examples=int(MORE or 30))
@given(row=questions(), data=st.data(), unanswerable=st.booleans())
def test_a_span_is_a_part_of_its_passage_whatever_the_logits(tokenizer, row, data, unanswerable):
    windows = windows_of(row, tokenizer)
    lengths = windows["length"].tolist()
    logits = [st.lists(FINITE, min_size=tokens, max_size=tokens).map(np.float32) for tokens in lengths]
    start, end = data.draw(st.tuples(*logits)), data.draw(st.tuples(*logits))
    limits = EvaluationConfig(max_answer_length=data.draw(st.integers(1, 40)), n_best=data.draw(st.integers(1, 8)))
    [answer] = choose_spans([row], windows, start, end, limits, unanswerable)
    for span in answer.n_best:
        if span.start == NO_PLACE:
            assert span.text == ""
        else:
            assert span.text == row["context"][span.start : span.end] == span.text.strip() != ""
        assert math.isfinite(span.score) and 0 <= span.probability <= 1
    assert sum(span.probability for span in answer.n_best) == pytest.approx(1)
    scores = [span.score for span in answer.n_best]
    assert scores == sorted(scores, reverse=True) and len(scores) <= limits.n_best + 1
    assert answer.best in answer.n_best
    metrics = score([row], [answer])
    assert all(0 <= value <= 100 for key, value in metrics.items() if "threshold" not in key)


@settings(quick, max_examples=int(MORE or 60))
@given(
    prediction=st.text(LETTERS, max_size=40) | PASSAGES,
    gold=st.lists(st.text(LETTERS, max_size=40) | PASSAGES, max_size=3),
)
def test_scores_lie_between_0_and_1_and_exact_match_implies_f1(prediction, gold):
    exact, overlap = exact_match(prediction, gold), f1(prediction, gold)
    assert exact in (0.0, 1.0) and exact <= overlap <= 1.0
    assert exact_match(prediction, [*gold, prediction]) == f1(prediction, [*gold, prediction]) == 1.0
    assert f1(prediction, gold) == pytest.approx(max(f1(each, [prediction]) for each in gold or [""])), "symmetric"


@pytest.fixture(scope="module")
def config(configure):
    return configure("model=tiny_llm")


@settings(quick, max_examples=int(MORE or 30))
@given(row=questions(), data=st.data())
def test_prompts_fit_and_cover_the_passage(config, row, data):
    tokenizer = byte_tokenizer()
    room, stride, longest = (data.draw(st.integers(*ends)) for ends in ((12, 150), (0, 8), (1, 30)))
    evaluation = replace(config.evaluation, max_answer_length=longest)
    dataset = replace(config.dataset, unanswerable=data.draw(st.booleans()))
    frame = len(config.model.prompt.format(context="", question=row["question"]).encode())
    model = replace(config.model, max_length=frame + longest + stride + room, doc_stride=stride)
    writer = Writer(tokenizer, replace(config, model=model, evaluation=evaluation, dataset=dataset))
    made = _write(columns(row), [0], writer)
    seen = "".join(tokenizer.decode(prompt) for prompt in made["prompt"])
    for prompt, answer, length in zip(made["prompt"], made["answer"], made["length"], strict=True):
        assert len(prompt) <= writer.room and length == len(prompt) + len(answer) <= model.max_length
        if answer:
            label = row["answers"]["text"][0] if row["answers"]["text"] else texts.NO_ANSWER
            assert tokenizer.decode(answer[:-1]).strip() == " ".join(label.split())
    assert all(character in seen for character in row["context"] if ord(character) < 128)
    if len(made["prompt"]) == 1:
        assert row["context"] in seen


CANDIDATES = st.builds(
    lambda text, score, tokens: Candidate(text, score * tokens, tokens),
    st.sampled_from(["Ada", "Unanswerable.", "unanswerable", "", "London"]) | st.text(LETTERS, max_size=20),
    st.floats(-50, 0),
    st.integers(1, 30),
)


@settings(quick, max_examples=int(MORE or 60))
@given(
    predictions=st.lists(st.tuples(CANDIDATES, st.none() | CANDIDATES), min_size=1, max_size=5),
    unanswerable=st.booleans(),
    n_best=st.integers(1, 5),
)
def test_the_answer_is_one_of_the_texts_that_were_written(predictions, unanswerable, n_best):
    made = [Prediction(written, null, 0.0) for written, null in predictions]
    rows, limits = np.zeros(len(made), dtype=int), EvaluationConfig(n_best=n_best)
    [answer] = texts.answer_questions([{"id": "q"}], rows, made, limits, unanswerable)
    assert answer.best in answer.n_best
    written = {each.text for each, _ in predictions} | {null.text for _, null in predictions if null} | {""}
    assert {span.text for span in answer.n_best} <= written
    assert all(0 <= span.probability <= 1 and (span.start, span.end) == (NO_PLACE, NO_PLACE) for span in answer.n_best)
