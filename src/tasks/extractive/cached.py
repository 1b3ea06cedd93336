"""Caches the encoder's hidden states for training only the head: `train.cache_encoder=true`.

If only the head trains and there is no dropout, every epoch and evaluation computes the same hidden states. They are
computed once and kept in a memory-mapped file, in the precision of the run. In bf16 a file takes 2 bytes per token and
hidden unit: 0.5 GB for 4,000 windows of MiniLM, and 24 GB for all of SQuAD with BERT-base.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from src.config import UserError
from src.tasks.base import known_inputs, micro_batches
from src.tasks.extractive.batches import LABELS, SpanBatches


class CachedHiddenStates(SpanBatches):
    """Batches of hidden states, (rows, tokens, hidden size), instead of tokens.

    Args:
        accelerator: of the device.
        model: whose encoder computes the hidden states of all windows.
        batches: the windows.
        file: for the hidden states; it may be deleted after this object has been created.
        tokens_per_pass: see `src.tasks.base.micro_batches`.

    Raises:
        UserError: the disk has no room for them.
    """

    def __init__(
        self, accelerator: Accelerator, model: Any, batches: SpanBatches, file: Path, tokens_per_pass: int | None
    ) -> None:
        super().__init__(batches.windows, batches.pad_token_id, batches.max_length)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.states: torch.Tensor | None = None
        order = [part for rows in batches.evaluation(32) for part in micro_batches(rows, self.lengths, tokens_per_pass)]
        encoder = model.base_model.eval()
        with torch.inference_mode():
            for part in order:
                batch = {name: values.to(accelerator.device) for name, values in batches.collate(part).items()}
                inputs = {name: values for name, values in batch.items() if name not in LABELS}
                with accelerator.autocast():
                    states = encoder(**known_inputs(encoder, inputs)).last_hidden_state.cpu()
                if self.states is None:
                    self.states = _file(file, int(self.starts[-1]), states.shape[-1], states.dtype)
                for row, state in zip(part, states, strict=True):
                    self.states[self.starts[row] : self.starts[row + 1]] = state[: self.lengths[row]]

    def collate(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Make a batch like `SpanBatches`, with `inputs_embeds` in place of `input_ids`."""
        assert self.states is not None
        batch = super().collate(rows)
        tokens = batch.pop("input_ids")
        states = torch.zeros(*tokens.shape, self.states.shape[-1], dtype=self.states.dtype)
        for i, row in enumerate(rows):
            states[i, : self.lengths[row]] = self.states[self.starts[row] : self.starts[row + 1]]
        return batch | {"inputs_embeds": states}


def _file(file: Path, tokens: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    needed = tokens * size * dtype.itemsize
    free = shutil.disk_usage(file.parent).free
    if needed > 0.95 * free:
        raise UserError(
            f"train.cache_encoder=true needs {needed / 1e9:.1f} GB under {file.parent}, where {free / 1e9:.1f} GB are "
            "free; make room, or leave it out."
        )
    return torch.from_file(str(file), shared=True, size=tokens * size, dtype=dtype).view(tokens, size)
