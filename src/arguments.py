"""Reads the arguments KEY=VALUE of all commands: short forms of keys, values of the right type, the text of --help."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo

from src.config import SETTINGS, Config, TrackingConfig, UserError, nearest

# Short forms of keys, in every command that has the key.
SHORT_FORMS = {
    "data": "dataset.path",
    "train_size": "dataset.train_size",
    "validation_size": "dataset.validation_size",
    "test_size": "dataset.test_size",
    "epochs": "train.epochs",
    "learning_rate": "train.learning_rate",
    "batch_size": "train.batch_size",
    "seed": "train.seed",
    "device": "hardware.device",
    "precision": "hardware.precision",
    "threads": "hardware.threads",
    "price": "hardware.price_per_hour",
    "memory": "hardware.memory",
    "budget": "sweep.budget",
    "margin": "sweep.margin",
    "folder": "tracking.folder",
    "uri": "tracking.uri",
    "experiment": "tracking.experiment",
}
EMPTY_MEANS_NONE = ("tracking.uri",)
HELP_WORDS = {"-h", "--help", "help"}
WIDTH = 110  # columns of --help


class UsageError(UserError):
    """Raised for a command line that cannot be read; exit status 2."""


def written_out(arguments: Iterable[str]) -> list[str]:
    """The arguments with each short form replaced by its key: `+train.seed=1` for `+seed=1`.

    Raises:
        UsageError: an argument is `experiment=NAME`, and NAME is a comparison in experiments/.
    """
    return [_written_out(argument) for argument in arguments]


def _written_out(argument: str) -> str:
    key, equals, value = argument.partition("=")
    name = key.lstrip("+~")
    if name not in SHORT_FORMS or not (equals or key.startswith("~")):
        return argument
    if name == "experiment" and (SETTINGS / "experiments" / f"{value}.yaml").is_file():
        raise UsageError(
            f"{argument} means MLflow's experiment of that name; write experiments={value} to run the comparison, "
            f"or {SHORT_FORMS[name]}={value} for the experiment."
        )
    return key.removesuffix(name) + SHORT_FORMS[name] + equals + value


def command(name: str) -> list[str]:
    """The words that start a command: `tuneoff NAME` if this process was started so, else `python -m src.NAME`."""
    installed = Path(sys.argv[0]).name.partition(" ")[0].removesuffix(".exe") == "tuneoff"
    return ["tuneoff", name] if installed else ["python", "-m", f"src.{name}"]


def schema_keys(section: Any = Config, prefix: str = "") -> list[str]:
    """The keys of the configuration, with dots: `train.epochs`."""
    keys = []
    for field in fields(section):
        inside = field.default_factory
        if isinstance(inside, type) and is_dataclass(inside):
            keys += schema_keys(inside, f"{prefix}{field.name}.")
        else:
            keys.append(prefix + field.name)
    return keys


# Commands without Hydra


class StoreArguments(BaseModel):
    """The store that a command reads."""

    folder: str = Field(TrackingConfig.folder, alias="tracking.folder", description="the folder of the store")
    uri: str | None = Field(None, alias="tracking.uri", description="a server or a database instead")

    def tracking(self) -> TrackingConfig:
        return TrackingConfig(folder=self.folder, uri=self.uri)


class ModelArguments(StoreArguments):
    """The store that a command reads, and how it loads a model from there."""

    base: str | None = Field(
        None, alias="model.path", description="the base model of an adapter, if the run had it in another place"
    )
    trust_remote_code: bool = Field(False, description="true: run the Python code of the model, if it needs it")


class ExperimentArguments(StoreArguments):
    """The store that a command reads, and the experiment in it."""

    experiment: str = Field(
        TrackingConfig.experiment, alias="tracking.experiment", description="the experiment in MLflow"
    )

    def tracking(self) -> TrackingConfig:
        return TrackingConfig(folder=self.folder, uri=self.uri, experiment=self.experiment)


def _listed(text: Any) -> Any:
    """Read `[A,B]` as a list; a text without brackets is one item, since names of sweeps contain commas."""
    if not isinstance(text, str):
        return text
    if text.startswith("[") and not text.endswith("]"):
        raise ValueError("has no closing bracket; write [A,B], in quotes if a name has spaces")
    parts = text[1:-1].split(",") if text.startswith("[") else [text]
    named = [part.strip() for part in parts if part.strip()]
    if not named:
        raise ValueError("names nothing; give at least one, or leave it out")
    return named


Item = TypeVar("Item")
Listed = Annotated[list[Item], BeforeValidator(_listed)]


class RunsArguments(ExperimentArguments):
    """The store that a command reads, and the choice of runs."""

    sweep: Listed[str] = Field([], description="sweeps, by name or the beginning of an id; the newest by default")
    runs: Listed[str] = Field([], description="runs, by the beginning of an id, by name, or best")
    where: str | None = Field(None, description="all runs that meet a condition in MLflow's language")


Arguments = TypeVar("Arguments", bound=BaseModel)


def read(schema: type[Arguments], arguments: Sequence[str], text: str) -> Arguments:
    """Read the arguments KEY=VALUE of a command; a text value may contain any character.

    `--help` prints the help and exits.

    Args:
        schema: the keys (a field's alias, else its name), their types, defaults and descriptions.
        arguments: the arguments of the command line.
        text: the beginning of the help, the docstring of the command's module.

    Raises:
        UsageError: an argument is not KEY=VALUE, a value is empty, or a required key is missing.
        UserError: a key is unknown, or a value has the wrong type.
    """
    if HELP_WORDS & set(arguments):
        print(help_of(schema, text))
        sys.exit(0)
    keys = keys_of(schema)
    given: dict[str, str] = {}
    for argument in written_out(arguments):
        key, equals, value = argument.partition("=")
        if not equals:
            raise UsageError(f"{argument} is not KEY=VALUE; the keys are: {', '.join(keys)}.")
        if key not in keys:
            raise UserError(f"There is no key '{key}'{nearest(key, keys)}; there are: {', '.join(keys)}.")
        if value.strip():
            given[key] = value
        elif key not in EMPTY_MEANS_NONE:
            raise UsageError(f"{key}= is empty; give a value, or leave it out.")
    if missing := [f"{key}=" for key, field in keys.items() if field.is_required() and key not in given]:
        raise UsageError(f"{' and '.join(missing)} must be given; --help shows an example.")
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise UserError("\n".join(_problem(detail, given) for detail in error.errors())) from None


def keys_of(schema: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a command by their keys, those of the store last."""
    keys = {field.alias or name: field for name, field in schema.model_fields.items()}
    return dict(sorted(keys.items(), key=lambda item: item[0].startswith("tracking.")))


def _problem(detail: Mapping[str, Any], given: Mapping[str, str]) -> str:
    """An error message, in one sentence, for a value that pydantic refuses."""
    key, *inside = detail["loc"]
    value = detail["input"] if inside else given[str(key)]
    sentence = str(detail["msg"]).removeprefix("Value error, ").partition(", unable to")[0]
    if detail["type"] == "bool_parsing":
        sentence = "must be true or false"
    return f"{key}={value} {sentence.replace('Input should be', 'must be')}."


# --help


def help_of(schema: type[BaseModel], text: str) -> str:
    """The help of a command: the text, and a line for each key with its default."""
    return help_text(text, {"ARGUMENTS": argument_rows(schema)})


def argument_rows(schema: type[BaseModel]) -> list[tuple[str, str]]:
    """The keys of a command as rows of --help, with their defaults and short forms."""
    short = {key: form for form, key in SHORT_FORMS.items()}
    rows = []
    for key, field in keys_of(schema).items():
        also = f"; {short[key]}= for short" if key in short else ""
        rows.append((f"{key}={_default(field)}", f"{field.description}{also}"))
    return rows


def _default(field: FieldInfo) -> str:
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(value)}]" if value else ""
    return "" if value is None else str(value)


def help_text(text: str, sections: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """Format the help of a command: a text, then sections of rows with a name and a description."""
    lines = [text.strip().replace("python -m src.", " ".join(command("")))]
    for title, rows in sections.items():
        rows = list(rows)
        width = max(len(name) for name, _ in rows) + 2
        lines += ["", title]
        for name, description in rows:
            description = description.replace("python -m src.", " ".join(command("")))
            first, *more = textwrap.wrap(description, WIDTH - width - 2) or [""]
            lines += [f"  {name:<{width}}{first}".rstrip(), *(" " * (width + 2) + line for line in more)]
    return "\n".join(lines)


def short_form_rows() -> list[tuple[str, str]]:
    """The short forms as rows of --help."""
    return [(f"{form}=", f"{key}=") for form, key in SHORT_FORMS.items()]
