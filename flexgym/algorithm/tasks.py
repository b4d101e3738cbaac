"""Prompts of several tasks, as one sequence to draw from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flexgym.algorithm.replay import TASK
from flexgym.types import Prompt


def taking_turns(tasks: Mapping[str, Sequence[Prompt]]) -> list[Prompt]:
    """Return the prompts of all tasks, each with its task in the metadata.

    Tasks alternate, and shorter sets repeat until the longest one has ended, so that every task is drawn equally often.

    Args:
        tasks: prompts by the names of the tasks, at least one each.
    """
    longest = max(map(len, tasks.values()))
    return [
        replace(prompt, metadata={**prompt.metadata, TASK: name})
        for index in range(longest)
        for name, prompts in tasks.items()
        for prompt in [prompts[index % len(prompts)]]
    ]
