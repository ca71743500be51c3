"""What the device is, and how fast it copies."""

from collections.abc import Iterator

import torch

from benchmarks.device_timing import bandwidth, described
from benchmarks.gpu.inputs import Run
from benchmarks.gpu.rows import Row
from percep import kernels


def rows(run: Run) -> Iterator[Row]:
    """One row of facts, one of the copy."""
    facts = described(run.device) | {"kernels": kernels.described(run.device)}
    if run.device.type == "cuda":
        properties = torch.cuda.get_device_properties(run.device)
        facts |= {
            "capability": f"sm_{properties.major}{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": properties.total_memory / 2**30,
        }
    yield facts
    yield {"copied_bytes": 4 * run.scale.copied, "copy_bytes_per_s": bandwidth(run.device, run.scale.copied)}
