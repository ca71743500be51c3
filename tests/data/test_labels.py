"""Labels of one's own: every kind of table, what a label may say, which photograph it is of, and what is left over."""

import csv
import io
import json
import re
import string
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from percep import data
from percep.cli.main import main
from percep.data.class_names import Classes
from percep.data.labels import Given, Labels, NameLabels
from percep.data.shards import Archives, ClassFolders
from percep.errors import InputError
from percep.models import Preprocessing
from percep.models.classes import imagenet_categories
from percep.models.classifier import Classifier
from percep.report import ImageRow, Totals
from percep.runs import inputs
from percep.runs.attack import batch
from tests.support import command

SIDE = 16
WHOLE = Preprocessing(resize=SIDE, crop=SIDE)
CLASSES = {"0": 0, "1": 1, "2": 2, "tabby cat": 0, "beagle": 1, "jeep": 2, "n01": 0, "n02": 1, "n03": 2}


def _read(tmp_path: Path, text: str | bytes, name: str = "labels.txt", **columns: object) -> Labels:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return Labels.read(path, **columns)


def _given(labels: Labels, *names: str) -> list[tuple[int | None, int | None]]:
    return [(one.label, one.target) for one in labels.of(CLASSES).give(names)]


def _labels(labels: Labels, *names: str) -> list[int | None]:
    return [one.label for one in labels.of(CLASSES).give(names)]


def _photos(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), "grey").save(root / name, format="PNG")
    return root


class TestWhatALabelSays:
    @pytest.mark.parametrize(
        ("text", "index"),
        [
            ("2", 2),
            (" 2\n", 2),
            ("2.0", 2),  # as pandas writes a column with gaps
            ("02", 2),
            ("jeep", 2),
            ("tabby_cat", 0),
            ("Tabby cat", 0),
            ("tabby cat, tabby", 0),
            ("n03 85 1 499 272", 2),
            ("n03 jeep, landrover", 2),
            ("1 beagle", 1),
            ("beagle 0.98", 1),
            ("beagle house", None),  # another thing
            ("cat", None),
            ("3", None),
            ("-1", None),
            ("2.5", None),
            ("9" * 500, None),
            ("", None),
            ("n04", None),
        ],
    )
    def test_index_name_or_id_and_the_first_word_of_more(self, text: str, index: int | None) -> None:
        assert Classes(CLASSES).find(text) == index

    def test_counted_from_one(self) -> None:
        classes = Classes(CLASSES, first_class=1)
        assert [classes.find(text) for text in ("0", "1", "3", "4", "jeep")] == [None, 0, 2, None, 2]

    def test_a_name_of_two_classes_in_another_case_is_none(self) -> None:
        classes = Classes({"0": 0, "1": 1, "crane": 0, "Crane": 1})
        assert [classes.find(text) for text in ("crane", "Crane", "CRANE")] == [0, 1, None]

    def test_a_network_with_a_class_before_those_of_the_labels(self) -> None:
        """1001 outputs of which the first is background: index 0 of a label is output 1."""
        index = {"0": 1, "1": 2, "cat": 1, "dog": 2}
        assert [Classes(index).find(text) for text in ("0", "1", "2", "dog")] == [1, 2, None, 2]

    def test_any_index_where_classes_have_no_names(self) -> None:
        assert [Classes({}).find(text) for text in ("0", "70", "-1", "cat")] == [0, 70, None, None]


class TestTables:
    @pytest.mark.parametrize(
        "text",
        [
            "a.jpg,0\nb.jpg,2\n",
            "a.jpg\t0\r\nb.jpg\t2",
            "a.jpg;0\rb.jpg;2\r",
            "a.jpg 0\nb.jpg   2\n\n",
            "\ufeffa.jpg, 0\n\n# a comment\nb.jpg , 2\n",
            '"a.jpg","0"\n"b.jpg","2"\n',
            "file,label\na.jpg,0\nb.jpg,2\n",
            "ImageId,TrueLabel\na,0\nb,2\n",
            "label;FileName\n0;a.jpg\n2;b.jpg\n",
            ",label,image_id\n0,tabby cat,a\n1,jeep,b\n",  # pandas with its index
            "foto klasse\na.jpg 0\nb.jpg 2\n",
            "file label\na.jpg tabby cat\nb.jpg jeep\n",
            "file weight label\na.jpg 1.5 tabby_cat\nb.jpg 2.5 jeep\n",
            "Bild,Klasse\na.jpg,tabby cat\nb.jpg,jeep\n",
            "a.jpg tabby cat\nb.jpg jeep\n",
            "a.jpg n01 tabby cat, tabby\nb.jpg n03 jeep, landrover\n",
            "a.jpg,tabby cat, tabby\nb.jpg,jeep, landrover\n",
        ],
    )
    def test_separators_headers_quotes_and_ends_of_lines(self, text: str, tmp_path: Path) -> None:
        assert _labels(_read(tmp_path, text), "a.jpg", "b.jpg") == [0, 2]

    @pytest.mark.parametrize(
        ("text", "first"),
        [
            ("photo,tabby cat\nb,tabby cat\nc,beagle\n", 0),
            ("target,n02\nb,n03\nc,n01\n", 1),
            ("class;jeep\nb;jeep\n", 2),
            ("image tabby cat\nb beagle\n", 0),
            ("my dog,beagle\nb.jpg,jeep\n", 1),  # unlike the others, without an ending
            ("photo,tabby cat,0.5\nb,jeep,0.6\n", 0),
            ("id,jeep\n", 2),  # a single line
        ],
    )
    def test_a_first_row_of_common_words_is_a_row(self, text: str, first: int, tmp_path: Path) -> None:
        name = re.split("[,;]|(?<!my) ", text)[0]
        rows = text.count("\n")
        labels = _read(tmp_path, text)
        assert _labels(labels, name) == [first]
        assert len(labels.of(CLASSES).missing(())) == rows

    @pytest.mark.parametrize(
        "text",
        ["label,foto\n0,a.jpg\n2,b.jpg\n", "photo,was\na,tabby cat\nb,jeep\n", "target,foto\nn01,a\nn03,b\n"],
    )
    def test_a_header_with_one_word_that_is_known(self, text: str, tmp_path: Path) -> None:
        labels = _read(tmp_path, text)
        assert _labels(labels, "a.jpg", "b.jpg") == [0, 2]
        assert labels.of(CLASSES).missing(("a.jpg", "b.jpg")) == ()

    def test_names_that_begin_like_a_comment(self, tmp_path: Path) -> None:
        text = "# made by hand\n#\n#1.jpg,1\n# 2.jpg,2\n#3.jpg,0\n"
        assert _labels(_read(tmp_path, text), "#1.jpg", "# 2.jpg", "#3.jpg") == [1, 2, 0]

    def test_utf_16(self, tmp_path: Path) -> None:
        assert _labels(_read(tmp_path, "a.jpg\t1\nb.jpg\t2".encode("utf-16")), "a.jpg", "b.jpg") == [1, 2]

    def test_names_with_separators(self, tmp_path: Path) -> None:
        assert _labels(_read(tmp_path, 'my dog, 2.jpg 1\n"a b" 2\n'), "my dog, 2.jpg", "a b.png") == [1, 2]
        assert _labels(_read(tmp_path, '"my dog, ""2"".jpg",1\nb.jpg,2\n'), 'my dog, "2".jpg', "b.jpg") == [1, 2]
        assert _labels(_read(tmp_path, '"a\nb.jpg",1\nc.jpg,2\n'), "a\nb.jpg", "c.jpg") == [1, 2]

    def test_a_quote_that_is_not_closed_costs_its_line_only(self, tmp_path: Path) -> None:
        lines = ["a.jpg,0", '"b.jpg,1', *(f"{n}.jpg,2" for n in range(10))]
        labels = _labels(_read(tmp_path, "\n".join(lines)), "a.jpg", *(f"{n}.jpg" for n in range(10)))
        assert labels == [0] + 10 * [2]

    def test_kaggle_s_caffe_s_and_the_competition_s_files(self, tmp_path: Path) -> None:

        imagenet = Classifier(nn.Identity(), mean=[0], std=[1], categories=imagenet_categories()).class_index
        kaggle = "ImageId,PredictionString\nILSVRC2012_val_00048981,n03995372 85 1 499 272 \n"
        kaggle += "ILSVRC2012_val_00037956,n03481172 131 0 499 254 n03481172 1 2 3 4 \n"
        names = ("ILSVRC2012_val_00048981.JPEG", "ILSVRC2012_val_00037956.JPEG")
        labelling = _read(tmp_path, kaggle).of(imagenet)
        assert [one.label for one in labelling.give(names)] == [imagenet["n03995372"], imagenet["n03481172"]]
        assert [one.label for one in labelling.give(names)] == [740, 587]  # power drill, hammer
        caffe = "ILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000002.JPEG 970\n"
        names = ("ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG")
        assert [one.label for one in _read(tmp_path, caffe).of(imagenet).give(names)] == [65, 970]
        nips = 'ImageId,URL,x1,TrueLabel,TargetClass,Author\n0c7a,https://x/a.jpg,0.0,1000,1,"Smith, J."\n'
        nips += "0d1b,https://x/b.jpg,0.5,1,963,mrho101\n"
        with pytest.raises(InputError, match=r"counted from 1: give data.first_class=1"):
            _read(tmp_path, nips)
        labels = _read(tmp_path, nips, target_column="TargetClass", first_class=1)
        given = labels.of(imagenet).give(("0c7a.png", "0d1b.png"))
        assert [(one.label, one.target) for one in given] == [(999, 0), (0, 962)]

    def test_columns_by_header_or_index(self, tmp_path: Path) -> None:
        text = "no,what,where,goal\n7,jeep,a.jpg,0\n8,beagle,b.jpg,2\n"
        with pytest.raises(InputError, match=r"give data\.name_column, it has no, what, where, goal"):
            _read(tmp_path, text, label_column="what")
        for columns in (("where", "what", "goal"), ("WHERE", "What", 3), (2, "1", "3")):
            names = dict(zip(("name_column", "label_column", "target_column"), columns, strict=True))
            assert _given(_read(tmp_path, text, **names), "a.jpg", "b.jpg") == [(2, 0), (1, 2)]
        plain = _read(tmp_path, "0 a.jpg 2\n1 b.jpg 0\n", name_column=1, target_column=2)
        assert _given(plain, "a.jpg", "b.jpg") == [(0, 2), (1, 0)]
        with pytest.raises(InputError, match="no column 'gaol': it has no, what, where, goal"):
            _read(tmp_path, text, name_column="where", label_column="what", target_column="gaol")
        with pytest.raises(InputError, match="no column '5': it has no header and 2 columns"):
            _read(tmp_path, "a.jpg,1\n", label_column="5")

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("ILSVRC2012_validation_ground_truth.txt", "490\n361\n", r"devkit's own, .* LOC_val_solution.csv"),
            ("truth.txt", "490\n361\n171\n", r"a number on each line and no names.*LOC_val_solution.csv"),
            ("empty.csv", "\n \n# nothing\n", "is empty"),
            ("names.txt", "a.jpg\nb.jpg\n", "has one column"),
            ("binary.csv", "PK\0\0a,b\n", "is not a text file"),
        ],
    )
    def test_what_is_no_table_of_labels(self, name: str, text: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=message):
            _read(tmp_path, text, name)
        with pytest.raises(InputError, match=r"nowhere\.csv is not a file"):
            Labels.read(tmp_path / "nowhere.csv")

    @settings(deadline=None, max_examples=60)
    @given(
        st.dictionaries(
            st.text(st.sampled_from(string.ascii_letters + " ,;\t\"'.-_é日"), min_size=1, max_size=8), st.integers(0, 2)
        ).filter(lambda rows: len(rows) > 1),
        st.sampled_from(",;\t"),
    )
    def test_what_csv_writes_is_read(
        self, tmp_path_factory: pytest.TempPathFactory, rows: dict[str, int], by: str
    ) -> None:
        written = {f"x{number}{name}y.jpg": label for number, (name, label) in enumerate(rows.items())}
        text = io.StringIO()
        csv.writer(text, delimiter=by).writerows([("filename", "label"), *written.items()])
        labels = _read(tmp_path_factory.mktemp("csv"), text.getvalue())
        assert _labels(labels, *written) == list(written.values())

    def test_a_digest_tells_another_label(self, tmp_path: Path) -> None:
        first = _read(tmp_path, "a.jpg,1\n")
        assert first.digest == _read(tmp_path, "a.jpg, 1\n").digest
        assert first.digest != _read(tmp_path, "a.jpg,2\n").digest
        assert first.digest != _read(tmp_path, "a.jpg,1\n", first_class=1).digest


@pytest.mark.parametrize("name", ["Tabby cat", "tabby_cat", "TABBY__CAT", "0", "n01", "n01_tabby cat", "E\u0301clair"])
def test_folders_archives_and_label_files_accept_the_same_names(name: str, tmp_path: Path) -> None:
    classes = CLASSES | {"\xe9clair": 1}
    expected = 1 if "clair" in name else 0
    assert Classes(classes).find(name) == (None if name == "n01_tabby cat" else expected)
    _photos(tmp_path / "photos", f"{name}/a.png")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for member, content in (
            ("a.png", (tmp_path / "photos" / name / "a.png").read_bytes()),
            ("a.cls", name.encode()),
        ):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (in_archive,) = Archives(str(tmp_path / "x.tar"), WHOLE, classes)
    if name == "n01_tabby cat":
        assert str(in_archive.problem).startswith("unlabelled")
        for source in (data.folder, ClassFolders):
            with pytest.raises(InputError, match="labels outside"):
                source(tmp_path / "photos", WHOLE, classes)
        return
    (in_folder,) = data.folder(tmp_path / "photos", WHOLE, classes)
    (in_class,) = ClassFolders(tmp_path / "photos", WHOLE, classes)
    assert in_folder.label == in_class.label == in_archive.label == expected


class TestIndices:
    def test_the_other_count_is_said_where_it_alone_fits(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"line 2 of labels\.txt: 3 is none of .* give data\.first_class=1"):
            _read(tmp_path, "a.jpg,1\nb.jpg,3\n").of(CLASSES)
        with pytest.raises(InputError, match=r"line 1 of labels\.txt: 0 is none of .* give data\.first_class=0"):
            _read(tmp_path, "a.jpg,0\nb.jpg,2\n", first_class=1).of(CLASSES)

    @pytest.mark.parametrize("wrong", ["-1", "7", "lynx"])
    def test_a_label_that_no_class_has_is_its_row(self, wrong: str, tmp_path: Path) -> None:
        given = _read(tmp_path, f"a.jpg,{wrong}\nb.jpg,2\nc.jpg,0\n").of(CLASSES).give(("a.jpg", "b.jpg"))
        assert given[1] == Given(2)
        assert given[0].problem == (
            f"unlabelled: label '{wrong}' in line 1 of labels.txt is none of the model's classes, "
            "by index from 0, name or WordNet id"
        )


class TestWhichPhotograph:
    def _one(self, tmp_path: Path, row: str, *photographs: str) -> list[int | None]:
        return _labels(_read(tmp_path, f'"{row}",1\n'), *photographs)

    @pytest.mark.parametrize(
        ("row", "photograph"),
        [
            ("a", "a.jpg"),
            ("a.JPEG", "a.jpeg"),
            ("a.jpg", "a.png"),  # converted
            ("A.jpg", "a.jpg"),
            ("./a.jpg", "a.jpg"),
            ("val/a.jpg", "a.jpg"),
            ("/data/val/a.jpg", "val/a.jpg"),
            ("val\\a.jpg", "val/a.jpg"),
            ("a.jpg", "deep/er/a.jpg"),
            ("2021-01-01T10.30", "2021-01-01T10.30.jpg"),
            (unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg")),
            ("caf\udce9.jpg", "caf\udce9.jpg"),
        ],
    )
    def test_names_that_match(self, row: str, photograph: str, tmp_path: Path) -> None:
        assert self._one(tmp_path, row, photograph, "other.jpg") == [1, None]

    @pytest.mark.parametrize(
        ("row", "photograph"), [("a1", "a.jpg"), ("2021-01-01T10", "2021-01-01T10.30.jpg"), ("la", "a.jpg")]
    )
    def test_names_that_do_not(self, row: str, photograph: str, tmp_path: Path) -> None:
        assert self._one(tmp_path, row, photograph) == [None]

    def test_folders_that_contradict(self, tmp_path: Path) -> None:
        """Another folder is another photograph, even where nothing else has the file's name."""
        labelling = _read(tmp_path, "cat/1.png,1\ntrain/x/2.png,2\nval/2.png,0\n").of(CLASSES)
        given = labelling.give(("dog/1.png", "x/2.png", "test/2.png", "3.png"))
        assert [one.label for one in given] == [None, 2, None, None]
        assert [one.problem for one in given] == [
            "unlabelled: labels.txt names cat/1.png",
            None,
            "unlabelled: labels.txt names train/x/2.png and 1 more of this file name",
            "unlabelled: labels.txt has no label for it",
        ]
        assert [one.name for one in labelling.missing(("dog/1.png", "x/2.png"))] == ["cat/1.png", "val/2.png"]

    def test_more_folders_in_common_are_the_better_match(self, tmp_path: Path) -> None:
        assert self._one(tmp_path, "x/1.png", "1.png", "x/1.png") == [None, 1]
        assert self._one(tmp_path, "x/y/1.png", "1.png", "y/1.png") == [None, 1]
        assert self._one(tmp_path, "y/1.png", "1.png", "x/y/1.png") == [None, 1]

    def test_the_better_match_has_the_label(self, tmp_path: Path) -> None:
        assert self._one(tmp_path, "a.jpg", "a.jpg", "a.png", "A.jpg", "sub/a.jpg") == [1, None, None, None]
        labels = _read(tmp_path, "a.jpg,0\na.png,1\nsub/a.jpg,2\n")
        assert _labels(labels, "a.jpg", "a.png", "sub/a.jpg") == [0, 1, 2]

    def test_a_name_of_two_photographs_labels_neither(self, tmp_path: Path) -> None:
        problems = [one.problem for one in _read(tmp_path, "a.jpg,1\n").of(CLASSES).give(("x/a.jpg", "y/a.jpg"))]
        assert problems == 2 * ["unlabelled: line 1 of labels.txt names 2 photographs"]
        two = _read(tmp_path, "x/a.jpg,1\ny/a.jpg,2\n").of(CLASSES)
        assert "lines 1 and 2" in str(two.give(("a.jpg",))[0].problem)

    def test_two_lines_for_a_photograph(self, tmp_path: Path) -> None:
        labels = _read(tmp_path, "a.jpg,1\nb.jpg,0\na.jpg,2\nb.jpg,tabby cat\n").of(CLASSES)
        given = labels.give(("a.jpg", "b.jpg"))
        assert given[0].problem == "unlabelled: lines 1 and 3 of labels.txt say different things of it"
        assert given[1] == Given(0)

    @pytest.mark.slow("twenty thousand names, three times")
    def test_many_names_alike_take_no_longer(self, tmp_path: Path) -> None:
        """Quadratic work would be 4e8 steps, minutes."""
        count = 20_000
        rows = "".join(f"d{n}/image.jpg,{n % 3}\n" for n in range(count))
        labels = _labels(_read(tmp_path, rows), *(f"d{n}/image.jpg" for n in range(count)))
        assert labels == [n % 3 for n in range(count)]
        assert _labels(_read(tmp_path, "image,1\n"), *(f"e{n}/image.jpg" for n in range(count))) == count * [None]
        assert _labels(_read(tmp_path, rows), *(f"e{n}/image.jpg" for n in range(count))) == count * [None]

    def test_wordnet_ids_in_names(self) -> None:
        index = {"n01440764": 0, "n02099601": 207}
        given = (
            NameLabels()
            .of(index)
            .give(("n01440764_10026.JPEG", "x/n02099601.png", "n014407641.jpg", "n99999999_1.jpg", "dog.jpg"))
        )
        assert [one.label for one in given] == [0, 207, None, None, None]
        assert given[3].problem == "unlabelled: n99999999 is none of the model's classes"
        assert given[4].problem == "unlabelled: its name does not begin with a WordNet id"


class TestFolders:
    def test_folders_of_any_depth_and_what_is_left_over(self, tmp_path: Path) -> None:
        root = _photos(tmp_path / "photos", "b.png", "a.png", "sub/c.png")
        (root / "bad.png").write_text("no image")
        labels = _read(tmp_path, "file,label,goal\na,jeep,0\nc,beagle,\nbad,0,1\ngone.png,2,0\n", target_column="goal")
        photographs = data.folder(root, WHOLE, CLASSES, labels)
        found = [(one.name, one.label, one.target, one.problem) for one in photographs]
        assert found == [
            ("a", 2, 0, None),
            ("b", None, None, "unlabelled: labels.txt has no label for it"),
            ("bad", 0, 1, "unreadable: not an image of a known format"),
            ("sub_c", 1, None, "unlabelled: no target in line 3 of labels.txt"),
            ("gone", 2, None, f"missing: a label in line 5 without a photograph in {root}"),
        ]
        assert [one.name for one in photographs.first(9)] == ["a", "b", "bad", "sub_c"]

    def test_class_folders_are_not_asked_where_there_are_labels(self, tmp_path: Path) -> None:
        root = _photos(tmp_path / "photos", "jeep/a.png", "not a class/b.png", "c.png")
        labels = _read(tmp_path, "a,0\nb,1\nc,2\n")
        assert [one.label for one in data.folder(root, WHOLE, CLASSES, labels)] == [2, 0, 1]

    def test_many_labels_without_a_photograph_are_one_row(self, tmp_path: Path) -> None:
        root = _photos(tmp_path / "photos", "a.png")
        labels = _read(tmp_path, "a,0\n" + "".join(f"x{n},1\n" for n in range(600)))
        *_, last = data.folder(root, WHOLE, CLASSES, labels)
        assert last.problem == "missing: 600 labels without a photograph, the first is x0 in line 2"
        assert len(data.folder(root, WHOLE, CLASSES, labels)) == 2
        totals = Totals()
        for status, missing in ((str(last.problem), last.missing), ("missing: x", 1), ("adversarial", 0)):
            totals.add(ImageRow("a", status, missing=missing))
        totals.add(ImageRow("b", "unlabelled: missing: 9 labels"))
        assert (totals.summary()["missing"], totals.summary()["images"]) == (601, 2)

    def test_a_survey_counts_photographs(self, tmp_path: Path) -> None:
        root = _photos(tmp_path / "photos", "a.png", "b.png")
        for missing, rows in ((3, 3), (101, 1)):
            labels = _read(tmp_path, "a,0\n" + "".join(f"x{n},1\n" for n in range(missing)))
            photographs = data.folder(root, WHOLE, CLASSES, labels)
            assert (photographs.inventory().count, photographs.inventory().entries) == (2, 2 + rows)
            assert sum(entry.missing for entry in photographs.entries) == missing

    def test_a_changed_label_is_another_survey(self, tmp_path: Path) -> None:
        root = _photos(tmp_path / "photos", "a.png", "b.png")
        surveys = [data.folder(root, WHOLE, CLASSES, _read(tmp_path, f"a,{n}\nb,2\n")).inventory() for n in (0, 0, 1)]
        assert surveys[0] == surveys[1] != surveys[2]

    def test_one_photograph(self, tmp_path: Path) -> None:
        root = _photos(tmp_path / "photos", "a.png", "b.png")
        (found,) = data.image(root / "b.png", WHOLE, CLASSES, _read(tmp_path, "a,0\nb,2\n"))
        assert found.label == 2


class TestTargets:
    """Of the command: photographs with targets of their own."""

    def _enter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        command.enter(tmp_path, monkeypatch)
        command.use_small_model(monkeypatch)
        classifier = command.small_classifier()
        photographs = data.folder("photos", command.PREPROCESSING, classifier.class_index)
        images = torch.stack([photograph.image for photograph in photographs if photograph.image is not None])
        return [int(label) for label in classifier(images).argmax(1)]

    @pytest.mark.slow("a run of the command")
    @pytest.mark.parametrize("task", ["attack", "minimal", "compare"])
    def test_every_photograph_is_brought_to_its_own(
        self, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        labels = self._enter(tmp_path, monkeypatch)
        targets = [(label + 1 + place) % 4 for place, label in enumerate(labels)]
        assert len(set(zip(labels, targets, strict=True))) > 1
        rows = [f"{name},{label + 1},{target + 1}" for name, label, target in zip("abd", labels, targets, strict=True)]
        rows[2] = rows[2].rpartition(",")[0] + ","
        Path("labels.csv").write_text("\n".join(["name,label,goal", *rows, "gone,1,1"]))
        seen: list[tuple[int, int]] = []
        asked = inputs.targets_of

        def remembered(*arguments: Any) -> Tensor | None:
            found = asked(*arguments)
            assert found is not None
            seen.extend(zip(arguments[2].tolist(), found.tolist(), strict=True))
            return found

        for module in (inputs, batch):
            monkeypatch.setattr(module, "targets_of", remembered)
        given = ["data=folder", "data.path=photos", "data.labels=labels.csv", "data.target_column=goal"]
        given += ["data.first_class=1", "output=out"]
        more = {
            "attack": ["pictures=0"],
            "minimal": ["pictures=0", "attack.gradients=8"],
            "compare": ["compare.attacks=[ddn]", "compare.gradients=20"],
        }
        assert main([f"task={task}", *given, *more[task]]) == 0
        screenings = 2 if task == "compare" else 1  # a comparison checks every photograph before the first attack
        assert seen == screenings * list(zip(labels[:2], targets[:2], strict=True))
        table = Path("out") / ("compare.csv" if task == "compare" else "results.csv")
        with table.open() as file:
            found = {row["name"]: row["status"] for row in csv.DictReader(file)}
        assert found["c"] == "unlabelled: labels.csv has no label for it"
        assert found["d"] == "unlabelled: no target in line 4 of labels.csv"
        assert found["gone"].startswith("missing: a label in line 5 without a photograph")

    @pytest.mark.slow("a run of the command")
    @pytest.mark.parametrize("task", ["attack", "minimal", "compare", "explain"])
    def test_many_labels_without_a_photograph_are_counted_alike(
        self, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        labels = self._enter(tmp_path, monkeypatch)
        rows = [f"{name},{label}\n" for name, label in zip("abd", labels, strict=True)]
        Path("labels.csv").write_text("".join(rows) + "".join(f"gone{n},1\n" for n in range(150)))
        given = ["data=folder", "data.path=photos", "data.labels=labels.csv", "output=out", f"task={task}"]
        given += {
            "attack": ["pictures=0"],
            "minimal": ["pictures=0", "attack.gradients=8"],
            "compare": ["compare.attacks=[fgsm]", "compare.gradients=20"],
            "explain": ["study=quick", "study.block=8", "study.sweep=[]", "study.baselines=[]", "ball.mean=0.7"],
        }[task]
        if task == "explain":
            given += ["study.steps=1", "study.integration=1", "study.resamples=99"]
            monkeypatch.setattr("percep.report.study.page.study_plots", lambda findings: [])  # most of the time
        for _ in range(1 if task == "compare" else 2):  # the second time it is finished
            assert main(given) == 0
        summary = json.loads(Path("out/summary.json").read_text())
        if task in ("attack", "minimal"):
            counts = [summary[name] for name in ("images", "planned", "unlabelled", "missing")]
            assert counts == [4, 4, 1, 150]
            assert pd.read_csv("out/results.csv").missing.sum() == 150
        else:
            assert summary["photographs"]["missing"] == 150 and summary["photographs"]["unlabelled"] == 1
            assert sum(summary["photographs"].values()) == 154
        assert "interrupted" not in capsys.readouterr().out + Path("out/report.html").read_text()

    @pytest.mark.slow("a run of the command")
    def test_what_the_command_refuses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._enter(tmp_path, monkeypatch)
        Path("labels.csv").write_text("a,1\nb,4\n")
        given = ("data=folder", "data.path=photos", "data.labels=labels.csv", "output=out")
        assert "counted from 1: give data.first_class=1" in command.complaint(capsys, *given)
        both = command.complaint(capsys, *given, "data.target_column=1", "attack.target=random")
        assert "data.target_column and attack.target both say" in both
        assert "data.labels=FILE" in command.complaint(capsys, "data=folder", "data.path=photos", "data.first_class=1")
        assert "must be 0 or 1" in command.complaint(capsys, *given, "data.first_class=2")
        assert "the samples have labels" in command.complaint(capsys, "data.labels=labels.csv")
        folders = command.complaint(capsys, "data=imagefolder", "data.path=photos", "data.labels=labels.csv")
        assert "use data=folder" in folders

    @pytest.mark.slow("a run of the command")
    def test_a_changed_label_file_is_another_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        labels = self._enter(tmp_path, monkeypatch)
        given = ("data=folder", "data.path=photos", "data.labels=labels.csv", "output=out", "pictures=0")
        text = "".join(f"{name},{label}\n" for name, label in zip("abd", labels, strict=True))
        Path("labels.csv").write_text(text)
        assert main(given) == 0
        Path("labels.csv").write_text("# the same\n" + text)
        assert main(given) == 0
        Path("labels.csv").write_text(text.replace(f"a,{labels[0]}", f"a,{(labels[0] + 1) % 4}"))
        capsys.readouterr()
        assert "holds a run that differs: photographs was" in command.complaint(capsys, *given)


NAMES = [f"photograph {number}" for number in range(200)]


class TestTargetsOfTheCommand:
    """Of `attack.target`: an index counts classes, as labels do, and random is never a background class."""

    def _targets(self, target: str, labels: list[int], logits: int, first_class: int) -> list[int]:
        photographs = [data.Photograph(name, Path(name), None) for name in NAMES[: len(labels)]]
        found = inputs.targets_of(photographs, target, torch.tensor(labels), logits, 7, first_class)
        assert found is not None and found.dtype == torch.int64
        return found.tolist()

    def test_an_index_counts_classes(self) -> None:
        assert self._targets("2", [1, 4], 5, 1) == [3, 3]
        assert self._targets("2", [1, 4], 5, 0) == [2, 2]
        assert self._targets("3", [1], 5, 1) == [4]
        with pytest.raises(InputError, match=r"class indices in \[0, 3\], got 4"):
            self._targets("4", [1], 5, 1)

    @pytest.mark.parametrize("first_class", [0, 1, 2])
    def test_random_draws_every_class_but_the_label(self, first_class: int) -> None:
        for label in range(5):
            found = self._targets("random", [label] * 200, 5, first_class)
            assert set(found) == set(range(first_class, 5)) - {label}

    def test_the_draws_without_a_background_class_stay(self) -> None:
        labels = [number % 10 for number in range(200)]
        expected = [
            (label + 1 + inputs.stable_seed(name, 7) % 9) % 10 for name, label in zip(NAMES, labels, strict=True)
        ]
        assert self._targets("random", labels, 10, 0) == expected


class TestNumbersAsNames:
    """Classes that are called by numbers which are not their indices."""

    INDEX = Classifier(
        torch.nn.Identity(), mean=[0.0], std=[1.0], categories=[str(number) for number in range(1, 11)]
    ).class_index

    def test_a_number_is_the_name_of_its_class(self) -> None:
        assert list(self.INDEX.items()) == [(str(number), number - 1) for number in range(1, 11)]
        for first_class in (0, 1):
            classes = Classes(self.INDEX, first_class)
            assert [classes.find(text) for text in ("1", "9", "10", "0", "11")] == [0, 8, 9, None, None]

    def test_folders_of_such_names_are_told_apart(self) -> None:
        assert data.class_indices([str(number) for number in range(1, 11)], self.INDEX) == self.INDEX

    def test_names_that_are_their_own_indices_stay_indices(self) -> None:
        index = Classifier(torch.nn.Identity(), mean=[0.0], std=[1.0], categories=["0", "1", "2"]).class_index
        assert [Classes(index, 1).find(text) for text in ("1", "3", "0")] == [0, 2, None]


@pytest.mark.parametrize(("text", "label"), [("1,000", None), ("3,0", 3), ("red, small", 2), ("red", 0)])
def test_commas_in_a_label(text: str, label: int | None) -> None:
    index = {"red": 0, "blue": 1, "red, small": 2} | {str(number): number for number in range(4)} | {"green": 3}
    assert Classes(index).find(text) == label


def test_a_class_name_with_commas_need_not_be_quoted_in_the_last_column(tmp_path: Path) -> None:
    index = {"red": 0, "red, small": 1, "0": 0, "1": 1}
    (tmp_path / "l.csv").write_text("image,label\na.png,red, small\nb.png,red\n")
    labelling = Labels.read(tmp_path / "l.csv").of(index)
    assert [given.label for given in labelling.give(["a.png", "b.png"])] == [1, 0]
