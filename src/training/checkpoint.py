"""Checkpoints of a training run, by accelerate's `save_state`: written whole or not at all, read by the next attempt.

One folder a checkpoint, `step-NUMBER`, holds the trained weights (frozen ones come with the model), the optimizer,
the schedule, the random states of every process and what was registered beside them. It is written under another
name and renamed, so that a folder of that name is always whole.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from src.config import UserError

WEIGHTS = "trained.safetensors"
UNWRITABLE = (OSError, RuntimeError, SafetensorError)  # what a full disk makes torch and safetensors raise


class Stateful(Protocol):
    """Anything that can be put into a checkpoint; its state is made of plain values, lists, dicts and tensors."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Checkpoints:
    """The checkpoints of one run.

    Args:
        accelerator: has prepared the model; the optimizer may follow.
        folder: where they lie; the same in every process.
        minutes: a checkpoint is due after so long.
        keep: keep the older ones.
        before_save: called before one is written; what was logged must not lie behind it.
        warn: is told once that none can be written; training goes on without.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        minutes: float,
        keep: bool,
        before_save: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self.accelerator = accelerator
        self.folder = folder
        self.seconds = minutes * 60
        self.keep = keep
        self.before_save = before_save
        self.warn: Callable[[str], None] | None = warn
        self.saved_at = time.monotonic()
        accelerator.register_save_state_pre_hook(self._save_weights)
        accelerator.register_load_state_pre_hook(self._load_weights)

    def register(self, parts: Sequence[Stateful]) -> None:
        """What a checkpoint holds beside weights, optimizer and random states; always in the same order."""
        self.accelerator.register_for_checkpointing(*parts)

    @property
    def due(self) -> bool:
        """Whether it is time; processes may differ in their answer."""
        return time.monotonic() - self.saved_at > self.seconds

    def save(self, step: int) -> None:
        """Write one; every process must call it."""
        self.before_save()
        try:
            self._save(self.folder / f"step-{step:08d}", self.folder / "unfinished")
        except UNWRITABLE as error:
            shutil.rmtree(self.folder / "unfinished", ignore_errors=True)
            if self.warn is not None:
                self.warn(
                    f"The checkpoint at step {step} could not be written under {self.folder} "
                    f"({str(error).splitlines()[0][:200]}); an interruption would lose what was trained since the last."
                )
                self.warn = None
        self.saved_at = time.monotonic()

    def _save(self, whole: Path, unfinished: Path) -> None:
        if self.accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)  # of an attempt that was killed while writing
            unfinished.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(unfinished))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            _to_disk(unfinished)
            older = self._found()
            shutil.rmtree(whole, ignore_errors=True)
            unfinished.rename(whole)
            for folder in older if not self.keep else []:
                if folder != whole:
                    shutil.rmtree(folder)

    def load(self) -> bool:
        """Take up the newest one; false where there is none.

        Raises:
            UserError: it cannot be read.
        """
        found = self._found()
        if found:
            try:
                self.accelerator.load_state(str(found[-1]))
            except Exception as error:  # whatever pickle, torch or safetensors make of a damaged file
                raise UserError(
                    f"The checkpoint {found[-1]} cannot be read ({type(error).__name__}: "
                    f"{str(error).partition(chr(10))[0][:200]}); delete the folder, and the run begins anew."
                ) from error
        self.saved_at = time.monotonic()
        return bool(found)

    def remove(self) -> None:
        """All of them, when the run is whole."""
        if not self.keep and self.accelerator.is_main_process:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _save_weights(self, models: list[torch.nn.Module], weights: list[Any], folder: str) -> None:
        weights.clear()  # accelerate would write the frozen ones as well
        if self.accelerator.is_main_process:
            save_file(_trained(self.accelerator.unwrap_model(models[0])), Path(folder) / WEIGHTS)

    @torch.no_grad()
    def _load_weights(self, models: list[torch.nn.Module], folder: str) -> None:
        stored = load_file(Path(folder) / WEIGHTS)
        for name, parameter in _trained(self.accelerator.unwrap_model(models[0])).items():
            parameter.copy_(stored[name])
        models.clear()


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
