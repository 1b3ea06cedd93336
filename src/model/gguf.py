"""Converts a GGUF file to a folder with config.json, model.safetensors and a tokenizer, once, in a cache.

A GGUF holds quantised weights. They are dequantised to fp32, which does not restore the lost precision. transformers
takes about half a minute to read 135 M parameters from a GGUF, and a second or two to load them from the folder.

    python -m src.model.gguf FILE FOLDER

writes the folder; `converted` runs it in a separate process, so that its memory does not count as that of the run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import constants

from src.config import ROOT, UserError
from src.model.place import check_hash, sha256_of

CACHE = "tuneoff"  # a folder in the cache of the Hugging Face libraries
DIGESTS = "whole.json"  # the sha256 of the other files in the folder


def converted(file: Path, sha256: str | None) -> Path:
    """The folder in the cache that a GGUF is converted into; it is made if it is missing or damaged.

    The folder is named after the file's content, and only gets its name when it is complete. If several processes need
    it at the same time, one makes it and the others wait.

    Args:
        file: the GGUF.
        sha256: the required hash; None for any.

    Raises:
        UserError: the file is missing, has another hash or cannot be read, or the package `gguf` is not installed.
    """
    if not file.is_file():
        raise UserError(f"model.gguf={file.name}: there is no such file in {file.parent}; check model.path.")
    if sha256 is not None:
        check_hash(file, sha256)
    cache = Path(constants.HF_HOME) / CACHE
    folder = cache / f"gguf-{sha256_of(file)[:16]}"
    if _is_whole(folder):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{folder.name}.lock"):
        if not _is_whole(folder):  # another process may have made it meanwhile
            with tempfile.TemporaryDirectory(dir=cache) as temporary:
                made = Path(temporary) / folder.name
                _convert(file, made)
                if folder.exists():  # damaged
                    shutil.rmtree(folder)
                made.replace(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a converted folder contains all its files, unchanged."""
    try:
        digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        return bool(digests) and all(sha256_of(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return False


def _convert(file: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"Reading {file.name} needs the Python package gguf: pip install -e '.[llm]'")
    print(f"{file.name} is converted once, in about half a minute, and kept in {folder.parents[1]}.", file=sys.stderr)
    command = [sys.executable, "-m", "src.model.gguf", str(file), str(folder)]
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": python_path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # no shell  # nosec B603
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]
        raise UserError(f"{file} cannot be read as a GGUF of a language model ({reason}); check the file.")


def write(file: Path, folder: Path) -> None:
    """Convert a GGUF into a new folder.

    Args:
        file: the GGUF.
        folder: to be made.
    """
    import torch
    import transformers

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    # Newer releases may keep weights in quantised blocks, which cannot be trained.
    packed = getattr(transformers, "GgufConfig", None)
    whole = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(**source, **whole, dtype=torch.float32)  # a folder  # nosec B615
    vars(loaded.config).pop("quantization_config", None)
    # A model that was loaded from a GGUF is marked as quantised and cannot be saved; a new model can.
    with torch.device("meta"):
        model = type(loaded)(loaded.config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(folder)  # a folder  # nosec B615
    digests = {each.name: sha256_of(each) for each in sorted(folder.iterdir())}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """The command line: FILE FOLDER; the last line of stderr says what went wrong."""
    try:
        write(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # a damaged file fails in many ways
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
