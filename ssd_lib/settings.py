"""Settings: frozen dataclasses whose values are checked when they are made.

    @settings
    class SmoothSettings:
        copies: Positive = 10

Types are strict (no "0.8" for a float, no True and no 2.5 for an int; an int may stand for a float), ranges are part of the type.
`dataclasses.replace`, `fields` and `asdict` work as on any dataclass.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, FiniteFloat, ValidationError
from pydantic.dataclasses import dataclass

Made = TypeVar("Made", bound=type)

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Number = FiniteFloat
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def of_kind(name: str, value: Any, *kinds: type) -> None:
    """Raise TypeError, naming an argument, where its value is of none of these kinds (True is no whole number)."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} is a value of the type {wanted}, not {value!r:.80}")


@dataclass_transform(frozen_default=True)
def settings(cls: Made) -> Made:
    """A frozen dataclass that raises ValueError, naming class and field, for a wrong type, an unknown field or a value out of range."""
    made: Any = dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))(cls)
    init = made.__init__

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **given: Any) -> None:
        try:
            init(self, *args, **given)
        except ValidationError as error:
            raise ValueError("; ".join(_said(made, each) for each in error.errors())) from None

    made.__init__ = checked
    return made


def _said(kind: Any, error: Any) -> str:
    """One line: `SmoothSettings.copies must be at least 1, not 0`."""
    why = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    why = why.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    if error["type"] == "value_error" and not error["loc"]:  # from `__post_init__`, which says what is wrong itself
        return why
    first, *inside = error["loc"]
    first = fields(kind)[first].name if isinstance(first, int) else first  # given by its place
    where = ".".join([kind.__name__, first, *map(str, inside)])
    return f"{where}{'' if why.startswith('must') else ':'} {why}, not {error['input']!r}"
