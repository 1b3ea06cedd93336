"""A settle command: one line that plans, brackets, repeats and decides, and goes on after it was killed."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace

import pytest

from src.config import Config, TrackingConfig
from src.protocol.engine import Job, Phase
from src.protocol.plan import ArmPlan, Budget, make_plan
from src.runs.identity import hashes
from src.runs.isolation import call
from src.runs.parent import PLAN, ParentRun
from src.runs.records import Status
from src.settle import hydra_arguments
from src.settling.arms import Arm
from src.settling.runs import Runs
from src.sweep import train
from tests.conftest import TINY
from tests.forked import started
from tests.stored import Store
from tests.test_sweep import SMALL, parents_and_children

COMMAND = [*SMALL, "dataset.test_size=40", "method=full,lora", "budget=12 runs", "margin=20", "seed=5"]


@pytest.fixture(scope="module")
def settled(command, tmp_path_factory):
    """A folder with a settle command that was killed in its bracket and typed again, and what it has shown."""
    folder = tmp_path_factory.mktemp("settled")
    given = [*COMMAND, f"folder={folder}"]
    with started("src.settle", *given) as process:
        while len(list(folder.glob("artifacts/*/artifacts/result.json"))) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.kill()
        process.communicate()
    [parent], _ = parents_and_children(folder)
    shown = command("src.settle", *given)
    assert shown.returncode == 0, shown.stderr + shown.stdout
    return folder, shown, parent.data.tags[PLAN]


@pytest.mark.slow
def test_rates_are_bracketed_on_one_seed_and_repeated_on_fresh_ones(settled):
    folder, _, plan = settled
    [parent], children = parents_and_children(folder)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags[PLAN] == plan, "the plan was made once, by the command that was killed"
    assert json.loads(plan)["looks"] == [3]
    by_seed = Counter((child.data.params["train.seed"], child.data.tags["method"]) for child in children)
    fresh = {(seed, method): 1 for seed in ("7", "8", "9") for method in ("full", "lora")}
    assert by_seed == {("5", "full"): 3, ("5", "lora"): 3, **fresh}
    for method, rates in (("full", [3e-5, 1e-4, 3e-4]), ("lora", [3e-4, 1e-3, 3e-3])):
        first = [run for run in children if run.data.tags["method"] == method and run.data.params["train.seed"] == "5"]
        f1 = {float(run.data.params["train.learning_rate"]): run.data.metrics["quality/f1"] for run in first}
        assert sorted(f1) == rates
        later = {run.data.params["train.learning_rate"] for run in children if run not in first}
        best = max(f1, key=lambda rate: f1[rate])
        assert str(best) in later, "the rate that did best on the choosing seed is repeated"
    assert {child.data.params["tracking.keep_model"] for child in children} == {"best"}
    timed = [float(child.data.tags["spent_seconds"]) for child in children if "spent_seconds" in child.data.tags]
    assert len(timed) >= 11 and min(timed) > 0, "all but the one under which the command was killed"


@pytest.mark.slow
def test_the_report_repeats_what_the_look_has_decided(settled):
    folder, shown, _ = settled
    [file] = folder.glob("reports/*/verdict.json")
    [contrast] = json.loads(file.read_text())["contrasts"]
    f1 = contrast["f1"]
    look = f"Look 1 of 1, 3 seeds: lora against full: {f1['low']:+.1f} to {f1['high']:+.1f} F1, {contrast['decision']}."
    assert look in shown.stdout
    assert contrast["method"]["seeds"] == contrast["baseline"]["seeds"] == ["7", "8", "9"]
    assert contrast["margin"] == 20
    assert "spent: 12 of 12 runs. After the last look, more runs need new test questions." in shown.stdout


@pytest.mark.slow
def test_a_command_that_has_ended_shows_its_decision_again(settled, command):
    folder, shown, _ = settled
    again = command("src.settle", *[word.replace("12 runs", "14 runs") for word in COMMAND], f"folder={folder}")
    assert again.returncode == 0, again.stderr
    parents, children = parents_and_children(folder)
    assert (len(parents), len(children)) == (1, 12)
    assert "The plan was made for budget=12 runs and stays." in again.stdout
    [look] = [line for line in shown.stdout.splitlines() if line.startswith("Look ")]
    assert look in again.stdout


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["method=full,lora"], "budget= is missing"),
        (["budget=soon"], "budget=soon cannot be read; write 2h, 30m, '40 runs', or a sum of money with price=."),
        (["budget=12"], "a sum of money needs price="),
        (["budget=11 runs"], "2 variants need at least 12 runs"),
        (["method=lora", "budget=20 runs"], "there is only one"),
        (["learning_rate=1e-3,1e-4", "budget=20 runs"], "train.learning_rate: src.settle tries learning rates"),
        (["seed=0,1", "budget=20 runs"], "src.settle takes one value of train.seed, and there are several"),
        (
            ["test_size=null", "budget=20 runs"],
            "src.settle decides on test questions, and dataset=sample has none",
        ),
        (["margin=1,2", "budget=20 runs"], "src.settle takes one value of sweep.margin, and there are several"),
        (["memory=lots", "budget=20 runs"], "hardware.memory=lots cannot be read; write 24GB"),
        (["hardware=cpu,auto", "method=full", "budget=20 runs"], "Several variants would be called full"),
        (
            ["dataset.seed=0,1", "method=full", "budget=20 runs"],
            "have different test questions, so they do not compare",
        ),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_refused(command, tmp_path, given, sentence):
    shown = command("src.settle", *SMALL, *given, f"folder={tmp_path / 'new'}")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith("Error: ") and sentence in shown.stderr and "Traceback" not in shown.stderr
    assert not (tmp_path / "new" / "mlflow.db").exists()


def test_what_was_typed_becomes_a_sweep(tmp_path):
    added = ["-m", "hydra/sweeper=settle"]
    file = tmp_path / "my questions.csv"
    file.touch()
    assert hydra_arguments([str(file), "budget=1h"]) == [
        *added,
        f"dataset.path={file}",
        "budget=1h",
        "method=full,lora",
    ]
    assert hydra_arguments(["method=full,head"]) == [*added, "method=full,head"]
    assert hydra_arguments(["experiments=lora_without_regret"]) == [*added, "experiments=lora_without_regret"]
    assert hydra_arguments(["nonsense"]) == [*added, "nonsense", "method=full,lora"]  # which Hydra's reader refuses


@pytest.mark.slow
def test_a_rate_that_is_clearly_behind_is_cut_short(configure, server, tmp_path):
    """After its first epoch; the last epoch's run is whole whatever it has scored."""
    cut = configure(*TINY, "method=full", "sweep.cut_below=99", f"tracking.folder={tmp_path}")
    outcome = call(train, cut, tmp_path / "log")
    assert outcome.error == "Stopped"
    assert "is below 99.0, clearly behind another rate" in str(outcome.reason)
    [run] = Store(tmp_path).store.runs()
    assert run.status is Status.PRUNED
    assert list(run.history("eval/f1")["step"]) == [0, 1]
    assert cut.train.epochs == 2
    whole = replace(cut, train=replace(cut.train, epochs=1))
    assert call(train, whole, tmp_path / "log").reason is None


# The runs of a plan, with a launcher that only notes how they end


@pytest.fixture
def runs(tmp_path):
    """Makes the `Runs` of a plan for full and LoRA whose launcher ends runs as a list says, one after the other."""
    store = Store(tmp_path)
    arms = [Arm(name, [f"method={name}"], _config(name), f"hash-{name}") for name in ("full", "lora")]
    planned = [ArmPlan(arm.name, arm.overrides, 1e-3, hash=arm.hash) for arm in arms]
    plan = make_plan(planned, Budget(12, "runs", "12 runs"), 1.0, 0)
    tracking = TrackingConfig(folder=str(tmp_path))
    parent = ParentRun.begin(tracking, None, "settle", "same", "command", 12, fresh=False, plan=plan.as_json())
    launched = []

    def make(endings):
        def launch(jobs, initial_job_idx):
            for number, job in enumerate(jobs):
                launched.append((initial_job_idx + number, job))
                status, tags = endings.pop(0)
                hash = hashes(_compose(job)).present
                member = {"sweep": parent.run_id, "mlflow.parentRunId": parent.run_id}
                tags = {"config_hash": hash, **member, "spent_seconds": "3.0", **tags}
                store.run(_compose(job).method.name, 1e-3, 0.5, status=status, tags=tags)

        return Runs(parent, plan, arms, [f"sweep.parent={parent.run_id}"], launch, _compose)

    yield make, launched
    parent.end(Status.FINISHED, [])


def _config(method: str, **train: float) -> Config:
    config = Config()
    config.method.name, config.method.learning_rate = method, 1e-3
    for key, value in train.items():
        setattr(config.train, key, value)
    return config


def _compose(job):
    values = dict(override.split("=") for override in job)
    return _config(values["method"], learning_rate=float(values["train.learning_rate"]))


JOBS = [Job(0, 0, 0, Phase.BRACKET), Job(1, 1, 0, Phase.BRACKET, cut_below=12.345)]


def test_runs_get_rate_seed_and_what_all_share(runs):
    make, launched = runs
    outcomes = make([("FINISHED", {}), ("FINISHED", {})])(JOBS)
    assert [number for number, _ in launched] == [0, 1]
    assert launched[0][1][0] == "method=full" and launched[0][1][1].startswith("sweep.parent=")
    assert launched[0][1][2:] == ["train.learning_rate=0.001", "train.seed=0", "tracking.keep_model=best"]
    assert "train.learning_rate=0.003" in launched[1][1] and "sweep.cut_below=12.35" in launched[1][1]
    assert [outcome.seconds for outcome in outcomes] == [3.0, 3.0]
    assert outcomes[0].f1 == pytest.approx(3 * outcomes[0].first_f1)
    assert not outcomes[0].reused


def test_a_run_that_fails_is_tried_once_more(runs):
    make, launched = runs
    outcomes = make([("FAILED", {"error": "Death"}), ("FINISHED", {}), ("FINISHED", {})])(JOBS)
    assert [number for number, _ in launched] == [0, 1, 0]
    assert all(outcome.f1 for outcome in outcomes)


def test_a_run_that_fails_twice_has_no_score(runs):
    make, launched = runs
    endings = [("FAILED", {"error": "Death"}), ("FINISHED", {}), ("FAILED", {"error": "Death"})]
    assert [outcome.f1 is None for outcome in make(endings)(JOBS)] == [True, False]
    assert len(launched) == 3


def test_a_run_that_has_diverged_is_not_tried_again(runs):
    make, launched = runs
    endings = [("FAILED", {"error": "Diverged: The loss is nan at step 3"}), ("KILLED", {"stopped": "Cut short"})]
    assert [outcome.f1 for outcome in make(endings)(JOBS)] == [None, None]
    assert len(launched) == 2


def test_the_same_runs_are_not_made_again(runs):
    make, launched = runs
    first = make([("FINISHED", {}), ("FINISHED", {})])
    again = make([])
    assert first(JOBS) == again(JOBS)
    assert len(launched) == 2


def test_what_was_decided_on_stays_whatever_becomes_of_the_run(runs):
    make, launched = runs
    make([("FAILED", {"error": "Death"}), ("KILLED", {"stopped": "Cut short"}), ("FAILED", {"error": "Death"})])(JOBS)
    later = make([("FINISHED", {}), ("FINISHED", {})])
    later.launch([later._overrides(job) for job in JOBS], initial_job_idx=0)
    assert [outcome.f1 for outcome in make([])(JOBS)] == [None, None]
    assert len(launched) == 5


def test_a_run_of_another_sweep_is_taken_and_costs_nothing(runs):
    make, launched = runs
    other = {"sweep": "another", "mlflow.parentRunId": "another"}
    begun = make([("FINISHED", other), ("FINISHED", {"sweep": "", "mlflow.parentRunId": ""})])
    begun.launch([begun._overrides(job) for job in JOBS], initial_job_idx=0)
    first = make([])(JOBS)
    assert [outcome.reused for outcome in first] == [True, True]
    assert first[0].f1 is not None and len(launched) == 2
    assert make([])(JOBS) == first, "as it was counted the first time"
