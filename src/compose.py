"""Makes a `Config` from the command line: it registers tuneoff with Hydra, and explains Hydra's errors in one sentence.

Nothing here imports torch, so that an error in the command line is reported in under a second.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from src.arguments import EMPTY_MEANS_NONE, SHORT_FORMS, UsageError, schema_keys, written_out
from src.config import ROOT, SETTINGS, Config, UserError, nearest
from src.credentials import hidden
from src.data.files import SUFFIXES
from src.grid import BLOCK, MethodKeys, key_of

# Errors that are explained in one sentence; any other exception is a bug of the program.
MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)
# Hydra's message for several values without -m, and OmegaConf's message for a value of the wrong type.
SEVERAL = re.compile(r"(?:Ambiguous value for argument|Sweep parameters) '(.*?=.*?)'(?:$| requires)", re.MULTILINE)
REFUSED = re.compile(r"Value '(.*)' (?:of type '.*' could not be converted to (\w+)|is not a valid (\w+) \(type)")
WANTED = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}


def quiet_libraries() -> None:
    """Turn off progress bars and deprecation warnings of libraries; call this before importing them."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)


def register() -> None:
    """Register the schema, the resolvers and the plug-ins with Hydra; call this before composing."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # the folder of hydra_plugins/
    ConfigStore.instance().store(name="schema", node=Config)
    # A data set is named after its file, so that tables show it.
    OmegaConf.register_new_resolver("stem", lambda path: Path(str(path)).stem if path else "file", replace=True)
    OmegaConf.register_new_resolver("product", lambda one, other: one * other, replace=True)
    # Without dropout an encoder overfits within three epochs; decoders are usually fine-tuned without it.
    OmegaConf.register_new_resolver("dropout_of", lambda task: 0.0 if task == "generative" else 0.1, replace=True)
    OmegaConf.register_new_resolver("tuneoff_root", lambda: str(SETTINGS), replace=True)


@dataclass(frozen=True)
class Primary:
    """The folder and the name of Hydra's primary configuration."""

    folder: str = str(SETTINGS / "conf")
    name: str = "config"


def completed(arguments: Sequence[str]) -> list[str]:
    """The arguments in the form that Hydra needs: options first, then overrides with their full keys.

    `dataset.path=FILE` alone means `dataset=file dataset.path=FILE`.

    Raises:
        UsageError: an argument is neither an option of Hydra nor KEY=VALUE, or a value is empty.
    """
    options, words = split_options(arguments)
    overrides = written_out(words)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not key_of(override) or not (equals or override.startswith("~")):
            raise UsageError(f"{override} is not KEY=VALUE{_meant(override)}.")
        if equals and not value.strip() and key not in EMPTY_MEANS_NONE:
            raise UsageError(f"{key}= is empty; give a value, or leave it out.")
        _check_choice(override)
    given = [key_of(override) for override in overrides]
    if "dataset.path" in given and not {*given} & {"dataset", "experiments", "from_run"}:
        overrides.insert(given.index("dataset.path"), "dataset=file")
    return [*options, *overrides]


def _check_choice(override: str) -> None:
    """Refuse a value that cannot name an option, such as a number; Hydra would fail on it without a clear reason.

    Raises:
        UserError: the value cannot name an option.
    """
    group, options = key_of(override).partition("@")[0], groups()
    if "=" not in override or not (group in options or group == "hydra" or group.startswith("hydra/")):
        return
    [parsed] = OverridesParser.create().parse_overrides([override])
    value = parsed.value()
    if isinstance(value, Glob | dict):
        return
    chosen = value.list if isinstance(value, ChoiceSweep) else [value]
    names = [name for each in chosen for name in (each if isinstance(each, list) else [each])]
    if not all(isinstance(name, str | QuotedString) for name in names):
        there_are = f"; there are: {', '.join(options[group])}" if group in options else ""
        raise UserError(f"{override} does not name an option{there_are}.")


def split_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate Hydra's options and their values from the other arguments, since some options must precede overrides.

    Raises:
        UsageError: an option is unknown to Hydra, or lacks the value that it needs.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}; --help shows how the command is used.")

    setattr(parser, "error", refuse)  # noqa: B010  # mypy takes no assignment to a method
    known, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        option = unknown[0]
        following = [*arguments, ""][arguments.index(option) + 1]
        name, equals, value = option.lstrip("-").replace("-", "_").partition("=")
        value = value if equals else "" if following.startswith("-") or "=" in following else following
        keys = [*SHORT_FORMS, *schema_keys(), *groups()]
        meant = name if name in keys else next(iter(get_close_matches(name, keys, n=1)), None)
        hint = f"did you mean {meant}={value or 'VALUE'}?" if meant else "arguments are KEY=VALUE, see --help."
        raise UsageError(f"{option} is not an option; {hint}")
    words = list(known.overrides)
    options = [argument for argument in arguments if not (words and argument == words[0] and words.pop(0))]
    return options, list(known.overrides)


def groups() -> dict[str, list[str]]:
    """The options of each group of the configuration, read from the folders."""
    folders = [*sorted(path for path in (SETTINGS / "conf").iterdir() if path.is_dir()), SETTINGS / "experiments"]
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders if folder.name != "hydra"
    }


def _meant(word: str) -> str:
    """The probable meaning of a word without `=`, as the end of a sentence."""
    if Path(word).is_file() or Path(word).suffix.lower() in SUFFIXES:
        return f" (did you mean {shlex.quote(assignment('dataset.path', word))}?)"
    if word in SHORT_FORMS or word in schema_keys():
        return f" (did you mean {word}=VALUE?)"
    options = groups()
    names = [name for inside in options.values() for name in inside]
    close = [word] if word in names else get_close_matches(word, names, n=1)
    meant = [f"{group}={name}" for group, inside in options.items() for name in inside if name in close]
    return f" (did you mean {' or '.join(meant)}?)" if meant else ", such as method=lora; see --help"


def assignment(key: str, value: str) -> str:
    """KEY=VALUE in Hydra's grammar, for a value with any characters; it is not quoted for a shell."""
    plain = re.fullmatch(r"[A-Za-z0-9_ ./+-]+", value) is not None
    return f"{key}={value}" if plain else '{}="{}"'.format(key, value.replace('"', '\\"'))


def check_method_keys(arguments: Sequence[str], primary: Primary) -> None:
    """Refuse keys of `method.peft` that the method of a single run cannot use; Hydra's error would not be clear.

    Raises:
        UserError: the method has no block `peft`, or does not know the key.
    """
    if any(key_of(argument).startswith(BLOCK) for argument in arguments):
        with initialize_config_dir(config_dir=primary.folder, version_base="1.3"):
            methods = MethodKeys(lambda chosen: compose(config_name=primary.name, overrides=list(chosen)))
            methods.check([[argument for argument in arguments if "=" in argument and not argument.startswith("-")]])


def from_hydra(composed: DictConfig, overrides: Sequence[str]) -> Config:
    """Convert the configuration that Hydra composed to dataclasses.

    Args:
        composed: the configuration without Hydra's section.
        overrides: the given overrides. With `model.path`, the hash and the configuration of the group's model do not
            apply and are reset, and the weights of the given model are loaded.

    Raises:
        OmegaConfBaseException: a value is missing or cannot be resolved.
    """
    config: Any = OmegaConf.to_object(composed)
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    if "model.path" in given and config.model.path is not None:
        if not given & {"model.name", "model"}:
            config.model.name = Path(str(config.model.path)).name
        reset: dict[str, Any] = {"pretrained": True, "config": {}}
        reset |= dict.fromkeys(("gguf", "install", "license", "sha256", "tokenizer"))
        for key, value in reset.items():
            if not any(override.startswith(f"model.{key}") for override in given):
                setattr(config.model, key, value)
    return config


def explain(error: BaseException) -> str:
    """Explain an error that the user can fix in one sentence: what is wrong, where, and the probable intention."""
    return hidden(_sentence(error))


def _sentence(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        names = sorted(set(error.options or []))
        there_are = f"there are: {', '.join(names)}" if names else "that group has no options"
        extras = "; more come with pip install -e '.[parallel,ray,slurm]'" if group == "hydra/launcher" else ""
        return f"{group}={name} does not exist{nearest(name, names)}; {there_are}{extras}."
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} does not exist; check the path."
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}. Check that the place exists, is writable and has room."
    if usage := _usage(error):
        return usage
    sentence = str(error)
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, Container):
            key, parent = str(cause.key), cause.parent_node
            known = [str(k) for k in parent if k != "hydra"] if isinstance(parent, DictConfig) else []
            if parent._metadata.object_type is dict:  # it accepts any key, as peft's block does
                hint = f"to add it, write ++{cause.full_key}=..."
                return f"There is no key '{cause.full_key}' yet{nearest(key, known)}; {hint}"
            # `learning_rate=` for `train.learning_rate=`
            inside = [
                f"'{group}.{key}'" for group in known if isinstance(parent, DictConfig) and _holds(parent, group, key)
            ]
            meant = f" (did you mean {' or '.join(inside)}?)" if inside else nearest(key, known)
            return f"There is no key '{cause.full_key or key}'{meant}; there are: {', '.join(known)}."
        if isinstance(cause, ValidationError) and (refused := REFUSED.match(str(cause.msg))):
            return f"{cause.full_key}={refused[1]} must be {WANTED[refused[2] or refused[3]]}."
        if isinstance(cause, MissingMandatoryValue) and cause.full_key:
            return f"{cause.full_key} has no value; give one: {cause.full_key}=VALUE."
        if isinstance(cause, OmegaConfBaseException):
            reason = str(cause.msg or cause).splitlines()[0]
            if cause.full_key and reason.endswith("is not Optional"):
                return f"{cause.full_key} must not be null."
            sentence = f"{cause.full_key} cannot have this value ({reason})." if cause.full_key else str(cause)
    return " ".join(sentence.split())


def _usage(error: BaseException) -> str:
    """Explain, in one sentence, a command line that Hydra cannot read; empty for other errors."""
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        quoted = shlex.quote(assignment(key, value.strip("\"'")))
        return f"{error.override} cannot be read; if its value is a text, quote it: {quoted}"
    if varied := SEVERAL.match(str(error)):
        key, _, value = varied[1].partition("=")
        one = "" if key in groups() else f"; if it is one value, quote it: {shlex.quote(assignment(key, value))}"
        return f"{varied[1]} names several values; add -m to run each of them{one}."
    return ""


def _holds(parent: DictConfig, group: str, key: str) -> bool:
    node = parent._get_node(group)
    return isinstance(node, DictConfig) and not node._is_none() and key in node


def fail(error: BaseException) -> NoReturn:
    """Print the error in one sentence and exit, with status 2 if the command line cannot be read, else 1."""
    print(f"Error: {explain(error)}", file=sys.stderr)
    sys.exit(2 if isinstance(error, UsageError) or _usage(error) else 1)
