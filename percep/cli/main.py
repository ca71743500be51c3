"""The `percep` command: a configuration in, a folder with a report, adversarial photographs and tables out.

What is wrong with a command line is said before torch is imported, and a misspelt key before hydra is.
"""

import sys
from collections.abc import Sequence

from percep.cli.command_line import read
from percep.cli.printing import is_unread, leave_unread
from percep.cli.signals import in_order
from percep.errors import InputError
from percep.runs.engine.launch import report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: what follows `percep` on the command line; `sys.argv` by default.

    Returns:
        The exit code: 0; 2 after one line on stderr that says what to change; 130, 143 or 129 after one line on stderr
        where SIGINT, SIGTERM or SIGHUP has ended the run; 141 where nobody reads what is printed.
    """
    with in_order() as interruption:
        try:
            return _main(sys.argv[1:] if arguments is None else arguments)
        except BaseException as error:
            if interruption.number is not None or isinstance(error, KeyboardInterrupt):
                return interruption.told(error)
            if is_unread(error):
                return leave_unread()
            raise


def _main(arguments: Sequence[str]) -> int:
    try:
        line = read(arguments)
    except InputError as error:
        return report(str(error), error)
    if line.help:
        from percep.cli.help import help_text  # noqa: PLC0415  only what is needed is imported

        print(help_text(line.settings), flush=True)
        return 0
    if line.version:
        from importlib.metadata import version  # noqa: PLC0415

        print(f"percep {version('percep')}", flush=True)
        return 0
    from percep.cli.execution import run  # noqa: PLC0415  hydra takes a quarter of a second

    return run(line)
