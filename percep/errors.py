"""The errors percep raises on purpose; the text of each is one line with the remedy."""

BASELINES_REMEDY = "pip install 'percep[baselines]' and pip install --no-deps torchattacks adv-lib"
"""How to install the libraries of the baselines: two of them require versions that do not build."""


class PercepError(Exception):
    """Base of every error percep raises on purpose."""


class InputError(PercepError, ValueError):
    """An argument, a file or a setting is not usable as given."""


class UnavailableError(PercepError, RuntimeError):
    """Something the request needs is missing here: weights, a device, an optional package."""


class AdjointWarning(UserWarning):
    """A backward pass through a program was less accurate than its tolerance."""


def one_line(error: BaseException) -> str:
    """The text of an error in one line; the name of its type if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
