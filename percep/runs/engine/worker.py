"""The work of one process: its batches of a stage, one by one, each ending as a part."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess

from percep.errors import InputError, UnavailableError
from percep.runs.engine.batches import Batches, Finished
from percep.runs.engine.distributed import Processes
from percep.runs.engine.launch import SharedError
from percep.runs.engine.progress import Tally
from percep.runs.engine.readers import deaths_reported
from percep.runs.engine.stage import Stage


class UnreadableError(SharedError):
    """Shards could not be read to their end, in some process; what was read of them is done."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}: mend it and run the same command again")


class Worker:
    """One of the processes that share a run.

    Args:
        processes: which share it.
        tally: where photographs are counted.
        readers: how many processes read ahead for this one.
    """

    def __init__(self, processes: Processes, tally: Tally, readers: int) -> None:
        self.processes, self.tally, self.readers = processes, tally, readers
        self._task = tally.title
        tally.lasting = False

    def do(self, stage: Stage) -> None:
        """Does this process's batches of a stage that are not finished, and waits for the other processes.

        Raises:
            UnreadableError: a shard that cannot be read to its end, in any process, once all else is done.
            SharedError: the work has raised `InputError` or `UnavailableError` in some process, which ends it in all.
            UnavailableError: a process that reads ahead has died.
            OSError: a part cannot be written.
        """
        finished = self.processes.first(lambda: self._count_finished(stage))
        if len(finished.shards) == len(stage.photographs.shards):
            return
        self.tally.title = self._task if stage.title is None else f"{self._task}: {stage.title}"
        gathered = self.processes.gather(self._work(stage, finished))
        failure = min((failure for _, failure in gathered if failure is not None), default=None)
        if failure is not None:
            raise SharedError(failure[2])
        problems = [problem for problems, _ in gathered for problem in problems]
        if problems:
            raise UnreadableError(problems)

    def show_last(self) -> None:
        """Leaves what all stages have done on the terminal."""
        self.tally.title, self.tally.lasting = self._task, True
        with self.tally.shown():
            pass

    def _count_finished(self, stage: Stage) -> Finished:
        """What was done before; what processes have left that died in the middle of a part is removed."""
        stage.checkpoints.clean()
        finished = stage.checkpoints.finished()
        sizes: Counter[int] = Counter()
        for shard, rows in stage.checkpoints.columns(stage.columns):
            self.tally.add_found(len(rows), stage.count_fooled(rows))
            sizes[shard] += len(rows)
        for shard in finished.shards:
            self.tally.add_shard(sizes[shard])
        return finished

    def _work(self, stage: Stage, finished: Finished) -> tuple[list[str], tuple[int, int, str] | None]:
        """Why shards could not be read to their end, and of a failure its shard, its batch and what it says."""
        work = stage.begin()
        problems: list[str] = []
        failures = f"failures {stage.checkpoints.folder}"
        batches = Batches(stage.photographs, stage.batch_size, finished, self.processes.rank, self.processes.world)
        others = active_children()
        reading = iter(batches.loader(self.readers))  # which starts the workers, before the display starts a thread
        readers = [process for process in active_children() if process not in others]
        with deaths_reported(), _ended_with_this(readers), self.tally.shown():
            for batch in reading:
                if batch.problem is not None:
                    problems.append(batch.problem)
                    continue
                if self.processes.count(failures):
                    break
                try:
                    records = work(batch)
                except (InputError, UnavailableError) as error:
                    self.processes.count(failures, 1)
                    return problems, (batch.shard, batch.number, str(error))
                rows = stage.checkpoints.write(batch.shard, batch.number, records, last=batch.last)
                self.tally.add(len(rows), stage.count_fooled(rows))
                if batch.last:
                    self.tally.add_shard(batch.first + len(rows))
        return problems, None


@contextmanager
def _ended_with_this(readers: Sequence[BaseProcess]) -> Iterator[None]:
    """Ends the processes that read ahead when an exception ends the work: they might be in the middle of a batch."""
    try:
        yield
    except BaseException:
        for reader in readers:
            reader.terminate()
        raise
