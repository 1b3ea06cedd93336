"""The fast computation is the plain one: the same outputs and gradients, the same distribution, less kept."""

from __future__ import annotations

import copy
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from torch.nn import functional

from src.config import ROOT
from src.model import backbone, method
from src.model.fast import layers, packing, plain, speed_up
from src.model.fast.attention import BATCHED_MATMUL, KEPT_UP_TO
from src.model.fast.dropout import DropoutMasks, draw
from src.training.predict import weights_held
from tests.test_model import SMALL, random_model

WINDOWS, TOKENS = 3, 24


@pytest.fixture(scope="module")
def named(configure):
    return lambda name, *more: configure(f"method={name}", *more).method


def batch(model_type, tokens=TOKENS):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 1000, (WINDOWS, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, tokens - 7 :] = 0  # padding, as Batches puts it: at the end
    values = {"input_ids": ids, "attention_mask": mask}
    if model_type in ("bert", "deberta-v2"):
        values["token_type_ids"] = (torch.arange(tokens) > 5).long().expand(WINDOWS, -1)
    return values


def trained(model_type, chosen, fast, dtype=torch.float32, tokens=TOKENS, checkpointing=False):
    """Loss, gradients by name and the bytes kept for the backward pass of one step."""
    bare = random_model(model_type, **SMALL[model_type])
    if checkpointing:
        backbone.checkpoint_gradients(bare)
    model = method.apply(bare, chosen)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():  # adapters begin at 0, where half of the gradients are 0
        if "lora_B" in name or name.endswith("bias"):
            parameter.data = torch.randn_like(parameter) * 0.05
    if fast:
        speed_up(model, dtype)
    model.train()
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    values = batch(model_type, tokens)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(**values)
        kept_bytes = sum(kept.values())
        weights = torch.linspace(-1, 1, outputs.start_logits.numel()).view_as(outputs.start_logits)
        real = values["attention_mask"]
        loss = ((outputs.start_logits * weights + outputs.end_logits.square()) * real).float().sum()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept_bytes = sum(size for place, size in kept.items() if place not in own)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}, kept_bytes


@pytest.mark.parametrize("model_type", SMALL)
@pytest.mark.parametrize("chosen", ["full", "lora", "lora_attention", "dora", "bitfit", "head"])
def test_loss_and_gradients_are_those_of_the_plain_modules(named, model_type, chosen):
    more = (
        ["method.peft.target_modules=all-linear"] if chosen == "lora_attention" and model_type == "modernbert" else []
    )
    plain_loss, plain, _ = trained(model_type, named(chosen, *more), fast=False)
    loss, gradients, _ = trained(model_type, named(chosen, *more), fast=True)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert gradients.keys() == plain.keys()
    for name, gradient in gradients.items():
        if plain[name] is None:
            assert gradient is None, name
        else:
            rounding = max(1e-5, 1e-6 * plain[name].abs().max().item())  # of sums whose terms are as large as that
            torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=rounding, msg=name)


@pytest.mark.parametrize("chosen", ["full", "lora"])
def test_long_windows_whose_attention_is_made_again(named, chosen):
    plain_loss, plain, _ = trained("bert", named(chosen), fast=False, tokens=KEPT_UP_TO + 10)
    loss, gradients, _ = trained("bert", named(chosen), fast=True, tokens=KEPT_UP_TO + 10)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("chosen", ["full", "lora"])
def test_bf16_gradients_point_where_the_exact_ones_do(named, chosen):
    _, exact, _ = trained("bert", named(chosen), fast=False)
    _, rounded, _ = trained("bert", named(chosen), fast=True, dtype=torch.bfloat16)
    flat = [torch.cat([g.float().flatten() for g in gradients.values()]) for gradients in (exact, rounded)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.999
    assert flat[1].norm() == pytest.approx(flat[0].norm().item(), rel=0.02)
    assert all(gradient.dtype == torch.float32 for gradient in rounded.values())


@pytest.mark.parametrize("chosen", ["full", "lora"])
def test_less_is_kept_for_the_backward_pass(named, chosen):
    _, _, plain = trained("bert", named(chosen), fast=False)
    _, _, fast = trained("bert", named(chosen), fast=True)
    assert fast < 0.75 * plain


@pytest.mark.parametrize("fast", [False, True])
def test_gradient_checkpointing_keeps_less_and_learns_the_same(named, fast):
    loss, gradients, kept = trained("bert", named("lora"), fast, tokens=128)
    again_loss, again, kept_with = trained("bert", named("lora"), fast, tokens=128, checkpointing=True)
    assert again_loss == loss
    assert kept_with < 0.5 * kept
    for name, gradient in again.items():
        torch.testing.assert_close(gradient, gradients[name])


def test_trained_weights_are_read_anew_after_each_step_and_frozen_ones_cast_once(named):
    model = method.apply(random_model("bert", **SMALL["bert"]), named("full"))
    plain = copy.deepcopy(model)
    speed_up(model, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    values = batch("bert")
    for _ in range(2):
        model(**values).start_logits.square().sum().backward()
        optimizer.step()
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(**values).start_logits, plain(**values).start_logits, rtol=1e-4, atol=1e-4)


def test_a_prediction_casts_trained_weights_once(named):
    model = method.apply(random_model("bert", **SMALL["bert"]), named("full"))
    speed_up(model, torch.bfloat16)
    layer = next(module for module in model.modules() if type(module) is torch.nn.Linear)
    inputs, cast = torch.randn(2, layer.in_features), layer.weight_cast
    with torch.inference_mode(), weights_held(model):
        first = layer(inputs)
        kept = cast.kept
        assert torch.equal(kept, layer.weight.bfloat16())
        assert torch.equal(layer(inputs), first) and cast.kept is kept
    assert cast.kept is None
    with torch.no_grad():
        layer.weight.add_(1)
    for held in (False, True):
        with torch.inference_mode(), weights_held(model) if held else nullcontext():
            expected = functional.linear(inputs.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16())
            assert torch.equal(layer(inputs), expected)
    plain(model)
    assert not hasattr(layer, "weight_cast")


def test_few_tokens_go_through_thin_products(named):
    """As when a decoder writes: W + s B A is not made for each token."""
    torch.manual_seed(0)
    model = method.apply(random_model("bert", **SMALL["bert"]), named("lora"))
    layer = next(module for module in model.modules() if isinstance(module, LoraLinear))
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    few = layer.out_features * layer.in_features // (2 * (layer.out_features + layer.in_features)) - 1
    inputs = torch.randn(few + 1, layer.in_features)
    assert layers.few_tokens(inputs[:few], layer.base_layer.weight)
    assert not layers.few_tokens(inputs, layer.base_layer.weight)
    with torch.no_grad():
        expected = layer(inputs)
        speed_up(model, torch.float32)
        assert torch.allclose(layer(inputs), expected, atol=1e-5)
        assert torch.allclose(layer(inputs[:few]), expected[:few], atol=1e-5)
        assert torch.allclose(layer(inputs[None, :few]), expected[None, :few], atol=1e-5)


def test_what_evaluation_has_cast_can_be_trained_with(named):
    model = method.apply(random_model("bert", **SMALL["bert"]), named("bitfit"))
    speed_up(model, torch.bfloat16)
    with torch.inference_mode():
        model(**batch("bert"))
    model(**batch("bert")).start_logits.float().sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if n.endswith("query.bias"))


@pytest.mark.slow
def test_what_trains_is_imported_without_hydra_and_mlflow():
    code = """import sys
for name in ("hydra", "omegaconf", "mlflow", "datasets", "evaluate", "matplotlib", "pandas", "rich"):
    sys.modules[name] = None  # an import of it fails
import benchmarks.gpu, src.tasks.extractive.cached
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_lora_holds_its_frozen_weights_once(named):
    model = method.apply(random_model("bert", **SMALL["bert"]), named("lora"))
    speed_up(model, torch.bfloat16)
    base = model.get_base_model().bert
    assert base.encoder.layer[0].attention.self.query.base_layer.weight.dtype == torch.bfloat16
    assert base.embeddings.word_embeddings.weight.dtype == torch.bfloat16
    assert base.encoder.layer[0].output.LayerNorm.weight.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_adapters_can_still_be_switched_off(named):
    bare = random_model("bert", **SMALL["bert"]).eval()
    values = batch("bert")
    expected = bare(**values).start_logits
    model = method.apply(bare, named("lora"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    speed_up(model, torch.float32)
    model.eval()
    assert not torch.allclose(model(**values).start_logits, expected, atol=1e-3)
    with model.disable_adapter():
        torch.testing.assert_close(model(**values).start_logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_factors_of_dropout_have_the_distribution_they_should(dtype, p):
    factors = draw(1 << 20, p, dtype).double()
    zero = factors == 0
    assert zero.double().mean() == pytest.approx(p, abs=4 * (p * (1 - p) / 2**20) ** 0.5)
    assert factors.mean() == pytest.approx(1, abs=0.002)
    assert factors[~zero].min() == pytest.approx(1 / (1 - p), rel=0.01)
    # Neighbours fall out independently of each other.
    both = (zero[1:] & zero[:-1]).double().mean()
    assert both == pytest.approx(p * p, abs=0.001)


def test_dropout_is_drawn_by_torchs_generator_and_only_in_training():
    model = random_model("bert", **SMALL["bert"])
    module = model.bert.embeddings.dropout
    module.p = 0.25
    speed_up(model.train(), torch.float32)
    x = torch.ones(64, 64)
    torch.manual_seed(3)
    first, second = module(x), module(x)
    torch.manual_seed(3)
    again = module(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert module.eval()(x) is x


def test_attention_with_dropout_is_left_to_torch(named):
    model = random_model("bert", **SMALL["bert"])
    plain = copy.deepcopy(model)
    speed_up(model, torch.float32)
    assert model.config._attn_implementation == BATCHED_MATMUL
    for part in (model, plain):
        part.train()
        for layer in part.bert.encoder.layer:
            layer.attention.self.dropout.p = 0.2
    values = batch("bert")
    results = []
    for part in (model, plain):
        torch.manual_seed(0)
        results.append(part(**values).start_logits)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_dropout_does_not_depend_on_the_largest_batch_before():
    """4,096 tokens of BERT-base are more than half of the buffer: a resumed run has not seen the batches before."""
    large, small = torch.ones(4096, 768), torch.ones(100, 768)
    uninterrupted, resumed = DropoutMasks(), DropoutMasks()
    torch.manual_seed(0)
    uninterrupted.mask_like(large, 0.1)
    state = torch.get_rng_state()
    expected = [uninterrupted.mask_like(like, 0.1) for like in (small, large, small)]
    torch.set_rng_state(state)
    for like, factors in zip((small, large, small), expected, strict=True):
        assert torch.equal(resumed.mask_like(like, 0.1), factors)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_windows_are_computed_as_padded_ones(model_type, checkpointing):
    model = random_model(model_type, **SMALL[model_type])
    if checkpointing:
        backbone.checkpoint_gradients(model)
    plain = copy.deepcopy(model).train()
    assert packing.can_pack(model)
    packing.pack(model.train())
    values = batch(model_type)
    real, lengths = values["attention_mask"], values["attention_mask"].sum(1).numpy()
    values["input_ids"] = values["input_ids"].masked_fill(real == 0, model.config.pad_token_id)
    expected = plain(**values).start_logits * real
    found = model(**values, lengths=lengths).start_logits
    torch.testing.assert_close(found * real, expected)
    expected.square().sum().backward()
    (found * real).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_relative_positions_and_dropout_in_attention_are_not_packed():
    assert not packing.can_pack(random_model("deberta-v2", **SMALL["deberta-v2"]))
    assert not packing.can_pack(random_model("modernbert", **SMALL["modernbert"]))
    model = random_model("bert", **SMALL["bert"])
    model.config.attention_probs_dropout_prob = 0.1
    assert not packing.can_pack(model)
