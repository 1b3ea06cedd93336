"""Writing answers against `model.generate` on the same left-padded batches: the same answers, how fast.

    python -m benchmarks.decode DATA.json                     # SmolLM2-135M, 96 questions, 3 rounds
    python -m benchmarks.decode DATA.json hardware.precision=fp32 --questions 32

DATA.json is a file in SQuAD's format. Both write the answers of the same questions, SmolLM2-135M untrained, in the
precision that the machine is fast in; the rounds alternate, and medians are printed. Ours also reads the labelled
answers, as an evaluation does; `generate` does not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from src.config import ROOT


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("keys", nargs="*", help="of the configuration, such as model=smollm2_135m")
    parser.add_argument("--questions", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    config, runtime, batches = prepared(arguments)
    limits = config.evaluation
    ways = {"generate": generate_way(config, runtime, batches), "ours": our_way(config, runtime, batches)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            with torch.inference_mode():
                answers[name] = way(limits.max_answer_length)
            seconds[name].append(time.perf_counter() - begin)
            print(f"{name} {seconds[name][-1]:.1f} s", flush=True)
    same = sum(one == other for one, other in zip(*answers.values(), strict=True))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print(f"\n{machine()}; {runtime.precision}")
    for name, median in medians.items():
        print(f"{name:8}  {len(batches.lengths) / median:.2f} prompts/s")
    ratio = medians["generate"] / medians["ours"]
    print(f"ours is {ratio:.2f} times as fast; {same} of {len(batches.lengths)} answers are the same")


def prepared(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Configuration, runtime and the validation questions as batches."""
    from hydra import compose, initialize_config_dir

    from src.compose import completed, from_hydra, quiet_libraries, register
    from src.data import sources
    from src.model import backbone
    from src.tasks import task_of
    from src.training import hardware

    quiet_libraries()
    register()
    sizes = ["dataset.train_size=16", f"dataset.validation_size={arguments.questions}", "dataset.test_size=null"]
    # The first questions of the file, not random ones: as in a whole set, several are about one passage.
    sizes += ["dataset.subset=first"]
    given = ["model=smollm2_135m", "dataset=file", f"dataset.path={arguments.data.resolve()}", *sizes, "hardware=cpu"]
    overrides = completed([*given, *arguments.keys])
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = from_hydra(compose("config", overrides), overrides)
    task = task_of(config.model)
    runtime = hardware.start(config.hardware, cpu_tokens=task.cpu_tokens)
    questions = sources.load(config.dataset).validation
    batches, _ = task.batches(questions, backbone.load_tokenizer(config.model), config, training=False)
    return config, runtime, batches


def our_way(config: Any, runtime: Any, batches: Any) -> Any:
    """The prediction of `src.run`."""
    from src.model import backbone, fast
    from src.training.predict import predict

    model = backbone.load_model(config.model, 0.0, 0.0, 0)
    if runtime.fast_kernels:
        fast.speed_up(model, runtime.dtype)
    model = runtime.accelerator.prepare_model(model)

    def way(longest: int) -> list[str]:
        return [each.written.text for each in predict(runtime, model, batches, config.evaluation)]

    return way


def generate_way(config: Any, runtime: Any, batches: Any) -> Any:
    """`model.generate`, greedily, on the micro-batches of an evaluation; it stops at the same tokens."""
    from src.model import backbone
    from src.tasks.base import micro_batches

    model = backbone.load_model(config.model, 0.0, 0.0, 0).eval().to(runtime.dtype)
    stops = batches.stops
    ends = [token for token in range(len(stops.tokenizer)) if stops.ends(token)]
    tokens = runtime.micro_batch_tokens and runtime.micro_batch_tokens * batches.more_in_prediction
    order = batches.evaluation(config.evaluation.batch_size)
    parts = [part for rows in order for part in micro_batches(rows, batches.lengths, tokens)]

    def way(longest: int) -> list[str]:
        texts = {}
        for rows in parts:
            prompts = [batches.prompts[row]["prompt"].tolist() for row in rows]
            width = max(map(len, prompts))
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
            written = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=longest, do_sample=False, eos_token_id=ends,
                pad_token_id=stops.tokenizer.eos_token_id,
            )  # fmt: skip
            for row, said in zip(rows, written[:, width:].tolist(), strict=True):
                texts[row] = stops.text(said)
        return [texts[row] for row in range(len(batches.lengths))]

    return way


if __name__ == "__main__":
    main()
