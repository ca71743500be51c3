"""The errors percep raises on purpose; the text of each is one line that says what to do."""

PEERS_REMEDY = "pip install 'percep[peers]' and pip install --no-deps torchattacks adv-lib"
"""How to get the libraries that percep's attacks are compared with: two of them ask for versions that do not build."""


class PercepError(Exception):
    """Base of every error percep raises on purpose."""


class InputError(PercepError, ValueError):
    """An argument, a file or a setting is not usable as given."""


class UnavailableError(PercepError, RuntimeError):
    """Something the request needs is missing here: weights, a device, an optional package."""


class AdjointWarning(UserWarning):
    """A backward pass through a program was less accurate than asked for."""


def one_line(error: BaseException) -> str:
    """The text of an error, of a library's as well, in one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
