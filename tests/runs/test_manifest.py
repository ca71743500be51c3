"""What a run writes of itself, and what earlier versions called it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from percep.choices import ATTRIBUTION_NAMES
from percep.errors import InputError
from percep.runs.engine.manifest import Manifest, claim, read_manifest

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


def test_a_study_of_an_earlier_version_is_read_and_continued(tmp_path: Path) -> None:
    present = replace(
        MANIFEST,
        settings={
            "seed": 0,
            "study": {"attributions": [*ATTRIBUTION_NAMES], "strata": [], "baselines": ["ddn"], "block": 4},
        },
    )
    former = replace(MANIFEST, settings={"seed": 0, "study": {"rivals": ["ddn"], "block": 4}})
    claim(tmp_path, former)
    assert read_manifest(tmp_path) == present
    (tmp_path / "000000.parquet").touch()  # it was begun
    claim(tmp_path, present)
    study = present.settings["study"]
    other = replace(present, settings={"seed": 0, "study": {**study, "baselines": ["pgd_l2"]}})
    with pytest.raises(InputError, match=r"differs: study.baselines was \['ddn'\] and is \['pgd_l2'\]: give"):
        claim(tmp_path, other)
    fewer = replace(present, settings={"seed": 0, "study": {**study, "attributions": ["gradcam"]}})
    with pytest.raises(InputError, match=r"study.attributions was \[.*\] and is \['gradcam'\]: give"):
        claim(tmp_path, fewer)


def test_what_is_written_beside_the_report_may_be_asked_for_later(tmp_path: Path) -> None:
    before, after = (replace(MANIFEST, settings={"seed": 0, "report": {"vector": vector}}) for vector in (False, True))
    claim(tmp_path, before)
    (tmp_path / "000000.parquet").touch()  # it was begun
    claim(tmp_path, after)
    assert read_manifest(tmp_path) == after
    claim(tmp_path, replace(MANIFEST, settings={"seed": 0}))  # of a version that cannot write it
