"""The way back from the fast computation: `plain` leaves what the untouched model is and gives what it gives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from src.config import EvaluationConfig, HardwareConfig
from src.model import method
from src.model.fast import bypass_encoder, packing, plain, plain_attention, speed_up
from src.model.fast.attention import BATCHED_MATMUL
from src.tasks.extractive.batches import SpanBatches
from src.training import hardware
from src.training.predict import predict
from tests.test_fast import batch
from tests.test_model import SMALL, random_model

TYPES = ["bert", "distilbert", "roberta"]


@pytest.fixture(scope="module")
def build(configure):
    """A model of some type with a method applied, whose adapters are not 0 and whose dropout is on."""

    def make(model_type, chosen="full"):
        model = method.apply(random_model(model_type, **SMALL[model_type]), configure(f"method={chosen}").method)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        return model.train()

    return make


def base_of(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def replaced(model):
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def step(model, values):
    """Logits and gradients, with the same dropout each time."""
    torch.manual_seed(2)
    model.zero_grad()
    out = model(**values)
    (out.start_logits.float().square().sum() - out.end_logits.float().sum()).backward()
    return [out.start_logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_same_bits(model, other, values):
    results = step(model, values), step(other, values)
    assert len(results[0]) == len(results[1]) > 1
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def train(model, values):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, fused=True)
    for _ in range(2):
        step(model, values)
        optimizer.step()


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("chosen", ["full", "bitfit", "lora", "dora"])
def test_after_training_the_plain_model_is_the_untouched_one(build, model_type, chosen):
    model = build(model_type, chosen)
    untouched, values = copy.deepcopy(model), batch(model_type)
    attention = base_of(model).config._attn_implementation
    speed_up(model, torch.float32)
    assert base_of(model).config._attn_implementation == BATCHED_MATMUL
    assert replaced(model)
    train(model, values)
    plain(model)
    assert replaced(model) == []
    assert base_of(model).config._attn_implementation == attention
    assert [vars(module).keys() for module in model.modules()] == [vars(m).keys() for m in untouched.modules()]
    start = copy.deepcopy(untouched.state_dict())
    untouched.load_state_dict(model.state_dict())
    assert any(not torch.equal(value, start[name]) for name, value in untouched.state_dict().items())
    assert_same_bits(model, untouched, values)


def test_rounded_weights_are_computed_with_in_fp32_again(build):
    model, values = build("bert", "lora"), batch("bert")
    untouched = copy.deepcopy(model)
    speed_up(model, torch.bfloat16)
    name = "base_model.model.bert.encoder.layer.0.attention.self.query.base_layer.weight"
    assert model.get_parameter(name).dtype == torch.bfloat16
    train(model, values)
    plain(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    original = untouched.get_parameter(name)
    assert torch.equal(model.get_parameter(name), original.bfloat16().float())
    assert not torch.equal(model.get_parameter(name), original)
    untouched.load_state_dict(model.state_dict())
    assert_same_bits(model, untouched, values)


def test_a_model_that_was_never_sped_up_stays_as_it_is(build):
    AcceleratorState._reset_state()
    model, values = build("bert"), batch("bert")
    untouched = copy.deepcopy(model)
    plain(model)
    assert replaced(model) == []
    assert_same_bits(model, untouched, values)
    prepared = Accelerator(cpu=True, mixed_precision="bf16").prepare_model(model)
    forward = prepared.forward
    plain(prepared)
    assert prepared.forward is forward
    AcceleratorState._reset_state()


@pytest.mark.parametrize("chosen", ["full", "lora"])
def test_twice_is_once(build, chosen):
    once, values = build("bert", chosen), batch("bert")
    base_of(once).set_attn_implementation("eager")
    twice = copy.deepcopy(once)
    speed_up(once, torch.bfloat16)
    for _ in range(2):
        speed_up(twice, torch.bfloat16)
    assert_same_bits(once, twice, values)
    assert replaced(once) == replaced(twice) != []
    plain(twice)
    assert replaced(twice) == []
    assert base_of(twice).config._attn_implementation == "eager"
    plain(twice)
    assert base_of(twice).config._attn_implementation == "eager"


def test_a_copy_has_its_way_back_too_and_leaves_the_model_fast(build):
    model, values = build("bert", "lora"), batch("bert")
    untouched = copy.deepcopy(model)
    speed_up(model, torch.bfloat16)
    expected, fast = step(model, values), replaced(model)
    other = copy.deepcopy(model)
    plain(other)
    untouched.load_state_dict(other.state_dict())
    assert_same_bits(other, untouched, values)
    assert replaced(model) == fast
    assert all(torch.equal(one, two) for one, two in zip(step(model, values), expected, strict=True))


@pytest.mark.parametrize("model_type", TYPES)
def test_packed_windows_become_padded_ones(build, model_type, monkeypatch):
    monkeypatch.setattr(packing, "has_kernel", lambda dtype: True)
    model, values = build(model_type), batch(model_type)
    untouched = copy.deepcopy(model)
    speed_up(model, torch.float32, "cuda")
    assert model.config._attn_implementation == packing.PACKED
    with pytest.raises(AssertionError, match="needs their lengths"):
        model(**values)
    plain_attention(model)
    assert model.config._attn_implementation != packing.PACKED
    assert_same_bits(model, untouched, values)
    assert replaced(model) == [""]
    plain(model)
    assert replaced(model) == []
    assert_same_bits(model, untouched, values)


class OneBatch(SpanBatches):
    """What `predict` reads of the windows: all of `batch` at once."""

    def __init__(self, values):
        self.values, self.lengths = values, values["attention_mask"].sum(1).numpy()

    def evaluation(self, batch_size):
        return [list(range(len(self.lengths)))]

    def collate(self, rows):
        return {name: value[list(rows)] for name, value in self.values.items()}


@pytest.mark.parametrize("chosen", ["full", "lora"])
def test_a_packed_model_is_handed_the_lengths_until_it_is_plain(build, chosen, monkeypatch):
    """Also where accelerate's autocast is around the packing forward."""
    monkeypatch.setattr(packing, "has_kernel", lambda dtype: True)
    runtime = hardware.start(HardwareConfig("cpu", device="cpu", precision="bf16", threads=1))
    model, values = build("bert", chosen).eval(), OneBatch(batch("bert"))
    untouched = runtime.accelerator.prepare_model(copy.deepcopy(model))
    expected = [start for start, _ in predict(runtime, untouched, values, EvaluationConfig())]
    speed_up(model, torch.float32, "cuda")
    model = runtime.accelerator.prepare_model(model)
    lengths = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        packing,
        "scaled_dot_product_attention",
        lambda q, *more, **scale: lengths.append(q.shape[2]) or attend(q, *more, **scale),
    )
    packed = [start for start, _ in predict(runtime, model, values, EvaluationConfig())]
    assert set(lengths) == set(values.lengths)
    for one, other in zip(packed, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=0.05)
    plain(model)
    lengths.clear()
    again = [start for start, _ in predict(runtime, model, values, EvaluationConfig())]
    assert lengths == []
    assert all(np.array_equal(one, other) for one, other in zip(again, expected, strict=True))


def test_plain_attention_leaves_the_layers_fast(build):
    model, values = build("bert"), batch("bert")
    untouched = copy.deepcopy(model)
    speed_up(model, torch.float32)
    fast = replaced(model)
    plain_attention(model)
    assert replaced(model) == fast
    assert model.config._attn_implementation == untouched.config._attn_implementation
    model.eval(), untouched.eval()
    torch.testing.assert_close(model(**values).start_logits, untouched(**values).start_logits, rtol=1e-4, atol=1e-5)


def test_an_encoder_that_takes_hidden_states_takes_tokens_alone_again(build):
    model, values = build("bert").eval(), batch("bert")
    states = torch.randn(*values["input_ids"].shape, 32)
    bypass_encoder(model)
    assert model.bert(inputs_embeds=states).last_hidden_state is states
    plain(model)
    assert replaced(model) == []
    assert model.bert(inputs_embeds=states).last_hidden_state is not states
