"""Attention as products is torch's attention for any mask that transformers hands over, forward and backward."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from src.model.fast import attention
from src.model.fast.attention import BATCHED_MATMUL, KEPT_UP_TO
from tests.test_fast import TOKENS, WINDOWS, batch
from tests.test_model import SMALL, random_model

HIDDEN = {
    "left": slice(0, 7),
    "middle": slice(10, 13),
    "right": slice(TOKENS - 7, None),
    "both ends": [0, 1, TOKENS - 1],
    "scattered": [2, 5, 11, TOKENS - 1],
    "all but one": slice(1, None),
    "none": slice(0, 0),
    "all": slice(0, None),
}


def masked(model_type, *places):
    values = batch(model_type)
    values["attention_mask"][:] = 1
    for window, place in enumerate(places):
        values["attention_mask"][window, HIDDEN[place]] = 0
    return values


def computed(model, values, implementation):
    """Logits where there is a token, and the gradients of a loss over them."""
    model = copy.deepcopy(model)
    model.set_attn_implementation(implementation)
    out = model(**values)
    real = values["attention_mask"] == 1
    logits = torch.stack([out.start_logits, out.end_logits])[:, real]
    (logits.square().sum() + logits[0].sum()).backward()
    assert torch.isfinite(out.start_logits).all()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize("place", HIDDEN)
@pytest.mark.parametrize("reference", ["sdpa", "eager"])
def test_padding_may_stand_anywhere(model_type, place, reference):
    model = random_model(model_type, **SMALL[model_type]).train()
    values = masked(model_type, place, "none", "right")
    expected, gradients = computed(model, values, reference)
    logits, computed_gradients = computed(model, values, BATCHED_MATMUL)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert computed_gradients.keys() == gradients.keys() != set()
    for name, gradient in computed_gradients.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("tokens", [TOKENS, KEPT_UP_TO + 3])
@pytest.mark.parametrize("chunk", [attention.CHUNK, 1])
def test_every_window_of_a_batch_has_its_mask(tokens, chunk, monkeypatch):
    """Also those that are padding alone, in one chunk or in several, with the weights kept or made again."""
    monkeypatch.setattr(attention, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(len(HIDDEN), tokens, dtype=torch.bool)
    for window, place in enumerate(HIDDEN.values()):
        mask[window, place] = False
    results = []
    rows = mask[:, None, None, :].expand(-1, -1, tokens, -1)
    for attend, given in ((sdpa_attention_forward, rows), (attention._attend, mask)):
        generator.manual_seed(0)
        q, k, v, g = torch.randn(4, len(HIDDEN), 2, tokens, 8, generator=generator).unbind()
        parts = [part.requires_grad_() for part in (q, k, v)]
        module = torch.nn.Module()
        module.is_causal = False
        out, _ = attend(module, *parts, given)
        out.backward(g.transpose(1, 2))
        results.append([out.detach(), *(part.grad for part in parts)])
    for products, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(products, expected, rtol=1e-4, atol=1e-5)
    assert (results[1][0][-1] == 0).all()


def test_a_mask_of_pairs_of_tokens_is_torchs_business():
    model = random_model("bert", **SMALL["bert"])
    values = batch("bert")
    pairs = torch.ones(WINDOWS, 1, TOKENS, TOKENS, dtype=torch.bool).tril()
    expected, logits = (
        computed_with_pairs(model, values, pairs, implementation) for implementation in ("sdpa", BATCHED_MATMUL)
    )
    assert torch.equal(logits, expected)
    full = computed_with_pairs(model, values, torch.ones_like(pairs), BATCHED_MATMUL)
    assert not torch.allclose(full, logits, atol=1e-3)


def computed_with_pairs(model, values, pairs, implementation):
    model.set_attn_implementation(implementation)
    with torch.inference_mode():
        return model.eval()(**{**values, "attention_mask": pairs}).start_logits
