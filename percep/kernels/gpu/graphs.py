"""CUDA graphs: one recorded iteration, replayed without the host."""

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UPS = 2


def any_set(mask: Tensor) -> bool:
    """Whether an element is set; True while a CUDA graph is recorded, since the host cannot read it then.

    What is done if so must change nothing where no element is set.
    """
    return (mask.is_cuda and torch.cuda.is_current_stream_capturing()) or bool(mask.any())


class Recorded:
    """A function of tensors as a CUDA graph: called again with tensors of the same shapes, it is replayed.

    Args:
        function: from tensors to tensors of the same shapes and dtypes; it must not read the device from the host.
        example: on a CUDA device, what it is first called with.
    """

    def __init__(self, function: Callable[[list[Tensor]], list[Tensor]], example: list[Tensor]) -> None:
        self._inputs = [values.clone() for values in example]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):  # compiles kernels and fills caches, which cannot be recorded
                function(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = function(self._inputs)

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """The function's results, in tensors of their own."""
        for own, values in zip(self._inputs, inputs, strict=True):
            own.copy_(values)
        self._graph.replay()
        return [values.clone() for values in self._outputs]
