"""The benchmark against the stock recipe compares each in the precision that the machine is fast in, and says which."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer

from benchmarks.vs_stock import loops, parts
from benchmarks.vs_stock.__main__ import main
from benchmarks.vs_stock.job import fast_precision
from benchmarks.vs_stock.page import report
from benchmarks.vs_stock.rate import matrix_rate
from src.config import ROOT

RESULTS = ROOT / "benchmarks" / "results.json"


@pytest.mark.parametrize("units", [False, True])
def test_the_precision_is_the_one_that_runs_choose(units, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: units, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert fast_precision() == ("bf16" if units else "fp32")


@pytest.mark.parametrize(
    ("variant", "precision", "bf16"),
    [("stock", "bf16", False), ("stock", "fp32", False), ("trainer", "bf16", True), ("trainer", "fp32", False)],
)
def test_the_rival_trains_in_the_precision_of_the_machine(variant, precision, bf16, monkeypatch, configure):
    seen = []
    monkeypatch.setattr(Trainer, "__init__", lambda self, model, args, **more: seen.append(args))
    monkeypatch.setattr(Trainer, "train", lambda self: None)
    config = configure("hardware=cpu", f"hardware.precision={precision}")
    loops.stock(SimpleNamespace(config=config, tokenizer=SimpleNamespace(pad_token_id=0)), [], variant, None, 1)
    [args] = seen
    assert args.bf16 is bf16
    assert not args.fp16


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_matrix_rate_is_that_of_the_precision(precision, dtype, monkeypatch):
    dtypes = set()
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w: dtypes.update({x.dtype, w.dtype}))
    assert matrix_rate(precision) > 0
    assert dtypes == {dtype}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_command_hands_the_precision_on_and_the_page_names_it(precision, monkeypatch, tmp_path, capsys):
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["training"]
    commands = []

    def execute(command, **more):
        commands.append(command)
        row = rows[" ".join(command[command.index("--one") + 1].split(":")[1:])]
        return SimpleNamespace(returncode=0, stdout=json.dumps(row))

    monkeypatch.setattr(parts, "subprocess", SimpleNamespace(run=execute))
    data = tmp_path / "data.json"
    data.write_text("{}")
    options = ["--parts", "training", "--models", "minilm", "--rounds", "2", "--variants", "stock", "trainer", "lora"]
    options += ["--precision", precision, "--output", str(tmp_path / "new")]
    monkeypatch.setattr(sys, "argv", ["vs_stock", str(data), *options])
    main()
    assert len(commands) == 6
    assert all(command[command.index("--precision") + 1] == precision for command in commands)
    page = (tmp_path / "new" / "RESULTS.md").read_text()
    assert page in capsys.readouterr().out
    assert "| (a) stock recipe, full, fp32 | 3.2 | 1.0 | 0.2 |" in page
    assert f"| (b) Trainer, best flags, full, {precision} | 14.1 | 4.4 | 1.0 |" in page
    assert f"| (c) ours, lora, {precision} | 47.2 | 14.8 | 3.4 |" in page


def test_a_file_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vs_stock", "nothing.json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "nothing.json does not exist" in capsys.readouterr().err


def test_the_page_is_that_of_the_stored_results():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert report(results) == (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    alone = report({"evaluation": {k: v for k, v in results["evaluation"].items() if "bf16" not in k}})
    assert "(c) ours, fp32" in alone
    assert "bf16 |" not in alone
