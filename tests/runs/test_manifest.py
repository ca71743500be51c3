"""What a run writes of itself, and what earlier versions called it."""

import json
from pathlib import Path

import pytest

from percep.errors import InputError
from percep.runs.engine.manifest import Manifest, claim, read_manifest
from percep.runs.study.outputs import current_settings

MANIFEST = Manifest("percep", {"task": "attack", "seed": 0}, {"percep": "1"}, 2, None, 10)


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    claim(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST


def test_a_run_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    claim(tmp_path, MANIFEST)
    path = tmp_path / "run.json"
    content = json.loads(path.read_text())
    content["basis"] = content.pop("provenance")
    path.write_text(json.dumps(content))
    assert read_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize("content", ["", "[]", '{"command": "percep"}'])
def test_what_is_no_manifest_is_no_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match="holds no run"):
        read_manifest(tmp_path)


def test_settings_of_an_earlier_study_have_their_present_names() -> None:
    settings = {"seed": 0, "study": {"rivals": ["ddn"], "block": 4}}
    present = {"seed": 0, "study": {"baselines": ["ddn"], "block": 4}}
    assert current_settings(settings) == current_settings(present) == present
