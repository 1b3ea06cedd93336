"""Measures forgetting: how training changed the model's hidden states and its loss as a language model.

The model is compared with itself before training, on the same passages. These belong to the validation set, and no
training question is about them. They are chosen by a hash of their text, so that all runs on a data set use the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.nn.utils.rnn import pad_sequence

from src.tasks.base import known_inputs

PASSAGES = 48
TOKENS = 128  # of each passage, at most
ROWS = 8  # passages in a batch
MASKED = 0.15  # of the tokens, as in BERT's pretraining (Devlin et al. 2019)


@dataclass(frozen=True)
class Probe:
    """Batches of tokenised passages, with `input_ids`, `attention_mask` and the other outputs of the tokenizer."""

    batches: list[dict[str, torch.Tensor]]  # padded at the end
    special_ids: list[int]
    mask_id: int | None


def make_probe(tokenizer: Any, trained: Sequence[str], others: Sequence[str]) -> Probe | None:
    """Make the probe from the passages `others` that are not in `trained`; None if there are none."""
    passages = sorted(set(others) - set(trained), key=lambda text: hashlib.sha256(text.encode()).digest())[:PASSAGES]
    batches = [_padded(tokenizer, passages[i : i + ROWS]) for i in range(0, len(passages), ROWS)]
    return Probe(batches, tokenizer.all_special_ids, tokenizer.mask_token_id) if batches else None


def _padded(tokenizer: Any, passages: Sequence[str]) -> dict[str, torch.Tensor]:
    """Pad passages into a batch. The tokenizer of a decoder may lack a padding token, or pad on the left."""
    encoded = tokenizer(passages, truncation=True, max_length=TOKENS, return_attention_mask=True)
    fill = {"input_ids": tokenizer.pad_token_id or 0}
    return {
        name: pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill.get(name, 0))
        for name, rows in encoded.items()
    }


@torch.inference_mode()
def forgetting(
    accelerator: Accelerator, trained: Any, untouched: Any, masked_lm: Any, probe: Probe
) -> dict[str, float]:
    """Compare the trained model with the untrained one.

    Args:
        accelerator: for device and precision.
        trained, untouched: the models after and before training, on the device.
        masked_lm: for an encoder, the untrained model with its checkpoint's masked-language-model head, or None.
        probe: the passages.

    Returns:
        `cka`, the linear centred kernel alignment of the hidden states of all tokens (Kornblith et al. 2019), and
        `cosine`, their mean cosine similarity; both are 1 if nothing has changed. With `masked_lm`, also
        `mlm_loss_before` and `mlm_loss`, the cross entropy (nats) of masked tokens before and after training, with the
        same head. For a decoder, also `lm_loss_before` and `lm_loss`; see `language_loss`.
    """
    states = []
    for model in (untouched, trained):
        encoder = model.base_model.eval()
        hidden = []
        for batch in _on(accelerator, probe):
            with accelerator.autocast():
                out = encoder(**known_inputs(encoder, batch)).last_hidden_state
            hidden.append(out[batch["attention_mask"].bool()].double().cpu())
        states.append(torch.cat(hidden))
    before, after = states
    metrics = {"cka": linear_cka(before, after), "cosine": float(cosine_similarity(before, after).mean())}
    if is_decoder(trained):
        metrics["lm_loss_before"] = language_loss(accelerator, untouched, probe)
        metrics["lm_loss"] = language_loss(accelerator, trained, probe)
    elif masked_lm is not None and probe.mask_id is not None:
        metrics["mlm_loss_before"] = _masked_loss(accelerator, masked_lm, probe)
        setattr(masked_lm, masked_lm.base_model_prefix, trained.base_model)
        metrics["mlm_loss"] = _masked_loss(accelerator, masked_lm, probe)
    return metrics


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """The linear CKA of two sets of hidden states of the same tokens.

    Args:
        x, y: hidden states, each of shape (tokens, hidden size).

    Returns:
        A similarity from 0 to 1 that is invariant to rotations.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    return float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def is_decoder(model: Any) -> bool:
    """Whether a model predicts the next token."""
    return model.get_output_embeddings() is not None


@torch.inference_mode()
def language_loss(accelerator: Accelerator, model: Any, probe: Probe) -> float:
    """The mean cross entropy (nats) of a decoder over the tokens of the passages, without the first of each."""
    model.eval()
    losses = []
    for batch in _on(accelerator, probe):
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            tokens = ids[mask.bool()]  # one passage at a time: the logits of the whole vocabulary are large
            with accelerator.autocast():
                logits = model(input_ids=tokens[None], use_cache=False).logits[0]
            losses.append(cross_entropy(logits[:-1].float(), tokens[1:], reduction="none"))
    return float(torch.cat(losses).double().mean())


def _on(accelerator: Accelerator, probe: Probe) -> list[dict[str, torch.Tensor]]:
    return [{name: values.to(accelerator.device) for name, values in batch.items()} for batch in probe.batches]


def _masked_loss(accelerator: Accelerator, model: Any, probe: Probe) -> float:
    model.eval()
    generator = torch.Generator().manual_seed(0)
    losses = []
    for batch in _on(accelerator, probe):
        ids = batch["input_ids"]
        special = torch.isin(ids, torch.tensor(probe.special_ids, device=ids.device))
        masked = (torch.rand(ids.shape, generator=generator) < MASKED).to(ids.device) & ~special
        inputs = batch | {"input_ids": ids.masked_fill(masked, int(probe.mask_id or 0))}
        with accelerator.autocast():
            logits = model(**known_inputs(model, inputs)).logits
        losses.append(cross_entropy(logits[masked].double(), ids[masked], reduction="none"))
    return float(torch.cat(losses).mean())
