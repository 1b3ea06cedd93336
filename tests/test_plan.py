"""`python -m src.plan`: what it prints for programs and for people, and its mistakes in one sentence."""

from __future__ import annotations

import json

import pytest

from tests.conftest import SIZES


def planned(command, *arguments):
    """What the command prints for programs."""
    shown = command("src.plan", *arguments, "format=json")
    assert (shown.returncode, shown.stderr) == (0, "")
    return json.loads(shown.stdout)


def test_the_parameters_of_minilm(command):
    plain = planned(command, "method=full,lora,head", "probe=false")
    full, lora, head = plain["variants"]
    assert [each["name"] for each in plain["variants"]] == ["full", "lora", "head"]
    assert full["parameters"] == {
        "total": 22_566_146,
        "trained": 22_566_146,
        "trained_percent": 100.0,
        "adapter": 0,
        "head": 770,
        "backbone": 22_565_376,
    }
    assert lora["parameters"]["trained"] == 664_322
    assert lora["parameters"]["adapter"] == 664_322 - 770
    assert lora["parameters"]["total"] == 22_566_146 + lora["parameters"]["adapter"]
    assert head["parameters"]["trained"] == 770
    for each in plain["variants"]:
        assert each["probe"] is each["note"] is each["largest_batch"] is each["price_of_a_run"] is None
        for memory in (each["memory_here"], each["memory_on_gpu"]):
            parts = [value for name, value in memory.items() if name != "total_mb"]
            assert sum(parts) == pytest.approx(memory["total_mb"])
    assert full["memory_on_gpu"]["optimizer_mb"] == pytest.approx(8 * 22.566146)
    assert full["fits"] == {"device": True, "8": True, "16": True, "24": True, "48": True, "80": True}
    assert (full["batch_windows"], full["length"]) == (16, 384)
    assert plain["least_protocol"] == {"runs_of_each": 6, "runs": 18, "seconds": None, "price": None}


@pytest.mark.slow
def test_a_probe_and_the_largest_batch(command):
    arguments = ["model=tiny", *SIZES, "train.epochs=2", "price=3600", "largest_batch=true", "threads=1"]
    plain = planned(command, *arguments, "method=lora", "method.peft.r=2,4")
    two, four = plain["variants"]
    assert [each["name"] for each in (two, four)] == ["lora method.peft.r=2", "lora method.peft.r=4"]
    assert four["parameters"]["adapter"] == 2 * two["parameters"]["adapter"]
    seconds = [each["probe"]["run_seconds"] for each in (two, four)]
    assert [each["price_of_a_run"] for each in (two, four)] == pytest.approx(seconds)  # 1 a second
    least = plain["least_protocol"]
    assert [least["seconds"], least["price"]] == pytest.approx([6 * sum(seconds)] * 2)
    assert two["largest_batch"]["device"] == 4096  # a CPU takes it in micro-batches
    assert set(two["largest_batch"]) == {"8", "16", "24", "48", "80", "device"}
    assert plain["device"]["kind"] == "cpu"
    assert plain["device"]["name"] == "CPU, 1 thread"


def test_the_memory_that_is_given_is_the_limit(command):
    """What certainly does not fit is not tried."""
    plain = planned(command, "model=tiny", *SIZES, "method=full", "memory=610MB", "hardware.device=cpu")
    [variant] = plain["variants"]
    assert plain["device"]["limit_mb"] == pytest.approx(10.0)
    assert variant["fits"] == {"device": False, "8": True, "16": True, "24": True, "48": True, "80": True}
    assert variant["probe"] is None
    needed = f"{variant['memory_here']['total_mb']:,.0f}"
    assert variant["note"] == (f"No probe: by the formula a run needs {needed} MB, and it may take 10 MB here.")


@pytest.mark.parametrize(
    ("model", "method", "total", "trained"),
    [("bert_base", "full", 108_893_186, 108_893_186), ("llama3_2_1b", "qlora", None, None)],
)
@pytest.mark.slow
def test_a_model_that_is_not_here(command, model, method, total, trained):
    """From its shape alone, and nothing is downloaded."""
    [variant] = planned(command, f"model={model}", f"method={method}")["variants"]
    assert variant["probe"] is None
    name = {"bert_base": "google-bert/bert-base-uncased", "llama3_2_1b": "meta-llama/Llama-3.2-1B"}[model]
    assert variant["note"].startswith(f"No probe: {name} is not in the hub's cache on this")
    if method == "qlora":
        assert variant["memory_on_gpu"]["weights_mb"] < 2 * 1235.8  # less than in bf16
    else:
        assert (variant["parameters"]["total"], variant["parameters"]["trained"]) == (total, trained)


@pytest.mark.slow
def test_rates_and_seeds_are_no_variants(command):
    plain = planned(command, "model=tiny", "method=full,lora", "seed=0,1", "learning_rate=1e-4,1e-3", "probe=false")
    assert [each["method"] for each in plain["variants"]] == ["full", "lora"]


@pytest.mark.slow
def test_data_that_are_not_there_leave_the_formula(command):
    plain = planned(command, "model=tiny", "dataset=squad", "method=lora")
    [variant] = plain["variants"]
    assert variant["probe"] is None
    assert variant["note"].startswith("No probe: ")
    assert variant["parameters"]["trained"] == 14_402


@pytest.mark.slow
def test_the_table(command):
    shown = command("src.plan", "method=full,lora", "probe=false", "hardware.device=cpu", "hardware.precision=fp32")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    cells = [[cell.strip() for cell in line.split("│")] for line in lines if "│" in line]
    rows = {cell[0]: cell[1:] for cell in cells}
    assert rows["trained"] == ["22,566,146", "664,322"]
    assert rows["in adapters"] == ["0", "663,552"]
    assert rows["8 GB card"] == ["fits", "fits"]
    assert "memory by formula (CPU, fp32)" in rows
    assert "measured by a probe" not in rows
    assert max(len(line) for line in lines if "│" in line) <= 80
    assert "src.settle  at least 12 runs, 6 of each method" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["model=nope"], 1, "model=nope does not exist; there are: "),
        (["memory=24"], 1, "hardware.memory=24 has no unit; write 24GB or 24MB."),
        (["memory=lots"], 1, "hardware.memory=lots cannot be read; write 24GB, 24GiB or 16000MB."),
        (["-m", "method=full,lora"], 2, "python -m src.plan takes no -m; leave it out."),
        (["probe=maybe"], 1, "probe=maybe must be true or false."),
        (["format=xml"], 1, "format=xml must be 'table' or 'json'."),
        (["probe="], 2, "probe= is empty; give a value, or leave it out."),
        (["epochs=x"], 1, "train.epochs=x must be a whole number."),
        (["epochs=0"], 1, "train.epochs=0 must be at least 1."),
        (["metod=full"], 1, "There is no key 'metod' (did you mean 'method'?)"),
        (["method=full", "method.peft.r=4"], 1, "method=full has no block `peft` and cannot use method.peft.r;"),
        (["lora"], 2, "lora is not KEY=VALUE (did you mean method=lora?)."),
    ],
)
def test_a_mistake_is_one_sentence(command, arguments, status, sentence):
    shown = command("src.plan", *arguments)
    assert (shown.returncode, shown.stdout) == (status, "")
    assert shown.stderr.startswith(f"Error: {sentence}")
    assert shown.stderr.count("\n") == 1


def test_a_gpu_that_is_not_here(command):
    plain = planned(command, "model=tiny", "hardware=gpu", "method=lora")
    [variant] = plain["variants"]
    assert plain["device"] is None
    assert variant["fits"]["device"] is None
    assert variant["fits"]["8"]
    assert variant["note"] == "No probe: the requested device is not available."
    assert plain["notes"] == ["hardware=gpu needs a GPU and torch sees none here; use hardware=auto or hardware=cpu."]


def test_help(command):
    shown = command("src.plan", "--help")
    assert shown.returncode == 0
    assert "  largest_batch=false  search for the largest batch that fits" in shown.stdout
    assert "  memory=" in shown.stdout
