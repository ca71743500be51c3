"""How large the measurements of each part are: on a GPU, and in the rehearsal on a CPU."""

from dataclasses import dataclass

import torch

from percep import Window

WINDOWS = (
    Window.gaussian(),
    Window.gaussian(31, 5.0),
    Window.gaussian(4, stride=3),
    Window.uniform(8, stride=4, padding="valid"),
)
"""Windows for which the kernels are compared with torch on a device."""
SIZES = ((33, 40), (224, 224), (301, 517))
"""Heights and widths of the images on which they are."""
DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Scale:
    """Sizes and counts.

    Attributes:
        windows, sizes, dtypes: of the comparison with torch.
        channels: of the images that kernels are compared and timed on.
        processes: that compare at the same time.
        sides: of the images of the inner loop's operations; the first is that of solves, layers and attacks.
        batches: of operations and of solves.
        tolerances: of solves, relative gaps.
        layer_batches, attack_batches: images in a batch.
        steps: gradients of an attack at most.
        seconds: that a single time may take to be measured.
        copied: float32 values in a copy.
        iterations: of the comparison of a CUDA graph with the eager iteration.
        solver_iterations: of a solve at most.
        packaged: whether attacks take a network of timm or torchvision, where there is one.
    """

    windows: tuple[Window, ...]
    sizes: tuple[tuple[int, int], ...]
    dtypes: tuple[torch.dtype, ...]
    channels: int
    processes: int
    sides: tuple[int, ...]
    batches: tuple[int, ...]
    tolerances: tuple[float, ...]
    layer_batches: tuple[int, ...]
    attack_batches: tuple[int, ...]
    steps: int
    seconds: float
    copied: int
    iterations: int
    solver_iterations: int
    packaged: bool


_ON_A_GPU = Scale(
    windows=WINDOWS,
    sizes=SIZES,
    dtypes=DTYPES,
    channels=3,
    processes=8,
    sides=(224, 1024),
    batches=(1, 16, 64, 256),
    tolerances=(1e-2, 1e-3),
    layer_batches=(1, 16, 64),
    attack_batches=(1, 16, 64, 256),
    steps=10,
    seconds=0.1,
    copied=2**26,
    iterations=4,
    solver_iterations=500,
    packaged=True,
)
_ON_A_CPU = Scale(
    windows=(Window.gaussian(3, 1.0),),
    sizes=((4, 5),),
    dtypes=(torch.float32,),
    channels=1,
    processes=1,
    sides=(8,),
    batches=(1,),
    tolerances=(1e-1,),
    layer_batches=(1,),
    attack_batches=(1,),
    steps=1,
    seconds=0.0,
    copied=2**12,
    iterations=1,
    solver_iterations=10,
    packaged=False,
)


def scale_of(device: torch.device) -> Scale:
    """The sizes for a device."""
    return _ON_A_GPU if device.type == "cuda" else _ON_A_CPU
