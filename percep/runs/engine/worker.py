"""The work of one process: its batches, one by one, each ending as a part."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

from percep.data.photographs import Source
from percep.errors import InputError, UnavailableError
from percep.runs.config import BatchTask
from percep.runs.engine.batches import Batch, Batches, Finished
from percep.runs.engine.checkpoints import Parts
from percep.runs.engine.launch import SharedError
from percep.runs.engine.progress import Tally
from percep.runs.engine.readers import deaths_reported


def count_finished(
    parts: Parts, tally: Tally, columns: Sequence[str], fooled: Callable[[Mapping[str, Any]], bool]
) -> Finished:
    """What was done before, which is counted; what processes have left that died in the middle of a part is removed.

    Args:
        parts: of the run.
        tally: where they are counted.
        columns: what `fooled` asks of a photograph.
        fooled: whether the photograph of a row fooled the model.

    Raises:
        InputError: a part is damaged.
    """
    parts.clean()
    finished = parts.finished()
    sizes: Counter[int] = Counter()
    for shard, rows in parts.columns(columns):
        tally.add_found(len(rows), sum(map(fooled, rows)))
        sizes[shard] += len(rows)
    for shard in finished.shards:
        tally.add_shard(sizes[shard])
    return finished


def drive(
    work: Callable[[Batch], tuple[Sequence[tuple[Any, ...]], int]],
    source: Source,
    config: BatchTask,
    finished: Finished,
    parts: Parts,
    tally: Tally,
) -> list[str]:
    """Does this process's batches, and waits for the other processes.

    Args:
        work: gives the records of a batch, as `parts` takes them, and how many photographs fooled the model.
        source: the photographs, of all processes.
        config: whose `batch_size` and `data.workers`, processes that read ahead, are meant.
        finished: what is left out.
        parts: where the records go.
        tally: where they are counted.

    Returns:
        Why some shards could not be read to their end, in any process; what was read of them is done.

    Raises:
        SharedError: the work has raised an `InputError` or `UnavailableError` in some process, which ends it in all.
        UnavailableError: a process that reads ahead has died.
        OSError: a part cannot be written.
    """
    problems: list[str] = []
    failure: tuple[int, int, str] | None = None
    failures = f"failures {parts.folder}"
    batches = Batches(source, config.batch_size, finished, tally.processes.rank, tally.processes.world)
    others = active_children()
    reading = iter(batches.loader(config.data.workers))  # which starts the workers, before the display starts a thread
    readers = [process for process in active_children() if process not in others]
    with deaths_reported(), _ended_with_this(readers), tally.shown():
        for batch in reading:
            if batch.problem is not None:
                problems.append(batch.problem)
                continue
            if tally.processes.count(failures):
                break
            try:
                records, fooled = work(batch)
            except (InputError, UnavailableError) as error:
                failure = (batch.shard, batch.number, str(error))
                tally.processes.count(failures, 1)
                break
            parts.write(batch.shard, batch.number, records, last=batch.last)
            tally.add(len(records), fooled)
            if batch.last:
                tally.add_shard(batch.first + len(records))
        gathered = tally.processes.gather((problems, failure))
    first = min((failure for _, failure in gathered if failure is not None), default=None)
    if first is not None:
        raise SharedError(first[2])
    return [problem for problems, _ in gathered for problem in problems]


@contextmanager
def _ended_with_this(readers: Sequence[BaseProcess]) -> Iterator[None]:
    """Ends the processes that read ahead when an exception ends the work: they might be in the middle of a batch."""
    try:
        yield
    except BaseException:
        for reader in readers:
            reader.terminate()
        raise


def mending(problems: Sequence[str]) -> str:
    """What is to be done where shards could not be read to their end."""
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0]}{more}: mend it and run the same command again"
