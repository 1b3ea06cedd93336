"""Decoders computed fast: the same logits and gradients as by transformers and peft, and less kept for them."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch.nn import functional
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from src.model.fast import layers, speed_up
from src.model.fast.causal import CausalAttention
from src.tasks.generative.batches import logits_at

SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": 300,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig),
}
PLACES = torch.tensor([(0, 5), (1, 30), (2, 39)])


def build(kind, chosen, tied=True):
    torch.manual_seed(0)
    made, config = MODELS[kind]
    model = made(config(**SHAPE, tie_word_embeddings=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms begin with ones, at which a wrong gradient could hide
                parameter.add_(0.2 * torch.randn_like(parameter))
    if chosen == "full":
        return model
    adapters = peft.LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0, init_lora_weights=False)
    return peft.get_peft_model(model, adapters)


def trained(model):
    """Logits at some places, and the gradients of what trains."""
    tokens = torch.randint(0, 300, (3, 40), generator=torch.Generator().manual_seed(1))
    with logits_at(model.train(), PLACES):
        logits = model(input_ids=tokens, use_cache=False).logits
    assert logits.shape == (3, 300)
    logits.float().log_softmax(-1)[:, 7].sum().backward()
    return logits.detach().float(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chosen", ["full", "lora"])
@pytest.mark.parametrize("kind", MODELS)
def test_logits_and_gradients_are_those_of_the_plain_model(kind, chosen, tied):
    model = build(kind, chosen, tied)
    fast = copy.deepcopy(model)
    speed_up(fast, torch.float32)
    (logits, gradients), (fast_logits, fast_gradients) = trained(model), trained(fast)
    assert torch.allclose(fast_logits, logits, atol=1e-5)
    assert gradients.keys() == fast_gradients.keys() and len(gradients) > 20
    for name, gradient in gradients.items():
        assert (fast_gradients[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("tokens", [1, 40, 65, 150, 300])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (9, 3), (4, 1)])
def test_causal_attention_is_torchs(heads, groups, tokens):
    torch.manual_seed(0)
    shapes = [(2, heads, tokens, 16), (2, groups, tokens, 16), (2, groups, tokens, 16)]
    values = [torch.randn(shape, requires_grad=True) for shape in shapes]
    weights = torch.randn(2, tokens, heads, 16)
    expected = functional.scaled_dot_product_attention(*values, is_causal=True, scale=0.3, enable_gqa=True)
    expected = expected.transpose(1, 2)
    found = CausalAttention.apply(0.3 * values[0], *values[1:])
    assert torch.allclose(found, expected, atol=1e-5)
    gradients = [torch.autograd.grad((out * weights).sum(), values) for out in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-5  # a single token gives no gradient to q and k


def test_causal_attention_is_used_in_training_alone(monkeypatch):
    used = []
    monkeypatch.setattr(CausalAttention, "apply", lambda *values: used.append(len(values)) or 1 / 0)
    model = build("llama", "full")
    speed_up(model, torch.float32)
    tokens = torch.randint(0, 300, (2, 10))
    with torch.inference_mode():
        model.eval()(input_ids=tokens)
    with pytest.raises(ZeroDivisionError):
        model.train()(input_ids=tokens, use_cache=False)
    assert used == [3]
    model.config.attention_dropout = 0.1
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    model(input_ids=tokens, use_cache=False)  # attention dropout is torch's
    assert used == [3]


def test_which_modules_are_taken_for_what_they_are():
    found = {
        kind: (
            sum(layers.is_rms_norm(module) for module in build(kind, "full").modules()),
            sum(layers.is_swiglu(module) for module in build(kind, "full").modules()),
        )
        for kind in MODELS
    }
    # Two norms a layer and a last one; Qwen3 normalises queries and keys too. Gemma's are others.
    assert found == {"llama": (7, 3), "qwen3": (13, 3), "gemma3": (0, 0)}


@pytest.mark.parametrize("chosen", ["full", "lora"])
def test_what_can_be_made_again_is_not_kept(chosen):
    def kept(model):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), logits_at(model, PLACES):
            model.train()(input_ids=torch.zeros(3, 40, dtype=torch.long), use_cache=False)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        return sum(size for place, size in sizes.items() if place not in weights)

    model = build("llama", chosen)
    fast = copy.deepcopy(model)
    speed_up(fast, torch.float32)
    assert kept(fast) < 0.65 * kept(model)
