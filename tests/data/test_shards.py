"""Class folders and tar archives: names, labels, and everything in them that cannot be used."""

import io
import pickle
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from percep import data
from percep.data.labels import Labels
from percep.data.photographs import Photograph
from percep.data.shards import Archives, ClassFolders, share, shares
from percep.errors import InputError
from percep.models import Classifier, Preprocessing
from percep.models.classes import imagenet_categories

SIDE = 16
WHOLE = Preprocessing(resize=SIDE, crop=SIDE)
CLASSES = {"0": 0, "1": 1, "2": 2, "tabby cat": 0, "beagle": 1, "jeep": 2, "n1": 0, "n2": 1, "n3": 2}


def _levels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def _png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_levels(seed)).save(file, format="PNG")
    return file.getvalue()


def _folders(root: Path, *names: str, each: int = 1) -> Path:
    for seed, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(each):
            (root / name / f"{number}.png").write_bytes(_png(seed * each + number))
    return root


def _archive(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _image(photograph: Photograph) -> np.ndarray:
    assert photograph.image is not None
    return (photograph.image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@given(st.integers(0, 1000), st.integers(1, 50))
def test_shares_add_up_and_are_even(most: int, shards: int) -> None:
    shares = [share(most, shards, shard) for shard in range(shards)]
    assert sum(shares) == most and max(shares) - min(shares) <= 1


@given(st.integers(0, 40), st.lists(st.integers(0, 9), max_size=8))
def test_a_limit_is_shared_as_evenly_as_sizes_allow(most: int, sizes: list[int]) -> None:
    given = shares(most, sizes)
    given += [0] * (len(sizes) - len(given))
    assert sum(given) == min(most, sum(sizes))
    assert all(gives <= size for gives, size in zip(given, sizes, strict=True))
    for gives, size in zip(given, sizes, strict=True):
        assert gives == size or gives >= max(given) - 1


def test_a_limit_means_the_same_of_every_source(tmp_path: Path) -> None:
    sizes = {"n1": 1, "n2": 3, "n3": 2}
    for name, size in sizes.items():
        (tmp_path / "folders" / name).mkdir(parents=True)
        (tmp_path / "tars").mkdir(exist_ok=True)
        for number in range(size):
            (tmp_path / "folders" / name / f"{number}.png").write_bytes(_png(number))
        _archive(tmp_path / "tars" / f"{name}.tar", {f"{number}.png": _png(number) for number in range(size)})
    for limit in range(1, 8):
        found = [
            [photograph.name.replace("_", "/") for photograph in source.first(limit)]
            for source in (
                data.folder(tmp_path / "folders", WHOLE, CLASSES),
                ClassFolders(tmp_path / "folders", WHOLE, CLASSES),
                Archives(str(tmp_path / "tars"), WHOLE, CLASSES),
            )
        ]
        assert found[0] == found[1] == found[2] and len(found[0]) == min(limit, 6)
    assert found[0][:3] == ["n1/0", "n2/0", "n2/1"]


class TestClassFolders:
    def test_wordnet_ids_are_the_indices_of_imagenet(self, tmp_path: Path) -> None:
        """Known pairs: tench 0, golden retriever 207, toilet tissue 999."""
        model = Classifier(torch.nn.Identity(), mean=[0], std=[1], categories=imagenet_categories())
        _folders(tmp_path, "n01440764", "n02099601", "n15075141")
        found = [(photograph.name, photograph.label) for photograph in ClassFolders(tmp_path, WHOLE, model.class_index)]
        assert found == [("n01440764/0", 0), ("n02099601/0", 207), ("n15075141/0", 999)]

    def test_the_images_are_those_of_torchvision(self, tmp_path: Path) -> None:
        _folders(tmp_path, "n3", "n1", "n2", each=3)
        (tmp_path / "n1" / "deeper").mkdir()
        (tmp_path / "n1" / "deeper" / "a b.png").write_bytes(_png(100))
        photographs = list(ClassFolders(tmp_path, WHOLE, CLASSES))
        theirs = ImageFolder(str(tmp_path))
        assert len(photographs) == len(theirs) == 10
        for photograph, (picture, label) in zip(photographs, theirs, strict=True):
            assert photograph.label == label
            assert np.array_equal(_image(photograph), np.asarray(picture))
        assert photographs[3].name == "n1/deeper_a_b"

    def test_some_of_the_classes_keep_their_indices(self, tmp_path: Path) -> None:
        _folders(tmp_path, "n2", "n3")
        assert [photograph.label for photograph in ClassFolders(tmp_path, WHOLE, CLASSES)] == [1, 2]

    def test_a_limit_takes_of_every_class(self, tmp_path: Path) -> None:
        folders = ClassFolders(_folders(tmp_path, "n1", "n2", "n3", each=3), WHOLE, CLASSES)
        assert [photograph.name for photograph in folders.first(4)] == ["n1/0", "n1/1", "n2/0", "n3/0"]
        assert [photograph.name for photograph in folders.first(2)] == ["n1/0", "n2/0"]
        assert (folders.inventory().count, folders.first(4).inventory().count) == (9, 4)

    def test_a_limit_is_reached_where_classes_are_small_or_empty(self, tmp_path: Path) -> None:
        _folders(tmp_path, "n2", "n3", each=3)
        (tmp_path / "n1").mkdir()
        (tmp_path / "n2" / "1.png").unlink()
        (tmp_path / "n2" / "2.png").unlink()
        folders = ClassFolders(tmp_path, WHOLE, CLASSES)
        assert [photograph.name for photograph in folders.first(1)] == ["n2/0"]
        assert [photograph.name for photograph in folders.first(3)] == ["n2/0", "n3/0", "n3/1"]
        assert len(list(folders.first(99))) == 4

    def test_a_survey_tells_other_photographs(self, tmp_path: Path) -> None:
        folders = ClassFolders(_folders(tmp_path, "n1", "n2"), WHOLE, CLASSES)
        before = folders.inventory()
        assert folders.inventory() == before
        (tmp_path / "n2" / "0.png").rename(tmp_path / "n2" / "1.png")
        after = folders.inventory()
        assert after.count == before.count and after.digest != before.digest

    def test_bad_files_and_empty_classes(self, tmp_path: Path) -> None:
        _folders(tmp_path, "n1", "n3")
        (tmp_path / "n1" / "bad.jpg").write_text("no image")
        (tmp_path / "n1" / ".hidden.png").write_bytes(_png(0))
        (tmp_path / "n2").mkdir()
        found = [(photograph.name, photograph.problem) for photograph in ClassFolders(tmp_path, WHOLE, CLASSES)]
        assert found == [("n1/0", None), ("n1/bad", "unreadable: not an image of a known format"), ("n3/0", None)]

    def test_what_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is not a folder"):
            ClassFolders(tmp_path / "missing", WHOLE, CLASSES)
        with pytest.raises(InputError, match="holds no class folders"):
            ClassFolders(tmp_path, WHOLE, CLASSES)
        with pytest.raises(InputError, match="labels outside the model's classes: gnu"):
            ClassFolders(_folders(tmp_path, "n1", "gnu"), WHOLE, CLASSES)


class TestArchives:
    def test_labels_are_indices_ids_or_names(self, tmp_path: Path) -> None:
        files = {}
        for seed, label in enumerate((b"1", b"n3\n", b"tabby_cat", b"jeep")):
            files |= {f"{seed}.png": _png(seed), f"{seed}.cls": label}
        _archive(tmp_path / "val.tar", files | {"unlabelled.PNG": _png(4)})
        photographs = list(Archives(str(tmp_path / "val.tar"), WHOLE, CLASSES))
        assert [photograph.label for photograph in photographs] == [1, 2, 0, 2, None]
        assert [photograph.name for photograph in photographs] == [f"val/{n}" for n in (0, 1, 2, 3, "unlabelled")]
        for seed, photograph in enumerate(photographs):
            assert np.array_equal(_image(photograph), _levels(seed))

    def test_what_is_wrong_with_one_photograph_is_its_row(self, tmp_path: Path) -> None:
        files = {
            "a.cls": b"0",
            "b.jpg": b"no image",
            "c.jpg": _png(0),
            "c.png": _png(0),
            "d.png": _png(0),
            "d.cls": b"gnu",
            "dir/e.png": _png(0),
            "../../f g.png": _png(0),
            "../../f:g.png": _png(0),
        }
        photographs = list(Archives(str(_archive(tmp_path / "x.tar", files)), WHOLE, CLASSES))
        assert [(photograph.name, photograph.problem) for photograph in photographs] == [
            ("x/a", "missing: a label without an image"),
            ("x/b", "unreadable: not an image of a known format"),
            ("x/c", "unreadable: 2 images of this name in the archive"),
            ("x/d", "unlabelled: label 'gnu' is none of the model's classes, by index from 0, name or WordNet id"),
            ("x/dir_e", None),
            ("x/f_g", None),
            ("x/f_g-2", None),
        ]

    def test_labels_of_a_file(self, tmp_path: Path) -> None:
        for number in range(2):
            _archive(tmp_path / f"{number}.tar", {f"d/{number}{n}.png": _png(n) for n in range(2)} | {"d/00.cls": b"9"})
        (tmp_path / "labels.csv").write_text("00,0\n1/d/10.png,jeep\n11.jpg,1\ngone,1\n")
        labels = Labels.read(tmp_path / "labels.csv")
        archives = Archives(str(tmp_path), WHOLE, CLASSES, labels)
        assert [(one.name, one.label, one.problem) for one in archives] == [
            ("0/d_00", 0, None),
            ("0/d_01", None, "unlabelled: labels.csv has no label for it"),
            ("1/d_10", 2, None),
            ("1/d_11", 1, None),
            ("1/d_00", None, "missing: a label without an image"),
            ("labels_without_a_photograph/gone", 1, f"missing: a label in line 4 without a photograph in {tmp_path}"),
        ]
        assert [one.name for one in archives.first(3)] == ["0/d_00", "0/d_01", "1/d_10"]
        (tmp_path / "labels.csv").write_text("00,1\n")
        assert (
            archives.inventory()
            != Archives(str(tmp_path), WHOLE, CLASSES, Labels.read(tmp_path / "labels.csv")).inventory()
        )

    def test_labels_of_one_name_in_several_archives(self, tmp_path: Path) -> None:
        for name in "ab":
            _archive(tmp_path / f"{name}.tar", {"1.png": _png(0), "2.png": _png(1), "d/3.png": _png(2)})
        (tmp_path / "labels.csv").write_text("a/1.png,2\n2.png,1\nc/3.png,1\nb/d/3.png,0\n")
        archives = Archives(str(tmp_path), WHOLE, CLASSES, Labels.read(tmp_path / "labels.csv"))
        expected = [
            ("a/1", 2, None),
            ("a/2", None, "unlabelled: line 2 of labels.csv names 2 photographs"),
            ("a/d_3", None, "unlabelled: labels.csv names c/3.png and 1 more of this file name"),
            ("b/1", None, "unlabelled: labels.csv names a/1.png"),
            ("b/2", None, "unlabelled: line 2 of labels.csv names 2 photographs"),
            ("b/d_3", 0, None),
            ("labels_without_a_photograph/c_3", 1, f"missing: a label in line 3 without a photograph in {tmp_path}"),
        ]
        for source in (archives, pickle.loads(pickle.dumps(archives))):  # as for a process that reads ahead
            assert [(one.name, one.label, one.problem) for one in source] == expected
        extracted = tmp_path / "extracted"
        for name in "ab":
            with tarfile.open(tmp_path / f"{name}.tar") as archive:
                archive.extractall(extracted / name, filter="data")
        labels = Labels.read(tmp_path / "labels.csv")
        as_files = [one.label for one in data.folder(extracted, WHOLE, CLASSES, labels)]
        assert as_files == [label for _, label, _ in expected]

    def test_a_better_match_in_another_archive_has_the_label(self, tmp_path: Path) -> None:
        _archive(tmp_path / "a.tar", {"x.jpg": _png(0)})
        _archive(tmp_path / "b.tar", {"x.png": _png(1)})
        (tmp_path / "labels.csv").write_text("x.png,2\n")
        archives = Archives(str(tmp_path), WHOLE, CLASSES, Labels.read(tmp_path / "labels.csv"))
        assert [(one.name, one.label) for one in archives] == [("a/x", None), ("b/x", 2)]

    def test_labels_of_archives_by_url(self, tmp_path: Path, served: str) -> None:
        """What other archives hold is not known, so a label has to say which photograph it is of."""
        for name in "01":
            _archive(tmp_path / f"{name}.tar", {"1.png": _png(0), "d/2.png": _png(1), "e/3.png": _png(2)})
        (tmp_path / "labels.csv").write_text("0/1.png,2\n2.png,1\nx/e/3.png,0\ny/e/3.png,0\n")
        found = list(Archives(f"{served}/{{0..1}}.tar", WHOLE, CLASSES, Labels.read(tmp_path / "labels.csv")))
        assert [(one.name, one.label) for one in found] == [
            ("0/1", 2),
            ("0/d_2", 1),
            ("0/e_3", None),
            ("1/1", None),
            ("1/d_2", 1),
            ("1/e_3", None),
        ]
        assert found[3].problem == "unlabelled: labels.csv names 0/1.png"
        assert str(found[5].problem).endswith("is not the only one of this file name: write 1/e/3.png")

    @pytest.mark.parametrize("by_url", [False, True])
    def test_a_limit_spends_no_place_on_labels_without_an_image(
        self, by_url: bool, tmp_path: Path, served: str
    ) -> None:
        for name in "01":
            files = {f"{n}.cls": b"1" for n in range(3)} | {f"{n}.png": _png(n) for n in range(3, 6)}
            _archive(tmp_path / f"{name}.tar", files)
        path = f"{served}/{{0..1}}.tar" if by_url else str(tmp_path)
        archives = Archives(path, WHOLE, CLASSES)
        assert [one.missing for one in archives].count(1) == 6
        assert [one.name for one in archives.first(4)] == ["0/3", "0/4", "1/3", "1/4"]
        assert len(list(archives.first(99))) == 6

    def test_a_folder_a_pattern_and_names_that_meet(self, tmp_path: Path) -> None:
        for folder, name in (("one", "0"), ("one", "1"), ("two", "0")):
            (tmp_path / folder).mkdir(exist_ok=True)
            _archive(tmp_path / folder / f"{name}.tar", {"a.png": _png(0)})
        assert Archives(str(tmp_path / "one"), WHOLE, CLASSES).shards == ("0", "1")
        archives = Archives(f"{tmp_path}/{{one/{{0..1}},two/0}}.tar", WHOLE, CLASSES)
        assert [photograph.name for photograph in archives] == ["0/a", "1/a", "0-2/a"]
        assert [photograph.name for photograph in archives.first(2)] == ["0/a", "1/a"]

    def test_what_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"1\.tar is not a file"):
            Archives(f"{_archive(tmp_path / '0.tar', {}).parent}/{{0..1}}.tar", WHOLE, CLASSES)
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"holds no \.tar files"):
            Archives(str(tmp_path / "empty"), WHOLE, CLASSES)

    @pytest.mark.parametrize("kept", range(256, 5 * 1024, 700))
    def test_an_archive_that_is_cut_off_anywhere_says_so(self, kept: int, tmp_path: Path) -> None:
        """Python's tarfile takes an end between two members for the end."""
        path = _archive(tmp_path / "x.tar", {f"{n}.png": _png(n) for n in range(4)} | {"4.cls": b"0"})
        members = sum(512 + -(-size // 512) * 512 for size in (*(len(_png(n)) for n in range(4)), 1))
        assert members > 5 * 1024 - 512
        whole = path.read_bytes()
        for length in {kept, kept // 512 * 512}:
            path.write_bytes(whole[:length])
            photographs = iter(Archives(str(path), WHOLE, CLASSES))
            with pytest.raises(InputError, match="cannot be read to its end"):
                list(photographs)

    def test_a_compressed_archive_says_so(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "x.tar", "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("a.png"))
        with pytest.raises(InputError, match="cut off, or compressed"):
            list(Archives(str(tmp_path / "x.tar"), WHOLE, CLASSES))

    def test_archives_by_url(self, tmp_path: Path, served: str) -> None:
        for number in range(2):
            _archive(tmp_path / f"{number}.tar", {"a.png": _png(number), "a.cls": b"2"})
        found = list(Archives(f"{served}/{{0..1}}.tar", WHOLE, CLASSES))
        assert [(photograph.name, photograph.label) for photograph in found] == [("0/a", 2), ("1/a", 2)]
        assert np.array_equal(_image(found[1]), _levels(1))
        with pytest.raises(InputError, match=r"2\.tar cannot be read to its end"):
            list(Archives(f"{served}/2.tar", WHOLE, CLASSES))

    def test_memory_does_not_grow_with_an_archive(self, tmp_path: Path) -> None:
        content = _png(0) + np.random.default_rng(0).bytes(50_000)  # what follows the end of a PNG is not looked at
        peaks = []
        for count in (10, 100):
            path = _archive(tmp_path / f"{count}.tar", {f"{n}.png": content for n in range(count)})
            archive = Archives(str(path), WHOLE, CLASSES)
            tracemalloc.start()
            assert sum(photograph.image is not None for photograph in archive) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] - peaks[0] < 4 * len(content)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of the folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_folders_and_samples_are_one_shard() -> None:
    photographs = data.samples(WHOLE)
    assert photographs.shards == ("photographs",)
    assert [entry.name for entry in photographs.shard(0)] == [photograph.name for photograph in photographs]
    assert photographs.inventory().count == 20
    assert photographs.inventory().digest != photographs.first(19).inventory().digest
