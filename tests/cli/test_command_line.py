"""What is typed after `percep`: paths as they are, one line for what is no setting, and nothing heavy to say so."""

import errno
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from percep.cli.command_line import CONFIGURATION, DEFAULT_TASK, PATHS, choices, chosen, groups, quoted, read
from percep.cli.composition import check, explained
from percep.cli.main import main
from percep.errors import InputError
from percep.runs import TASKS
from percep.runs.config import Config
from percep.runs.settings import validated

NAMES = [
    "2024_01_15",
    "1e3",
    "photos (1)",
    "split=val",
    "日本",
    "a#b",
    "it's",
    "a,b",
    "[a]",
    "{a: 1}",
    "$HOME",
    "C:\\photos\\",
    'a"b',
    "  led and trailed ",
    "choice(a,b)",
    "true",
    "NULL",
    "-1",
    ".5",
    "nan",
    "val-{000000..000049}.tar",
    "line\nbreak",
    "not utf-8 \udcff",
    "http://host/a.tar?b=c&d=%20",
]


def composed(*arguments: str) -> dict:
    line = read(arguments)
    with initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        config = validated(compose("config", list(line.settings)))
    return {"output": config.output, "data.path": config.data.path, "model.checkpoint": config.model.checkpoint}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["data.path", "model.checkpoint", "output"])
def test_a_path_is_taken_as_it_is(name: str, key: str) -> None:
    assert composed("data=folder", "data.path=x", f"{key}={name}")[key] == name


def test_a_plain_run_is_composed_once_and_what_concerns_hydra_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    performed: list[tuple[Config, DictConfig]] = []
    load = ConfigLoaderImpl.load_configuration

    def counted(*given: object, **named: object) -> DictConfig:
        loaded.append(named)
        return load(*given, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    monkeypatch.setattr("percep.cli.tasks.perform", lambda *given: performed.append(given))
    assert main(["seed=5", "output=out"]) == 0
    assert len(loaded) == len(performed) == 1
    assert main(["seed=5", "output=out", "hydra.job.name=own"]) == 0
    assert len(loaded) > 2 and performed[1] == performed[0]
    assert performed[0][0].seed == 5 and "hydra" not in performed[0][1]


@pytest.mark.slow("every example composes a configuration, which takes a tenth of a second")
@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
@example('\\"')
@example("\\\\'")
@example("'\"")
@example('"\\')
def test_any_path_is_taken_as_it_is(name: str) -> None:
    """But for what has a meaning: null, a home folder, interpolations and quotes around everything."""
    if name == "null" or name.startswith("~") or "${" in name or (len(name) > 1 and name[0] == name[-1] in "'\""):
        name = f"./{name}".replace("${", "$ {")
    assert composed("data=folder", f"data.path={name}")["data.path"] == name


@pytest.mark.slow("every example composes a configuration, which takes a tenth of a second")
@settings(max_examples=25, deadline=None)
@given(st.text(st.sampled_from("\\\"'a ${},"), min_size=1))
def test_quotes_keep_what_is_in_them(name: str) -> None:
    name = name.replace("${", "$ {")
    assert composed("data=folder", f"data.path={quoted(name)}")["data.path"] == name


@pytest.mark.slow("composes many configurations")
def test_what_has_a_meaning_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me (1)")
    assert composed("data=folder", "data.path=~/photos")["data.path"] == "/home/me (1)/photos"
    assert composed("data=folder", "data.path='~/photos'")["data.path"] == "/home/me (1)/photos"
    assert composed("data=folder", "data.path=~no-such-user/a")["data.path"] == "~no-such-user/a"
    assert composed("data=folder", "data.path=./~/photos")["data.path"] == "./~/photos"
    assert composed("data=folder", 'data.path="photos (1)"')["data.path"] == "photos (1)"
    assert composed("data=folder", "data.path='it\\'s'")["data.path"] == "it's"
    assert composed("model.checkpoint=null")["model.checkpoint"] is None
    assert composed('model.checkpoint="null"')["model.checkpoint"] == "null"
    assert composed("output=runs of ${seed}/${model.name}", "seed=3")["output"] == "runs of 3/efficientnet_lite0"
    assert composed("output=a\\${seed}")["output"] == "a${seed}"


def test_a_plain_path_is_written_as_it_was_typed() -> None:
    assert read(["data.path=photos/a-1.png", "output=../2024/x", "seed=1"]).settings == (
        "data.path=photos/a-1.png",
        "output=../2024/x",
        "seed=1",
    )


@pytest.mark.slow("a sweep composes the configuration of every run")
@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("a,b", ["a", "b"]),
        ("1e3, photos (1) ,it's", ["1e3", "photos (1)", "it's"]),
        ('"a,b",c', ["a,b", "c"]),
        ("'a, b'", ["a, b"]),
        ("x-{0,1}.tar,y", ["x-{0,1}.tar", "y"]),
        ("choice(a,b)", ["a", "b"]),
        ("2024_01_15", ["2024_01_15"]),
    ],
)
def test_in_a_sweep_commas_separate_paths(
    value: str, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    monkeypatch.setattr("percep.cli.tasks.perform", lambda config, _: found.append(config.data.path))
    assert main(["-m", "task=info", "data=folder", f"data.path={value}", "output=out"]) == 0
    assert found == paths


def test_paths_are_keys_of_a_task() -> None:
    for key in ("data.path", "model.checkpoint", "output"):
        assert key in PATHS
        assert read([f"{key}=x"]).settings == (f"{key}=x",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("help", "'help' is no setting: settings are key=value"),
        ("attack", "did you mean task=attack?"),
        ("ball.mean= 0.9", "'0.9' is no setting"),
        ("=3", "'=3' is no setting"),
        ("--foo", "unknown option --foo: options are -h or --help, --version, -m for a sweep and --cfg job;"),
        ("-x", "unknown option -x"),
        ("--ball.mean=0.9", "unknown option --ball.mean: settings have no dashes, ball.mean=VALUE"),
        ("ball.flor=1", "unknown key ball.flor: did you mean floor? known are floor, mean"),
        ("task=minimal ball.floor=0.9", "unknown key ball: it belongs to task=attack or task=explain"),
        ("study=quick", "unknown key study: it belongs to task=explain"),
        ("-m task=attack,minimal ball.floor=0.9", "unknown key ball: it belongs to task=attack"),
        ("model=efficientnet_lite9", "unknown model 'efficientnet_lite9': did you mean efficientnet_lite"),
        ("-m model=timm,torchvison", "unknown model 'torchvison': did you mean torchvision?"),
        ("model=[mobilenet_v2,timm]", "percep -m model=mobilenet_v2,timm runs each"),
        ("task=[attack]", "percep -m task=attack runs each"),
        ("data=samples,folder", "percep -m data=samples,folder runs each"),
        ("study=[quick,full]", "a run has one study"),
        ("-m model=[timm],[torchvision]", "a run has one model"),
        ("output=", "output is empty: give output=PATH"),
    ],
)
def test_one_line_says_what_to_type(arguments: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read(arguments.split())
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_value_that_is_no_path_says_how_to_quote_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=timm", "model.name=a (b"]) == 2
    printed = capsys.readouterr().err
    (line,) = printed.splitlines()
    assert line.startswith("percep: model.name=a (b is not in hydra's grammar")
    (suggested,) = shlex.split(line.rpartition("quotes, ")[2])
    assert suggested == 'model.name="a (b"'
    check(["model=timm", suggested], sweeps=False)


@pytest.mark.slow("composes many configurations")
@pytest.mark.parametrize(
    ("arguments", "key", "wrong"),
    [
        (["-m", "task=choice(minimal,attack)"], "attack.target=5", "attack.targets"),
        (["task=${oc.env:PERCEP_TEST_TASK}"], "attack.gradients=5", "attack.gradient"),
    ],
)
def test_keys_of_a_task_that_hydra_works_out(
    arguments: list[str], key: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERCEP_TEST_TASK", "minimal")
    line = read([*arguments, key])
    check(line.settings, sweeps=line.sweeps)
    line = read([*arguments, f"{wrong}=5"])
    with pytest.raises(Exception, match=re.escape(wrong)) as caught:
        check(line.settings, sweeps=line.sweeps)
    right = key.partition("=")[0].partition(".")[2]
    assert f"unknown key {wrong}: did you mean {right}? known are" in explained(caught.value)


def test_hydras_own_options_and_keys_pass() -> None:
    for arguments in (
        ["--cfg", "job"],
        ["--cfg=job", "--resolve"],
        ["-c", "hydra", "hydra.run.dir=x"],
        ["--info"],
        ["--info", "plugins"],
        ["-sc", "install=bash"],
        ["--multi", "hydra/launcher=basic", "seed=1,2"],
        ["--config-dir", "elsewhere", "model=mine", "mine.key=1"],
        ["+data.path=x", "~attack.target", "++seed=1"],
        ["model={name: resnet18, source: timm}"],
    ):
        assert read(arguments).arguments == tuple(arguments)


def test_the_default_task_and_the_groups_are_those_of_the_files() -> None:
    with initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        assert compose("config").task == DEFAULT_TASK
    assert groups() == ["data", "model", "study", "task"] and choices("task") == sorted(TASKS)
    assert chosen(["model=timm", "seed=1", "model='torchvision'"], "model") == "torchvision"


def test_help_shows_the_defaults_of_what_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    plain = capsys.readouterr().out
    assert "source: packaged, name: efficientnet_lite0" in plain and "steps: 10" in plain
    assert main(["task=explain", "study=quick", "model=timm", "-h"]) == 0
    printed = capsys.readouterr().out
    assert "source: timm" in printed and "resamples: 999\n" in printed and "level: 0.95" in printed
    assert printed.split("as configured here")[0] == plain.split("as configured here")[0]
    assert "$APP" not in printed


@pytest.mark.parametrize(
    "arguments",
    [
        "-m model=mobilenet_v2,efficientnet_lite0 --help",
        "--help data={path:x}",
        "-m task=choice(attack,minimal) --help",
        "--help -cd /tmp model=mine",
    ],
)
def test_help_of_what_is_no_single_choice_shows_the_defaults(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    plain = capsys.readouterr().out
    assert main(arguments.split()) == 0
    assert capsys.readouterr().out == plain


@pytest.mark.parametrize(
    ("task", "ball"), [("attack", "ball: {floor: 0.98, mean: 0.999}"), ("explain", "ball: {floor: null, mean: 0.999}")]
)
def test_help_shows_the_ball_of_a_run_without_settings(
    task: str, ball: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"task={task}", "--help"]) == 0
    assert f"\n{ball}\n" in capsys.readouterr().out
    with initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        composed = validated(compose("config", [f"task={task}"])).ball
    assert ball == f"ball: {{floor: {'null' if composed.floor is None else composed.floor}, mean: {composed.mean}}}"


def test_a_pipe_that_is_not_printed_to_is_reported(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As of a process that this one works with."""
    monkeypatch.chdir(tmp_path)

    def broken(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr("percep.cli.tasks.perform", broken)
    assert main(["task=info"]) == 2
    assert capfd.readouterr().err == "percep: [Errno 32] Broken pipe\n"
    monkeypatch.setattr("percep.cli.tasks.perform", lambda *_: print("found", flush=True))
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as unread:
        monkeypatch.setattr("sys.stdout", unread)
        assert main(["task=info"]) == 141
    assert capfd.readouterr().err == ""


def _piped(command: str) -> "subprocess.CompletedProcess[str]":
    percep = f"{shlex.quote(sys.executable)} -m percep"
    return subprocess.run(
        ["bash", "-c", f"{command.format(percep=percep)}; echo ${{PIPESTATUS[0]}} >&2"],
        env=os.environ | {"PYTHONPATH": str(CONFIGURATION.parents[1]), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.multiprocess
def test_nobody_reads_the_help() -> None:
    """`sleep` makes sure that the pipe is closed when the text is written."""
    finished = _piped("(sleep 0.5; exec {percep} --help) | true")
    assert finished.stderr == "141\n"
    assert _piped("{percep} --help | cat").stderr == "0\n"


@pytest.mark.multiprocess
def test_the_version_is_that_of_percep_and_needs_nothing_heavy() -> None:
    program = (
        "import sys; from percep.cli.main import main; code = main(['--version']); "
        "print({'torch', 'hydra', 'omegaconf'} & set(sys.modules), code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"percep {version('percep')}\nset() 0\n" and done.stderr == ""


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("ball=0.9", "ball has no value but keys, ball.floor, ball.mean: give ball.mean=VALUE for example"),
        ("ball=null", "ball has no value but keys, ball.floor, ball.mean"),
        ("ball=[1]", "ball has no value but keys, ball.floor, ball.mean"),
        ("attack=3", "attack has no value but keys, attack.target, attack.loss, attack.steps: give attack.steps=VALUE"),
    ],
)
def test_a_group_of_keys_that_is_given_a_value(setting: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([setting]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"percep: {words}") and printed.count("\n") == 1
