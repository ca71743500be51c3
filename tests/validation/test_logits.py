"""The logits in a model's answer: taken where only one tensor can be meant, refused in one line elsewhere."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

from percep.errors import InputError
from percep.validation.logits import logits_of

IMAGES = torch.rand(2, 3, 8, 8)
LOGITS = torch.randn(2, 5)
OTHER = torch.randn(2, 5)
Pair = namedtuple("Pair", ["scores", "features"])


class _ModelOutput(OrderedDict[str, object]):
    """As Hugging Face's: a mapping whose entries are attributes too."""

    @property
    def logits(self) -> object:
        return self["logits"]


@dataclass
class _Answer:
    scores: Tensor
    features: Tensor


class _Computed:
    __slots__ = ()

    @property
    def logits(self) -> Tensor:
        return LOGITS


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS,),
        [LOGITS, IMAGES],
        (torch.tensor(0.3), LOGITS, IMAGES),
        (LOGITS, torch.tensor([[1, 2], [3, 4]])),
        (LOGITS, None),
        {"logits": LOGITS, "auxiliary": OTHER},
        {"loss": torch.tensor(0.3), "prediction": LOGITS},
        {0: LOGITS, 1: IMAGES},
        Pair(LOGITS, IMAGES),
        InceptionOutputs(LOGITS, OTHER),
        GoogLeNetOutputs(LOGITS, OTHER, None),
        _ModelOutput(loss=None, logits=LOGITS, attentions=OTHER),
        SimpleNamespace(logits=LOGITS, hidden=OTHER),
        _Answer(LOGITS, IMAGES),
        _Computed(),
    ],
    ids=lambda output: type(output).__name__,
)
def test_the_only_tensor_that_can_be_meant(output: object) -> None:
    assert logits_of(output, IMAGES) is LOGITS


def test_gradients_pass() -> None:
    images = torch.rand(2, 3, requires_grad=True)
    logits_of({"logits": 2 * images, "images": images}, images).sum().backward()
    assert images.grad is not None and images.grad.eq(2).all()


def test_an_empty_batch_has_logits_too() -> None:
    assert logits_of((LOGITS[:0], 1), IMAGES[:0]).shape == (0, 5)


WAY_OUT = r": wrap it, lambda x: model\(x\)\.logits$"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (LOGITS[:, 0], r"got \(2,\)$"),
        (LOGITS[:1], r"got \(1, 5\)$"),
        (IMAGES, r"got \(2, 3, 8, 8\)$"),
        (LOGITS.long(), r"got torch\.int64 \(2, 5\)$"),
        ((LOGITS, OTHER), "got a tuple with 2 tensors of that shape" + WAY_OUT),
        ([IMAGES, 3], "got a list" + WAY_OUT),
        ({"main": LOGITS, "auxiliary": OTHER}, "got a dict with 2 tensors of that shape" + WAY_OUT),
        (OrderedDict(a=LOGITS[0]), "got an OrderedDict" + WAY_OUT),
        (SimpleNamespace(hidden=IMAGES), "got a SimpleNamespace" + WAY_OUT),
        ({"logits": IMAGES, "other": LOGITS}, r"got \(2, 3, 8, 8\)$"),
        ({"logits": [LOGITS], "other": OTHER}, "got a list under that name$"),
        ((), "got tuple$"),
        (None, "got NoneType$"),
        (0.5, "got float$"),
        (LOGITS.numpy(), "got ndarray$"),
    ],
)
def test_anything_else_is_refused_in_one_line(output: object, message: str) -> None:
    with pytest.raises(InputError, match=r"^the model must return \(2, K\) logits, " + message) as caught:
        logits_of(output, IMAGES)
    assert "\n" not in str(caught.value)
