"""The base of all typed settings, and the field types that they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flexgym.core.problems import Problem, names_below, problems_in, settings_error

AsTuple = Field(strict=False)
"""Lets a list from YAML become a tuple; the types of its items stay exact."""
Pair = Annotated[tuple[float, float], AsTuple]
IntPair = Annotated[tuple[int, int], AsTuple]
Names = Annotated[tuple[str, ...], AsTuple]


class Settings(BaseModel):
    """Frozen settings with exact types: unknown names, other types, NaN and infinity are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Validate settings by name.

        Args:
            values: plain values, as from YAML.
            where: dotted name of these settings in a recipe, for messages.

        Raises:
            ConfigError: naming each wrong setting, the expected values and the value that came.
            UnknownNameError: all that is wrong are names, each with its nearest valid one.
        """
        settings, problems = cls.check(values)
        if settings is None:
            raise settings_error(problems, within=where)
        return settings

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> tuple[Self | None, list[Problem]]:
        """Validate settings by name without raising.

        Args:
            values: plain values, as from YAML.

        Returns:
            The settings, None where any is wrong, and what is wrong.
        """
        try:
            return cls.model_validate(dict(values)), []
        except ValidationError as error:
            return None, problems_in(error, cls, values)

    @classmethod
    def names(cls, values: Mapping[str, Any]) -> list[str]:
        """Return the dotted names of all settings that go with ``values``, at every depth."""
        return names_below(cls)
