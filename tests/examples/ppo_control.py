"""PPO in one file: learn guidance and noise of a frozen generator. Run ``python tests/examples/ppo_control.py``."""

from __future__ import annotations

import gymnasium as gym
import torch
from torch import nn
from torch.distributions import Independent, Normal

import flexgym  # noqa: F401  (registers the environments)
from flexgym import rewards


class Agent(nn.Module):
    def __init__(self, features, actions):
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, actions))
        self.critic = nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, 1))
        self.log_std = nn.Parameter(torch.full((actions,), -0.5))

    def forward(self, seen):
        """The distribution of the action, and the reward that the critic expects."""
        return Independent(Normal(self.actor(seen), self.log_std.exp()), 1), self.critic(seen).squeeze(-1)


def make_envs(num_envs, **env_config):
    """Prompts side by side. An action is guidance and noise; one step makes a group of images of each prompt."""
    envs = gym.make_vec("FlexT2IControl-v0", num_envs, autoreset_mode="Disabled", **env_config)
    envs = rewards.vector.ShapesVerifier(envs)  # any reward goes here
    envs = gym.wrappers.vector.FlattenObservation(envs)  # features of the prompt and the rest as one vector
    return gym.wrappers.vector.ClipAction(envs)  # a Gaussian knows no bounds, the environment does


def train(envs, *, updates=24, episodes=16, epochs=8, batch_size=64, lr=3e-3, clip=0.2):
    """The trained agent, and the mean reward of each update's episodes."""
    agent = Agent(envs.single_observation_space.shape[0], envs.single_action_space.shape[0])
    optimizer, curve = torch.optim.Adam(agent.parameters(), lr), []
    for update in range(updates):
        rows = []
        for _ in range(episodes):  # an episode is one step here, so its return is its reward
            seen = torch.from_numpy(envs.reset()[0])
            with torch.no_grad():
                policy, expected = agent(seen)
            action = policy.sample()
            _, reward, _, _, _ = envs.step(action.numpy())
            reward = torch.from_numpy(reward).float()
            rows.append((seen, action, policy.log_prob(action), reward, reward - expected))
        seen, action, old_log_prob, reward, advantage = (torch.cat(column) for column in zip(*rows, strict=True))
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        for batch in (batch for _ in range(epochs) for batch in torch.randperm(len(seen)).split(batch_size)):
            policy, expected = agent(seen[batch])
            ratio = (policy.log_prob(action[batch]) - old_log_prob[batch]).exp()
            clipped = ratio.clamp(1 - clip, 1 + clip)  # beyond that a ratio earns nothing more
            gain = torch.min(ratio * advantage[batch], clipped * advantage[batch]).mean()
            loss = 0.5 * (expected - reward[batch]).square().mean() - gain
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
        curve.append(reward.mean().item())
        print(f"update {update + 1}/{updates}  reward {curve[-1]:.3f}  spread {agent.log_std.exp().mean():.2f}")
    return agent, curve


if __name__ == "__main__":
    torch.manual_seed(0)
    envs = make_envs(8, group_size=4)
    envs.reset(seed=0)
    train(envs)
