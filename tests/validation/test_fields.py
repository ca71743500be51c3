"""Fields that are checked: what a frozen dataclass holds is what its check answered, once per object."""

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace
from functools import partial

import pytest

from percep import InputError
from percep.validation.fields import checked, optional
from percep.validation.scalars import require_integer, require_level

CALLS: list[object] = []


def counted(name: str, value: object) -> int:
    CALLS.append(value)
    return require_integer(name, value, 1)


@dataclass(frozen=True)
class Settings:
    steps: int = checked(10, counted)
    level: float | None = checked(None, optional(require_level))
    plain: list[int] = field(default_factory=list)


def test_values_are_converted_once_and_then_frozen() -> None:
    CALLS.clear()
    settings = Settings(steps=3, level=0.5)
    assert (settings.steps, settings.level, settings.plain, CALLS) == (3, 0.5, [], [3])
    with pytest.raises(FrozenInstanceError):
        settings.steps = 4  # type: ignore[misc]
    assert settings.steps == 3 and CALLS == [3]


def test_what_a_check_refuses_is_named_by_its_field() -> None:
    with pytest.raises(InputError, match=r"^steps must be at least 1, got 0$"):
        Settings(0)
    with pytest.raises(InputError, match=r"^level must lie in \(0, 1\), got 2$"):
        Settings(level=2)
    with pytest.raises(InputError, match=r"^steps must be an integer"):
        replace(Settings(), steps="many")


def test_it_is_a_dataclass_like_any_other() -> None:
    assert repr(Settings()) == "Settings(steps=10, level=None, plain=[])"
    assert Settings(3) == Settings(3) != Settings(4) and replace(Settings(3), level=0.5).steps == 3
    assert copy.deepcopy(Settings(3)) == pickle.loads(pickle.dumps(Settings(3))) == Settings(3)
    assert Settings.steps == 10 and inspect.signature(Settings).parameters["steps"].default == 10


def test_a_default_is_checked_too() -> None:
    @dataclass(frozen=True)
    class Wrong:
        steps: int = checked(0, partial(require_integer, least=1))

    with pytest.raises(InputError, match="steps must be at least 1"):
        Wrong()
