"""The base model that a method starts from, identified by a portable name and the hashes of its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers.utils import cached_file

from src.config import ModelConfig, UserError
from src.hub import hub_problem
from src.model.load_errors import not_loaded
from src.model.place import PACKAGE, place_of, sha256_of

FILE = "base.json"
# The hub names of weights that a package contains under another name, by their sha256.
PUBLISHED = {
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": "sentence-transformers/all-MiniLM-L6-v2",
}


@dataclass(frozen=True)
class Base:
    """The content of `base.json`."""

    name: str  # on the hub, of the package, or of the folder
    revision: str | None  # the commit on the hub
    weights: dict[str, str]  # the sha256 of each file of weights (of the GGUF itself); empty if they are random
    model_type: str  # the architecture, as transformers calls it
    seed: int  # of the weights that no file holds: the new head, or all of them

    @property
    def on_the_hub(self) -> bool:
        return self.revision is not None or self.name in PUBLISHED.values()

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def identify(config: ModelConfig, model_type: str, seed: int) -> Base:
    """Identify the base of a run by its weights and a name, never by a path on this machine.

    Args:
        config: of the model.
        model_type: of the loaded model.
        seed: of the run.
    """
    if not config.pretrained:
        return Base(f"random {model_type} weights", None, {}, model_type, seed)
    folder, weights = _weights(config)
    commit = folder.name if folder.parent.name == "snapshots" else None  # the layout of the hub's cache
    published = [PUBLISHED[sha256] for sha256 in weights.values() if sha256 in PUBLISHED]
    path = str(config.path)
    name = published[0] if published else path if commit or path.startswith(PACKAGE) else folder.name
    if config.gguf is not None:
        name = f"{name}/{config.gguf}"
    return Base(name, commit, weights, model_type, seed)


def check(config: ModelConfig, folder: Path, run: str) -> ModelConfig:
    """Check that the base to be loaded is the one that a stored model was trained on.

    Args:
        config: of the base to be loaded.
        folder: of the stored model; without `base.json` it is not checked.
        run: that stored the model, for the message.

    Returns:
        The configuration to load, with the commit that the run used.

    Raises:
        UserError: the weights differ.
    """
    if not (folder / FILE).exists():
        return config
    try:
        expected = Base(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UserError(f"run={run}: {FILE} of its model is damaged ({error}); train the run again.") from error
    if not expected.weights:
        return config
    if not Path(place_of(str(config.path))).is_dir():
        config = replace(config, revision=expected.revision)
    place, weights = _weights(config)
    if weights != expected.weights:
        at = f" at commit {expected.revision}" if expected.revision else ""
        raise UserError(
            f"run={run} was trained on {expected.name}{at}, and {place} holds other weights (their sha256 differs); "
            "give the folder of the right ones as model.path=FOLDER."
        )
    return replace(config, sha256=None)  # checked


def _weights(config: ModelConfig) -> tuple[Path, dict[str, str]]:
    """The folder of the weights on this machine, and the sha256 of each of its files."""
    folder = Path(place_of(str(config.path)))
    if not folder.is_dir():  # a hub name: look in the hub's cache
        try:
            local = hub_problem(str(folder)) is not None
            file = cached_file(str(config.path), "config.json", revision=config.revision, local_files_only=local)
            folder = Path(str(file)).parent
        except OSError as error:
            raise not_loaded(f"The base model {config.path}", error, str(folder)) from error
    if config.gguf is not None:
        if not (folder / config.gguf).is_file():
            raise UserError(f"The base model {config.gguf} is not in {folder}; check model.path.")
        return folder, {config.gguf: sha256_of(folder / config.gguf)}
    whole = folder / "model.safetensors"
    files = [whole] if whole.exists() else sorted(folder.glob("model-*-of-*.safetensors"))
    return folder, {file.name: sha256_of(file) for file in files}
