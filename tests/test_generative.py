"""Decoders: prompts and their windows, the loss of answers, batched decoding, and which answer is chosen."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, LlamaConfig, MistralConfig, MistralForCausalLM

from src.config import EvaluationConfig, HardwareConfig, TrainConfig, UserError
from src.data import sample
from src.data.sources import to_dataset
from src.evaluation.score import score
from src.model import backbone, method
from src.problems import problems
from src.tasks import task_of
from src.tasks.base import NO_PLACE
from src.tasks.generative.answers import NO_ANSWER, answer_questions
from src.tasks.generative.batches import PromptBatches
from src.tasks.generative.cache import by_prefix, compacted, make_cache, shared_prefixes
from src.tasks.generative.decode import Candidate, Prediction, Stops, write_answers
from src.tasks.generative.prompts import Writer, make_prompts
from src.training import hardware
from src.training.predict import predict
from src.training.step import make_optimizer, optimizer_step
from tests.conftest import SIZES

CPU = torch.device("cpu")
LIMITS = EvaluationConfig(max_answer_length=12)
CONTEXT = "Ada Lovelace wrote notes on the Analytical Engine. " * 30 + "Charles Babbage built it in London."


@pytest.fixture(scope="module")
def config(configure):
    return configure("model=tiny_llm", "model.max_length=900", *SIZES, "train.batch_size=8")


@pytest.fixture(scope="module")
def tokenizer(config):
    return backbone.load_tokenizer(config.model)


@pytest.fixture(scope="module")
def batches(config, tokenizer):
    silent = replace(config, dataset=replace(config.dataset, unanswerable=True))
    questions = to_dataset(sample.generate(24, 0, "train"))
    return task_of(config.model).batches(questions, tokenizer, silent, False)[0]


@pytest.fixture(scope="module")
def model(config):
    """Random weights, with an output matrix of their own and so large that what comes next is not always the same."""
    untied = replace(config.model, config={**config.model.config, "tie_word_embeddings": False})
    made = backbone.load_model(untied, 0.0, 0.0, seed=0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(8 if "embed" in name else 30)
    return made.eval()


def question(context=CONTEXT, text="Who built it?", answer="Charles Babbage", **more):
    start = context.find(answer) if answer else -1
    answers = {"text": [answer], "answer_start": [start]} if answer else {"text": [], "answer_start": []}
    return {"id": "q", "title": "", "context": context, "question": text, "answers": answers, **more}


def prompts_of(config, tokenizer, *questions):
    return make_prompts(to_dataset(list(questions)), Writer(tokenizer, config))


def changed(config, **model):
    return replace(config, model=replace(config.model, **model))


# Prompts


def test_a_prompt_is_the_template_and_the_answer_what_follows(config, tokenizer):
    prompts, notes = prompts_of(config, tokenizer, question("Ada wrote\nit.", "Who?", "Ada wrote\nit"))
    [prompt] = prompts
    assert notes == []
    assert tokenizer.decode(prompt["prompt"]) == "Ada wrote\nit.\n\nQuestion: Who?\nAnswer:"
    assert tokenizer.decode(prompt["answer"]) == " Ada wrote it" + tokenizer.eos_token  # a line break would end it
    assert prompt["length"] == len(prompt["prompt"]) + len(prompt["answer"])


def test_after_a_space_none_is_put_before_the_answer(config, tokenizer):
    spaced = changed(config, prompt="{question} {context} -> ")
    [prompt], _ = prompts_of(spaced, tokenizer, question("Ada.", "Who?", "Ada"))
    assert tokenizer.decode([*prompt["prompt"], *prompt["answer"]]) == "Who? Ada. -> Ada" + tokenizer.eos_token


def test_braces_of_a_passage_are_text(config, tokenizer):
    [prompt], _ = prompts_of(config, tokenizer, question("A {question} in {0}.", "Who?", "A"))
    assert "A {question} in {0}.\n" in tokenizer.decode(prompt["prompt"])


def test_a_long_passage_is_cut_into_windows_that_hold_all_of_it(config, tokenizer):
    small = changed(config, max_length=200, doc_stride=40)
    prompts, _ = prompts_of(small, tokenizer, question())
    texts = [tokenizer.decode(prompt["prompt"]) for prompt in prompts]
    assert len(texts) > 5 and all(text.endswith("\n\nQuestion: Who built it?\nAnswer:") for text in texts)
    parts = [text.removesuffix("\n\nQuestion: Who built it?\nAnswer:") for text in texts]
    assert max(len(prompt["prompt"]) for prompt in prompts) <= 200 - config.evaluation.max_answer_length
    whole = parts[0]
    for part in parts[1:]:  # one byte is one token: neighbours share 40 of them
        assert part[:40] == whole[-40:]
        whole += part[40:]
    assert whole == CONTEXT
    labelled = ["Charles Babbage" in part for part in parts]
    assert [len(prompt["answer"]) > 0 for prompt in prompts] == labelled and any(labelled) and not all(labelled)
    trained, _ = task_of(small.model).batches(to_dataset([question()]), tokenizer, small, True)
    assert len(trained.lengths) == sum(labelled)


def test_characters_of_several_tokens_are_not_cut(config, tokenizer):
    small = changed(config, max_length=150, doc_stride=20)
    prompts, _ = prompts_of(small, tokenizer, question("ä語🙂" * 60, "?", "語"))
    texts = [tokenizer.decode(prompt["prompt"]) for prompt in prompts]
    assert len(texts) > 3 and not any("\ufffd" in text for text in texts)


def test_an_answer_without_room_is_said_and_not_trained_on(config, tokenizer):
    small = changed(config, max_length=128, doc_stride=20)
    prompts, notes = prompts_of(small, tokenizer, question("word " * 40, "What?", ("word " * 20).strip()))
    assert not any(len(prompt["answer"]) for prompt in prompts)
    [note] = notes
    assert note == (
        "1 of 1 answers do not fit into a window of model.max_length=128 tokens with their passage (id q); they are "
        "scored but not trained on."
    )


def test_an_unanswerable_question_is_answered_so(config, tokenizer):
    silent = replace(config, dataset=replace(config.dataset, unanswerable=True))
    [prompt], _ = prompts_of(silent, tokenizer, question("Ada.", "Who?", ""))
    assert tokenizer.decode(prompt["answer"]) == f" {NO_ANSWER}{tokenizer.eos_token}"
    [prompt], _ = prompts_of(config, tokenizer, question("Ada.", "Who?", ""))
    assert len(prompt["answer"]) == 0


def test_chat_takes_the_tokenizers_template(config, tokenizer):
    chat = changed(config, prompt="chat")
    with pytest.raises(UserError, match=r"has no chat template; leave model.prompt=chat out"):
        Writer(tokenizer, chat)
    templated = backbone.load_tokenizer(config.model)
    templated.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    [prompt], _ = prompts_of(chat, templated, question("Ada.", "Who?", "Ada"))
    text = templated.decode([*prompt["prompt"], *prompt["answer"]])
    assert text == (
        "<user>Ada.\n\nQuestion: Who?\nAnswer with words of the passage alone.<assistant>Ada" + templated.eos_token
    )


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("{context}", "it names {context}."),
        ("{context} {question} {answer}", "it names {answer}, {context}, {question}."),
        ("no fields", "it names nothing."),
        ("{context} {question", "cannot be read"),
    ],
)
def test_a_prompt_that_does_not_serve(config, prompt, said):
    [sentence] = problems(changed(config, prompt=prompt))
    assert sentence.startswith(f"model.prompt={prompt!r} ") and said in sentence


def test_a_tokenizer_without_an_end(config):
    endless = backbone.load_tokenizer(config.model)
    endless.eos_token = None
    with pytest.raises(UserError, match="has no end token, so a model would not learn where an answer ends"):
        Writer(endless, config)


def test_no_room_for_a_passage(config, tokenizer):
    with pytest.raises(
        UserError, match=r"model.max_length=60 leaves no room for a passage: the prompt alone takes \d+"
    ):
        prompts_of(changed(config, max_length=60, doc_stride=10), tokenizer, question())


# The loss


def test_the_loss_is_the_cross_entropy_of_the_answers_tokens(batches, model):
    rows = [3, 0, 7]
    expected = 0.0
    for row in rows:
        prompt, answer = batches.prompts[row]["prompt"].tolist(), batches.prompts[row]["answer"].tolist()
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0]
        expected += float(cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(answer), reduction="sum"))
    assert batches.terms[rows].sum() == sum(len(batches.prompts[row]["answer"]) for row in rows)
    assert batches.loss(model, rows, CPU).item() == pytest.approx(expected, rel=1e-5)
    with torch.inference_mode():
        predicted = batches.predict(model, rows, CPU, LIMITS)
    assert -sum(prediction.gold for prediction in predicted) == pytest.approx(expected, rel=1e-5)


def test_the_mean_loss_is_over_all_answer_tokens(batches, model):
    runtime = hardware.start(HardwareConfig("cpu", device="cpu", precision="fp32"))
    predictions = predict(runtime, model, batches, LIMITS)
    everything = list(range(len(batches.lengths)))
    expected = batches.loss(model, everything, CPU).item() / batches.terms.sum()
    assert batches.mean_loss(predictions) == pytest.approx(expected, rel=1e-5)


def test_accumulation_equals_one_large_batch(config, batches, configure):
    """Though the answers of the parts have different numbers of tokens."""
    rows = list(range(12))
    assert len({int(batches.terms[part].sum()) for part in (rows[:4], rows[4:8], rows[8:])}) == 3
    lora = configure("model=tiny_llm", "method=lora").method
    results = []
    for group, tokens in (([rows], None), ([rows[:4], rows[4:8], rows[8:]], None), ([rows], 600)):
        runtime = hardware.start(HardwareConfig("cpu", device="cpu", precision="fp32", tokens_per_pass=tokens or 10**6))
        made = method.apply(backbone.load_model(config.model, 0.0, 0.0, seed=0), lora)
        optimizer = make_optimizer(made, TrainConfig(learning_rate=1e-3))
        loss, norm = optimizer_step(runtime, made, optimizer, group, batches, 1.0)
        results.append((float(loss), float(norm), torch.cat([p.flatten() for p in made.parameters()])))
    (loss, norm, weights), *others = results
    for other_loss, other_norm, other_weights in others:
        assert other_loss == pytest.approx(loss, abs=1e-5) and other_norm == pytest.approx(norm, rel=1e-4)
        assert torch.allclose(other_weights, weights, atol=1e-5)


# Decoding


class Often(Stops):
    """Random weights seldom write a line break; here every seventh token ends an answer."""

    def ends(self, token):
        return token % 7 == 0


@torch.inference_mode()
def test_a_batch_is_decoded_as_one_at_a_time(batches, model):
    rows, often = list(range(24)), PromptBatches(batches.prompts, Often(batches.stops.tokenizer), batches.null_answer)
    together = often.predict(model, rows, CPU, LIMITS)
    alone = [often.predict(model, [row], CPU, LIMITS)[0] for row in rows]
    assert len({each.written.tokens for each in together}) > 2  # rows end at different times
    for one, other in zip(together, alone, strict=True):
        assert (one.written.text, one.written.tokens) == (other.written.text, other.written.tokens)
        assert one.written.log_probability == pytest.approx(other.written.log_probability, abs=1e-3)
        assert one.gold == pytest.approx(other.gold, abs=1e-3)
        assert one.null_answer.score == pytest.approx(other.null_answer.score, abs=1e-3)


@torch.inference_mode()
def test_what_the_labelled_answer_says_is_not_decoded_again(tokenizer, model):
    """Answers that begin like what the model writes: nothing of it, a part, all of it, and more than all."""
    prompts = [tokenizer(text)["input_ids"] for text in ("Ada wrote", "Bridges cross", "In 1843 a", "It was")] * 2
    often, silence = Often(tokenizer), tokenizer(" none")["input_ids"]

    def write(golds):
        read = []
        hook = model.register_forward_pre_hook(
            lambda _, __, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True
        )
        answers = write_answers(model, prompts, golds, silence, often, CPU, longest=12)
        hook.remove()
        return [(each.written.text, each.written.tokens) for each in answers], answers, read

    plain, scored, _ = write([[]] * len(prompts))
    written = greedy(model, prompts, often, longest=12)
    assert [len(tokens) for tokens in written] == [tokens for _, tokens in plain]
    other = [[(token + 1) % len(tokenizer) for token in tokens] for tokens in written]
    golds = [other[0], written[1][:1] + other[1], written[2][:-1], written[3]]
    golds += [written[4] + [3, 5], other[5][:1], [], written[7]]
    same, drafted, _ = write(golds)
    assert same == plain
    for one, two in zip(scored, drafted, strict=True):
        assert one.written.log_probability == pytest.approx(two.written.log_probability, abs=1e-3)
        assert one.null_answer.score == pytest.approx(two.null_answer.score, abs=1e-3)
    same, _, read = write(written)
    assert same == plain
    assert len(read) == 3  # the prompts, "no answer" and the labelled answers: nothing is left to write


def greedy(model, prompts, stops, longest):
    """The answers of each prompt, read from its beginning for every token."""
    answers = []
    for prompt in prompts:
        tokens = []
        while not tokens or not (stops.ends(tokens[-1]) or len(tokens) == longest):
            tokens.append(int(model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1].argmax()))
        answers.append(tokens)
    return answers


PASSAGES = (CONTEXT[:900], "Grace Hopper wrote the first compiler. " * 9, "Bridges cross rivers. " * 12)
ASKED = ("Who built it?", "What did she write?", "Where was that, and in which year of the century?")


def sliding(**config):
    """A decoder whose attention sees the last tokens alone."""
    return MistralForCausalLM(
        MistralConfig(num_hidden_layers=2, num_key_value_heads=2, vocab_size=400, sliding_window=64, **config)
    ).eval()


@pytest.mark.parametrize("slides", [False, True])
@torch.inference_mode()
def test_a_passage_of_several_questions_is_read_once(config, tokenizer, model, slides):
    long = changed(config, max_length=1000)
    asked = [question(context, text, "") for text in ASKED for context in PASSAGES]
    often = PromptBatches(prompts_of(long, tokenizer, *asked)[0], Often(tokenizer), tokenizer(" none")["input_ids"])
    [order] = often.evaluation(len(asked))
    together_with = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert sorted(map(sorted, together_with)) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert order[0] in (0, 3, 6)  # the longest passage first
    torch.manual_seed(0)
    made = sliding(hidden_size=64, intermediate_size=64, num_attention_heads=4) if slides else model
    read = []
    hook = made.register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"].shape), with_kwargs=True)
    together = often.predict(made, order, CPU, LIMITS)
    hook.remove()
    whole = max(len(often.prompts[row]["prompt"]) for row in order)
    if slides:
        assert read[0] == (9, whole)
    else:
        assert read[0][0] == 3 and read[1][0] == 9 and read[0][1] + read[1][1] < whole + 40 and read[1][1] < 100
    for row, one in zip(order, together, strict=True):
        [alone] = often.predict(made, [row], CPU, LIMITS)
        assert (one.written.text, one.written.tokens) == (alone.written.text, alone.written.tokens)
        assert one.written.log_probability == pytest.approx(alone.written.log_probability, abs=1e-3)
        assert one.null_answer.score == pytest.approx(alone.null_answer.score, abs=1e-3)


def test_prompts_with_half_of_their_tokens_in_common_share_them():
    assert shared_prefixes([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 9, 9, 9, 9], [7]]) == [(2, 3), (1, 5), (1, 0)]
    assert shared_prefixes([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3]]) == [(3, 2)]  # each keeps a token to read
    assert by_prefix([np.array(row) for row in ([1, 2, 3], [5, 6, 7, 8], [1, 2, 4], [9], [5, 6, 7])]) == [
        4,
        1,
        0,
        2,
        3,
    ]


def test_rows_that_stay_move_only_to_places_that_became_free():
    assert compacted([0, 3, 4]) == [0, 3, 4]
    assert compacted([0, 1, 2]) == [0, 1, 2]
    assert compacted([1, 2, 5, 6]) == [5, 1, 2, 6]


def test_the_cache_holds_what_transformers_own_holds():
    plain = DynamicCache(config=Scripted.config)
    ours = make_cache(Scripted([], 0), 20)

    def grow(rows, tokens):
        keys, values = torch.randn(2, rows, 3, tokens, 4)
        for one, other in zip(plain.update(keys, values, 0), ours.update(keys, values, 0), strict=True):
            assert torch.equal(one, other)

    grow(2, 5)
    for rows, tokens in (([0, 1, 1, 0, 1], 3), ([4, 1, 2], 1), ([2], 4)):
        for cache in (plain, ours):
            cache.batch_select_indices(torch.tensor(rows))
        grow(len(rows), tokens)
    memory = ours.layers[0].memory[0]
    for cache in (plain, ours):
        cache.crop(-2)
    grow(1, 3)
    assert ours.layers[0].memory[0] is memory and memory.shape == (5, 3, 20, 4)
    assert make_cache(SimpleNamespace(config=MistralConfig(sliding_window=8)), 20) is None


@torch.inference_mode()
def test_decoding_is_greedy_and_stops_at_a_line_break_or_a_special_token(batches, model, tokenizer):
    for row in range(8):
        prompt = batches.prompts[row]["prompt"].tolist()
        expected, total = [], 0.0
        while len(expected) < LIMITS.max_answer_length:
            likely = model(torch.tensor([prompt + expected])).logits[0, -1].log_softmax(-1)
            expected.append(int(likely.argmax()))
            total += float(likely.max())
            if tokenizer.decode(expected[-1:]) in ("\n", tokenizer.eos_token):
                break
        [found] = batches.predict(model, [row], CPU, LIMITS)
        assert found.written.tokens == len(expected)
        assert found.written.log_probability == pytest.approx(total, abs=1e-3)
        text = tokenizer.decode(expected, skip_special_tokens=True)
        assert found.written.text == text.partition("\n")[0].strip()


class Scripted:
    """A decoder that says after each prompt what a script says; it counts its calls and the rows of each.

    Its cache holds the number of each row, so that it sees which rows are left.
    """

    config = LlamaConfig(num_hidden_layers=1)

    def __init__(self, script, vocabulary):
        self.script, self.vocabulary, self.rows = script, vocabulary, []

    def __call__(self, input_ids, attention_mask, position_ids, past_key_values, use_cache, logits_to_keep):
        first = past_key_values.get_seq_length() == 0
        numbers = torch.arange(len(input_ids)) if first else past_key_values.layers[0].keys[:, 0, 0, 0]
        new = numbers[:, None, None, None].expand(-1, 1, input_ids.shape[1], 1).clone()
        past_key_values.update(new, new, 0)
        self.rows.append(len(input_ids))
        logits = torch.zeros(len(input_ids), 1, self.vocabulary)
        for place, row in enumerate(numbers.tolist()):
            logits[place, 0, self.script[row][min(len(self.rows), len(self.script[row])) - 1]] = 20.0
        return SimpleNamespace(logits=logits, past_key_values=past_key_values)


def test_rows_leave_the_batch_and_nothing_is_decoded_beyond_the_last(tokenizer):
    def tokens(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    script = [tokens(" no\n"), [*tokens(" yes"), tokenizer.eos_token_id], tokens("\n"), tokens(" " + "a" * 50)]
    model = Scripted(script, len(tokenizer))
    found = write_answers(model, [[5], [6], [7], [8]], [[]] * 4, None, Stops(tokenizer), CPU, longest=7)
    assert [each.written.text for each in found] == ["no", "yes", "", "a" * 6]
    assert [each.written.tokens for each in found] == [4, 5, 1, 7]
    assert model.rows == [4, 3, 3, 3, 2, 1, 1]
    assert all(each.null_answer is None and each.gold == 0 for each in found)


# Which answer is chosen


def prediction(text, score, null_answer=None, tokens=3):
    quiet = None if null_answer is None else Candidate("", null_answer * 5, 5)
    return Prediction(Candidate(text, score * tokens, tokens), quiet, 0.0)


def chosen(predictions, may_be_unanswerable=False, **limits):
    [answer] = answer_questions(
        [{"id": "q"}], np.zeros(len(predictions), int), predictions, EvaluationConfig(**limits), may_be_unanswerable
    )
    return answer


def test_windows_compete_by_the_mean_log_probability():
    answer = chosen([prediction("Ada", -0.9), prediction("Babbage", -0.4, tokens=6), prediction("Ada", -0.6)])
    assert (answer.id, answer.best.text, answer.best.start, answer.best.end) == ("q", "Babbage", NO_PLACE, NO_PLACE)
    assert [span.text for span in answer.n_best] == ["Babbage", "Ada"]
    assert [span.score for span in answer.n_best] == pytest.approx([-0.4, -0.6])
    assert answer.best.probability == pytest.approx(math.exp(-2.4))
    assert len(chosen([prediction("a", -1.0), prediction("b", -2.0)], n_best=1).n_best) == 1


def test_no_answer_competes_by_its_score_and_the_threshold():
    windows = [prediction("Ada", -0.5, -0.2), prediction("", -0.1, -0.4)]
    answer = chosen(windows, True)
    assert answer.null_score == pytest.approx(-0.4) and answer.best.text == ""  # the window with the lowest
    assert chosen(windows, True, null_threshold=0.2).best.text == "Ada"
    assert chosen(windows).best.text == "Ada"
    assert [span.text for span in answer.n_best] == ["", "Ada"]
    assert chosen([prediction("Unanswerable.", -0.1, -3.0)], True, null_threshold=9.0).best.text == ""
    assert chosen([prediction("unanswerable", -0.1)]).best.text == "unanswerable"
    assert chosen([prediction("", -0.1)]).best.text == ""


def test_a_score_that_is_no_number():
    with pytest.raises(UserError, match=r"id q are not finite numbers: its training has diverged"):
        chosen([prediction("Ada", math.nan)])


def test_scores_of_written_answers():
    questions = [question(id="a"), question(id="b", answer="")]
    answers = [
        replace(chosen([prediction("charles babbage!", -0.5, -2.0)], True), id="a"),
        replace(chosen([prediction("Ada", -0.5, -1.0)], True), id="b"),
    ]
    metrics = score(questions, answers)
    assert (metrics["exact_match"], metrics["f1"]) == (50.0, 50.0)
    assert (metrics["has_answer_f1"], metrics["no_answer_f1"]) == (100.0, 0.0)
    assert (metrics["best_f1"], metrics["best_null_threshold"]) == (100.0, pytest.approx(-1.5))
    assert "start_accuracy" not in metrics  # a written answer has no place
