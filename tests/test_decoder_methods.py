"""Methods on decoders: what trains, what is stored, what our kernels compute, and a base in 4 bits."""

from __future__ import annotations

import copy
import re
import sys
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from bitsandbytes.functional import dequantize_4bit
from torch.nn.functional import cross_entropy

from src.config import ModelConfig, UserError
from src.estimate.bare import build
from src.estimate.memory import NF4, _quantised_layers
from src.model import backbone, method, quantize, stored
from src.model.base import Base
from src.model.fast import packing, speed_up
from src.problems import cannot_be_trained, problems, validate
from src.training.checkpoint import Checkpoints

WORDS = 100
BASE = Base("some/base", None, {}, "llama", 0)
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": WORDS,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
DECODERS = {
    "llama": LLAMA,
    "qwen3": {**LLAMA, "head_dim": 8},
    "gemma3_text": {
        **LLAMA,
        "head_dim": 8,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": WORDS},
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": WORDS,
        "word_embed_proj_dim": 32,
    },
}
PEFT = ["lora", "lora_attention", "rslora", "dora", "pissa", "ia3"]


@pytest.fixture(scope="module")
def named(configure):
    return lambda name, *more: configure(f"method={name}", *more).method


def decoder(model_type="llama", **more):
    shape = {**DECODERS[model_type], **more}
    config = ModelConfig(
        name="d", pretrained=False, model_type=model_type, config=shape, tokenizer="-", max_length=32, task="generative"
    )
    return backbone.load_model(config, hidden_dropout=0.0, attention_dropout=0.0, seed=0)


def batch(padding="right"):
    ids = torch.randint(5, WORDS, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padding is not None:
        mask[0, -5:] = 0
        mask[1, -1:] = 0
        mask = mask.flip(1) if padding == "left" else mask
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


def adapted(bare, chosen):
    """The method on a model; adapters begin where they change something and all their gradients count."""
    model = method.apply(bare, chosen)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return model


def loss_of(model, values):
    real = values["attention_mask"] * (values["attention_mask"].cumsum(1) > 1)  # what a token before it predicts
    logits = model(**values, use_cache=False).logits[:, :-1][real[:, 1:] == 1].float()
    return cross_entropy(logits, values["input_ids"][:, 1:][real[:, 1:] == 1])


def gradients(model, values):
    model.train()
    loss = loss_of(model, values)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def trained(model, steps=3):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        loss_of(model, batch()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


# What trains


@pytest.mark.parametrize(
    ("model", "chosen", "total", "parts"),
    [
        ("smollm2_135m", "full", 134_515_008, (0, 0, 134_515_008)),
        # 16 x (inputs + outputs) of each layer: q and o 1,152; k and v 768; gate, up and down 2,112.
        ("smollm2_135m", "lora", 134_515_008, (30 * 16 * (2 * 1_152 + 2 * 768 + 3 * 2_112), 0, 0)),
        ("smollm2_135m", "lora", 134_515_008, (4_884_480, 0, 0)),
        ("smollm2_135m", "rslora", 134_515_008, (4_884_480, 0, 0)),
        ("smollm2_135m", "pissa", 134_515_008, (4_884_480, 0, 0)),
        ("smollm2_135m", "qlora", 134_515_008, (4_884_480, 0, 0)),
        ("smollm2_135m", "lora_attention", 134_515_008, (30 * 8 * (1_152 + 768), 0, 0)),
        ("smollm2_135m", "dora", 134_515_008, (4_884_480 + 30 * (2 * 576 + 2 * 192 + 2 * 1_536 + 576), 0, 0)),
        ("smollm2_135m", "ia3", 134_515_008, (30 * (2 * 192 + 1_536), 0, 0)),
        ("qwen3_0_6b", "lora", 596_049_920, (28 * 16 * (2 * 3_072 + 2 * 2_048 + 3 * 4_096), 0, 0)),
        ("qwen3_0_6b", "ia3", 596_049_920, (28 * (2 * 1_024 + 3_072), 0, 0)),
        ("gemma3_270m", "lora", 268_098_176, (18 * 16 * (2 * 1_664 + 2 * 896 + 3 * 2_688), 0, 0)),
        ("llama3_2_1b", "lora", 1_235_814_400, (11_272_192, 0, 0)),
        ("llama3_1_8b", "full", 8_030_261_248, (0, 0, 8_030_261_248)),  # its output matrix is not tied
        ("llama3_1_8b", "lora", 8_030_261_248, (41_943_040, 0, 0)),
    ],
)
def test_exact_numbers_of_trained_parameters(configure, model, chosen, total, parts):
    counts = build(configure(f"model={model}", f"method={chosen}")).counts
    assert (counts.adapter, counts.head, counts.backbone) == parts
    assert counts.total - counts.adapter == total


@pytest.mark.parametrize("tied", [True, False])
def test_the_output_matrix_is_no_head_and_gets_no_adapter(named, tied):
    matrix = 32 * WORDS
    layers = 2 * (32 * (32 + 16 + 16 + 32) + 3 * 32 * 64 + 2 * 32) + 32
    total = layers + matrix * (1 if tied else 2)
    full = method.count(method.apply(decoder(tie_word_embeddings=tied), named("full")))
    assert (full.total, full.backbone, full.head) == (total, total, 0)
    model = method.apply(decoder(tie_word_embeddings=tied), named("lora"))
    counts = method.count(model)
    assert (counts.adapter, counts.head, counts.backbone) == (2 * 16 * (64 + 48 + 48 + 64 + 3 * 96), 0, 0)
    assert counts.total == total + counts.adapter
    assert type(model.get_base_model().lm_head) is torch.nn.Linear
    assert model.peft_config["default"].modules_to_save is None


@pytest.mark.parametrize("model_type", DECODERS)
@pytest.mark.parametrize("chosen", ["full", "lora", "lora_attention", "ia3", "bitfit"])
def test_methods_on_every_architecture(named, model_type, chosen):
    layers = {"gpt2": "c_attn, c_fc, c_proj", "opt": "fc1, fc2, k_proj, out_proj, q_proj, v_proj"}
    bare, wanted = decoder(model_type), named(chosen)
    if model_type == "gpt2" and chosen in ("lora_attention", "ia3"):  # one layer makes query, key and value there
        with pytest.raises(UserError, match=f"are called {layers[model_type]}"):
            method.apply(bare, wanted)
        return
    if chosen == "bitfit":
        wanted = replace(wanted, trainable=["*.bias"])  # the head is refused before, see below
        if model_type not in layers:
            with pytest.raises(
                UserError, match=r"^method=bitfit trains biases, and \w+ has none; choose [^\n]*full\.$"
            ):
                method.apply(bare, wanted)
            return
    model = method.apply(bare, wanted)
    counts = method.count(model)
    assert (counts.head, counts.adapter > 0, counts.backbone > 0) == (0, model is not bare, model is bare)
    loss_of(model, batch()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None] == []


@pytest.mark.parametrize(
    ("chosen", "more"),
    [
        (["method=head"], ""),
        (["method=bitfit"], r", or leave `head` out \(method.trainable='\['\*\.bias'\]'\)"),
        (["method=full", "method.trainable=[head]"], ""),
    ],
)
def test_a_head_that_a_decoder_has_not_is_one_sentence(configure, chosen, more):
    [sentence] = problems(configure("model=smollm2_135m", *chosen))
    assert re.fullmatch(
        r"method=\w+ trains the question-answering head, and a generative model has none; choose method=lora or full"
        + more
        + r"\.",
        sentence,
    )
    assert problems(configure("model=tiny", *chosen)) == []


def test_a_head_asked_of_the_model_itself(named):
    with pytest.raises(UserError, match="method=head trains the head, and LlamaForCausalLM has none; choose"):
        method.apply(decoder(), named("head"))


def test_dropout_is_off_in_every_architecture():
    for model_type in DECODERS:
        modules = decoder(model_type).modules()
        assert {module.p for module in modules if isinstance(module, torch.nn.Dropout)} <= {0.0}, model_type


# What is stored


@pytest.mark.parametrize("chosen", ["full", *PEFT])
def test_what_is_stored_answers_as_what_was_trained(named, chosen, tmp_path):
    model = trained(method.apply(decoder(), named(chosen)))
    values = batch()
    with torch.no_grad():
        expected, before = model(**values).logits, decoder()(**values).logits
        stored.save(model, tmp_path, BASE)
        if stored.holds_whole_model(tmp_path):
            loaded = type(model).from_pretrained(tmp_path)
        else:
            loaded = stored.put_on_base(decoder(), tmp_path)
        found = loaded.eval()(**values).logits
    assert (expected - before).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    if chosen == "pissa":  # as plain LoRA of twice the rank, on the untouched base
        assert loaded.peft_config["default"].r == 32


def test_storing_an_adapter_asks_no_hub(named, tmp_path, monkeypatch):
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *_, **__: 1 / 0)
    stored.save(method.apply(decoder(), named("lora")), tmp_path, BASE)
    assert stored.put_on_base(decoder(), tmp_path).peft_config["default"].base_model_name_or_path == "some/base"


# Gradient checkpointing and kernels


@pytest.mark.parametrize("fast", [False, True])
def test_gradient_checkpointing_learns_the_same(named, fast):
    found = []
    for checkpointing in (False, True):
        bare = decoder()
        if checkpointing:
            backbone.checkpoint_gradients(bare)
        model = adapted(bare, named("lora"))
        if fast:
            speed_up(model, torch.float32)
        found.append(gradients(model, batch()))
    (loss, plain), (again_loss, again) = found
    assert again_loss == loss
    for name, gradient in again.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, plain[name], msg=name)


@pytest.mark.parametrize("padding", ["left", "right", None])
@pytest.mark.parametrize("chosen", ["full", "lora"])
@pytest.mark.parametrize("model_type", DECODERS)
def test_logits_and_gradients_are_those_of_the_plain_modules(named, model_type, chosen, padding):
    values = batch(padding)
    if model_type == "opt":
        values.pop("position_ids")
    plain = adapted(decoder(model_type), named(chosen))
    fast = copy.deepcopy(plain)
    speed_up(fast, torch.float32)
    real = values["attention_mask"] == 1
    with torch.no_grad():
        expected, found = (model.eval()(**values).logits[real] for model in (plain, fast))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    (loss, one), (fast_loss, other) = gradients(plain, values), gradients(fast, values)
    assert fast_loss == pytest.approx(loss, rel=1e-5)
    assert one.keys() == other.keys()
    # The bias of the keys changes no attention weight: its gradient is rounding alone.
    rounding = 1e-7 * max(gradient.abs().max().item() for gradient in one.values())
    for name, gradient in other.items():
        atol = rounding + 1e-5 * one[name].abs().max().item()
        torch.testing.assert_close(gradient, one[name], rtol=1e-5, atol=atol, msg=name)


@pytest.mark.parametrize("chosen", ["full", "lora"])
@pytest.mark.parametrize("model_type", DECODERS)
def test_decoding_with_a_cache_is_the_whole_pass(named, model_type, chosen):
    values = batch("left")
    ids, mask = values["input_ids"], values["attention_mask"]
    model = adapted(decoder(model_type), named(chosen)).eval()
    plain = copy.deepcopy(model)
    speed_up(model, torch.float32)
    with torch.inference_mode():
        whole = plain(input_ids=ids, attention_mask=mask, position_ids=values["position_ids"]).logits[:, 7:]
        more = {} if model_type == "opt" else {"position_ids": values["position_ids"][:, :8]}
        outputs = model(input_ids=ids[:, :8], attention_mask=mask[:, :8], use_cache=True, **more)
        steps = [outputs.logits[:, -1:]]
        for at in range(8, 12):
            more = {} if model_type == "opt" else {"position_ids": values["position_ids"][:, at : at + 1]}
            outputs = model(
                input_ids=ids[:, at : at + 1],
                attention_mask=mask[:, : at + 1],
                past_key_values=outputs.past_key_values,
                use_cache=True,
                **more,
            )
            steps.append(outputs.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-5, atol=1e-5 * whole.abs().max().item())


@pytest.mark.parametrize("chosen", ["full", "lora", "qlora"])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text"])
def test_bf16_gradients_point_where_the_exact_ones_do(named, model_type, chosen):
    values = batch("left")
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    flat = []
    for dtype in (torch.float32, torch.bfloat16):
        model = adapted(decoder(model_type), named(chosen))
        quantize.compute_in(model, dtype)
        if dtype == torch.bfloat16:
            speed_up(model, dtype)
            model = accelerator.prepare_model(model)
        _, found = gradients(model, values)
        assert all(gradient.dtype == torch.float32 for gradient in found.values())
        flat.append(torch.cat([gradient.flatten() for gradient in found.values()]))
    AcceleratorState._reset_state()
    assert torch.cosine_similarity(*flat, dim=0) > 0.995
    assert flat[1].norm() == pytest.approx(flat[0].norm().item(), rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_an_output_matrix_is_held_once(named, dtype, tied):
    model = method.apply(decoder(tie_word_embeddings=tied), named("lora"))
    speed_up(model, dtype)
    with torch.no_grad():
        model(**batch())
    base = model.get_base_model()
    head, embeddings = base.lm_head.weight, base.model.embed_tokens.weight
    assert (head is embeddings) == tied
    assert head.dtype == embeddings.dtype == dtype
    assert base.lm_head.weight_cast.kept is None  # of the parameter, where it is in another precision


def test_decoders_are_not_packed_on_a_gpu():
    assert not any(packing.can_pack(decoder(model_type)) for model_type in DECODERS)


# A base in 4 bits


def test_a_base_in_4_bits_counts_its_parameters_and_takes_half_a_byte_of_each(named):
    big = {"hidden_size": 256, "intermediate_size": 512}
    whole = method.count(method.apply(decoder(**big), named("lora")))
    model = method.apply(decoder(**big), named("qlora"))
    assert method.count(model) == whole
    base = model.get_base_model()
    packed = [p for p in base.parameters() if quantize.is_packed(p)]
    assert len(packed) == 2 * 7
    for parameter in packed:
        state = parameter.quant_state
        assert (state.quant_type, state.nested) == ("nf4", True)
        numbers = state.shape.numel()
        constants = state.absmax.nbytes + state.state2.absmax.nbytes
        assert quantize.numel(parameter) == numbers
        assert parameter.nbytes + constants == pytest.approx(NF4 * numbers, rel=0.002)
    assert base.lm_head.weight.dtype == base.model.embed_tokens.weight.dtype == torch.float32
    assert all(p.dtype == torch.float32 and "lora" in n for n, p in model.named_parameters() if p.requires_grad)


def test_the_plan_reckons_with_the_layers_that_are_packed(configure):
    bare = build(configure("model=smollm2_135m", "method=qlora"))
    sizes = _quantised_layers(bare)
    assert sum(sizes) == 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1_536)
    unwrapped = build(configure("model=smollm2_135m", "method=full")).base
    assert [layer.weight.numel() for layer in quantize.packable(unwrapped).values()] == sizes


@pytest.mark.parametrize("model_type", ["llama", "opt"])
def test_gradients_go_through_a_base_in_4_bits(named, model_type):
    """They are those of plain LoRA on the unpacked weights, and they remain so after a prediction."""
    values = batch()
    if model_type == "opt":
        values.pop("position_ids")
    packed = adapted(decoder(model_type), named("qlora"))
    quantize.compute_in(packed, torch.float32)
    bare = decoder(model_type)
    layers = dict(packed.get_base_model().named_modules())
    far = 0.0
    for name, layer in quantize.packable(bare).items():
        weight = layers[name].base_layer.weight
        unpacked = dequantize_4bit(weight.data, weight.quant_state)
        far = max(far, (unpacked - layer.weight).abs().max().item())
        layer.weight.data = unpacked
    assert far > 1e-3
    plain = adapted(bare, named("lora"))
    speed_up(packed, torch.float32)
    with torch.inference_mode():
        logits = [model.eval()(**values).logits[values["attention_mask"] == 1] for model in (packed, plain)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
    (loss, found), (plain_loss, expected) = gradients(packed, values), gradients(plain, values)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_layers_compute_in_the_precision_of_the_run(named, dtype):
    model = method.apply(decoder(), named("qlora"))
    quantize.compute_in(model, dtype)
    layer = model.get_base_model().model.layers[0].mlp.up_proj.base_layer
    x = torch.randn(2, 3, 32)
    out = layer(x)
    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert out.dtype == x.dtype
    torch.testing.assert_close(out, (x.to(dtype) @ weight.to(dtype).t()).to(x.dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("more", [[], ["++method.peft.use_dora=true"]])
def test_qlora_is_stored_as_an_adapter_and_goes_on_a_base_in_4_bits(named, tmp_path, more):
    model = trained(method.apply(decoder(), named("qlora", *more)))
    stored.save(model, tmp_path, BASE)
    assert {file.name for file in tmp_path.glob("*.safetensors")} == {"adapter_model.safetensors"}
    base = decoder()
    quantize.hold_in_4_bits(base)
    loaded = stored.put_on_base(base, tmp_path).eval()
    with torch.no_grad():
        expected, before = model(**batch()).logits, decoder()(**batch()).logits
        torch.testing.assert_close(loaded(**batch()).logits, expected, rtol=1e-4, atol=1e-5)
        # On the base as it was loaded it would answer otherwise.
        other = stored.put_on_base(decoder(), tmp_path).eval()(**batch()).logits
    assert (expected - before).abs().max() > 1e-2
    assert (other - expected).abs().max() > 1e-3


def test_a_checkpoint_holds_the_adapter_alone(named, tmp_path):
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True)
    checkpoints = Checkpoints(accelerator, tmp_path / "c", 10, False, pytest.fail)
    model = accelerator.prepare_model(trained(method.apply(decoder(), named("qlora"))))
    checkpoints.register(model, {})
    checkpoints.save(1)
    again = method.apply(decoder(), named("qlora")).eval()
    resumed = Checkpoints(accelerator, tmp_path / "c", 10, False, pytest.fail)
    resumed.register(again, {})
    assert resumed.load()
    size = (tmp_path / "c" / "step-00000001" / "trained.safetensors").stat().st_size
    assert size < 4 * method.count(model).trainable + 10_000
    with torch.no_grad():
        assert torch.equal(model(**batch()).logits, again(**batch()).logits)


def test_an_encoder_in_4_bits_trains_its_head_whole(named):
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    shape = ModelConfig(name="e", pretrained=False, model_type="bert", config=config, tokenizer="-", max_length=32)
    counts = []
    for chosen in ("lora", "qlora"):
        model = method.apply(backbone.load_model(shape, 0.0, 0.0, 0), named(chosen))
        counts.append(method.count(model))
        model(input_ids=batch()["input_ids"]).start_logits.square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert counts[0] == counts[1]
    assert counts[1].head == 32 * 2 + 2


def test_qlora_without_its_package_is_one_sentence(configure, named, monkeypatch):
    config = configure("model=tiny", "method=qlora")
    assert cannot_be_trained(config) == [] == problems(config)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"^[^\n]*needs bitsandbytes[^\n]*pip install -e '.\[qlora\]'\.$"):
        method.apply(decoder(), named("qlora"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^method=qlora [^\n]* not installed: pip install -e '.\[qlora\]'\.$"):
        validate(config)
    assert problems(config) == [], "it can still be planned"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["method=full", "method.quantize=nf4"], "needs adapters: a `peft` block with peft_type LORA or IA3"),
        (["method=pissa", "method.quantize=nf4"], "init_lora_weights=pissa would read or change the base; use true"),
        (["method=qlora", "++method.peft.bias=all"], "peft.bias=all would train the base's biases; use none"),
    ],
)
def test_what_cannot_stand_on_4_bits(configure, more, expected):
    [sentence] = problems(configure("model=tiny", *more))
    assert expected in sentence


def test_a_backbone_without_linear_layers_cannot_be_packed(named):
    with pytest.raises(UserError, match=r"GPT2LMHeadModel has no torch\.nn\.Linear layer in its backbone"):
        method.apply(decoder("gpt2"), named("qlora"))
