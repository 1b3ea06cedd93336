"""What is said of a file before training on it: the same that the run does, in 80 columns, and nothing is stored."""

from __future__ import annotations

import io
import json
import shlex
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from src.check import check, configure, main, next_commands
from src.config import UserError
from src.data import language, sources
from src.data.files import EXAMPLE
from tests.conftest import own_csv, question, squad_json

ENGLISH = "The bridge was opened by the mayor of the town in 1931, and it is the oldest of those that still stand."
GERMAN = "Die Brücke ist von dem Bürgermeister der Stadt eröffnet worden und nicht die älteste, mit der das Tal lebt."


def shown(*arguments):
    """What `check` prints on a terminal of 80 columns, and the lines of it by their names."""
    output = io.StringIO()
    check(configure([str(argument) for argument in arguments])[0], Console(width=80, file=output, highlight=False))
    rows: dict[str, list[str]] = {}
    name = ""
    for line in output.getvalue().splitlines():
        name = line[:10].strip() or name
        rows.setdefault(name, []).append(line[10:].strip())
    return output.getvalue(), {name: " ".join(lines).strip() for name, lines in rows.items()}


def test_a_spreadsheet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [["Why?", "Nobody knows.", ""], ["", "x", "y"], ["What?", "In Rome.", "Paris"]]
    rows += [["Where?", "In Paris.", "paris"], ["Where?", "In Paris.", "Paris"], ["When?", "In the 1990s.", "1990"]]
    own_csv(tmp_path / "own.csv", rows=rows)
    before = sorted(tmp_path.iterdir())
    text, named = shown("own.csv")
    assert all(len(line) <= 80 for line in text.splitlines())
    assert named["file"] == "own.csv"
    assert named["rows"] == "306 read, 305 of them usable"
    assert named["answers"] == (
        "303 questions with one in the passage 1 with none that can be located there: scored, not trained on "
        "1 without any"
    )
    assert named["passages"] == "74, without titles"
    assert named["repeated"] == "1 question asked before about the same passage (row 305)"
    sets = sources.load(configure(["own.csv"])[0].dataset)
    names = {"train": "training", "validation": "validation", "test": "test"}
    sizes = {names[name]: (len(side), len(set(side["context"]))) for name, side in sets.by_context.items()}
    assert named["split"] == ", ".join(f"{n} for {name} ({p} passages)" for name, (n, p) in sizes.items())
    total = sum(n for n, _ in sizes.values())
    assert len(sizes) == 3 and named["windows"] == f"{total} of {total} questions fit into one of 384 tokens"
    assert "for test" not in shown("own.csv", "dataset.test_size=null")[1]["split"]
    assert all(note in " ".join(text.split()) for note in sets.notes)
    assert "1 of 61 answers begin or end inside a token (id 306)" in " ".join(text.split())
    assert "WARNING" not in text
    assert sorted(tmp_path.iterdir()) == before


def test_lengths_in_tokens(tmp_path):
    """Of the words of the tokenizer, of each passage once."""
    articles = [
        (f"T{i}", f"word{i % 2} " + "word " * (10 * i), [question(f"{i}{q}", "word " * 5, [("word", 0)]) for q in "ab"])
        for i in range(1, 21)
    ]
    text, named = shown(squad_json(tmp_path / "a.json", articles), "model.max_length=128", "model.doc_stride=32")
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert cells == [["question", "5", "5", "5"], ["passage", "102", "192", "202"], ["answer", "1", "1", "1"]]
    assert named["passages"] == "20, under 20 titles"
    # [CLS] and two [SEP] and the question leave 120 tokens for the passage: 118 are there, then 128.
    assert named["windows"] == "22 of 40 questions fit into one of 128 tokens, the others take up to 2"


def test_the_sizes_that_are_asked_for(tmp_path):
    path = own_csv(tmp_path / "own.csv")
    split = shown(path, "dataset.train_size=100", "dataset.validation_size=20", "model=tiny")[1]["split"]
    assert split.startswith("100 for training (")
    assert ", 20 for validation (" in split


def test_a_size_that_is_too_large_names_the_one_that_check_shows(tmp_path):
    path = own_csv(tmp_path / "own.csv", 40)
    for more, usable in ([], 21), (["dataset.test_size=null"], 29):
        assert shown(path, "model=tiny", *more)[1]["split"].startswith(f"{usable} for training (")
        with pytest.raises(UserError, match=f"give {usable} or fewer"):
            shown(path, "dataset.train_size=40", *more)
        split = shown(path, "model=tiny", f"dataset.train_size={usable}", *more)[1]["split"]
        assert split.startswith(f"{usable} for training (")


def run_main(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["check", *map(str, arguments)])
    status = 0
    try:
        main()
    except SystemExit as stopped:
        status = stopped.code
    return (status, *capsys.readouterr())


def test_the_command_ends_with_the_next_one(tmp_path, monkeypatch, capsys):
    path = own_csv(tmp_path / "own.csv", 40)
    status, out, err = run_main(monkeypatch, capsys, path, "dataset.train_size=20")
    assert (status, err) == (0, "")
    given = f"dataset.path={path} dataset.train_size=20"
    assert out.splitlines()[-3:] == [
        "The file can be used for training:",
        f"  python -m src.train {given} method=lora",
        f"  python -m src.train -m {given} method=full,lora  # both, and compare them",
    ]
    assert run_main(monkeypatch, capsys, f"dataset.path={path}", "method=full")[1].splitlines()[-2:] == [
        "The file can be used for training:",
        f"  python -m src.train dataset.path={path} method=full",
    ]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/tuneoff check"])
    assert next_commands("q.csv", ["train.seed=1"]) == [
        "tuneoff train dataset.path=q.csv train.seed=1 method=lora",
        "tuneoff train -m dataset.path=q.csv train.seed=1 method=full,lora  # both, and compare them",
    ]


@pytest.mark.parametrize(
    "name", ["my file.csv", "a=b,c.csv", "it's.csv", 'the "new" ones.csv', "größe.csv", "(1) $x.csv"]
)
def test_the_next_command_can_be_pasted(name):
    one, two = (shlex.split(line, comments=True) for line in next_commands(f"/data/{name}", []))
    assert (one[:3], two[:4]) == (["python", "-m", "src.train"], ["python", "-m", "src.train", "-m"])
    assert (one[4], two[5]) == ("method=lora", "method=full,lora")
    for path in (one[3], two[4]):
        parsed = OverridesParser.create().parse_override(path)
        assert (parsed.key_or_group, parsed.value()) == ("dataset.path", f"/data/{name}")


def test_a_file_may_have_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_csv(tmp_path / "a=b, c.csv", 40)
    config, overrides = configure(["a=b, c.csv", "model=tiny"])
    assert (config.dataset.path, config.dataset.name, overrides) == ("a=b, c.csv", "a=b, c", ["model=tiny"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["no.csv"], "dataset.path: no.csv does not exist (did you mean 'own.csv'?)"),
        (["bad.csv"], "bad.csv has no column context; it has question, passage, answer.\nTwo lines of"),
        (["one.csv"], "'one' has one question; at least two are needed, one to train on and one to score."),
        (["one.csv", "dataset.split=random"], "'one' has one question; at least two are needed"),
        (
            ["pair.csv"],
            "needs questions from two articles at least, 'pair' has one passage and no titles; choose dataset.split=",
        ),
        (["lost.csv"], "'lost': there is nothing to train on: none of 3 training questions has an answer"),
        (["own.csv", "dataset.train_sizes=3"], "'dataset.train_sizes' (did you mean 'train_size'?)"),
        (
            ["own.csv", "dataset.train_size=39"],
            "'own' has 21 questions to train on, since the others are kept for validation and test (dataset.split=",
        ),
        (["own.csv", "train_size=400"], "(dataset.split=article); give 21 or fewer, or null for all."),
        (
            ["own.csv", "dataset.test_size=99"],
            "dataset.test_size=99 is more than the 25 questions that 'own' has for it",
        ),
        (["own.csv", "dataset.test_size=al"], "dataset.test_size=al must be a number of questions, at least 1, or all"),
        (["own.csv", "dataset.test_path=no.csv"], "dataset.test_path: no.csv does not exist (did you mean 'own.csv'?)"),
        (["ada.csv", "dataset.test_size=1"], "dataset.test_size=1: 'ada' has 2 passages, too few for three sides; add"),
        (["own.csv", "epochs=abc"], "train.epochs=abc must be a whole number."),
        (["own.csv", "bad.csv"], "python -m src.check takes one file, not 2."),
        (["model=tiny"], "python -m src.check takes one file, not 0."),
        (["own.csv", "-m"], "python -m src.check takes no -m; leave it out."),
        (["own.csv", "train.epochs="], "train.epochs= is empty; give a value, or leave it out."),
    ],
)
def test_what_cannot_be_trained_on_is_said_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    own_csv(tmp_path / "own.csv", 40)
    (tmp_path / "bad.csv").write_text("question,passage,answer\nWho?,Ada.,Ada\n")
    (tmp_path / "one.csv").write_text("question,context,answer\nWho?,Ada.,Ada\n")
    (tmp_path / "pair.csv").write_text("question,context,answer\nWho?,Ada.,Ada\nWho is it?,Ada.,Ada\n")
    (tmp_path / "ada.csv").write_text("question,context,answer\nWho?,Ada.,Ada\nWho?,Bob.,Bob\n")
    lost = [f"Who?,Ada {i}.,Bob" for i in range(5)]
    (tmp_path / "lost.csv").write_text("\n".join(["question,context,answer", *lost]))
    status, out, err = run_main(monkeypatch, capsys, *arguments)
    assert status == (2 if "takes" in expected or "is empty" in expected else 1)
    assert expected in err
    assert err.startswith("Error: ")
    assert all(line in err for line in EXAMPLE.splitlines()) == (arguments == ["bad.csv"])
    assert "can be trained on" not in out


def test_help(monkeypatch, capsys):
    for arguments in ([], ["--help"], ["help"]):
        status, out, _ = run_main(monkeypatch, capsys, *arguments)
        assert status == 0
        assert "python -m src.check questions.csv train_size=200" in out
        assert "  train_size=       dataset.train_size=\n" in out


# Warnings


def test_few_passages_to_be_scored_on(tmp_path):
    path = tmp_path / "own.json"
    rows = [{"question": f"{q}?", "context": f"{ENGLISH} {i}", "answer": "1931"} for i in range(20) for q in range(3)]
    path.write_text(json.dumps(rows))
    _, named = shown(path, "model=tiny")
    few = "The validation questions are about 4 passages alone"
    assert named["WARNING"].startswith(f"{few} and the test questions are about 4 passages alone, and the scores may")
    assert shown(path, "model=tiny", "dataset.test_size=null")[1]["WARNING"].startswith(f"{few}, and the scores may")


def test_two_passages_can_be_trained_on_without_a_test_set(tmp_path):
    path = tmp_path / "ada.csv"
    path.write_text("question,context,answer\nWho?,Ada.,Ada\nWho?,Bob.,Bob\n")
    _, named = shown(path, "model=tiny")
    assert named["split"] == "1 for training (1 passages), 1 for validation (1 passages)"
    assert "No test set: 'ada' has 2 passages, too few for three sides." in named["note"]


def test_another_language_and_letters_that_the_model_does_not_know(tmp_path):
    path = tmp_path / "own.json"
    rows = [{"question": "ใคร?", "context": f"สะพานนี้เปิดโดยนายกเทศมนตรีของเมือง {i}", "answer": str(i)} for i in range(60)]
    path.write_text(json.dumps(rows))
    warning = shown(path)[1]["WARNING"]
    assert warning.startswith("50% of the passages' tokens are unknown to the tokenizer of minilm;")
    assert "look like Thai, which is written without spaces" in warning
    assert "The default model, minilm, was trained on English text. Choose a model of that language" in warning


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENGLISH, None),
        (GERMAN, "look like German"),
        ("Le pont est dans la ville et les habitants du quartier y passent pour une raison.", "look like French"),
        ("El puente fue abierto por el alcalde y los vecinos del barrio lo usan en su vida.", "look like Spanish"),
        ("Il ponte della città è il più antico, che gli abitanti di Roma usano per il mercato.", "look like Italian"),
        ("A ponte da cidade não é nova e os habitantes do bairro usam uma em cada dia.", "look like Portuguese"),
        ("Het is een brug van de stad, dat niet oud is, en met de auto's zijn er aan het werk.", "look like Dutch"),
        ("Det är den bro som inte är ny och att gå på för folk av alla slag till staden.", "look like Swedish"),
        ("Most w mieście nie jest nowy i znajduje się na rzece od lat oraz przez wieki.", "look like Polish"),
        ("Мост был открыт мэром города в 1931 году.", "look like text in Cyrillic script"),
        ("Η γέφυρα άνοιξε το 1931.", "look like text in Greek script"),
        ("这座桥于一九三一年由市长开放。", "look like Chinese, which"),
        ("この橋は1931年に市長によって開通された。", "look like Japanese, which"),
        ("다리는 1931년에 시장이 열었다.", "look like text in Hangul script"),
        ("1931 2004 17", None),
        ("Naïve café, Zürich, 東京 and the rest of the text, which is English.", None),
        ("", None),
    ],
)
def test_the_language_that_passages_look_like(text, expected):
    remark = language.remark([text] * 3)
    if expected is None:
        assert remark is None
    else:
        assert remark is not None
        assert expected in remark
        assert ("a, an and the" in remark) == ("spaces" not in remark)
