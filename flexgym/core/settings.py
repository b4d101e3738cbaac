"""The base of all typed settings, and the field types that they share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Frozen settings with exact types: unknown names, coerced values, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=False)


AsTuple = Field(strict=False)
"""Lets a list from YAML become a tuple; the types of its items stay exact."""
Pair = Annotated[tuple[float, float], AsTuple]
IntPair = Annotated[tuple[int, int], AsTuple]
Names = Annotated[tuple[str, ...], AsTuple]
