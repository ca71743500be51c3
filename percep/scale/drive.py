"""The work of one process: its batches, one by one, each ending as a part."""

from collections.abc import Callable, Sequence
from typing import Any

from percep.scale.batches import Batch, Batches
from percep.scale.parts import Parts
from percep.scale.progress import Tally


def drive(
    work: Callable[[Batch], tuple[Sequence[tuple[Any, ...]], int]],
    batches: Batches,
    workers: int,
    parts: Parts,
    tally: Tally,
) -> list[str]:
    """Does this process's batches, and waits for the other processes.

    Args:
        work: gives the records of a batch, as `parts` takes them, and how many photographs were turned.
        batches: of this process.
        workers: processes that read ahead.
        parts: where the records go.
        tally: where they are counted.

    Returns:
        Why some shards could not be read to their end, in any process; what was read of them is done.

    Raises:
        OSError: a part cannot be written.
    """
    problems: list[str] = []
    reading = iter(batches.loader(workers))  # which starts the workers, before the display starts a thread
    with tally.shown():
        for batch in reading:
            if batch.problem is not None:
                problems.append(batch.problem)
                continue
            records, turned = work(batch)
            parts.write(batch.shard, batch.number, records, last=batch.last)
            tally.add(len(records), turned)
            if batch.last:
                tally.add_shard(batch.first + len(records))
        return [problem for found in tally.processes.gather(problems) for problem in found]
