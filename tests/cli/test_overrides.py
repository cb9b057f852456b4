"""Overrides on the command line: unquoted paths, and errors on one line."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from filmvqa.cli.command import CONFIGS
from filmvqa.cli.overrides import (
    TEXT_KEYS,
    compose_config,
    expand_home,
    explain_override,
    move_flags_first,
    quote,
    quote_arguments,
    refuse_unnamed_choices,
)
from filmvqa.system.errors import UserError

SCRIPTS = sorted(path.stem for path in CONFIGS.glob("[a-z]*.yaml"))


def line(script: str, *arguments: str) -> str:
    """The error of a script that is called with these arguments."""
    readable = quote_arguments(arguments)
    with pytest.raises(HydraException) as caught:
        compose_config(CONFIGS, script, readable)
    message = str(explain_override(caught.value, CONFIGS, script, readable))
    assert "\n" not in message
    return message


def value_of(argument: str) -> object:
    """The value that Hydra reads from an override."""
    return OverridesParser.create().parse_override(argument).value()


# Without interpolations and backslashes, which mean the same in Hydra's grammar and in quotes.
names = st.text(
    st.characters(exclude_categories=["C"], exclude_characters="$\\'\"{}[]"), min_size=1
)


@given(names.filter(lambda name: name == name.strip() and name.lower() != "null"))
@example("weight_decay=0,lr=1e-3/best.pt")
@example("données (1)")
@example("数据")
@example("~/clevr")
@example("2024")
@example("1e3")
@example("true")
@example("a, b")
@example("x = y")
@example("f(x)")
@example("#1 & more; 100%")
def test_a_path_is_read_as_it_is(name: str) -> None:
    (argument,) = quote_arguments([f"checkpoint={name}"])
    assert value_of(argument) == name


@pytest.mark.parametrize("value", ["null", "a/b", "'a=b'", '"a b"', "[x]", "${split}", "", "a\\,b"])
def test_what_hydra_reads_is_left_to_it(value: str) -> None:
    assert quote_arguments([f"checkpoint={value}"]) == [f"checkpoint={value}"]


def test_other_arguments_are_left_alone() -> None:
    arguments = ["-m", "--cfg", "job", "seed=0,1", "~logger", "checkpoint", "split=a=b", "x y=1"]
    assert quote_arguments(arguments) == arguments


def test_numbers_stay_numbers_where_they_may_be() -> None:
    assert quote_arguments(["questions=50", "data.families=[1,2]", "run=1e3"]) == [
        "questions=50", "data.families=[1,2]", "run='1e3'",
    ]  # fmt: skip
    assert quote_arguments(["questions=a=b.json"]) == ["questions='a=b.json'"]


def test_in_a_sweep_commas_separate_paths() -> None:
    arguments = quote_arguments(["-m", "train.init_from=a=1/x.pt,é.pt,b.pt", "data.root=x,y"])
    assert arguments == ["-m", "train.init_from='a=1/x.pt','é.pt',b.pt", "data.root=x,y"]
    assert quote_arguments(["data.root=x,y"]) == ["data.root='x,y'"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_keys_of_paths_are_those_of_the_configs(script: str) -> None:
    """A key with the name of a path's key is one, in every script."""
    config = OmegaConf.to_container(compose_config(CONFIGS, script, []), resolve=False)
    keys = set(config) | {f"data.{key}" for key in config.get("data") or {}}
    words = {"path", "folder", "file", "root", "output", "checkpoint", "vocab", "weights", "dir",
             "h5", "features", "images", "source", "templates"}  # fmt: skip
    counting = ("benchmark", "pretrain_backbone")
    counts = {"images"} if script in counting else set()
    assert {key for key in keys if key.rpartition(".")[2] in words} - counts <= TEXT_KEYS


def test_home_is_expanded_wherever_a_path_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    arguments = quote_arguments(["data.root=~/c", "train.init_from=~", "name=~no_such_user/x"])
    config = compose_config(CONFIGS, "train", arguments)
    expand_home(config)
    assert config.data.root == "/home/me/c"
    assert config.data.h5 == "/home/me/c/h5"
    assert config.train.init_from == "/home/me"
    assert config.name == "~no_such_user/x"


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize(
    ("script", "key", "near"),
    [
        ("train", "trainer.max_step", "trainer.max_steps"),
        ("train", "optim.weight_dcay", "optim.weight_decay"),
        ("train", "model.stem.stride", "model.stem.strides"),
        ("train", "experimnt", "experiment"),
        ("train", "sede", "seed"),
        ("evaluate", "chekpoint", "checkpoint"),
        ("evaluate", "checkpoint.x", "checkpoint"),
        ("download_clevr", "data.rot", "data.root"),
        ("generate_clevr", "data.generator.workers", "workers"),
        ("train", "trainer.lr", "optim.lr"),
        ("train", "batchsize", "trainer.batch_size"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(
    script: str, key: str, near: str, plus: str
) -> None:
    message = line(script, f"{plus}{key}=1")
    assert message == f"{key}: no such key; did you mean {near}?"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        # An unknown key like no other, and one of a chosen group.
        ("evaluate model=film", "model: no such key; choose from accelerate, batch_size, "),
        ("evaluate ~zzzzz", "zzzzz: no such key; choose from"),
        ("train qqq/www=1", "qqq/www: no such key; choose from"),
        ("train model=mac model.memory_gat=1",
         "model.memory_gat: no such key; did you mean model.memory_gate?"),
        # A key of a deleted group, and values that do not fit a key.
        ("train ~trainer trainer.max_steps=1",
         "trainer.max_steps: is deleted by ~trainer; give only one of the two"),
        ("generate_clevr data.generator.images={mine:3}", "data.generator.images: cannot be given "
         "new keys in braces; give each with a + before it: +data.generator.images.<key>=<value>"),
        ("generate_clevr data.generator.images=[1]",
         "Error merging override data.generator.images=[1]: "),
        # Misspelt choices.
        ("train experiment=dmo", "experiment=dmo: no such config; did you mean demo?; choose from "),
        ("train data=zzzzz", "data=zzzzz: no such config; choose from clevr,"),
        ("train experiment/ablation=no_batchnorm",
         "experiment/ablation=no_batchnorm: no such config; did you mean no_batch_norm?"),
        # Arguments that the grammar cannot read.
        ("train experiment=démo", "experiment=démo: the value cannot be read; quote it for Hydra "
         "and for the shell: \"experiment='démo'\""),
        ("evaluate checkpoint", "checkpoint: is no option; options are given as key=value"),
        ("evaluate ~/x", "~/x: is no option"),
        ("train seed=0,1", "seed=0,1: several values make a sweep"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_line_with_the_remedy(arguments: str, error: str) -> None:
    script, *overrides = arguments.split(" ")
    assert line(script, *overrides).startswith(error)


def test_keys_that_no_config_has_can_be_added_where_that_means_something() -> None:
    arguments = quote_arguments(
        ["+data.generator.images.minival=5", "+optim.part_weight_decay.stem=0"]
    )
    config = compose_config(CONFIGS, "train", arguments)
    assert config.data.generator.images.minival == 5
    assert config.optim.part_weight_decay.stem == 0
    assert quote_arguments(["+model@models.small=film_small"])[0][0] == "+"
    for prefix in ("", "+", "++"):  # all keys of this node are the user's
        (argument,) = quote_arguments([f"{prefix}model.block.conditioning_options.rank=4"])
        config = compose_config(CONFIGS, "train", [argument])
        assert config.model.block.conditioning_options == {"rank": 4}


def test_flags_may_stand_anywhere_among_the_overrides() -> None:
    arguments = ["seed=0,1", "-m", "~logger", "--cfg", "job", "name=a", "seed=0,1"]
    assert move_flags_first(arguments) == (
        ["-m", "--cfg", "job"], ["seed=0,1", "~logger", "name=a", "seed=0,1"],
    )  # fmt: skip
    assert move_flags_first(["-cd", "mine", "x=1"]) == (["-cd", "mine"], ["x=1"])
    assert move_flags_first([]) == ([], [])


@pytest.mark.parametrize("arguments", [["--cfg"], ["seed=1", "--nonsense"], ["--cfg", "x"]])
def test_a_wrong_flag_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--hydra-help") as caught:
        move_flags_first(arguments)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "argument",
    ["model=null", "optim=1", "data=true", "experiment=null", "experiment/ablation=1.5",
     "~model=1", "model=film,null", "sweep=1,2"],
)  # fmt: skip
def test_a_group_takes_names_of_configs(argument: str) -> None:
    """Hydra itself would raise a ValueError for each of these."""
    with pytest.raises(UserError, match=r"must be the name of a config; choose from \w+") as caught:
        refuse_unnamed_choices([argument], CONFIGS)
    assert str(caught.value).startswith(f"{argument}: ")


def test_groups_are_left_to_hydra_where_it_can_read_them() -> None:
    refuse_unnamed_choices(
        ["-m", "model=film", "model=mac,film", "experiment=[demo,lab]", "~logger", "~model=film",
         "model=glob(film*)", "seed=1", "optim.lr=null", "model={name: film}", "x=${", "sweep='1'"],
        CONFIGS,
    )  # fmt: skip


@given(st.text())
def test_quoting_is_hydras_own(text: str) -> None:
    assert value_of(f"checkpoint={quote(text)}") == text


@pytest.mark.parametrize(
    ("missing", "package"),
    [("submitit_slurm", "'filmvqa[cluster]'"), ("joblib", "hydra-joblib-launcher")],
)
@pytest.mark.parametrize("options", [None, ["basic", "submitit_cpu"]])
def test_a_launcher_that_is_not_installed_says_how_it_is(
    missing: str, package: str, options: list[str] | None
) -> None:
    """Also if one of the project's configs builds on it, where Hydra knows no options."""
    error = MissingConfigException("", f"hydra/launcher/{missing}", options)
    assert str(explain_override(error, CONFIGS, "train", [])) == (
        f"hydra/launcher={missing}: is not installed; run pip install {package}"
    )
