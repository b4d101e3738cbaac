"""Conformance tests: check that an environment, a reward or a generator follows the rules that FlexGym relies on.

Each kit is a class to inherit from in a pytest module: override `make`, and each rule runs as a test. FlexGym tests its
own environments, rewards and generators with the same kits.

```python
from flexgym.testing import RewardConformance

class TestMyReward(RewardConformance):
    def make(self):
        return MyReward()
```
"""

from __future__ import annotations

from flexgym.testing.environments import EnvironmentConformance
from flexgym.testing.generators import GeneratorConformance
from flexgym.testing.rewards import RewardConformance
from flexgym.testing.rules import broken_rules

__all__ = ["EnvironmentConformance", "GeneratorConformance", "RewardConformance", "broken_rules"]
