"""GRPO on a text-to-image model in one file, without Ray: sample groups, score them, replay the trained steps.

The algorithm is the object that `python -m agents.grpo` trains with; any other `Algorithm` fits in its place.
"""

import gymnasium as gym
import torch

import flexgym  # noqa: F401  (registers the environments)
from flexgym import FlowPolicy, rewards
from flexgym.agents.grpo import GRPO, GRPOSettings
from flexgym.algorithm.advantages import advantages_of
from flexgym.algorithm.replay import replay
from flexgym.algorithm.rollout import collect
from flexgym.algorithm.settings import PenaltySettings
from flexgym.core.metrics import reduce_rows

PROMPTS, GROUP_SIZE, ITERATIONS = 4, 8, 3


def main() -> list[dict[str, float]]:
    """Train for a few iterations and return the metrics of each."""
    algorithm = GRPO(GRPOSettings(noise="cps", clip_range=0.2, penalties={"reference": PenaltySettings(coeff=0.01)}))
    envs = gym.make_vec("FlexT2I-v0", num_envs=PROMPTS, group_size=GROUP_SIZE, tensors=True, autoreset_mode="Disabled")
    generator, reward = envs.unwrapped.generator, rewards.make("ShapesVerifier")
    generator.weights.add_lora(rank=16)
    optimizer = torch.optim.AdamW(generator.weights.trained().values(), lr=3e-3)
    policy = FlowPolicy(generator, algorithm.process, groups_per_forward=PROMPTS)
    windows, history = algorithm.windows(policy.num_steps), []

    for iteration in range(ITERATIONS):
        window = windows.at(iteration, seed=0)
        seeds = [iteration * PROMPTS + group for group in range(PROMPTS)]
        rollout = collect(envs, policy, window, seeds=seeds, keep=algorithm.requires)
        scores = reward.guarded(rollout.groups)
        advantages_PG = torch.from_numpy(advantages_of(scores))

        rows = []
        for level in range(len(window)):
            replayed = replay(policy, rollout, [level], advantages=advantages_PG, needs=algorithm.requires)
            loss = algorithm.objective(replayed)
            (loss.per_sample.mean() / len(window)).backward()
            rows.append(loss.metrics)
        optimizer.step()
        optimizer.zero_grad()

        metrics = {name: metric.value for name, metric in reduce_rows(rows).items()}
        metrics["reward/mean"] = sum(score.mean for score in scores) / len(scores)
        print(f"iteration {iteration + 1}: {metrics}")
        history.append(metrics)
    envs.close()
    return history


if __name__ == "__main__":
    main()
