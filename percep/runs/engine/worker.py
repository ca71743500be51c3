"""The work of one process: its batches of a stage, one after the other, each written as a part."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    """Some process could not read a shard to its end; the batches read before that are finished."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}: mend it and run the same command again")


class Worker:
    """One of the processes that share a run.

    Args:
        processes: all of them, as seen by this one.
        tally: counts rows.
        readers: how many processes read ahead for this one.
    """

    def __init__(self, processes: Processes, tally: Tally, readers: int) -> None:
        self.processes, self.tally, self.readers = processes, tally, readers

    def do(self, stage: Stage) -> None:
        """Does this process's unfinished batches of a stage, and waits for the other processes.

        Raises:
            UnreadableError: any process could not read a shard to its end; raised once all else is done.
            SharedError: the work raised `InputError` or `UnavailableError` in some process, which ends it in all.
            UnavailableError: a process that reads ahead has died.
            OSError: a part cannot be written.
        """
        finished = self.processes.first(lambda: self._count_finished(stage))
        if len(finished.shards) == len(stage.photographs.shards):
            return
        with ExitStack() as display:  # until all processes are through: the first shows what the others do
            gathered = self.processes.gather(self._work(stage, finished, display))
        failure = min((failure for _, failure in gathered if failure is not None), default=None)
        if failure is not None:
            raise SharedError(failure[2])
        problems = [problem for problems, _ in gathered for problem in problems]
        if problems:
            raise UnreadableError(problems)

    def _count_finished(self, stage: Stage) -> Finished:
        """Counts the batches that are finished, and returns them; removes incomplete parts of processes that died."""
        self.tally.begin(stage)
        stage.checkpoints.clean()
        finished = stage.checkpoints.finished()
        sizes: Counter[int] = Counter()
        for shard, rows in stage.checkpoints.columns(stage.columns):
            self.tally.add_found(len(rows), stage.count_fooled(rows))
            sizes[shard] += len(rows)
        for shard in finished.shards:
            self.tally.add_shard(sizes[shard])
        return finished

    def _work(
        self, stage: Stage, finished: Finished, display: ExitStack
    ) -> tuple[list[str], tuple[int, int, str] | None]:
        """Does the batches of this process, and begins the display.

        Returns:
            Reasons why shards could not be read to their end; and of a failure its shard, batch and message, or None.
        """
        work = stage.begin()
        problems: list[str] = []
        failures = f"failures {stage.checkpoints.folder}"
        batches = Batches(stage.photographs, stage.batch_size, finished, self.processes.rank, self.processes.world)
        others = active_children()
        reading = iter(batches.loader(self.readers))  # starts the readers, before the display starts a thread
        readers = [process for process in active_children() if process not in others]
        display.enter_context(self.tally.shown())
        with deaths_reported(), _terminated_on_error(readers):
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
def _terminated_on_error(readers: Sequence[BaseProcess]) -> Iterator[None]:
    """Terminates the processes that read ahead if the work raises: they may be in the middle of a batch."""
    try:
        yield
    except BaseException:
        for reader in readers:
            reader.terminate()
        raise
