"""The configuration: everything in conf/ composes, and every mistake is answered by one sentence."""

from __future__ import annotations

import re

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from src.compose import Primary, check_method_keys, completed, explain
from src.config import ROOT, UserError, nearest
from src.grid import MethodKeys, arms, grid
from src.problems import problems, validate
from tests.conftest import question, squad_json

OPTIONS = [(path.parent.name, path.stem) for path in sorted((ROOT / "conf").glob("*/*.yaml"))]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_is_valid(configure, group, option, tmp_path):
    more = {"file": ["dataset.path=x.json"], "spoken_squad": []}.get(option)
    config = configure(f"{group}={option}", *([] if more is None else [*more, f"dataset.root={tmp_path}"]))
    for file in config.dataset.files().values():
        file.touch()
    assert problems(config) == []
    if option != "file":
        assert getattr(config, group).name == option


def test_learning_rate_lives_with_the_method(configure):
    assert configure("method=full").train.learning_rate == 1e-4
    assert configure("method=lora").train.learning_rate == 1e-3
    assert configure("method=lora", "train.learning_rate=3e-4").train.learning_rate == 3e-4


def test_files_are_named_after_their_stem(configure):
    assert configure("dataset=file", "dataset.path=some/new_wiki.json").dataset.name == "new_wiki"


def test_more_sets_to_score_are_given_as_the_readme_says(configure):
    config = configure("dataset=file", "dataset.path=a.json", "++dataset.extra_validation.noisy=noisy.json")
    assert config.dataset.extra_validation == {"noisy": "noisy.json"}


def test_the_configuration_of_a_sweep_is_not_shown(command):
    shown = command("src.train", "-m", "method=full,lora", "--cfg", "job")
    assert shown.returncode == 1
    one_run = "--cfg shows the configuration of one run; leave out -m and give single values."
    assert shown.stderr.strip() == f"Error: {one_run}"


def test_help_names_every_option(command):
    shown = command("src.train", "--help")
    assert shown.returncode == 0
    overlays = [("experiments", path.stem) for path in sorted((ROOT / "experiments").glob("*.yaml"))]
    rows = shown.stdout.partition("GROUPS (GROUP=OPTION)\n")[2].partition("\n\n")[0]
    named = {row.split()[0]: re.findall(r"\w+", row) for row in re.split(r"\n  (?=\w)", rows)}
    for group, option in [*OPTIONS, *overlays]:
        assert option in named[group], f"{group}={option} is missing in --help"
    assert "minilm (default)" in rows and "lora (default)" in rows and rows.count("(default)") == 4


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epohcs=3", "'train.epohcs' (did you mean 'epochs'?)"),
        ("weight_decay=1e-3", "There is no key 'weight_decay' (did you mean 'train.weight_decay'?)"),
        ("method=lorra", "method=lorra does not exist (did you mean 'lora'?)"),
        ("modle=tiny", "'modle' (did you mean 'model'?)"),
        ("train.epochs=many", "train.epochs=many must be a whole number."),
        ("dataset.train_size=1.5", "dataset.train_size=1.5 must be a whole number."),
        ("train.learning_rate=fast", "train.learning_rate=fast must be a number."),
        ("rerun=maybe", "rerun=maybe must be true or false."),
        ("method.peft.rr=4", "'method.peft.rr' yet (did you mean 'r'?); to add it, write ++method.peft.rr="),
        ("dataset.extra_validation={noisy: n.json}", "to add it, write ++dataset.extra_validation.noisy="),
        ("experiments=nothing", "experiments=nothing does not exist"),
        ("train.epochs=null", "train.epochs must not be null."),
        ("model.name=???", "model.name has no value; give one: model.name=VALUE."),
        ("model.config=5", "model.config cannot have this value (Cannot assign int to Dict[str, Any])."),
    ],
)
def test_mistakes_that_hydra_finds(configure, override, expected):
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        configure(override)
    sentence = explain(caught.value)
    assert expected in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.batch_size=0"], "train.batch_size=0 must be at least 1"),
        (["hardware.tokens_per_pass=0"], "hardware.tokens_per_pass=0 must be at least 1"),
        (["train.cache_encoder=true"], "needs an encoder whose output does not change: method=head"),
        (["method=head", "train.cache_encoder=true"], "method=head, train.hidden_dropout=0"),
        (
            ["method=head", "train.cache_encoder=true", "train.hidden_dropout=0", "train.attention_dropout=0.3"],
            "and train.attention_dropout=0",
        ),
        (["train.learning_rate=-1"], "train.learning_rate=-1.0 must be a number above 0"),
        (["sweep.margin=0"], "sweep.margin=0.0 must be a number above 0"),
        (["sweep.margin=inf"], "sweep.margin=inf must be a number above 0"),
        (["hardware.price_per_hour=-2"], "hardware.price_per_hour=-2.0 must be a number above 0"),
        (["dataset.train_size=0"], "dataset.train_size=0 must be at least 1"),
        (["dataset.test_size=0"], "dataset.test_size=0 must be a number of questions, at least 1, or all; null for no"),
        (["dataset.test_size=-3"], "dataset.test_size=-3 must be a number of questions"),
        (["dataset.test_size=al"], "dataset.test_size=al must be a number of questions, at least 1, or all"),
        (["dataset.test_size='5'"], "dataset.test_size=5 must be a number of questions"),
        (["dataset.test_path=t.json"], "dataset=sample generates its test questions; leave it out"),
        (
            ["dataset=file", "dataset.path=a.json", "dataset.test_path=nowhere.json"],
            "dataset.test_path: nowhere.json does not exist",
        ),
        (
            ["dataset=file", "dataset.path=a.json", "dataset.split=given", "dataset.test_size=5"],
            "dataset.test_size=5 with dataset.split=given needs dataset.test_path",
        ),
        (
            ["dataset=squad", "dataset.split=given"],
            "dataset.test_path=validation names the validation questions of dataset.split=given",
        ),
        (["train.hidden_dropout=1"], "train.hidden_dropout=1.0 must be at least 0 and below 1"),
        (["dataset.subset=frist"], "dataset.subset=frist is none of first, random (did you mean 'first'?)"),
        (["method.peft=null"], "method=lora must have either `trainable` (parameter patterns) or `peft`"),
        (["method.trainable=[head]"], "not both"),
        (["~method.peft.peft_type"], "names no `peft_type`"),
        (["method=full", "method.trainable=[]"], "`trainable` is empty"),
        (["dataset=file"], "dataset=file needs dataset.path, a file"),
        (
            ["dataset=file", "dataset.path=nowhere.json"],
            "dataset.path: nowhere.json does not exist; check dataset.path",
        ),
        (["++dataset.extra_validation.b=b.json"], "dataset.extra_validation.b: b.json does not exist"),
        (["dataset=file", "dataset.path=a.json", "dataset.split=given"], "needs dataset.validation_path"),
        (["model.doc_stride=380"], "leaves too little room"),
        (["+train.epohcs=3"], "There is no key 'train.epohcs' (did you mean 'epochs'?)"),
        (["+speed=3"], "There is no key 'speed'"),
        (["train.seed=1" + "0" * 23], f"train.seed=1{'0' * 23} is too large; give a whole number below 2^63."),
        (["++method.peft.r=-1" + "0" * 23], f"method.peft.r=-1{'0' * 23} is too large"),
        (["++dataset.extra_validation={..:a.json}"], "dataset.extra_validation...: a name has letters, digits, '_'"),
        ([f"++dataset.extra_validation.{'n' * 101}=a.json"], "and at most 100 characters."),
    ],
)
def test_mistakes_in_the_values(configure, overrides, expected):
    assert any(expected in sentence for sentence in problems(configure(*overrides)))


def test_all_problems_are_named_at_once(configure):
    with pytest.raises(UserError) as caught:
        validate(configure("train.batch_size=0", "train.keep=frist", "dataset.split=articel"))
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == [
        "dataset.split",
        "train.keep",
        "train.batch_size",
    ]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("method=0", "method=0 does not name an option; there are: bitfit, dora, full, "),
        ("dataset=null", "dataset=null does not name an option; there are: file, sample, "),
        ("method=[a,[b]]", "method=[a,[b]] does not name an option; there are: bitfit"),
        ("method=lora,0", "method=lora,0 does not name an option; there are: bitfit"),
        ("method=range(0,3)", "method=range(0,3) does not name an option; there are: bitfit"),
        ("+method@x=0", "+method@x=0 does not name an option; there are: bitfit"),
        ("hydra/launcher=0", "hydra/launcher=0 does not name an option."),
        ("hydra=null", "hydra=null does not name an option."),
        ("=abc", "=abc is not KEY=VALUE, such as method=lora; see --help."),
        ("=-8", "=-8 is not KEY=VALUE, such as method=lora; see --help."),
    ],
)
def test_what_cannot_name_an_option_or_a_key(override, sentence):
    with pytest.raises(UserError) as raised:
        completed([override])
    assert str(raised.value).startswith(sentence)


@pytest.mark.parametrize("override", ["method=lora,full", "method=choice(lora)", "method='lora'", "experiments=[a,b]"])
def test_what_can_name_an_option(override):
    assert completed([override]) == [override]


def test_full_disk_in_one_sentence():
    sentence = explain(OSError(28, "No space left on device", "mlruns/x"))
    assert sentence == "No space left on device: mlruns/x. Check that the place exists, is writable and has room."


def test_nearest_says_nothing_for_what_is_far_off():
    assert nearest("zzz", ["lora", "full"]) == ""


def test_usage_is_exit_status_2_and_a_mistake_1(command):
    usage = command("src.train", "train.epochs")
    assert (usage.returncode, usage.stderr) == (
        2,
        "Error: train.epochs is not KEY=VALUE (did you mean train.epochs=VALUE?).\n",
    )
    wrong = command("src.train", "train.epochs=0")
    assert (wrong.returncode, wrong.stderr.strip()) == (1, "Error: train.epochs=0 must be at least 1.")


# Keys that the chosen option cannot use


def test_a_path_means_a_file(configure, tmp_path):
    file = squad_json(tmp_path / "mine.json", [("A", "Ada wrote.", [question("1", answers=[("Ada", 0)])])])
    config = configure(f"dataset.path={file}")
    assert (config.dataset.source, config.dataset.split, config.dataset.name) == ("file", "article", "mine")
    assert problems(config) == []
    generated = configure("dataset=sample", f"dataset.path={file}")
    assert any("add dataset=file" in sentence for sentence in problems(generated))
    published = configure("dataset=squad", f"dataset.validation_path={file}")
    assert any("needs dataset=file" in sentence for sentence in problems(published))
    assert completed(["dataset.path=x", "--cfg", "job"]) == ["--cfg", "job", "dataset=file", "dataset.path=x"]
    assert completed(["experiments=article_5k", "dataset.path=x"]) == ["experiments=article_5k", "dataset.path=x"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["method=full", "method.peft.r=4"], "method=full has no block `peft` and cannot use method.peft.r; leave it"),
        (["method=full", "++method.peft.r=4"], "method=full has no block `peft`"),
        (
            ["method=ia3", "method.peft.r=4"],
            "method=ia3 has no key method.peft.r; there are: peft_type, target_m",
        ),
        (["method.peft.rr=4"], r"method=lora has no key method.peft.rr \(did you mean 'r'\?\)"),
    ],
)
def test_a_single_run_refuses_what_its_method_cannot_use(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        check_method_keys(arguments, Primary())


def test_a_run_may_add_a_key_to_its_methods_block():
    check_method_keys(["--cfg", "job", "++method.peft.bias=all", "method.peft.r=4", "train.seed=1"], Primary())


def combinations(*overrides):
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
        return grid([parsed], lambda chosen: compose(config_name="config", overrides=list(chosen)))


def test_a_sweep_leaves_out_what_a_method_does_not_know():
    made = combinations("method=full,ia3,lora", "method.peft.r=4,16", "++method.peft.bias=none", "train.seed=0,1")
    assert made.jobs == [
        ["method=full", "train.seed=0"],
        ["method=full", "train.seed=1"],
        *(["method=ia3", "++method.peft.bias=none", f"train.seed={seed}"] for seed in (0, 1)),
        *(
            ["method=lora", f"method.peft.r={r}", "++method.peft.bias=none", f"train.seed={seed}"]
            for r in (4, 16)
            for seed in (0, 1)
        ),
    ]
    assert made.notes == [
        "method.peft.r is left out of the runs of full, ia3, which do not know it",
        "method.peft.bias is left out of the runs of full, which do not know it",
        "12 combinations are 8 different runs",
    ]
    with pytest.raises(UserError, match=r"method=full, ia3 has no key method.peft.r"):
        combinations("method=full,ia3", "method.peft.r=4,16")


def test_a_search_leaves_out_what_a_method_does_not_know(tmp_path):
    pytest.importorskip("optuna")
    from hydra_plugins.tuneoff.optuna_sweeper import OptunaSweeper

    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        sweeper = OptunaSweeper(20, 1, 5, True, 0, str(tmp_path / "optuna.journal"), params={})
        sweeper.methods = MethodKeys(lambda chosen: compose(config_name="config", overrides=list(chosen)))
        fixed, space = ["sweep.parent=p", "method.peft.lora_alpha=8"], {"train.learning_rate": 1, "method.peft.r": 2}
        full, lora = (sweeper._begin(fixed, [f"method={name}"], space) for name in ("full", "lora"))
    assert (full.overrides, full.space) == (["sweep.parent=p", "method=full"], {"train.learning_rate": 1})
    assert (lora.overrides, lora.space) == ([*fixed, "method=lora"], space)
    assert [each.settings.study for each in (full, lora)] == ["p method=full", "p method=lora"]


def test_the_arms_of_a_search_are_its_methods_models_and_data_sets():
    overrides = [
        *("method=full,lora", "model=choice(tiny,minilm)", "dataset.path=a.csv,b.csv"),
        *("train.learning_rate=interval(0.1,1)", "method.peft.r=4,16", "train.seed=range(0,3)", "train.epochs=2"),
    ]
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(loader).parse_overrides(overrides)
        found = arms(parsed, loader)
        assert arms(parsed[3:], loader) == [[]]
    assert found == [
        [f"method={method}", f"model={model}", f"dataset.path={path}"]
        for method in ("full", "lora")
        for model in ("tiny", "minilm")
        for path in ("a.csv", "b.csv")
    ]


def test_arms_of_a_search_take_turns():
    pytest.importorskip("optuna")
    from hydra_plugins.tuneoff.optuna_sweeper import next_turns

    assert next_turns([0, 0, 0], 2, 1) == [0]
    assert next_turns([1, 0, 0], 2, 1) == [1]
    assert next_turns([1, 0, 0], 2, 4) == [1, 2, 0, 1]
    assert next_turns([2, 1, 2], 2, 4) == [1]
    assert next_turns([2, 2, 3], 2, 4) == []


def test_an_empty_tracking_uri_is_none(configure):
    assert configure("tracking.uri=").tracking.uri is None
    assert configure("tracking.uri=''").tracking.uri is None
