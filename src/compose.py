"""From the command line to a `Config`: what Hydra needs to know of us, and what its errors mean in one sentence.

Nothing here imports torch: a mistake in the command line is answered in under a second.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from src.config import ROOT, SETTINGS, Config, UserError, nearest
from src.grid import BLOCK, MethodKeys, key_of

# What is answered by one sentence; anything else is a fault of the program.
MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)


def quiet_libraries() -> None:
    """Keep libraries' progress bars and deprecation notes from drowning what is said; call before importing."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)


def register() -> None:
    """Make the schema, the resolvers and our plug-in known to Hydra; call it before composing."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # where hydra_plugins/ is
    ConfigStore.instance().store(name="schema", node=Config)
    # Named after what they point at, so that a table says which file or model a number is about.
    OmegaConf.register_new_resolver("stem", lambda path: Path(str(path)).stem if path else "file", replace=True)
    OmegaConf.register_new_resolver("tuneoff_root", lambda: str(SETTINGS), replace=True)


@dataclass(frozen=True)
class Primary:
    """The configuration that Hydra begins with: its folder and its name."""

    folder: str = str(SETTINGS / "conf")
    name: str = "config"


def completed(arguments: Sequence[str]) -> list[str]:
    """The arguments with what they mean besides: `dataset.path=FILE` alone is `dataset=file dataset.path=FILE`."""
    given = {key_of(argument) for argument in arguments}
    means_file = "dataset.path" in given and not given & {"dataset", "experiments", "from_run"}
    if not means_file:
        return list(arguments)
    # Next to the path: Hydra's parser takes no override behind an option such as --cfg.
    place = [key_of(argument) for argument in arguments].index("dataset.path")
    return [*arguments[:place], "dataset=file", *arguments[place:]]


def check_method_keys(arguments: Sequence[str], primary: Primary) -> None:
    """Refuse keys of `method.peft` that the method of a single run cannot use; Hydra fails on them without a reason.

    Raises:
        UserError: the method has no block `peft`, or does not know the key.
    """
    if any(key_of(argument).startswith(BLOCK) for argument in arguments):
        with initialize_config_dir(config_dir=primary.folder, version_base="1.3"):
            methods = MethodKeys(lambda chosen: compose(config_name=primary.name, overrides=list(chosen)))
            methods.check([[argument for argument in arguments if "=" in argument and not argument.startswith("-")]])


def from_hydra(composed: DictConfig, overrides: Sequence[str]) -> Config:
    """What Hydra composed, as dataclasses.

    Args:
        composed: without Hydra's own part.
        overrides: that were given; with `model.path` the group's hash and shape of the model are not this one's, and
            its weights are loaded.

    Raises:
        OmegaConfBaseException: a value that is missing or cannot be resolved.
    """
    config: Any = OmegaConf.to_object(composed)
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    if "model.path" in given and config.model.path is not None:
        if not given & {"model.name", "model"}:
            config.model.name = Path(str(config.model.path)).name
        own: dict[str, Any] = {"sha256": None, "pretrained": True, "tokenizer": None, "config": {}}
        for key, value in own.items():
            if not any(override.startswith(f"model.{key}") for override in given):
                setattr(config.model, key, value)
    return config


def explain(error: BaseException) -> str:
    """One sentence for an error that the user can mend: what is wrong, where, and what was probably meant."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        names = sorted(set(error.options or []))
        there_are = f"there are: {', '.join(names)}" if names else "there is none in that group"
        extras = "; more come with pip install -e '.[parallel,ray,slurm]'" if group == "hydra/launcher" else ""
        return f"{group}={name} does not exist{nearest(name, names)}; {there_are}{extras}."
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}. Check that the place exists, is writable and has room."
    sentence = str(error)
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, Container):
            key, parent = str(cause.key), cause.parent_node
            known = [str(k) for k in parent if k != "hydra"] if isinstance(parent, DictConfig) else []
            if parent._metadata.object_type is dict:  # open to any key, as peft's block is
                hint = f"to add it, write ++{cause.full_key}=..."
                return f"There is no key '{cause.full_key}' yet{nearest(key, known)}; {hint}"
            # `learning_rate=` for `train.learning_rate=`
            inside = [
                f"'{group}.{key}'" for group in known if isinstance(parent, DictConfig) and _holds(parent, group, key)
            ]
            meant = f" (did you mean {' or '.join(inside)}?)" if inside else nearest(key, known)
            return f"There is no key '{cause.full_key or key}'{meant}; there are: {', '.join(known)}."
        if isinstance(cause, OmegaConfBaseException):
            sentence = f"{cause.full_key}: {str(cause.msg or cause).splitlines()[0]}" if cause.full_key else str(cause)
    return " ".join(sentence.split())


def _holds(parent: DictConfig, group: str, key: str) -> bool:
    node = parent._get_node(group)
    return isinstance(node, DictConfig) and not node._is_none() and key in node


def key_values(arguments: Sequence[str], keys: Sequence[str], help: str) -> dict[str, str]:
    """KEY=VALUE arguments of a command without Hydra, for values that hold any character.

    `--help` prints `help` and exits.

    Raises:
        UserError: a key that is not one of `keys`.
    """
    given = {key: value for key, _, value in (argument.partition("=") for argument in arguments)}
    if given.keys() & {"-h", "--help", "help"}:
        print(help)
        sys.exit(0)
    for key in given:
        if key not in keys:
            raise UserError(f"There is no key '{key}'{nearest(key, keys)}; there are: {', '.join(keys)}.")
    return given


def listed(key: str, text: str) -> list[str]:
    """`[A,B]` as a list; without brackets it is one, commas and all, as names of sweeps have them.

    Raises:
        UserError: a list that is empty or has no end.
    """
    if text.startswith("[") and not text.endswith("]"):
        raise UserError(f"{key}={text} has no closing bracket; write {key}=[A,B], in quotes where a name has spaces.")
    parts = text[1:-1].split(",") if text.startswith("[") else [text]
    named = [part.strip() for part in parts if part.strip()]
    if not named:
        raise UserError(f"{key}={text} names nothing; give at least one, or leave {key}= out.")
    return named


def fail(error: BaseException) -> NoReturn:
    """Say what is wrong in one sentence; exit status 2 for a command line that cannot be read, else 1."""
    print(f"\nError: {explain(error)}", file=sys.stderr)
    sys.exit(2 if isinstance(error, OverrideParseException) else 1)
