"""Check that a reward is set up correctly: ``python -m flexgym.rewards.validate NAME [key=value ...]``.

It scores samples that are known to be good and bad, such as an image of the prompt and one of something else, and
prints both scores. The exit status is 0 if every good sample scores above its bad one, 1 if not, and 2 if the reward
cannot be built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from flexgym.core.errors import ConfigError
from flexgym.core.secrets import names_a_secret, refuse_secrets, secret_error
from flexgym.core.terminal import teaching_errors, terminal
from flexgym.core.yaml_files import parse_yaml
from flexgym.judge.protocol import JudgeFailure
from flexgym.reward import KnownPair, Reward
from flexgym.rewards.known import known_pairs
from flexgym.rewards.registry import make


@dataclass(frozen=True, eq=False)
class Finding:
    """Scores of a known pair.

    Attributes:
        pair: the samples.
        good: score of the good sample; NaN if unscored.
        bad: score of the bad sample; NaN if unscored.
        failure: reason of a missing score; None if both are scored.
    """

    pair: KnownPair
    good: float
    bad: float
    failure: JudgeFailure | None = None

    @property
    def right(self) -> bool:
        """True if both samples have a score and the good one the higher."""
        return self.good > self.bad  # never with NaN

    @property
    def verdict(self) -> str:
        """``"right"``, ``"WRONG"``, or the reason of a missing score."""
        if self.right:
            return "right"
        return self.failure.detail if self.failure else "WRONG"


def validate(reward: Reward, pairs: Sequence[KnownPair] | None = None) -> list[Finding]:
    """Score known pairs.

    Args:
        reward: the reward.
        pairs: the pairs; those of the reward itself if None, see `Reward.known_pairs`.
    """
    findings = []
    for pair in known_pairs(reward) if pairs is None else pairs:
        before = len(reward.failed.latest())
        good, bad = (float(score) for score in reward.guarded([pair.group])[0].rewards)
        new = reward.failed.latest()[before:]
        findings.append(Finding(pair, good, bad=bad, failure=new[0].failure if new else None))
    return findings


def settings_of(words: Sequence[str]) -> dict[str, Any]:
    """Parse settings from words such as ``model=folder`` or ``inputs.format=png``; values are YAML.

    Raises:
        ConfigError: for a word of another form.
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        *outer, last = name.split(".")
        if not equals or not last or not all(outer):
            raise ConfigError(f"setting {word!r}: expected key=value, such as model=folder")
        place = settings
        for key in outer:
            place = place.setdefault(key, {})
        if names_a_secret(last):
            raise secret_error(name, source="setting")
        place[last] = parse_yaml(text, source=f"setting {word!r}")
        refuse_secrets({last: place[last]}, source="setting")
    return settings


def main(
    name: Annotated[str, typer.Argument(help="Name of the reward, or path of a class, such as mymodule:MyReward.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Settings of the reward as key=value.")] = None,
) -> None:
    """Score samples that are known to be good and bad."""
    with teaching_errors():
        reward = make(name, **settings_of(settings or []))
        try:
            findings = validate(reward)
        finally:
            reward.close()
    table = Table("known samples", "prompt", "good", "bad", "")
    for found in findings:
        # A failure may quote foreign text, so nothing in it is parsed as markup.
        scores = (f"{found.good:.4g}", f"{found.bad:.4g}")
        table.add_row(found.pair.what, found.pair.prompt, *scores, Text(found.verdict))
    terminal().print(table)
    if not all(found.right for found in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
