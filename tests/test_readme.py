"""The README's Python runs as printed, and its commands name what exists."""

import re
import shlex
from pathlib import Path

from hydra import compose, initialize_config_dir

from percep.config import validated

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_python_blocks_run(capsys):
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert scope["result"].success.tolist() == [True] * 4
    assert scope["report"].within.tolist() == [True] * 4
    assert printed.count("SOLVED") == 4


def test_commands_compose():
    commands = [
        shlex.split(line, comments=True)[1:]
        for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("percep")
    ]
    assert len(commands) >= 7
    for overrides in commands:
        if "--help" in overrides:
            continue
        sweep = "-m" in overrides
        values = [value.split(",")[0] if sweep else value for value in overrides if value != "-m"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            validated(compose("config", [*values, "output=unused"]))
