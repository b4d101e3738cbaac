"""Section ``data`` of an agent's recipe: a data set that iterations train on in place of rollouts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from flexgym.core.annotations import Spelled
from flexgym.core.settings import AsTuple, Settings

Files = Annotated[
    Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AsTuple, Field(min_length=1)] | None,
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | list[str] | None
    ),
    Spelled("file, list of files or null"),
]


class DataSettings(Settings):
    """Captioned samples that iterations train on in place of rollouts; an iteration takes rows of it as groups."""

    files: Files = Field(
        default=None,
        description="JSON Lines, Parquet or WebDataset (.tar) files, or patterns such as shards/*.tar; null draws"
        " scenes of the small world",
    )
    root: str | None = Field(
        default=None, min_length=1, description="folder that media must lie in; null for that of each file"
    )
    select: Literal["all", "best", "extremes"] = Field(
        default="all",
        description="samples of a row that form a group: all, those with the highest scores, or best and worst",
    )
    frames: Literal["first", "spread"] = Field(
        default="first", description="frames of a longer video: the first ones, or evenly spaced ones"
    )
    caption_dropout: float = Field(
        default=0.0, ge=0, le=1, description="probability of the empty caption, which guidance needs to be trained"
    )
    latent_cache: str | None = Field(
        default=None, pattern=r"\S", description="folder that keeps encoded samples; null keeps them in memory"
    )
    verify: Literal["decode", "exists"] = Field(
        default="decode", description="read every media file once before training, or only look whether it is there"
    )
    max_bad: float = Field(default=0.05, ge=0, le=1, description="share of bad rows, which are left out, to accept")

    def reading(self) -> dict[str, Any]:
        """Return the arguments of `flexgym.data.captioned.DataFiles` but the files."""
        return {
            "root": self.root,
            "select": self.select,
            "check": self.verify,
            "max_bad": self.max_bad,
            "index": self.latent_cache,
        }
