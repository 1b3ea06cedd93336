"""Logits to answers to metrics: checked against brute force, torchmetrics and SQuAD's published rules."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torchmetrics.functional.text import squad as torchmetrics_squad

from src.config import EvaluationConfig, UserError
from src.data import sample
from src.evaluation.score import score
from src.evaluation.squad_metric import SquadMetric, exact_match, f1, normalize
from src.tasks.base import Answer, Span
from src.tasks.extractive.spans import answer_questions, mean_loss

CONFIG = EvaluationConfig()


def windows(*rows):
    """Windows as columns, of (question, context_start, [(first, last character), ...])."""
    return {
        "question": np.array([row[0] for row in rows]),
        "context_start": np.array([row[1] for row in rows]),
        "char_start": [np.array([first for first, _ in row[2]]) for row in rows],
        "char_end": [np.array([last for _, last in row[2]]) for row in rows],
    }


def words(text):
    spans, at = [], 0
    for word in text.split(" "):
        spans.append((at, at + len(word)))
        at += len(word) + 1
    return spans


def test_an_answer_is_no_longer_than_its_window():
    text = " ".join(f"w{i}" for i in range(20))
    made, question = windows((0, 0, words(text))), {"id": "1", "context": text}
    start, end = np.random.default_rng(1).normal(size=(2, 20))
    limits = [EvaluationConfig(max_answer_length=longest, n_best=300) for longest in (20, 10**11)]
    whole, more = (answer_questions([question], made, [start], [end], limit, False) for limit in limits)
    assert len(whole[0].n_best) == 20 * 21 / 2
    assert more == whole


def test_best_spans_are_those_of_brute_force():
    generator = np.random.default_rng(0)
    config = EvaluationConfig(max_answer_length=7, n_best=12)
    for tokens in (1, 2, 6, 40):
        text = " ".join(f"w{i}" for i in range(tokens))
        start, end = generator.normal(size=tokens + 4), generator.normal(size=tokens + 4)
        made = windows((0, 3, words(text)))
        [answer] = answer_questions([{"id": "1", "context": text}], made, [start], [end], config, False)
        spans = words(text)
        expected = sorted(
            (
                (start[3 + i] + end[3 + j], spans[i][0], spans[j][1])
                for i in range(tokens)
                for j in range(i, min(i + 7, tokens))
            ),
            reverse=True,
        )[:12]
        assert [(s.start, s.end) for s in answer.n_best] == [(first, last) for _, first, last in expected]
        assert [s.score for s in answer.n_best] == pytest.approx([score for score, *_ in expected])
        assert answer.best.text == text[expected[0][1] : expected[0][2]]
        assert sum(s.probability for s in answer.n_best) == pytest.approx(1.0)


@pytest.mark.parametrize("n_best", [1, 2, 3, 12])
def test_the_n_best_are_all_there_whatever_their_number(n_best):
    """Words of one letter: the first of them too is more than white space."""
    text = " ".join("abcdefghij" * 4)
    spans = words(text)
    for seed in range(10):
        start, end = np.random.default_rng(seed).normal(size=(2, 40))
        config = EvaluationConfig(n_best=n_best)
        [answer] = answer_questions(
            [{"id": "1", "context": text}], windows((0, 0, spans)), [start], [end], config, False
        )
        pairs = sorted(((start[i] + end[j], i, j) for i in range(40) for j in range(i, min(i + 30, 40))), reverse=True)
        assert [(s.start, s.end) for s in answer.n_best] == [(spans[i][0], spans[j][1]) for _, i, j in pairs[:n_best]]


def test_large_logits_overflow_nowhere():
    text = "a b"
    start, end = np.array([400.0, 0.0]), np.array([400.0, 0.0])
    made = windows((0, 0, words(text)))
    [answer] = answer_questions([{"id": "1", "context": text}], made, [start], [end], CONFIG, False)
    assert [s.score for s in answer.n_best] == [800.0, 400.0, 0.0]
    assert [s.probability for s in answer.n_best] == pytest.approx([1.0, 0.0, 0.0], abs=1e-99)
    labelled = {"start": np.array([1]), "end": np.array([0]), "labelled": np.array([True])}
    assert mean_loss(labelled, [np.array([900.0, 0.0])], [np.array([900.0, 0.0])]) == 450.0


def test_no_answer_must_be_better_than_the_threshold_says():
    made, logits = windows((0, 1, [(0, 3)])), np.array([1.0, 1.0])
    for threshold, text in ((0.0, "Ada"), (0.1, "Ada"), (-0.1, "")):
        config = EvaluationConfig(null_threshold=threshold)
        [answer] = answer_questions([{"id": "1", "context": "Ada"}], made, [logits], [logits], config, True)
        assert answer.best.text == text and answer.null_score == 2.0


def test_question_and_special_tokens_are_no_answer():
    text = "one two"
    logits = np.array([99.0, 99.0, 99.0, 1.0, 2.0, 99.0])
    [answer] = answer_questions(
        [{"id": "1", "context": text}], windows((0, 3, words(text))), [logits], [logits], CONFIG, False
    )
    assert answer.best.text == "two"


def test_windows_of_a_question_compete_and_the_same_place_counts_once():
    text = "one two three four"
    spans = words(text)
    made = windows((0, 1, spans[:3]), (0, 1, spans[2:]), (1, 1, spans[:3]))
    low, high = np.array([0.0, 0, 0, 3, 0]), np.array([0.0, 5, 0, 0])
    questions = [{"id": "1", "context": text}, {"id": "2", "context": text}]
    one, two = answer_questions(questions, made, [low, high, low], [low, high, low], CONFIG, False)
    assert (one.best.text, one.best.score) == ("three", 10.0)
    assert [span.text for span in one.n_best].count("three") == 1
    assert (two.best.text, two.best.score) == ("three", 6.0)


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, ""), (1.9, ""), (2.1, "two")])
def test_no_answer_wins_by_more_than_the_threshold(threshold, expected):
    text = "one two"
    logits = np.array([3.0, 0.0, 0.0, 2.0])  # null 6, best span 4
    config = EvaluationConfig(null_threshold=threshold)
    made = windows((0, 2, words(text)))
    [answer] = answer_questions([{"id": "1", "context": text}], made, [logits], [logits], config, True)
    assert (answer.best.text, answer.null_score) == (expected, 6.0)
    assert {span.text for span in answer.n_best} >= {"", "two"}
    [forced] = answer_questions([{"id": "1", "context": text}], made, [logits], [logits], config, False)
    assert forced.best.text == "two"


def test_the_null_score_is_the_lowest_over_windows():
    made = windows((0, 1, words("a b")), (0, 1, words("a b")))
    logits = [np.array([4.0, 0, 0]), np.array([-1.0, 0, 1])]
    [answer] = answer_questions([{"id": "1", "context": "a b"}], made, logits, logits, CONFIG, True)
    assert answer.null_score == -2.0
    assert answer.best.text == "b"


def test_spaces_that_belong_to_a_token_are_not_part_of_the_answer():
    text = "one two three"
    made = windows((0, 1, [(0, 3), (3, 7), (7, 13)]))  # as SentencePiece counts
    logits = np.array([0.0, 0, 5, 0])
    [answer] = answer_questions([{"id": "1", "context": text}], made, [logits], [logits], CONFIG, False)
    assert (answer.best.text, answer.best.start, answer.best.end) == ("two", 4, 7)


def test_white_space_alone_is_no_answer():
    """Byte-level tokenizers give line breaks tokens of their own; all of the best spans may be such."""
    text = "one \n\t\n two"
    tokens = [(0, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 11)]
    starts, ends = (np.array([0.0, 1, 9, 8, 8, 9, 8, 2]) for _ in range(2))
    config = EvaluationConfig(n_best=3, max_answer_length=3)
    question = {"id": "1", "context": text}
    [answer] = answer_questions([question], windows((0, 1, tokens)), [starts], [ends], config, False)
    assert [(s.text, s.start, s.end, s.score) for s in answer.n_best] == [
        ("two", 8, 11, 11.0),  # from the line break on
        ("two", 8, 11, 10.0),
        ("one", 0, 3, 10.0),
    ]
    for span in answer.n_best:
        assert 0 <= span.start <= span.end
        assert span.text == text[span.start : span.end]


def test_a_passage_without_a_visible_token_has_no_answer():
    question = {"id": "1", "context": "a \n \x00"}
    made = windows((0, 1, [(1, 2), (2, 3), (3, 4), (4, 4)]))
    logits = np.array([0.0, 5, 5, 5, 5])
    [answer] = answer_questions([question], made, [logits], [logits], CONFIG, False)
    assert (answer.best.text, answer.best.start, len(answer.n_best)) == ("", -1, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.float32(3e38)])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.filterwarnings("ignore:overflow")
def test_logits_that_are_not_numbers_are_refused(bad, which):
    text = "one two"
    logits = [np.zeros(3, dtype=np.float32) for _ in range(2)]
    logits[which][2] = bad
    logits[1 - which][1] = 3e38 if bad == np.float32(3e38) else 0
    made = windows((0, 1, words(text)))
    with pytest.raises(UserError, match=r"question with id q1 are not finite numbers.*Lower train.learning_rate"):
        answer_questions([{"id": "q1", "context": text}], made, [logits[0]], [logits[1]], CONFIG, True)


def test_mean_loss_is_torchs_cross_entropy_over_labelled_windows():
    generator = np.random.default_rng(0)
    starts, ends = ([generator.normal(size=9).astype(np.float32) for _ in range(4)] for _ in range(2))
    made = {
        "start": np.array([1, 2, 0, 3]),
        "end": np.array([4, 2, 0, 8]),
        "labelled": np.array([True, True, False, True]),
    }
    expected = np.mean(
        [
            torch.nn.functional.cross_entropy(torch.tensor(np.stack([starts[i], ends[i]])), torch.tensor([s, e])).item()
            for i, (s, e) in enumerate(zip(made["start"], made["end"], strict=True))
            if made["labelled"][i]
        ]
    )
    assert mean_loss(made, starts, ends) == pytest.approx(expected, rel=1e-5)


# Exact match and F1


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "overlap"),
    [
        ("the Cat", ["cat"], 1, 1),
        ("The U.S.A.", ["usa"], 1, 1),
        ("an  apple\ta day", ["apple day"], 1, 1),
        ("theatre", ["atre"], 0, 0),  # an article is a word of its own
        ("Beyoncé", ["beyonce"], 0, 0),  # accents count
        ("“quoted”", ["quoted"], 0, 0),  # only ASCII punctuation is dropped
        ("10–12", ["10-12"], 0, 0),
        ("$5.50", ["550"], 1, 1),
        ("red red blue", ["red blue blue"], 0, 2 / 3),  # repeated words count as often as they stand
        ("red", ["blue", "bright red"], 0, 2 / 3),  # the best over the answers
        ("green", ["blue", "red"], 0, 0),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("the", ["a"], 1, 1),  # nothing is left of either
        ("the", ["cat"], 0, 0),
    ],
)
def test_squads_published_rules(prediction, answers, exact, overlap):
    assert exact_match(prediction, answers) == exact
    assert f1(prediction, answers) == pytest.approx(overlap)


def test_normalize():
    assert normalize("  The quick, brown (fox)!  A an the  ") == "quick brown fox"


def test_agrees_with_torchmetrics_on_every_question():
    generator = random.Random(0)
    records = sample.generate(300, 5, "train")
    metric = SquadMetric(keep_in_memory=True)
    for record in records:
        tokens = record["context"].split(" ")
        first = generator.randrange(len(tokens))
        gold = record["answers"]["text"][0]
        prediction = generator.choice(
            [
                gold,
                f"the {gold}",
                gold.upper(),
                " ".join(tokens[first : first + 4]),
                gold.split(" ")[0],
                f"{gold}, {gold}",
            ]
        )
        given = [{"id": record["id"], "prediction_text": prediction}]
        expected = torchmetrics_squad(given, [{"id": record["id"], "answers": record["answers"]}])
        found = metric.compute(predictions=given, references=[{"id": record["id"], "answers": record["answers"]}])
        assert found["exact_match"] == float(expected["exact_match"])
        assert found["f1"] == pytest.approx(float(expected["f1"]), abs=1e-4)


def answered(id, text, start, null_score=-9.0, span_score=1.0):
    best = Span(text, start, start + len(text) if start >= 0 else -1, span_score, 1.0)
    return Answer(id, best, (best,), null_score)


def test_figures_of_a_set():
    questions = [
        {"id": "1", "answers": {"text": ["Rome", "in Rome"], "answer_start": [10, 7]}},
        {"id": "2", "answers": {"text": ["big cat"], "answer_start": [0]}},
        {"id": "3", "answers": {"text": ["gone"], "answer_start": [-1]}},
    ]
    metrics = score(questions, [answered("1", "Rome", 10), answered("2", "cat", 4), answered("3", "gone", 50)])
    assert metrics["exact_match"] == pytest.approx(200 / 3)
    assert metrics["f1"] == pytest.approx(100 * (1 + 2 / 3 + 1) / 3)
    assert metrics["start_accuracy"] == 50.0  # the third has no known place
    assert metrics["end_accuracy"] == 100.0
    assert "no_answer_f1" not in metrics


def test_the_best_null_threshold_is_that_of_brute_force():
    generator = random.Random(1)
    questions, answers = [], []
    for i in range(60):
        has_answer = generator.random() < 0.5
        questions.append(
            {"id": str(i), "answers": {"text": ["yes"] if has_answer else [], "answer_start": [0] * has_answer}}
        )
        null = generator.gauss(-1 if has_answer else 1, 1)
        span = Span(generator.choice(["yes", "no"]), 0, 3, generator.gauss(0, 1), 0.5)
        silence = Span("", -1, -1, null, 0.5)
        best = silence if null > span.score else span
        answers.append(Answer(str(i), best, (span, silence), null))
    metrics = score(questions, answers)

    def f1_at(threshold):
        texts = ["" if a.null_score - a.n_best[0].score > threshold else a.n_best[0].text for a in answers]
        return 100 * np.mean([f1(t, q["answers"]["text"]) for t, q in zip(texts, questions, strict=True)])

    tried = [a.null_score - a.n_best[0].score for a in answers] + [-99.0]
    assert metrics["best_f1"] == pytest.approx(max(f1_at(t) for t in tried))
    assert f1_at(metrics["best_null_threshold"]) == pytest.approx(metrics["best_f1"])
    assert metrics["f1"] == pytest.approx(f1_at(0.0))
    silent = [q for q in questions if not q["answers"]["text"]]
    share = len(silent) / len(questions)
    assert share * metrics["no_answer_f1"] + (1 - share) * metrics["has_answer_f1"] == pytest.approx(metrics["f1"])
