"""Random overrides: a configuration composes and is valid, or the answer is one clear sentence of our own."""

from __future__ import annotations

import re

from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from src.arguments import SHORT_FORMS, schema_keys
from src.compose import MISTAKES, Primary, check_method_keys, completed, explain, from_hydra, groups
from src.config import ROOT
from src.problems import validate
from tests.test_fuzz import MORE, quick

KEYS = [
    *(*groups(), *schema_keys(), *SHORT_FORMS),
    *("train", "method", "tracking", "hydra", "hydra/launcher", "hydra.run.dir", "", "train.", "no.such", "model@x"),
    *("method.peft.r", "method.peft.target_modules", "method.peft.no.such", "model.config.hidden_size"),
]
NAMES = [name for options in groups().values() for name in options]
VALUES = [
    *("0", "-8", "1.5", "1e400", "nan", "null", "true", "???", "abc", "9" * 30, "''", "' '", '"("', "é"),
    *("[]", "[a,[b]]", "[1,null]", "{}", "{a:1}", "{1:2}", "a,b", "choice(1,2)", "range(0,3)", "interval(0,1)"),
    *(
        "${train.seed}",
        "${no.such}",
        "${stem:}",
        "${product:1}",
        "${",
        "a=b",
        "a:b",
        "..",
        "/",
        "\\",
        "(",
        "]",
        "*",
        "#",
    ),
]
SIGNS = ["", "", "", "+", "++", "~"]
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8)
OVERRIDES = st.builds(
    lambda sign, key, equals, value: f"{sign}{key}{equals}{value}",
    st.sampled_from(SIGNS),
    st.sampled_from(KEYS),
    st.sampled_from(["=", "=", "=", "=", ""]),
    st.one_of(st.sampled_from(VALUES), st.sampled_from(NAMES), TEXTS),
)
# What Python says of an error, and not a person.
NOT_A_SENTENCE = re.compile(r"\w+Error: |Traceback|object at 0x|<class |\bNoneType\b")


@settings(quick, max_examples=int(MORE or 30))
@given(st.lists(OVERRIDES, min_size=1, max_size=2))
def test_random_overrides_are_a_configuration_or_one_sentence(overrides):
    try:
        arguments = completed(overrides)
        check_method_keys(arguments, Primary())
        with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
            config = from_hydra(compose(config_name="config", overrides=arguments), arguments)
        validate(config)
    except MISTAKES as error:
        sentence = explain(error)
        assert sentence and not NOT_A_SENTENCE.search(sentence), sentence
