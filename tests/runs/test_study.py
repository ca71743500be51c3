"""The study by several processes, and continued: the same tables as of a study that nothing disturbed."""

import io
import json
import os
import shutil
import signal
import tarfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from percep import models
from percep.cli.main import main
from percep.errors import InputError, UnavailableError
from percep.models import Classifier
from percep.report.study import plots
from percep.report.study.tables import STUDY_TABLES
from percep.study import Findings
from tests.support.command import SMALL_STUDY, complaint, enter, photograph, small_classifier, use_small_model
from tests.support.processes import die_while_writing, finish, run, start

pytestmark = [
    pytest.mark.usefixtures("one_thread", "elsewhere", "small_model"),
    pytest.mark.multiprocess,
    pytest.mark.slow("studies are killed and continued, and shared by processes that meet"),
]

ARGUMENTS = (
    *SMALL_STUDY,
    "study.sweep=[{mean: 0.9}]",
    "data=folder",
    "data.path=photos",
    "ball.mean=0.7",
    "attack.steps=3",
    "batch_size=3",
)
VARIANTS, BATCHES = 2, 3


def make_photographs() -> None:
    for seed, name in enumerate("efg", start=5):
        photograph(seed).save(f"photos/{name}.png")


@pytest.fixture(autouse=True)
def more_photographs(elsewhere: None) -> None:
    make_photographs()


def leave_out_plots(patch: pytest.MonkeyPatch) -> None:
    """Drawing takes half of the time and has tests of its own; a picture's file holds the values it would show."""

    def written(path: Path, findings: Findings) -> None:
        path.write_text(repr([*plots._associations(findings), plots._causal(findings, "equal")]))

    patch.setattr("percep.report.study.page.study_plots", lambda findings: [])
    patch.setattr("percep.runs.study.outputs.save_study_plots", written)
    patch.setattr("percep.runs.study.outputs.save_panels", lambda path, rows, rule: path.write_text(f"{rule}: {rows}"))


@pytest.fixture(autouse=True)
def few_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_plots(monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study on the same photographs, not to be written to; what it printed lies beside it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        make_photographs()
        use_small_model(patch)
        leave_out_plots(patch)
        with redirect_stderr(io.StringIO()) as err, redirect_stdout(io.StringIO()) as out:
            assert main([*ARGUMENTS, "output=out"]) == 0
        Path("told.err").write_text(err.getvalue())
        Path("told.out").write_text(out.getvalue())
    return folder / "out"


def same(folder: Path | str, other: Path | str) -> None:
    """Two folders hold the same tables and pictures, byte for byte, and nothing that is half done."""
    folder, other = Path(folder), Path(other)
    names = [*(f"{table}.csv" for table in STUDY_TABLES), "summary.json", "plots.png", "panels.png"]
    images = [path.relative_to(other).as_posix() for path in sorted(other.glob("adversarial/*.png"))]
    assert images
    assert images == [path.relative_to(folder).as_posix() for path in sorted(folder.glob("adversarial/*.png"))]
    for name in (*names, *images):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    assert [(top / "report.html").read_text().count("<article") for top in (folder, other)] == [len(images)] * 2
    assert not list(folder.rglob(".percep-*"))


def parts(folder: str) -> dict[Path, int]:
    """The parts of a study and when each was written."""
    return {path: path.stat().st_mtime_ns for path in Path(folder, "parts").rglob("[0-9]*.parquet")}


def summary(folder: str) -> dict[str, object]:
    return json.loads(Path(folder, "summary.json").read_text())


def test_any_number_of_processes_gives_the_same_study(undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One, and three which read ahead; two continue what others have begun in the tests below."""
    run(3, *ARGUMENTS, "output=out", "data.workers=1")
    told = capfd.readouterr()
    alone = [(undisturbed.parent / f"told.{stream}").read_text() for stream in ("err", "out")]
    for err, out in ((told.err, told.out), alone):
        assert err.count(" 28/28 ") == err.count("passes over a photograph") == 1
        assert out.count("Outputs are in out") == 1
    assert summary("out")["photographs"] == {"fooled": 6, "unreadable": 1} and summary("out")["complete"]
    same("out", undisturbed)
    assert len(parts("out")) == VARIANTS * 2 * BATCHES


@pytest.mark.parametrize("part", [2, BATCHES + 2])
def test_a_process_killed_while_it_writes_loses_nothing_finished(part: int, undisturbed: Path) -> None:
    command = (*ARGUMENTS, "output=out")
    assert finish(start(1, *command, before=die_while_writing(part))) == [-signal.SIGKILL]
    before = parts("out")
    assert len(before) == part - 1 and list(Path("out/parts").rglob(".percep-*"))
    run(2, *command)
    after = parts("out")
    assert before.items() <= after.items() and len(after) == VARIANTS * 2 * BATCHES
    same("out", undisturbed)
    run(1, *command)
    assert parts("out") == after
    same("out", undisturbed)


def test_what_a_killed_study_has_finished_is_merged_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    command = (*ARGUMENTS, "output=out")
    finish(start(1, *command, before=die_while_writing(BATCHES)))
    assert "no photograph was fooled" in complaint(capsys, "task=merge", "output=out")
    finish(start(1, *command, before=die_while_writing(BATCHES)))
    assert main(["task=merge", "output=out"]) == 0
    assert capsys.readouterr().out.startswith("Undecided whether")
    assert summary("out")["photographs"] == {"fooled": 2, "unreadable": 1, "pending": 4}
    assert not summary("out")["complete"]
    assert "The run was interrupted: 3 of 7 photographs were done." in Path("out/report.html").read_text()


def test_a_folder_with_former_names_is_merged_and_continued(undisturbed: Path) -> None:
    shutil.copytree(undisturbed, "former")
    record = json.loads(Path("former/run.json").read_text())
    record["settings"]["study"]["rivals"] = record["settings"]["study"].pop("baselines")
    del record["settings"]["study"]["strata"]
    del record["settings"]["study"]["attributions"]
    Path("former/run.json").write_text(json.dumps(record))
    for path in Path("former/parts").glob("*/examination/*/*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            row["status"] = "turned" if row["status"] == "fooled" else row["status"]
            for named in row["maps"]:
                named["name"] = named["name"].replace("multiplier", "price")
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    assert main(["task=merge", "output=former"]) == 0
    same("former", undisturbed)
    before = parts("former")
    lost = Path("former/parts/01/examination/000000/000001.parquet")
    lost.unlink()
    run(1, *ARGUMENTS, "output=former")
    assert parts("former").keys() == before.keys() and before.items() - parts("former").items() == {
        (lost, before[lost])
    }
    same("former", undisturbed)


@pytest.mark.parametrize("world", [1, 2])
def test_an_interrupted_terminal(world: int, undisturbed: Path) -> None:
    command = (*ARGUMENTS, "output=out")

    def slowly(rank: int) -> None:
        from percep.runs.study import passes  # noqa: PLC0415

        measure = passes.measure

        def slow(*arguments: object) -> object:
            time.sleep(0.5)
            return measure(*arguments)

        passes.measure = slow

    processes = start(world, *command, before=slowly)
    while len(parts("out")) <= BATCHES and all(process.is_alive() for process in processes):
        time.sleep(0.02)
    for process in processes:
        os.kill(process.pid, signal.SIGINT)
    assert finish(processes) == [130] * world
    before = parts("out")
    assert BATCHES < len(before) < VARIANTS * 2 * BATCHES
    assert Path("out/report.html").exists() == (world == 1)
    if world == 1:
        assert "The run was interrupted" in Path("out/report.html").read_text() and not summary("out")["complete"]
    run(3, *command)
    assert before.items() <= parts("out").items()
    same("out", undisturbed)


def test_a_changed_configuration_is_refused_with_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    command = (*ARGUMENTS, "output=out")
    finish(start(1, *command, before=die_while_writing(2)))
    before = parts("out")
    words = complaint(capsys, *command, "study.draws=2", "seed=7")
    assert "differs: seed was 0 and is 7; study.draws was 1 and is 2: give the settings it was begun with" in words
    attack = ("task=attack", "data=folder", "data.path=photos", "output=out")
    assert "task was explain and is attack" in complaint(capsys, *attack)
    photograph(99).save("photos/z.png")
    assert "differs: photographs was " in complaint(capsys, *command)
    assert parts("out") == before


def mended(name: str, **_: object) -> Classifier:
    return small_classifier()


def troubled(name: str, **_: object) -> Classifier:
    """One model is not installed, and one will not have a certain photograph."""
    if name == "absent":
        raise UnavailableError("no weights for absent: pip install them")
    classifier = small_classifier()
    refused = torch.from_numpy(np.array(photograph(6))).permute(2, 0, 1) / 255

    def check(_: object, arguments: tuple[torch.Tensor]) -> None:
        if any(torch.equal(image, refused) for image in arguments[0]):
            raise InputError("this photograph has no attention")

    if name == "choosy":
        classifier.register_forward_pre_hook(check)
    return classifier


def test_a_variant_that_cannot_be_run_is_reported_until_it_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "bdg":
        Path(f"photos/{name}.png").unlink()
    command = [*ARGUMENTS[:-1], "batch_size=2"]
    command[command.index("study.sweep=[{mean: 0.9}]")] = "study.sweep=[{model: choosy}, {model: absent}]"
    monkeypatch.setattr(models, "load", troubled)
    for world in (1, 2):
        run(world, *command, f"output=out{world}")
    same("out2", "out1")
    main_variant, *others = summary("out2")["variants"]
    assert main_variant["fooled"] == 3
    problems = ["this photograph has no attention", "no weights for absent: pip install them"]
    assert [(variant["problem"], variant["criteria"]) for variant in others] == [(words, []) for words in problems]
    assert summary("out2")["complete"]
    before = parts("out2")

    monkeypatch.setattr(models, "load", mended)
    run(2, *command, "output=out2")
    assert before.items() <= parts("out2").items()
    _, *others = summary("out2")["variants"]
    assert [(variant["problem"], variant["fooled"]) for variant in others] == [(None, 3)] * 2
    run(1, *command, "output=again")
    same("out2", "again")

    def other(name: str, **_: object) -> Classifier:
        classifier = small_classifier()
        if name == "absent":
            next(classifier.parameters()).data += 1e-3
        return classifier

    monkeypatch.setattr(models, "load", other)
    capsys.readouterr()
    assert "differs: weights of absent was" in complaint(capsys, *command, "output=out2")


def test_several_processes_say_once_why_nothing_can_be_studied(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        ((*ARGUMENTS, "output=few", "data.limit=1"), "found 1 of 1"),
        ((*ARGUMENTS, "output=out", "attack.target=9"), "targets must be class indices"),
        ((*ARGUMENTS, "output=out", "study.baselines=[ddn]"), "gradients must be at least 20"),
        ((*ARGUMENTS, "output=none", "ball.mean=0.99999999"), "no photograph was fooled"),
    ):
        assert finish(start(2, *arguments)) == [2, 2]
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("percep: ")]
        assert words in line


def test_archives_share_the_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("tars").mkdir()
    for number, names in enumerate(("ae", "bf", "dg")):
        with tarfile.open(f"tars/{number}.tar", "w") as archive:
            for name in names:
                archive.add(f"photos/{name}.png", f"{name}.png")
    monkeypatch.setattr("percep.runs.study.task.GALLERY_LIMIT", 4)
    command = [argument for argument in ARGUMENTS if "data" not in argument and "sweep" not in argument]
    run(2, *command, "study.sweep=[]", "data=webdataset", "data.path=tars", "output=out")
    assert {path.relative_to("out/adversarial").as_posix() for path in Path("out/adversarial").rglob("*.png")} == {
        f"{name}.png" for name in ("0/a", "0/e", "1/b", "1/f", "2/d", "2/g")
    }
    page = Path("out/report.html").read_text()
    assert page.count("<article") == 4 and "interrupted" not in page
    assert all(f"Map of energy over the allowance of {name}," in page for name in ("0/a", "0/e", "1/b", "2/d"))
