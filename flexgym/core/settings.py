"""Base of all settings: frozen, typed, without unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from flexgym.core.errors import ConfigError, unknown_name


class Settings(BaseModel):
    """Base of a section of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Validate settings by name."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join([where, *map(str, first["loc"])])
            if first["type"] == "extra_forbidden":
                raise unknown_name(f"setting {path}", str(first["loc"][-1]), cls.model_fields) from error
            raise ConfigError(f"{path}: {first['msg']}, got {first['input']!r}") from error
