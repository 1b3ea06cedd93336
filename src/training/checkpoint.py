"""Checkpoints of a training run, which are written atomically and read by the next attempt.

A checkpoint is a folder `step-NUMBER`. It holds the trained weights in `trained.safetensors` (frozen ones come with the
model), optimizer, schedule and other registered state in `state.pt`, and the random states of each process in
`process-NUMBER.pt`. It is written under another name and then renamed, so that a folder of that name is always
complete. The `.pt` files hold plain values and tensors, and are read with torch's `weights_only`, which runs no code.
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
UNFINISHED = "unfinished"  # the folder of a checkpoint that is being written
UNWRITABLE = (OSError, RuntimeError, SafetensorError)  # raised by torch and safetensors when the disk is full


class Stateful(Protocol):
    """An object that can be saved in a checkpoint; its state consists of plain values, lists, dicts and tensors."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Checkpoints:
    """The checkpoints of one run.

    Args:
        accelerator: of the run.
        folder: of the checkpoints; the same in every process.
        minutes: the time after which a checkpoint is due.
        keep: keep older checkpoints.
        warn: called once with the reason if a checkpoint cannot be written; training continues without.
        parts: the state to save, by name, in addition to that of `register`.
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
        """Register the model, whose trained weights are saved, and further state, by name."""
        self.model = self.accelerator.unwrap_model(model)
        self.parts |= parts
        if self.accelerator.scaler is not None:  # of fp16
            self.parts["scaler"] = self.accelerator.scaler

    @property
    def due(self) -> bool:
        """Whether the time for a checkpoint has passed; processes may disagree."""
        return time.monotonic() - self.saved_at > self.seconds

    def save(self, step: int) -> None:
        """Write a checkpoint. Every process must call it; if one of them cannot write, all continue without."""
        complete, unfinished = self.folder / f"step-{step:08d}", self.folder / UNFINISHED
        main = self.accelerator.is_main_process
        try:
            together(lambda: _make_anew(unfinished) if main else None, UNWRITABLE)
            together(lambda: self._write(unfinished), UNWRITABLE)
            together(lambda: self._finish(unfinished, complete) if main else None, UNWRITABLE)
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

    def _finish(self, unfinished: Path, complete: Path) -> None:
        _to_disk(unfinished)
        older = self._existing()
        shutil.rmtree(complete, ignore_errors=True)
        unfinished.rename(complete)
        for folder in older if not self.keep else []:
            if folder != complete:
                shutil.rmtree(folder)

    @property
    def _process_file(self) -> str:
        return f"process-{self.accelerator.process_index}.pt"

    def load(self) -> bool:
        """Load the newest checkpoint; false if there is none.

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
        except Exception as error:  # zipfile, torch and safetensors raise various types for a damaged file
            raise UserError(
                f"The checkpoint {folder} cannot be read ({type(error).__name__}: "
                f"{str(error).partition(chr(10))[0][:200]}); delete the folder, and the run begins anew."
            ) from error

    def remove(self) -> None:
        """Remove the checkpoints of a completed run, unless they are kept."""
        if self.accelerator.is_main_process:
            clear(self.folder, self.keep)

    def _existing(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def clear(folder: Path, keep: bool) -> None:
    """Remove the checkpoints of a completed run; with `keep` only a checkpoint that was never completed."""
    shutil.rmtree(folder / UNFINISHED if keep else folder, ignore_errors=True)


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # left by an attempt that was killed while writing
    folder.mkdir(parents=True)


def _random_states() -> dict[str, Any]:
    """The states of all random number generators of this process."""
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
    """Flush the files to disk, so that after a power failure the name cannot exist without the content."""
    for path in folder.iterdir():
        with path.open("rb+") as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
