"""Conformance: whether an environment, a reward or a generator does what FlexGym counts on.

Each kit is a class for pytest to inherit; one method to override says how to make what is tested, and every rule is a
test. FlexGym's own are tested by the same kits.

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
