"""Checkpoints of a training run: written whole or not at all, read by the next attempt.

One folder a checkpoint, `step-NUMBER`, holds the trained weights (frozen ones come with the model) in
`trained.safetensors`, optimizer, schedule and whatever else was registered in `state.pt`, and the random states of each
process in `process-NUMBER.pt`. It is written under another name and renamed, so that a folder of that name is always
whole. The `.pt` files hold plain values and tensors, and are read with torch's `weights_only`: nothing in them is run.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from src.config import UserError
from src.training.together import together

WEIGHTS, STATE = "trained.safetensors", "state.pt"
UNFINISHED = "unfinished"  # the folder of one that is being written
UNWRITABLE = (OSError, RuntimeError, SafetensorError)  # what a full disk makes torch and safetensors raise


class Stateful(Protocol):
    """Anything that can be put into a checkpoint; its state is made of plain values, lists, dicts and tensors."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Checkpoints:
    """The checkpoints of one run.

    Args:
        accelerator: of the run.
        folder: where they lie; the same in every process.
        minutes: a checkpoint is due after so long.
        keep: keep the older ones.
        warn: is called once with the reason that none can be written; training goes on without.
        parts: what a checkpoint holds by name, besides what `register` adds.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        minutes: float,
        keep: bool,
        warn: Callable[[str], None],
        parts: Mapping[str, Stateful] | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.folder = folder
        self.seconds = minutes * 60
        self.keep = keep
        self.warn: Callable[[str], None] | None = warn
        self.saved_at = time.monotonic()
        self.model: Any = None
        self.parts: dict[str, Stateful] = dict(parts or {})

    def register(self, model: torch.nn.Module, parts: Mapping[str, Stateful]) -> None:
        """Name the model, and what else a checkpoint holds besides its trained weights and the random states."""
        self.model = self.accelerator.unwrap_model(model)
        self.parts |= parts
        if self.accelerator.scaler is not None:  # of fp16
            self.parts["scaler"] = self.accelerator.scaler

    @property
    def due(self) -> bool:
        """Whether it is time; processes may differ in their answer."""
        return time.monotonic() - self.saved_at > self.seconds

    def save(self, step: int) -> None:
        """Write one; every process must call it. They go on together where one of them cannot write."""
        whole, unfinished = self.folder / f"step-{step:08d}", self.folder / UNFINISHED
        main = self.accelerator.is_main_process
        try:
            together(lambda: _make_anew(unfinished) if main else None, UNWRITABLE)
            together(lambda: self._write(unfinished), UNWRITABLE)
            together(lambda: self._finish(unfinished, whole) if main else None, UNWRITABLE)
        except (UserError, *UNWRITABLE) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if self.warn is not None:
                self.warn(
                    f"The checkpoint at step {step} could not be written under {self.folder} "
                    f"({str(error).splitlines()[0][:200]}); an interruption would lose what was trained since the last."
                )
                self.warn = None
        self.saved_at = time.monotonic()

    def _write(self, folder: Path) -> None:
        if self.accelerator.is_main_process:
            save_file(_trained(self.model), folder / WEIGHTS)
            torch.save({name: part.state_dict() for name, part in self.parts.items()}, folder / STATE)
        torch.save(_random_states(), folder / self._process_file)

    def _finish(self, unfinished: Path, whole: Path) -> None:
        _to_disk(unfinished)
        older = self._existing()
        shutil.rmtree(whole, ignore_errors=True)
        unfinished.rename(whole)
        for folder in older if not self.keep else []:
            if folder != whole:
                shutil.rmtree(folder)

    @property
    def _process_file(self) -> str:
        return f"process-{self.accelerator.process_index}.pt"

    def load(self) -> bool:
        """Take up the newest one; false where there is none.

        Raises:
            UserError: it cannot be read.
        """
        existing = self._existing()
        if existing:
            together(lambda: self._load(existing[-1]))
        self.saved_at = time.monotonic()
        return bool(existing)

    def _load(self, folder: Path) -> None:
        try:
            weights = load_file(folder / WEIGHTS)
            state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
            states = torch.load(folder / self._process_file, map_location="cpu", weights_only=True)
            with torch.no_grad():
                for name, parameter in _trained(self.model).items():
                    parameter.copy_(weights[name])
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            _set_random_states(states)
        except Exception as error:  # whatever zipfile, torch or safetensors make of a damaged file
            raise UserError(
                f"The checkpoint {folder} cannot be read ({type(error).__name__}: "
                f"{str(error).partition(chr(10))[0][:200]}); delete the folder, and the run begins anew."
            ) from error

    def remove(self) -> None:
        """All of them, when the run is whole."""
        if self.accelerator.is_main_process:
            clear(self.folder, self.keep)

    def _existing(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def clear(folder: Path, keep: bool) -> None:
    """Remove the checkpoints of a whole run, or, where they are kept, what was left of one that never became whole."""
    shutil.rmtree(folder / UNFINISHED if keep else folder, ignore_errors=True)


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed while writing
    folder.mkdir(parents=True)


def _random_states() -> dict[str, Any]:
    """Of everything that this process may draw random numbers from."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": [value.tolist() if isinstance(value, np.ndarray) else value for value in np.random.get_state()],
        "python": random.getstate(),
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"])
    np.random.set_state(tuple(states["numpy"]))
    random.setstate(states["python"])


def _to_disk(folder: Path) -> None:
    """Wait until the files are on the disk: a machine that loses its power must not keep the name alone."""
    for path in folder.iterdir():
        with path.open("rb+") as file:  # Windows does so only for a file that may be written
            os.fsync(file.fileno())
    if hasattr(os, "O_DIRECTORY"):  # elsewhere (Windows) a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
