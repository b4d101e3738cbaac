"""Recipes with one wrong setting each; the line that an error must name ends with ``# here``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wrong:
    """A recipe that must be rejected.

    Attributes:
        text: the sections that differ from a valid recipe.
        name: dotted name of the wrong setting.
        says: what the message holds beside it: what was expected, what came, the nearest name.
        kind: of the recipe.
    """

    text: str
    name: str
    says: tuple[str, ...]
    kind: str = "agent"


def _wrong(text: str, name: str, *says: str, kind: str = "agent") -> Wrong:
    return Wrong(text, name, says, kind)


NO_EFFECT = [
    _wrong("training:\n  num_epochs: 4  # here\n", "training.num_epochs", "has no effect here", "rllib"),
    _wrong("training:\n  minibatch_size: 8  # here\n", "training.minibatch_size", "has no effect here"),
    _wrong("training:\n  train_batch_size: 99999  # here\n", "training.train_batch_size", "has no effect here"),
    _wrong("training:\n  optimizer: {type: sgd}  # here\n", "training.optimizer", "has no effect here"),
    _wrong("training:\n  gamma: 0.1  # here\n", "training.gamma", "has no effect here"),
    _wrong(
        "env_runners:\n  num_envs_per_env_runner: 32  # here\n",
        "env_runners.num_envs_per_env_runner",
        "has no effect here",
    ),
    _wrong(
        "env_runners:\n  rollout_fragment_length: 7  # here\n",
        "env_runners.rollout_fragment_length",
        "has no effect here",
    ),
    _wrong(
        "reporting:\n  min_time_s_per_iteration: 5  # here\n",
        "reporting.min_time_s_per_iteration",
        "has no effect here",
    ),
    _wrong("evaluation:\n  evaluation_interval: 5  # here\n", "evaluation.evaluation_interval", "has no effect here"),
    _wrong("rllib:\n  gamma: 0.9  # here\n", "rllib.gamma", "unknown setting", "Known here:", "grad_clip_by"),
]
"""Options of RLlib that nothing reads."""

VALUES = [
    _wrong(
        "algorithm:\n  name: grpo\n  penalties:\n    reference:\n      coeff: high  # here\n",
        "algorithm.penalties.reference.coeff",
        "number >= 0",
        "got 'high'",
    ),
    _wrong("training:\n  ema_decay: 3.0  # here\n", "training.ema_decay", "number >= 0 and < 1", "got 3.0"),
    _wrong("algorithm:\n  name: grpo\n  clip_range: -1  # here\n", "algorithm.clip_range", "number > 0", "got -1"),
    _wrong("training:\n  betas: 0.9  # here\n", "training.betas", "[number >= 0 and < 1", "got 0.9"),
    _wrong("rollout:\n  group_size: 8.5  # here\n", "rollout.group_size", "whole number >= 1", "got 8.5"),
    _wrong("rollout:\n  prompts: 7  # here\n", "rollout.prompts", "expected file, list of prompts or null", "got 7"),
    _wrong("generator:\n  mode: lorra  # here\n", "generator.mode", "lora or full", "Did you mean 'lora'"),
    _wrong("verification:\n  interval: -3  # here\n", "verification.interval", "whole number >= 0", "got -3"),
    _wrong("verification:\n  num_prompts: 0  # here\n", "verification.num_prompts", "whole number >= 1", "got 0"),
    _wrong("training:\n  weight_decay: -1  # here\n", "training.weight_decay", "number >= 0", "got -1"),
    _wrong("training:\n  num_updates: 0  # here\n", "training.num_updates", "whole number >= 1", "got 0"),
    _wrong("rollout:\n  group_size: many  # here\n", "rollout.group_size", "whole number >= 1", "got 'many'"),
    _wrong("training:\n  lr: fast  # here\n", "training.lr", "number >= 0 or [[0, rate]", "got 'fast'"),
    _wrong("training:\n  lr: [[0, 1e-3], [0, 1e-4]]  # here\n", "training.lr", "rising counts"),
    _wrong("training:\n  lr: [[5, 1e-3], [9, 1e-4]]  # here\n", "training.lr", "[[0, rate]"),
    _wrong("training:\n  lr: .inf  # here\n", "training.lr", "number >= 0", "got inf"),
    _wrong("training:\n  grad_clip: 0  # here\n", "training.grad_clip", "number > 0 or null", "got 0"),
    _wrong("training:\n  betas: [0.9, 1.5]  # here\n", "training.betas", "got [0.9, 1.5]"),
    _wrong("training:\n  advantage: papr  # here\n", "training.advantage", "Did you mean 'paper'"),
    _wrong("training:\n  advantage:\n    ddof: 2  # here\n", "training.advantage.ddof", "0 or 1", "got 2"),
    _wrong("training:\n  advantage:\n    std: batch  # here\n", "training.advantage.std", "group, global or none"),
    _wrong("rollout:\n  latents_dtype: bf16  # here\n", "rollout.latents_dtype", "Did you mean 'bfloat16'"),
    _wrong("rollout:\n  group_size: true  # here\n", "rollout.group_size", "whole number >= 1", "got True"),
    _wrong("generator:\n  vae_tiling: 1  # here\n", "generator.vae_tiling", "true or false", "got 1"),
    _wrong("generator:\n  dtype: half  # here\n", "generator.dtype", "float32, bfloat16 or float16", "got 'half'"),
    _wrong("generator:\n  lora:\n    rank: 0  # here\n", "generator.lora.rank", "whole number >= 1", "got 0"),
    _wrong("generator:\n  lora:\n    targets: to_q  # here\n", "generator.lora.targets", "list of text", "got 'to_q'"),
    _wrong("generator:\n  adapter_as: merged  # here\n", "generator.adapter_as", "Did you mean 'merge'"),
    _wrong("generator:\n  adapter_as: merge  # here\n", "generator.adapter_as", "no adapter to merge"),
    _wrong(
        "generator:\n  adapter: x\n  mode: full\n  adapter_as: start  # here\n",
        "generator.adapter_as",
        "expected merge",
    ),
    _wrong("generator:\n  adapter: x\n  lora:\n    seed: 3  # here\n", "generator.lora.seed", "got 3", "leave it out"),
    _wrong("generator:\n  variant: ../x  # here\n", "generator.variant", "got '../x'"),
    _wrong("generator:\n  text_cache: ' '  # here\n", "generator.text_cache", "text or null", "got ' '"),
    _wrong("generator:\n  sharding: ddp  # here\n", "generator.sharding", "none or fsdp", "Did you mean 'fsdp'"),
    _wrong(
        "generator:\n  sampling:\n    guidance_scale: -1  # here\n",
        "generator.sampling.guidance_scale",
        "number >= 0 or null",
        "got -1",
    ),
    _wrong(
        "algorithm:\n  name: grpo\n  window:\n    strategy: randm  # here\n    size: 2\n",
        "algorithm.window.strategy",
        "Did you mean 'random'",
    ),
    _wrong(
        "algorithm:\n  name: grpo\n  noise: sde  # here\n",
        "algorithm.noise",
        "flow, dance, cps, precise or dance_precise",
        "got 'sde'",
    ),
    _wrong("algorithm:\n  name: grop  # here\n", "algorithm.name", "unknown algorithm 'grop'", "Did you mean 'grpo'"),
    _wrong("algorithm:\n  window: {size: 2}  # no name\n", "algorithm.name", "expected the name of an algorithm"),
    _wrong("run:\n  name: a/b  # here\n", "run.name", "letters, digits", "got 'a/b'"),
    _wrong("run:\n  minutes: -5  # here\n", "run.minutes", "number > 0 or null", "got -5"),
    _wrong("run:\n  seed: -1  # here\n", "run.seed", "whole number >= 0", "got -1"),
    _wrong("resources:\n  num_learners: two  # here\n", "resources.num_learners", "whole number >= 0", "got 'two'"),
    _wrong("environment:\n  env: FlexT2-v0  # here\n", "environment.env", "Did you mean 'FlexT2V-v0'"),
    _wrong("environment:\n  wrappers: [Flip]  # here\n", "environment.wrappers[0]", "'package.module:Class'"),
    _wrong(
        "reward:\n  name: ShapeOracle  # here\n",
        "reward.name",
        "unknown reward 'ShapeOracle'",
        "Did you mean 'ShapesOracle'",
    ),
    _wrong("verification:\n  reward: Verifier  # here\n", "verification.reward", "unknown reward", "ShapesVerifier"),
    _wrong("reward:\n  name: ShapesOracle\n  monitors: ShapesVerifier  # here\n", "reward.monitors", "list of name"),
    _wrong("training: 3  # here\n", "training", "expected a mapping"),
]
"""Wrong types, values out of range and misspelled choices."""

NAMES = [
    _wrong("generator:\n  lora:\n    rnak: 8  # here\n", "generator.lora.rnak", "Did you mean 'rank'"),
    _wrong(
        "generator:\n  sampling:\n    num_stepz: 3  # here\n",
        "generator.sampling.num_stepz",
        "Did you mean 'num_steps'",
    ),
    _wrong(
        "algorithm:\n  name: grpo\n  window:\n    sizze: 2  # here\n    size: 2\n",
        "algorithm.window.sizze",
        "Did you mean 'size'",
    ),
    _wrong(
        "reward:\n  name: JPEGCompressibility\n  settings:\n    qualty: 80  # here\n",
        "reward.settings.qualty",
        "Did you mean 'quality'",
    ),
    _wrong(
        "reward:\n  name: ShapesOracle\n  settings:\n    alhpa: 0.2  # here\n",
        "reward.settings.alhpa",
        "Did you mean 'alpha'",
    ),
    _wrong(
        "reward:\n  name: JPEGCompressibility\n  settings:\n    quality: 0  # here\n",
        "reward.settings.quality",
        "1 to 95",
        "got 0",
    ),
    _wrong(
        "reward:\n  name: UnifiedRewardFlex\n  settings:\n    backend_settings:\n      dtyp: float32  # here\n",
        "reward.settings.backend_settings.dtyp",
        "Did you mean 'dtype'",
    ),
    _wrong(
        "reward:\n  name: UnifiedRewardFlex\n  settings:\n    decoding:\n      temperatur: 1.0  # here\n",
        "reward.settings.decoding.temperatur",
        "Did you mean 'temperature'",
    ),
    _wrong(
        "reward:\n  name: UnifiedRewardFlex\n  settings:\n    tournament:\n      alhpa: 0.2  # here\n",
        "reward.settings.tournament.alhpa",
        "Did you mean 'alpha'",
    ),
    _wrong(
        "reward:\n  name: UnifiedRewardFlex\n  settings:\n    tournament:\n      schedule: regulr(4)  # here\n",
        "reward.settings.tournament.schedule",
        "Did you mean 'regular'",
    ),
    _wrong(
        "reward:\n  name: UnifiedRewardFlex\n  settings:\n    tournament:\n      alpha: 1.5  # here\n",
        "reward.settings.tournament.alpha",
        "between 0",
        "got 1.5",
    ),
    _wrong(
        "reward:\n  name: ShapesOracle\n  monitors:\n  - reward: JPEGCompressibility\n    settings:\n"
        "      quality: high  # here\n",
        "reward.monitors[0].settings.quality",
        "whole number",
        "got 'high'",
    ),
    _wrong(
        "verification:\n  rewards:\n  - rewrd: ShapesVerifier  # here\n    reward: ShapesVerifier\n",
        "verification.rewards[0].rewrd",
        "Did you mean 'reward'",
    ),
    _wrong(
        "environment:\n  settings:\n    preveiw: true  # here\n",
        "environment.settings.preveiw",
        "Did you mean 'preview'",
    ),
    _wrong(
        "environment:\n  settings:\n    group_size: 4  # here\n",
        "environment.settings.group_size",
        "other settings determine it",
    ),
    _wrong(
        "training:\n  advantage:\n    batchnorm: true  # here\n",
        "training.advantage.batchnorm",
        "Did you mean 'batch_norm'",
    ),
    _wrong(
        "algorithm:\n  name: grpo\n  guidance:\n    rolout: 2.0  # here\n",
        "algorithm.guidance.rolout",
        "Did you mean 'rollout'",
    ),
    _wrong("rollout:\n  clip_rang: 0.1  # here\n", "rollout.clip_rang", "Did you mean 'algorithm.clip_range'"),
    _wrong("training:\n  group_size: 4  # here\n", "training.group_size", "Did you mean 'rollout.group_size'"),
    _wrong("sampling: {num_steps: 4}  # here\n", "sampling", "Did you mean 'generator.sampling'"),
    _wrong("algorithm:\n  name: matching\n  noise: flow  # here\n", "algorithm.noise", "unknown setting", "clip_range"),
]
"""Names that do not exist, at any depth."""

MOVED = [
    _wrong("training:\n  kl_coeff: 0.1  # here\n", "training.kl_coeff", "is now algorithm.penalties.reference.coeff"),
    _wrong("training:\n  clip_range: 0.1  # here\n", "training.clip_range", "is now algorithm.clip_range"),
    _wrong("rollout:\n  noise: cps  # here\n", "rollout.noise", "is now algorithm.noise"),
    _wrong("rollout:\n  noise: matching  # here\n", "rollout.noise", "matching is now algorithm.name=matching"),
    _wrong("rollout:\n  window: {size: 2}  # here\n", "rollout.window", "is now algorithm.window"),
    _wrong("learners:\n  num_learners: 2  # here\n", "learners.num_learners", "is now resources.num_learners"),
    _wrong(
        "env_runners:\n  num_env_runners: 2  # here\n",
        "env_runners.num_env_runners",
        "is now resources.num_env_runners",
    ),
    _wrong("debugging:\n  seed: 3  # here\n", "debugging.seed", "is now run.seed"),
    _wrong(
        "generator:\n  settings:\n    dtype: float32  # here\n", "generator.settings.dtype", "is now generator.dtype"
    ),
    _wrong(
        "generator:\n  settings:\n    num_step: 3  # here\n",
        "generator.settings.num_step",
        "Did you mean 'generator.sampling.num_steps'",
    ),
    _wrong("environment:\n  env_config: {}  # here\n", "environment.env_config", "is now environment.settings"),
    _wrong("training:\n  seed: 3  # here\n", "training.seed", "is now run.seed", kind="sb3"),
]
"""Settings of earlier recipes."""

TOGETHER = [
    _wrong(
        "generator:\n  mode: full\n  dtype: float16  # here\n",
        "generator.dtype",
        "bfloat16 or float32 with generator.mode=full",
        "got float16",
    ),
    _wrong(
        "generator: {sharding: fsdp}\nresources:\n  num_learners: 1  # here\n",
        "resources.num_learners",
        "at least 2, got 1",
    ),
    _wrong(
        "generator: {sharding: fsdp}\nresources:\n  num_learners: 2\n  num_env_runners: 2  # here\n",
        "resources.num_env_runners",
        "num_env_runners=0, got 2",
    ),
    _wrong(
        "rollout:\n  prompts_per_iteration: 6  # here\nresources: {num_learners: 4}\n",
        "rollout.prompts_per_iteration",
        "multiple of the learners",
        "got 6, the nearest is 4",
    ),
    _wrong(
        "rollout:\n  prompts_per_iteration: 6  # here\n  groups_per_forward: 4\n",
        "rollout.prompts_per_iteration",
        "rollout.groups_per_forward, 4",
    ),
    _wrong(
        "algorithm:\n  name: grpo\n  window: {size: 3, first: [0, 30]}  # here\n",
        "algorithm.window",
        "within the 8 denoising steps",
    ),
    _wrong(
        "generator: {sampling: {num_steps: 4}}\nalgorithm:\n  name: grpo\n  window: {size: 6}  # here\n",
        "algorithm.window",
        "at most the 4 denoising steps, got 6",
    ),
    _wrong(
        "algorithm:\n  name: grpo\n  window: {size: 2, strategy: all}  # here\n",
        "algorithm.window",
        "takes neither size nor first",
    ),
    _wrong(
        "algorithm:\n  name: grpo\n  noise: cps\n  window: {size: 2, first: [6, 6]}  # here\n",
        "algorithm.window",
        "adds no noise",
    ),
    _wrong("algorithm:\n  name: grpo\n  noise: cps\n  eta: 1.5  # here\n", "algorithm.eta", "in [0, 1]", "got 1.5"),
    _wrong(
        "reward:\n  name: ShapesOracle\n  monitors: [ShapesVerifier, ShapesVerifier]  # here\n",
        "reward.monitors",
        "a name of its own",
    ),
    _wrong("algorithm: {name: sft}\ndata: {}\nreward: {name: ShapesOracle}  # here\n", "reward", "expected no reward"),
    _wrong("algorithm:\n  name: sft\n", "data", "expected a data set with SFT"),
    _wrong(
        "algorithm:\n  name: grpo\n  window: {strategy: all}\nrollout:\n  solver: dpm++2m  # here\n",
        "rollout.solver",
        "expected euler, got dpm++2m",
        "algorithm.window smaller",
    ),
    _wrong(
        "generator: {dtype: bfloat16}\nrollout:\n  compute_dtype: bfloat16  # here\n",
        "rollout.compute_dtype",
        "expected null with generator.dtype=bfloat16",
    ),
    _wrong("rollout:\n  group_size: 1  # here\n", "rollout.group_size", "at least 2 samples", "got 1"),
    _wrong("data:\n  files: []  # here\n", "data.files", "file, list of files or null", "got []"),
]
"""Combinations that cannot work."""

IDLE = [
    _wrong(
        "algorithm:\n  name: matching\n  levels:\n    count: 4  # here\n",
        "algorithm.levels.count",
        "has no effect with source: grid",
        "algorithm.window",
    ),
    _wrong(
        "algorithm:\n  name: diffusion_nft\n  levels:\n    source: grid\n    low: 0.3  # here\n",
        "algorithm.levels.low",
        "has no effect with source: grid",
    ),
    _wrong(
        "algorithm:\n  name: v_grpo\n  levels:\n    source: grid\n    high: 0.9  # here\n",
        "algorithm.levels.high",
        "uniform or logit_normal",
    ),
    _wrong(
        "algorithm:\n  name: dgpo\n  levels:\n    source: grid\n    stratified: true  # here\n",
        "algorithm.levels.stratified",
        "has no effect with source: grid",
    ),
    _wrong(
        "algorithm:\n  name: grpo\n  penalties:\n    refrence: {coeff: 0.0}  # here\n",
        "algorithm.penalties.refrence",
        "keeps no weights 'refrence'",
        "Did you mean 'reference'",
    ),
    _wrong(
        "algorithm:\n  name: matching\n  penalties:\n    ema: {coeff: 0.1}  # here\n",
        "algorithm.penalties.ema",
        "kept with training.ema_decay above 0",
    ),
    _wrong(
        "rollout:\n  group_size: 9  # here\ntraining: {split: samples, num_updates: 2}\n",
        "rollout.group_size",
        "multiple of training.num_updates=2",
        "got 9",
    ),
    *(
        _wrong(
            f"algorithm: {{name: {name}}}\ntraining:\n  split: samples  # here\n",
            "training.split",
            "expected groups",
            "compares the samples of a group",
        )
        for name in ("online_dpo", "dgpo", "covariance_guidance")
    ),
    _wrong(
        "generator: {distilled: true}\nalgorithm:\n  name: matching\n  levels: {source: uniform}  # here\n",
        "algorithm.levels.source",
        "expected grid",
        "generator.distilled",
        "got uniform",
    ),
    _wrong("training:\n  advantage: {worst: 4}  # here\n", "training.advantage", "best", "got worst=4 alone"),
]
"""Settings that could not have an effect."""

OTHERS = [
    _wrong("judge:\n  source: x\n  dtype: float16  # here\n", "judge.dtype", "bfloat16 or float32", kind="dpo"),
    _wrong("judge:\n  source: x\n  lora:\n    rank: 4  # here\n", "judge.lora.rank", "unknown setting", kind="sft"),
    _wrong(
        "training:\n  trainer:\n    bf16: true  # here\n",
        "training.trainer.bf16",
        "is determined by judge.compute_dtype",
        kind="dpo",
    ),
    _wrong("training:\n  trainer:\n    bta: 1  # here\n", "training.trainer.bta", "Did you mean 'beta'", kind="dpo"),
    _wrong("training:\n  trainer:\n    beta: -1  # here\n", "training.trainer.beta", "number >= 0", kind="dpo"),
    _wrong(
        "training:\n  trainer:\n    loss_type: [sigmod]  # here\n", "training.trainer.loss_type", "sigmoid", kind="dpo"
    ),
    _wrong(
        "training:\n  trainer:\n    loss_weights: [1.0, 2.0]  # here\n",
        "training.trainer.loss_weights",
        "each of the losses ['sigmoid']",
        kind="dpo",
    ),
    _wrong("training:\n  lr: 1.0e-6  # here\njudge: {source: x, mode: full}\n", "training.lr", "7.8e-05", kind="sft"),
    _wrong("data:\n  files: []  # here\n", "data.files", "JSON Lines or Parquet", kind="sft"),
    _wrong(
        "data:\n  files: [a.jsonl]\nheld_out:\n  files: [a.jsonl]  # here\n",
        "held_out.files",
        "got a.jsonl in both",
        kind="sft",
    ),
    _wrong(
        "training:\n  batch_size: 10  # here\n  micro_batch_size: 4\n",
        "training.batch_size",
        "1 * 4, got 10",
        kind="sft",
    ),
    _wrong("PPO:\n  n_step: 16  # here\n", "PPO.n_step", "Did you mean 'n_steps'", kind="sb3"),
    _wrong("PPO:\n  n_steps: few  # here\n", "PPO.n_steps", "whole number", "got 'few'", kind="sb3"),
    _wrong("PPO:\n  verbose: 1  # here\n", "PPO.verbose", "other settings determine it", kind="sb3"),
    _wrong("training:\n  algorithm: PPP  # here\n", "training.algorithm", "Did you mean 'PPO'", kind="sb3"),
    _wrong("environment:\n  num_envs: 0  # here\n", "environment.num_envs", "whole number >= 1", kind="sb3"),
    _wrong(
        "environment:\n  settings:\n    decisions: two  # here\n",
        "environment.settings.decisions",
        "whole number",
        kind="sb3",
    ),
    _wrong("rllib:\n  grad_clip_by: value\n", "rllib", "unknown setting", kind="sb3"),
]
"""Recipes of judge training and of Stable-Baselines3."""

ALL = [*NO_EFFECT, *VALUES, *NAMES, *MOVED, *TOGETHER, *IDLE, *OTHERS]
