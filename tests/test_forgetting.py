"""How far training has moved the encoder."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from src.config import ModelConfig, UserError
from src.model.backbone import load_masked_lm
from src.run import run
from src.runs.store import connect
from src.training.forgetting import linear_cka, make_probe
from tests.conftest import TINY


def test_cka_ignores_rotation_and_scale_and_sees_change():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 8, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    assert linear_cka(x, x) == pytest.approx(1.0)
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1.0)
    other = torch.randn(500, 8, generator=generator, dtype=torch.float64)
    assert linear_cka(x, other) < 0.1
    halfway = linear_cka(x, torch.cat([x[:, :4], other[:, 4:]], 1))
    assert 0.4 < halfway < 0.6


def test_the_probe_holds_what_was_not_trained_on(minilm_tokenizer):
    passages = [f"Passage number {i}." for i in range(60)]
    probe = make_probe(minilm_tokenizer, passages[:20], passages)
    texts = [minilm_tokenizer.decode(row, skip_special_tokens=True) for b in probe.batches for row in b["input_ids"]]
    assert len(texts) == 40 and not {text.capitalize() for text in texts} & set(passages[:20])
    again = make_probe(minilm_tokenizer, passages[:20], passages[::-1])
    assert torch.equal(again.batches[0]["input_ids"], probe.batches[0]["input_ids"])
    assert make_probe(minilm_tokenizer, passages, passages) is None


@pytest.mark.parametrize("method", ["head", "full", "lora"])
def test_training_moves_the_encoder_where_it_trains_it(configure, tmp_path, minilm_tokenizer, method):
    """On a checkpoint with a masked-language-model head, made here."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    checkpoint = tmp_path / "bert"
    BertForMaskedLM(BertConfig(vocab_size=len(minilm_tokenizer), **shape)).save_pretrained(checkpoint)
    minilm_tokenizer.save_pretrained(checkpoint)
    chosen = [f"model.path={checkpoint}", "model.sha256=null", f"tracking.folder={tmp_path}", "hardware.precision=fp32"]
    config = configure(*TINY, "model=minilm", *chosen, f"method={method}", "train.learning_rate=1e-2")
    result = run(config)
    metrics = {key: value for key, value in result.metrics.items() if key.startswith("forgetting/")}
    assert set(metrics) == {f"forgetting/{name}" for name in ("cka", "cosine", "mlm_loss", "mlm_loss_before")}
    if method == "head":
        assert metrics["forgetting/cka"] == metrics["forgetting/cosine"] == pytest.approx(1.0, abs=1e-9)
        assert metrics["forgetting/mlm_loss"] == pytest.approx(metrics["forgetting/mlm_loss_before"], abs=1e-9)
    else:
        assert metrics["forgetting/cka"] < 0.9999
        assert metrics["forgetting/mlm_loss"] != metrics["forgetting/mlm_loss_before"]
    assert connect(config.tracking).record(result.run_id).metrics["forgetting/cka"] == metrics["forgetting/cka"]


def test_a_checkpoint_without_the_head_has_no_masked_lm(configure):
    assert load_masked_lm(configure("model=minilm").model) is None
    assert load_masked_lm(ModelConfig("random", pretrained=False, model_type="bert")) is None


def test_a_damaged_base_is_one_sentence(base_folder, tmp_path):
    folder = shutil.copytree(base_folder, tmp_path / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError) as refused:
        load_masked_lm(ModelConfig("m", path=str(folder)))
    assert str(refused.value).startswith(f"The weights of {folder} could not be loaded (SafetensorError: ")
    assert str(refused.value).endswith("copy its files again: config.json, model.safetensors and tokenizer.json.")
