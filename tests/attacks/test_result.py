"""A result is one line, a table and files."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from percep import InputError
from percep.attacks import MinimalPerturbation, quantise
from tests.attacks.test_frank_wolfe import Linear, saved
from tests.attacks.test_network import SIZE

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_result_is_one_line_a_table_and_files(tmp_path):
    x = torch.cat([saved(2), torch.full((1, 3, SIZE, SIZE), torch.nan)])
    model = Linear(x[:1], 3, lead=0.5)
    labels = torch.tensor([0, 2, 0])
    labels[1] = model(x[1:2]).argmax(1)
    result = MinimalPerturbation(model, gradients=10)(x, labels)
    line = repr(result)
    assert "\n" not in line and len(line) < 200
    assert line.startswith("MinimalResult(3 images: 2 adversarial, 1 not_finite; 2 fooled, median 1 - mean SSIM ")
    table = result.to_pandas()
    assert table.status.tolist() == ["adversarial", "adversarial", "not_finite"]
    assert table.predicted_after.tolist() == result.labels_after.tolist()
    assert table.found[:2].tolist() == result.found[:2].tolist() and np.isnan(table.found[2])
    result.save(tmp_path / "out")
    written = pd.read_csv(tmp_path / "out" / "results.csv")
    assert written.file.tolist()[:2] == ["0000.png", "0001.png"] and pd.isna(written.file[2])
    assert written.mean_ssim[:2].tolist() == result.mean_ssim[:2].tolist()
    for name, image in zip(written.file[:2], result.images, strict=False):
        pixels = torch.from_numpy(np.array(Image.open(tmp_path / "out" / name))).permute(2, 0, 1).float() / 255
        assert torch.equal(pixels, image)
    floats = MinimalPerturbation(model, gradients=5, levels=None)(quantise(x[:1], None) * 0.999, labels[:1])
    with pytest.raises(InputError, match=r"torch\.save"):
        floats.save(tmp_path / "floats")
    assert not (tmp_path / "floats").exists()
    (tmp_path / "file").write_text("kept")
    for taken in (tmp_path / "file", str(tmp_path / "file" / "below")):
        with pytest.raises(InputError, match=r"^no folder can be made at .*; name another$"):
            result.save(taken)
    assert (tmp_path / "file").read_text() == "kept"
