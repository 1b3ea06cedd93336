"""The arguments of all commands: short forms, types, help, and one clear sentence for a command line that is wrong."""

from __future__ import annotations

import re
import sys
from importlib import import_module

import pytest
import yaml
from pydantic import Field

from src import cli, compare, predict, ui
from src.arguments import (
    SHORT_FORMS,
    ExperimentArguments,
    Listed,
    UsageError,
    command,
    help_of,
    keys_of,
    read,
    schema_keys,
    written_out,
)
from src.compose import assignment, completed, explain, groups
from src.config import TrackingConfig, UserError
from src.runs.commands import command_line

SCHEMAS = {"compare": compare.Compare, "predict": predict.Predict, "ui": ui.Ui}
ODD = "Why \"a=b\", {c: d}, ${oc.env:HOME}, '[e]', ??? and \\\\${f}: null?"


class Sample(ExperimentArguments):
    text: str = Field(description="any text")
    number: int = Field(3, ge=1, le=9, description="a number")
    names: Listed[str] = Field([], description="word " * 30)
    sure: bool = Field(False, description="whether it is sure")


def mistake(*given: str) -> str:
    with pytest.raises(UserError) as caught:
        read(Sample, given, "")
    return f"{type(caught.value).__name__}: {caught.value}"


# Short forms


def test_every_short_form_is_a_key_of_the_schema():
    keys = schema_keys()
    assert set(SHORT_FORMS.values()) <= set(keys)
    assert len(set(SHORT_FORMS.values())) == len(SHORT_FORMS)
    assert not set(SHORT_FORMS) & {*keys, *groups(), *(key.partition(".")[0] for key in keys)}
    assert {"train.epochs", "rerun", "dataset.path", "tracking.uri", "method.peft"} <= set(keys)


@pytest.mark.parametrize(("form", "key"), SHORT_FORMS.items())
def test_a_short_form_is_written_out_wherever_it_stands(form, key):
    assert completed([f"{form}=1"])[-1] == f"{key}=1"
    assert written_out([f"+{form}=1", f"++{form}=1", f"~{form}", form, f"x.{form}=1", f"{form}s=1"]) == [
        f"+{key}=1",
        f"++{key}=1",
        f"~{key}",
        form,
        f"x.{form}=1",
        f"{form}s=1",
    ]
    for schema in SCHEMAS.values():
        if key in keys_of(schema):
            assert f"{key}=" in help_of(schema, "") and f"{form}= for short" in help_of(schema, "")


def test_short_forms_choose_what_the_keys_choose(configure):
    given = ["train_size=20", "epochs=2", "learning_rate=3e-4", "seed=5", "batch_size=4", "device=cpu", "threads=1"]
    config = configure(*given, "folder=elsewhere", "experiment=mine", "precision=fp32", "validation_size=7")
    assert (config.dataset.train_size, config.dataset.validation_size) == (20, 7)
    assert (config.train.epochs, config.train.learning_rate, config.train.seed, config.train.batch_size) == (
        2,
        3e-4,
        5,
        4,
    )
    assert (config.hardware.device, config.hardware.threads, config.hardware.precision) == ("cpu", 1, "fp32")
    assert (config.tracking.folder, config.tracking.experiment) == ("elsewhere", "mine")
    file = configure("data=some/wiki.json")
    assert (file.dataset.source, file.dataset.path, file.dataset.name) == ("file", "some/wiki.json", "wiki")


def test_options_stand_before_overrides_as_hydra_needs_them(command):
    assert completed(["method=full,lora", "-m", "seed=0,1"]) == ["-m", "method=full,lora", "train.seed=0,1"]
    assert completed(["seed=1", "--cfg", "job", "data=a.csv", "-p", "train"]) == [
        "--cfg",
        "job",
        "-p",
        "train",
        "train.seed=1",
        "dataset=file",
        "dataset.path=a.csv",
    ]
    shown = command("src.train", "model=tiny", "--cfg", "job", "epochs=2", "folder=x", "seed=4")
    assert shown.returncode == 0, shown.stderr
    config = yaml.safe_load(shown.stdout)
    assert (config["train"]["epochs"], config["train"]["seed"], config["model"]["name"]) == (2, 4, "tiny")
    assert config["tracking"]["folder"] == "x"


def test_an_experiment_of_mlflow_is_not_taken_for_a_comparison():
    with pytest.raises(UsageError, match="write experiments=demo to run the comparison, or tracking"):
        written_out(["experiment=demo"])
    assert written_out(["tracking.experiment=demo", "experiments=demo"]) == [
        "tracking.experiment=demo",
        "experiments=demo",
    ]


# Values


def test_a_text_may_hold_any_character():
    assert read(Sample, [f"text={ODD}"], "").text == ODD
    assert read(Sample, ["text=???"], "").text == "???"
    given = read(predict.Predict, ["run=best", f"question={ODD}", f"context={ODD}"], "")
    assert (given.question, given.context, given.trust_remote_code) == (ODD, ODD, False)


def test_values_have_the_types_of_their_keys():
    given = read(Sample, ["text=a", "number=7", "names=[a, b]", "sure=true", "folder=x", "uri=", "experiment=e"], "")
    assert (given.number, given.names, given.sure) == (7, ["a", "b"], True)
    assert given.tracking() == TrackingConfig("x", None, "e")
    assert read(Sample, ["text=a", "names=method=full,lora"], "").names == ["method=full,lora"]
    default = read(Sample, ["text=a"], "")
    assert (default.number, default.names, default.sure, default.tracking()) == (3, [], False, TrackingConfig())
    assert read(ui.Ui, [], "").port == 5000
    assert read(compare.Compare, [], "").formats == ["html", "md", "csv"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["text=a", "number=many"], "UserError: number=many must be a valid integer."),
        (["text=a", "number=1.5"], "UserError: number=1.5 must be a valid integer."),
        (["text=a", "number=12"], "UserError: number=12 must be less than or equal to 9."),
        (["text=a", "sure=maybe"], "UserError: sure=maybe must be true or false."),
        (["text=a", "names=[a"], "UserError: names=[a has no closing bracket; write [A,B], in quotes if"),
        (["text=a", "names=[]"], "UserError: names=[] names nothing; give at least one, or leave it out."),
        (["text=a", "nubmer=1"], "UserError: There is no key 'nubmer' (did you mean 'number'?); there are: text, "),
        (["number=1"], "UsageError: text= must be given; --help shows an example."),
        (["text= "], "UsageError: text= is empty; give a value, or leave it out."),
        (["text=a", "number"], "UsageError: number is not KEY=VALUE; the keys are: text, number, names, sure, "),
    ],
)
def test_a_value_that_does_not_fit_is_one_sentence(given, sentence):
    assert mistake(*given).startswith(sentence)


def test_examples_and_formats_are_those_of_the_report():
    from src.report.page import EXAMPLES
    from src.reporting import DEFAULT_FORMATS

    default = read(compare.Compare, [], "")
    assert (default.examples, tuple(default.formats)) == (EXAMPLES, DEFAULT_FORMATS)


# Help


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_of_one_look(name, word, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"src/{name}.py", word])
    try:
        import_module(f"src.{name}.__main__" if name in cli.PACKAGES else f"src.{name}").main()
    except SystemExit as ended:
        assert ended.code == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert f"python -m src.{name}" in shown.out and "tuneoff train" not in shown.out
    assert re.search(r"^[A-Z ]+\n  \S+=", shown.out, re.MULTILINE)
    assert all(len(line) <= 120 for line in shown.out.splitlines())
    monkeypatch.setattr(sys, "argv", ["/usr/bin/tuneoff", name, word])
    try:
        cli.main()
    except SystemExit as ended:
        assert ended.code == 0
    assert capsys.readouterr().out == shown.out.replace("python -m src.", "tuneoff ")


def test_help_shows_defaults_and_descriptions():
    assert help_of(Sample, "Do something.\n").splitlines() == [
        "Do something.",
        "",
        "ARGUMENTS",
        "  text=                        any text",
        "  number=3                     a number",
        "  names=                       " + " ".join(["word"] * 16),
        "                               " + " ".join(["word"] * 14),
        "  sure=false                   whether it is sure",
        "  tracking.folder=mlruns       the folder of the store; folder= for short",
        "  tracking.uri=                a server or a database instead; uri= for short",
        "  tracking.experiment=tuneoff  the experiment in MLflow; experiment= for short",
    ]


# How a command was started


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("tuneoff train", "tuneoff ui"),
        ("/opt/bin/tuneoff", "tuneoff ui"),
        ("C:/Scripts/tuneoff.exe", "tuneoff ui"),
        ("/home/ada/tuneoff/src/train.py", "python -m src.ui"),
        ("train.py", "python -m src.ui"),
        ("-m", "python -m src.ui"),
    ],
)
def test_a_command_names_others_as_it_was_started(typed, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [typed])
    assert " ".join(command("ui")) == expected
    assert command_line("ui", TrackingConfig()) == expected


# A command line that is wrong


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["questions.csv"], "questions.csv is not KEY=VALUE (did you mean dataset.path=questions.csv?)."),
        (["my (1).csv"], "my (1).csv is not KEY=VALUE (did you mean 'dataset.path=\"my (1).csv\"'?)."),
        (["lora"], "lora is not KEY=VALUE (did you mean method=lora?)."),
        (["minilmm"], "minilmm is not KEY=VALUE (did you mean model=minilm?)."),
        (["seed"], "seed is not KEY=VALUE (did you mean seed=VALUE?)."),
        (["zzz"], "zzz is not KEY=VALUE, such as method=lora; see --help."),
        (["--method", "lora"], "--method is not an option; did you mean method=lora?"),
        (["--epochs=3"], "--epochs=3 is not an option; did you mean epochs=3?"),
        (["--train-size", "30"], "--train-size is not an option; did you mean train_size=30?"),
        (["--epohcs", "--cfg", "job"], "--epohcs is not an option; did you mean epochs=VALUE?"),
        (["--zzz"], "--zzz is not an option; arguments are KEY=VALUE, see --help."),
        (["--cfg"], "Argument --cfg/-c: expected one argument; --help shows how the command is used."),
        (["epochs="], "train.epochs= is empty; give a value, or leave it out."),
        (["method="], "method= is empty; give a value, or leave it out."),
    ],
)
def test_what_is_not_key_value_is_one_sentence(given, sentence):
    with pytest.raises(UsageError) as caught:
        completed(given)
    assert str(caught.value) == sentence


def ended(monkeypatch, capsys, *given: str):
    """Status and error of `tuneoff train`, which starts nothing."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # so that it is put back at the end
    monkeypatch.setattr(sys, "argv", ["tuneoff", "train", *given])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    shown = capsys.readouterr()
    assert shown.out == ""
    return stopped.value.code, shown.err


@pytest.mark.parametrize(
    ("given", "status", "sentence"),
    [
        (["method=full,lora"], 2, "method=full,lora names several values; add -m to run each of them."),
        (
            ["seed=range(0,3)"],
            2,
            "train.seed=range(0,3) names several values; add -m to run each of them; if it is one value, quote it: 't",
        ),
        (["data=my(1).csv"], 2, "dataset.path=my(1).csv cannot be read; if its value is a text, quote it: "),
        (["lora"], 2, "lora is not KEY=VALUE (did you mean method=lora?)."),
        (["experiment=demo"], 2, "experiment=demo means MLflow's experiment of that name; write experiments=demo"),
        (["epochs=abc"], 1, "train.epochs=abc must be a whole number."),
        (["epochs=0"], 1, "train.epochs=0 must be at least 1."),
        (["data=nowhere.csv"], 1, "dataset.path: nowhere.csv does not exist"),
    ],
)
def test_train_answers_with_one_sentence_and_a_status(given, status, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, error = ended(monkeypatch, capsys, *given, "folder=store")
    assert code == status
    assert error.startswith(f"Error: {sentence}") and error.count("\n") == 1
    assert [*tmp_path.rglob("*.db"), *tmp_path.glob("store/*")] == [tmp_path / "mlflow.db"]  # of the fixture


def test_the_other_commands_end_alike(monkeypatch, capsys):
    for name, argument, status in (
        ("compare", "sweep=", 2),
        ("compare", "swep=a", 1),
        ("predict", "question=Who?", 2),
        ("ui", "5001", 2),
        ("ui", "port=0", 1),
        ("check", "-m", 2),
    ):
        monkeypatch.setattr(sys, "argv", ["tuneoff", name, argument])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        error = capsys.readouterr().err
        assert (stopped.value.code, error.count("\n")) == (status, 1), error
        assert error.startswith("Error: ")


def test_what_hydra_takes_is_quoted_for_it():
    assert assignment("dataset.path", "a b/c-1.csv") == "dataset.path=a b/c-1.csv"
    assert assignment("dataset.path", 'the "new", one') == 'dataset.path="the \\"new\\", one"'


def test_a_file_that_is_not_there_is_not_said_to_be_full():
    assert (
        explain(FileNotFoundError(2, "No such file or directory", "x.txt")) == "x.txt does not exist; check the path."
    )
