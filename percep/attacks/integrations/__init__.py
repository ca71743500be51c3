"""percep's attacks as attacks of other libraries: one module a library, imported only where it is asked for."""

from percep.errors import PEERS_REMEDY, UnavailableError


def unavailable(error: ImportError) -> UnavailableError:
    """What to raise where a module's library cannot be imported."""
    return UnavailableError(f"{error}: {PEERS_REMEDY}")
