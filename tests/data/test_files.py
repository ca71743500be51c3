"""Which files are photographs and what they are called: the same for folders and archives, whatever the names."""

import io
import json
import os
import tarfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from percep import data
from percep.data import files, photographs
from percep.data.archives import LocalArchive, read_stream
from percep.data.files import Names, is_hidden, is_image_name, without_suffix
from percep.data.shards import Archives, ClassFolders
from percep.errors import InputError
from percep.models import Preprocessing
from percep.runs.engine.manifest import Manifest, claim

SIDE = 12
WHOLE = Preprocessing(resize=SIDE, crop=SIDE)
CLASSES = {"0": 0, "1": 1, "2": 2, "ant": 0, "bee": 1, "cat": 2}


def _png(level: int = 128) -> bytes:
    file = io.BytesIO()
    Image.new("L", (SIDE, SIDE), level).save(file, format="PNG")
    return file.getvalue()


PNG = _png()


def _put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def _tar(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _rows(path: Path) -> list[tuple[str, int | None, str | None]]:
    return [(one.name, one.label, one.problem) for one in Archives(str(path), WHOLE, CLASSES)]


# Parts that names of files are made of where they cause trouble.
_PARTS = [*"aAbé1 ._-:\n\t*?'\"\\", "e\u0301", "\udcff", "日", "con", "NUL", ".jpg", ".png", ".cls", "..", "x" * 70]
names = st.lists(st.sampled_from(_PARTS), min_size=1, max_size=4).map("".join)
hostile = names.filter(lambda name: name not in (".", "..") and len(name.encode("utf-8", "surrogateescape")) < 240)


@pytest.mark.slow("many random names of files")
@given(st.lists(names, max_size=12))
def test_names_are_unique_and_safe_everywhere(stems: list[str]) -> None:
    give = Names()
    given_names = [give(stem) for stem in stems]
    folded = {unicodedata.normalize("NFC", name.casefold()) for name in given_names}
    assert len(folded) == len(stems)
    for name in given_names:
        assert name and not name.startswith(".") and not name.endswith((".", " "))
        assert not set(name) & set('/\\:*?"<>|\n\t ') and name.isprintable()
        assert len(f"{name}.png".encode()) <= 255
        assert name.partition(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


def test_many_names_that_are_cut_to_one_take_no_longer() -> None:
    give = Names()
    assert len({give("x" * 60 + str(number)) for number in range(20_000)}) == 20_000


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(hostile, unique=True, max_size=6))
def test_no_name_in_a_folder_costs_another(tmp_path_factory: pytest.TempPathFactory, found: list[str]) -> None:
    root = tmp_path_factory.mktemp("photos")
    _put(root, "good one.png", *(name for name in found if name != "good one.png"))
    expected = [
        name
        for name in ["good one.png", *found]
        if not name.startswith(".") and name.lower().endswith((".png", ".jpg"))
    ]
    photographs = list(data.folder(root, WHOLE, CLASSES))
    assert sorted(photograph.path.name for photograph in photographs) == sorted(set(expected))
    assert all(photograph.problem is None for photograph in photographs)
    assert len({photograph.name for photograph in photographs}) == len(photographs)
    (root / "class").mkdir()
    for name in [*found, "good one.png"]:
        (root / name).rename(root / "class" / name)
    (root / "class").rename(root / "ant")
    folders = list(ClassFolders(root, WHOLE, CLASSES))
    assert [one.path.name for one in folders] == [one.path.name for one in photographs]
    assert {one.label for one in folders} == {0}


@pytest.mark.slow("many random archives")
@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.lists(hostile, min_size=1, max_size=2).map("/".join), st.booleans()), max_size=6))
def test_no_member_of_an_archive_costs_another(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, bool]]
) -> None:
    path = tmp_path_factory.mktemp("tars") / "x.tar"
    members = [(name, PNG if whole else b"no image") for name, whole in found]
    _tar(path, [("good one.png", PNG), *members, ("good one.cls", b"2")], tarfile.GNU_FORMAT)
    rows = {one.path.name: one for one in Archives(str(path), WHOLE, CLASSES)}
    good = rows["good one.png"]
    twice = sum(name in ("good one.png", "good one.cls") for name, _ in found)
    assert twice or (good.label, good.problem) == (2, None)
    for name, whole in found:
        base = name.rpartition("/")[2]
        visible = not any(part.startswith(".") and part != ".." for part in name.split("/"))
        if (
            visible
            and base.lower().endswith((".png", ".jpg"))
            and len(base) > 4
            and sum(other.rpartition("/")[2] == base for other, _ in found) == 1  # rows are told apart by it
        ):
            problem = rows[base].problem if base in rows else None
            assert base in rows or any(one.problem and "of this name" in one.problem for one in rows.values())
            assert (
                not whole
                or problem is None
                or problem.startswith(("unlabelled", "unreadable: 2 images", "unreadable: 3"))
            )


@pytest.mark.slow("many random archives")
@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "v1.0", "v1.1", "v1", "2021-01-01T10.30", "d/a"]), st.integers(0, 2), min_size=1
    ),
    st.randoms(use_true_random=False),
)
def test_labels_are_found_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, labels: dict[str, int], random: "object"
) -> None:
    members = [(f"{key}.jpg", PNG) for key in labels] + [(f"{key}.cls", b"%d" % label) for key, label in labels.items()]
    random.shuffle(members)  # type: ignore[attr-defined]
    path = _tar(tmp_path_factory.mktemp("tars") / "x.tar", members)
    assert {sample.key: int(sample.labels[0].read()) for sample in LocalArchive(path)} == labels
    try:
        streamed = {
            sample.key: int(sample.labels[0].read()) for sample in read_stream(path.open("rb")) if sample.labels
        }
    except InputError as error:
        assert "sort the archive by names" in str(error)
    else:
        assert streamed == labels


class TestFolders:
    def test_what_is_hidden_or_kept_by_a_system_is_none(self, tmp_path: Path) -> None:
        hidden = (
            ".thumbnails/a.png",
            ".ipynb_checkpoints/a.png",
            "__MACOSX/a.png",
            "@eaDir/a.png",
            "._a.png",
            ".a.png",
        )
        (tmp_path / "Thumbs.db").touch()
        _put(tmp_path / "loose", "a.png", *hidden)
        _put(tmp_path / "classes", "cat/a.png", *(f"cat/{name}" for name in hidden), *hidden)
        assert [one.name for one in data.folder(tmp_path / "loose", WHOLE, CLASSES)] == ["a"]
        for name in hidden[-2:]:
            (tmp_path / "classes" / name).unlink()
        assert [one.name for one in data.folder(tmp_path / "classes", WHOLE, CLASSES)] == ["cat_a"]
        assert [one.name for one in ClassFolders(tmp_path / "classes", WHOLE, CLASSES)] == ["cat/a"]

    def test_a_folder_named_like_an_image(self, tmp_path: Path) -> None:
        _put(tmp_path, "a.png")
        (tmp_path / "b.png").mkdir()
        assert [one.name for one in data.folder(tmp_path, WHOLE, CLASSES)] == ["a"]

    def test_links(self, tmp_path: Path) -> None:
        _put(tmp_path, "elsewhere/far.png", "photos/cat/a.png")
        folder = tmp_path / "photos" / "cat"
        (folder / "broken.png").symlink_to("nowhere.png")
        (folder / "itself.png").symlink_to("itself.png")
        (folder / "back").symlink_to(folder.parent, target_is_directory=True)
        (folder / "far").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        for source in (
            data.folder(tmp_path / "photos", WHOLE, CLASSES),
            ClassFolders(tmp_path / "photos", WHOLE, CLASSES),
        ):
            found = {one.path.relative_to(folder).as_posix(): one.problem for one in source}
            assert found.keys() == {"a.png", "broken.png", "itself.png", "far/far.png"}
            assert found["a.png"] is None and found["far/far.png"] is None
            assert "No such file" in str(found["broken.png"]) and "symbolic links" in str(found["itself.png"])

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        _put(tmp_path, "a.png")
        os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
        found = {one.name: one.problem for one in data.folder(tmp_path, WHOLE, CLASSES)}
        assert found == {"a": None, "pipe": "unreadable: not a file that can be read"}

    def test_a_folder_that_cannot_be_listed_is_a_row(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _put(tmp_path, "cat/a.png", "cat/closed/b.png")
        listed = Path.iterdir

        def iterdir(path: Path) -> Iterable[Path]:
            if path.name == "closed":
                raise PermissionError(13, "Permission denied")
            return listed(path)

        monkeypatch.setattr(Path, "iterdir", iterdir)
        found = {one.name: one.problem for one in ClassFolders(tmp_path, WHOLE, CLASSES)}
        assert found == {"cat/a": None, "cat/closed": "unreadable: a folder that cannot be listed"}

    def test_a_run_s_own_output_is_no_photograph(self, tmp_path: Path) -> None:
        settings = "task: compare\nmodel:\n  name: x\ndata: {}\ndevice: cpu\nseed: 0\noutput: x\n"
        _put(tmp_path, "loose/a.png", "loose/outputs/2026-01-01/10-00-00/adversarial/a.png", "classes/cat/a.png")
        _put(tmp_path, "classes/out/curves.png", "classes/cat/out/panels/a.png")
        (tmp_path / "classes/outputs/2026-01-01/10-00-00").mkdir(parents=True)  # of the run that has just begun
        for folder in ("loose/outputs/2026-01-01/10-00-00", "classes/cat/out"):
            claim(tmp_path / folder, Manifest("percep", {"task": "attack"}, {"percep": "1"}, 1, 1))
        former = {"settings": {"task": "attack"}, "basis": {}, "shards": 1}
        _put(tmp_path, "classes/cat/earlier/a.png")
        (tmp_path / "classes/cat/earlier/run.json").write_text(json.dumps(former))
        (tmp_path / "classes/out/config.yaml").write_text(settings)
        assert [one.name for one in data.folder(tmp_path / "loose", WHOLE, CLASSES)] == ["a"]
        assert [one.name for one in data.folder(tmp_path / "classes", WHOLE, CLASSES)] == ["cat_a"]
        folders = ClassFolders(tmp_path / "classes", WHOLE, CLASSES)
        assert (folders.shards, [one.name for one in folders]) == (("cat",), ["cat/a"])
        with pytest.raises(InputError, match="is the output of a run"):
            data.folder(tmp_path / "classes/out", WHOLE, CLASSES)

    def test_another_s_configuration_is_no_output(self, tmp_path: Path) -> None:
        _put(tmp_path, "cat/a.png")
        (tmp_path / "cat" / "config.yaml").write_bytes(b"model: x\n\xff: [")
        for place, text in enumerate(
            ("{}", "[1]", "{", "\xff", '{"settings": {}, "provenance": {}, "shards": 1}', 9999 * "[")
        ):
            (tmp_path / "cat" / "run.json").write_text(text, "latin-1")
            assert len(data.folder(tmp_path, WHOLE, CLASSES)) == 1, place
            assert len(list(ClassFolders(tmp_path, WHOLE, CLASSES))) == 1, place
        assert [one.name for one in data.folder(tmp_path, WHOLE, CLASSES)] == ["cat_a"]


class TestArchives:
    def test_names_with_dots_keep_their_labels(self, tmp_path: Path) -> None:
        members = [("dog_v1.0.cls", b"1"), ("dog_v1.0.jpg", PNG)]
        members += [(f"2021-01-01T10.3{n}.{end}", c) for n in range(3) for end, c in (("cls", b"%d" % n), ("JPG", PNG))]
        assert _rows(_tar(tmp_path / "x.tar", members)) == [
            ("x/dog_v1.0", 1, None),
            *((f"x/2021-01-01T10.3{n}", n, None) for n in range(3)),
        ]

    def test_what_macos_adds(self, tmp_path: Path) -> None:
        members = [("d/._a.cls", b"\0\5"), ("d/a.cls", b"2"), ("d/._a.jpg", b"\0\5"), ("d/a.jpg", PNG)]
        members += [("__MACOSX/d/._a.jpg", b"\0"), ("__MACOSX/b.jpg", b"\0"), (".DS_Store", b"\0"), ("__key__", b"")]
        assert _rows(_tar(tmp_path / "x.tar", members)) == [("x/d_a", 2, None)]

    def test_one_label_for_names_below_it(self, tmp_path: Path) -> None:
        """As webdataset groups them, if that says which image it is of."""
        one = [("a.left.png", PNG), ("a.cls", b"1"), ("a.json", b"{}")]
        assert _rows(_tar(tmp_path / "x.tar", one)) == [("x/a.left", 1, None)]
        two = [("a.left.png", PNG), ("a.right.png", PNG), ("a.cls", b"1")]
        assert [row[2] for row in _rows(_tar(tmp_path / "x.tar", two))] == [
            "unlabelled: a.cls is also the label of a.right",
            "unlabelled: a.cls is also the label of a.left",
        ]
        own = [("a.jpg", PNG), ("a.cls", b"1"), ("a.mask.png", PNG)]
        assert _rows(_tar(tmp_path / "x.tar", own)) == [
            ("x/a", 1, None),
            ("x/a.mask", 1, "unlabelled: a.cls is also the label of a"),
        ]

    def test_labels_in_every_writing(self, tmp_path: Path) -> None:
        writings = (b"\xef\xbb\xbf1", b"1\r\n", b" bee\n", b"1 bee", b"1.0", b"", b"\xff", b"7")
        members = [(f"{n}.{end}", c) for n, text in enumerate(writings) for end, c in (("jpg", PNG), ("cls", text))]
        rows = _rows(_tar(tmp_path / "x.tar", members))
        assert [row[1] for row in rows] == [1, 1, 1, 1, 1, None, None, None]
        assert all(str(row[2]).startswith("unlabelled: label '") for row in rows[5:])

    def test_members_that_are_there_twice_empty_or_links(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar"
        members = [("a.jpg", PNG), ("a.jpg", PNG), ("b.jpg", PNG), ("b.cls", b"1"), ("b.cls", b"2"), ("c.jpg", b"")]
        members += [("d.jpg", PNG), ("d.cls", b"2"), ("d.cls", b"2"), ("/root/e.jpg", PNG), ("e.cls", b"1")]
        _tar(path, members)
        with tarfile.open(path, "a") as archive:
            link = tarfile.TarInfo("f.jpg")
            link.type, link.linkname = tarfile.LNKTYPE, "d.jpg"
            archive.addfile(link)
        assert _rows(path) == [
            ("x/a", None, "unreadable: 2 images of this name in the archive"),
            ("x/b", None, "unlabelled: 2 labels of this name in the archive"),
            ("x/c", None, "unreadable: not an image of a known format"),
            ("x/d", 2, None),
            ("x/root_e", None, None),
            ("x/e", 1, "missing: a label without an image"),
            ("x/f", None, "unreadable: a link to d.jpg: make the archive with tar --dereference --hard-dereference"),
        ]

    def test_damage_in_the_middle_and_archives_in_one_file_are_said(self, tmp_path: Path) -> None:
        """Python's tarfile ends there without a word."""
        path = _tar(tmp_path / "x.tar", [(f"{n}.jpg", PNG) for n in range(4)])
        whole = path.read_bytes()
        second = 512 + -(-len(PNG) // 512) * 512
        path.write_bytes(whole[:second] + b"\1" * 512 + whole[second + 512 :])
        with pytest.raises(InputError, match=r"cannot be read to its end: the mark at the end .* or damaged"):
            _rows(path)
        path.write_bytes(2 * whole)
        photographs, found = iter(Archives(str(path), WHOLE, CLASSES)), []
        with pytest.raises(InputError, match="several archives in one file"):
            found.extend(photographs)

    def test_a_stream_says_where_a_label_comes_too_late(self, tmp_path: Path) -> None:
        path = _tar(tmp_path / "x.tar", [("a.jpg", PNG), ("b.jpg", PNG), ("a.cls", b"1"), ("b.cls", b"1")])
        with pytest.raises(InputError, match=r"a\.cls comes after a\.jpg.*sort the archive by names"):
            list(read_stream(path.open("rb")))
        _tar(path, [("a.cls", b"1"), ("b.cls", b"2"), ("b.jpg", PNG), ("a.jpg", PNG), ("c.cls", b"0")])
        found = [(one.key, [label.read() for label in one.labels], one.problem) for one in read_stream(path.open("rb"))]
        assert found == [
            ("b", [b"2"], None),
            ("a", [b"1"], None),
            ("c", [b"0"], "missing: a label without an image"),
        ]

    def test_a_folder_of_archives_with_macos_files_and_odd_names(self, tmp_path: Path) -> None:
        for name in ("._0.tar", "0.tar", "a#b?{1,2}.TAR"):
            _tar(tmp_path / name, [("a.jpg", PNG)])
        (tmp_path / "folder.tar").mkdir()
        assert Archives(str(tmp_path), WHOLE, CLASSES).shards == ("0", "a_b_1_2_")
        assert len(list(Archives(str(tmp_path / "a#b?{1,2}.TAR"), WHOLE, CLASSES))) == 1


def test_endings() -> None:
    assert [without_suffix(name) for name in ("a.JPG", "a.b", "a.tar.png", "a")] == ["a", "a.b", "a.tar", "a"]
    assert [is_image_name(name) for name in ("a.jpg", ".jpg", "jpg", "._a.jpg", "a.cls", "a.jpg.txt")] == [True] + 5 * [
        False
    ]
    assert [is_hidden(name) for name in (".a", "__MACOSX", "a", "_a")] == [True, True, False, False]
    assert set(files.SUFFIXES) == set(photographs.SUFFIXES)


def test_a_link_that_leads_back_to_the_root_is_not_followed(tmp_path: Path) -> None:
    for name in ("0/a.png", "1/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "0" / "up").symlink_to("..")
    (tmp_path / "loop").symlink_to(".")
    for source in (
        data.folder(tmp_path, WHOLE, {"0": 0, "1": 1}),
        ClassFolders(tmp_path, WHOLE, {"0": 0, "1": 1}),
    ):
        entries = [entry for number in range(len(source.shards)) for entry in source.shard(number)]
        assert [(entry.path.name, entry.label) for entry in entries] == [("a.png", 0), ("b.png", 1)]
