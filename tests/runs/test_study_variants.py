"""What a study's configuration says of the classes of its network."""

import pytest

from percep.runs.config import ModelConfig
from percep.runs.study.variants import imagenet_first_class


@pytest.mark.parametrize(
    ("source", "categories", "first_class", "logits", "expected"),
    [
        ("packaged", None, None, 1000, 0),
        ("torchvision", None, None, 1000, 0),
        ("timm", None, 1, 1001, 1),
        ("timm", None, None, 1001, None),  # its logits are all classes, and not ImageNet's thousand
        ("timm", None, None, 21841, None),
        ("custom", "imagenet", 1, 1001, 1),
        ("custom", None, None, 1000, None),  # a thousand classes of something
        ("timm", "names.txt", None, 1000, None),
        ("packaged", None, None, None, None),
    ],
)
def test_imagenets_classes_are_known_by_what_the_configuration_says(
    source: str, categories: str | None, first_class: int | None, logits: int | None, expected: int | None
) -> None:
    network = {"_target_": "torch.nn.Identity"} if source == "custom" else None
    custom = {"mean": [0.0] * 3, "std": [1.0] * 3, "crop": 8}
    shape = custom if source == "custom" else dict.fromkeys(custom)
    model = ModelConfig(
        source=source,
        name="network",
        network=network,
        checkpoint=None,
        resize=None,
        interpolation=None,
        categories=categories,
        first_class=first_class,
        layer=None,
        **shape,
    )
    assert imagenet_first_class(model, logits) == expected
