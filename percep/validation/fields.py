"""Fields of frozen dataclasses that are checked and converted once, when an object is made."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")

Check = Callable[[str, object], T]
"""A field's name and the value it is given to the value that it has; raises InputError for one to be refused."""


def checked(default: object, check: Check[T]) -> T:
    """A default for a field of a dataclass whose values are what `check` makes of those that are given.

    Like `dataclasses.field` it stands where a value of the field's type would::

        steps: int = checked(10, partial(require_integer, least=1))

    Args:
        default: the field's, checked like any other value.
        check: called once for every object that is made.
    """
    return cast(T, _Checked(default, check))


def optional(check: Check[T]) -> Check[T | None]:
    """The same check for a field that may be None."""
    return lambda name, value: None if value is None else check(name, value)


class _Checked(Generic[T]):
    """What `__init__` sets in place of a field: assigning converts, of a frozen class as of any other.

    It is called with the field's value exactly once per object, and holds the result where the field would be.
    """

    def __init__(self, default: object, check: Check[T]) -> None:
        self._default, self._check = default, check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object | None, owner: type | None = None) -> T:
        """The value; of the class itself the default, where dataclasses look for it."""
        if instance is None:
            return cast(T, self._default)
        value: T = vars(instance)[self._name]
        return value

    def __set__(self, instance: object, value: Any) -> None:
        vars(instance)[self._name] = self._check(self._name, value)
