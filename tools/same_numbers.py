"""Prove that a refactoring keeps numerical results to the bit: ``python -m tools.same_numbers --out FOLDER``.

Every case of `CASES` is a short training run, started by its public command line once in a checkout of the base commit
and once in this checkout (the head), on one CPU thread. Then four things must be equal: the metrics except wall times,
the exported weights, the learner state (current weights, optimizer moments, EMA), and the pixels of the sample grids.
Results stay in ``FOLDER/base`` and ``FOLDER/head``, next to a log for each case; a base case runs again only when its
command or the base commit changes. The exit code is 1 when anything differs or a case failed.

    python -m tools.same_numbers --out FOLDER                                    # base, head, compare
    python -m tools.same_numbers --out FOLDER --only base                        # once, before the refactoring
    python -m tools.same_numbers --out FOLDER --only repeat                      # is the base itself reproducible?
    python -m tools.same_numbers --out FOLDER --only head --case t2i --case dpo_full
    python -m tools.same_numbers --out FOLDER --only compare

Cases are written as the base commit reads them. Where the head has other names, `RENAMED`, `HEAD_COMMANDS` and
`RENAMED_METRICS` translate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tools.compare_runs import cells, compare_runs, console, results_table

ROOT = Path(__file__).resolve().parent.parent
BASE_COMMIT = "e5b7fb4"
TIMEOUT_S = 900

RENAMED: dict[str, str | None] = {
    "rollout.noise": "algorithm.noise",
    "training.kl_coeff": "algorithm.penalties.reference.coeff",
    "training.clip_range": "algorithm.clip_range",
    "generator.settings={dtype: float16}": "generator.dtype=float16",
    "learners.num_learners": "resources.num_learners",
    "env_runners.num_env_runners": "resources.num_env_runners",
    "environment.env_config": "environment.settings",
}
"""Overrides of the head by those of the base: a name such as ``training.kl_coeff``, or a name with its value such as
``rollout.noise=flow``, which wins. None leaves the override out."""
_NOISY_COMMAND = "agents.pref_grpo --config pref_grpo_shapes_t2i.yaml algorithm.name=grpo"
HEAD_COMMANDS: dict[str, str] = {
    f"{noise}_{case}": _NOISY_COMMAND
    for noise in ("flow", "dance", "cps")
    for case in ("lora", "full", "lora_reference", "full_reference", "lora_two_learners", "full_two_learners")
    + ("full_sharded", "full_env_runner", "lora_float16", "lora_memory")
}
"""Commands of the head, which may include overrides, by the name of a case or by the command of the base."""
RENAMED_METRICS: dict[str, str] = {}
"""Names of metrics in the head by those in the base."""


@dataclass(frozen=True)
class Case:
    """A training run that both sides make.

    Attributes:
        name: name of its run folder.
        command: module and arguments, as typed after ``python -m``.
        overrides: settings of the recipe; ``$DATA`` is the folder of `make_data`.
    """

    name: str
    command: str
    overrides: tuple[str, ...]


ALWAYS = ("run.iterations=3", "run.minutes=null")
AGENT = (
    "rollout.prompts_per_iteration=4",
    "rollout.group_size=4",
    "rollout.groups_per_forward=2",
    "verification.num_prompts=24",
    "verification.interval=2",
)
# At the learning rates below, every tenth ratio or so leaves this clip range in the second update.
NOISY = ("training.num_updates=2", "training.kl_coeff=0.04", "training.ema_decay=0.9", "training.clip_range=1.0e-4")
LORA = ("generator.mode=lora", "generator.lora={rank: 8}", "training.lr=3.0e-3")
FULL = ("generator.mode=full", "training.lr=3.0e-4")
TWO_LEARNERS = ("learners.num_learners=2", "rollout.groups_per_forward=1")
MEMORY = (
    "generator.gradient_checkpointing=true",
    "generator.release_text_encoders=true",
    "generator.offload=true",
    "rollout.latents_dtype=bfloat16",
)
CONTROL = (
    "verification.num_prompts=24",
    "environment.num_envs=2",
    "environment.env_config={group_size: 2}",
    "training.steps_per_iteration=8",
    "PPO.n_steps=4",
    "PPO.batch_size=8",
)


def _agent(name: str, *overrides: str, recipe: str = "pref_grpo_shapes_t2i.yaml") -> Case:
    return Case(name, f"agents.pref_grpo --config {recipe}", (*ALWAYS, *AGENT, *overrides))


def _judge(name: str, *overrides: str) -> Case:
    stage, mode = name.split("_")[:2]
    data = (
        "judge.source=$DATA/judge",
        f"data.files=[$DATA/{stage}.jsonl]",
        f"held_out.files=[$DATA/{stage}_held.jsonl]",
    )
    small = ("training.batch_size=4", "training.micro_batch_size=2", "training.steps_per_iteration=2")
    adapter = "judge.lora={r: 4, lora_alpha: 8, target_modules: [q_proj, v_proj]}"
    rate = "training.lr=1.0e-3" if mode == "lora" else "training.lr=1.0e-4"
    overrides = (*ALWAYS, *data, *small, f"judge.mode={mode}", adapter, rate, *overrides)
    return Case(name, f"flexgym.rm train {stage} --config rm_{stage}_shapes.yaml", overrides)


CASES = (
    _agent("t2i"),
    _agent("t2v", recipe="pref_grpo_shapes_t2v.yaml"),
    _agent("judge", recipe="pref_grpo_shapes_judge.yaml"),
    _agent("matching_lora", *NOISY, *LORA),
    *(_agent(f"{noise}_lora", f"rollout.noise={noise}", *NOISY, *LORA) for noise in ("flow", "dance", "cps")),
    *(_agent(f"{noise}_full", f"rollout.noise={noise}", *NOISY, *FULL) for noise in ("flow", "dance", "cps")),
    _agent("flow_lora_reference", "rollout.noise=flow", *NOISY, *LORA, "rollout.reference_interval=1"),
    _agent("cps_full_reference", "rollout.noise=cps", *NOISY, *FULL, "rollout.reference_interval=1"),
    _agent("flow_lora_two_learners", "rollout.noise=flow", *NOISY, *LORA, *TWO_LEARNERS),
    _agent("cps_full_two_learners", "rollout.noise=cps", *NOISY, *FULL, *TWO_LEARNERS),
    _agent("flow_full_sharded", "rollout.noise=flow", *NOISY, *FULL, *TWO_LEARNERS, "generator.sharding=fsdp"),
    _agent("flow_full_env_runner", "rollout.noise=flow", *NOISY, *FULL, "env_runners.num_env_runners=1"),
    _agent("flow_lora_float16", "rollout.noise=flow", *NOISY, *LORA, "generator.settings={dtype: float16}"),
    _agent("cps_lora_memory", "rollout.noise=cps", *NOISY, *LORA, *MEMORY),
    *(_judge(f"{stage}_{mode}") for stage in ("sft", "dpo") for mode in ("lora", "full")),
    _judge("dpo_full_two_learners", "learners.num_learners=2"),
    Case("sb3_ppo", "agents.sb3_ppo --config sb3_ppo_shapes_t2i_control.yaml", (*ALWAYS, *CONTROL)),
)

# --- running ---------------------------------------------------------------------------------------------------------


def arguments(case: Case, out: Path, *, side: str) -> list[str]:
    """Return what follows ``python -m`` so that a case writes to ``out/side``, for the head in its own names."""
    command, overrides = case.command, [*case.overrides, f"run.root={out / side}", f"run.name={case.name}"]
    if side == "head":
        command = HEAD_COMMANDS.get(case.name, HEAD_COMMANDS.get(command, command))
        overrides = [new for override in overrides if (new := _renamed(override))]
    return [word.replace("$DATA", str(out / "data")) for word in (*shlex.split(command), *overrides)]


def _renamed(override: str) -> str | None:
    name, _, value = override.partition("=")
    if override in RENAMED or name not in RENAMED:
        return RENAMED.get(override, override)
    new = RENAMED[name]
    return new and f"{new}={value}"


@contextlib.contextmanager
def base_checkout(commit: str, folder: Path | None) -> Iterator[Path]:
    """Yield ``folder``, or without one a temporary git worktree of ``commit``."""
    if folder is not None:
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(path), commit], check=True)
        try:
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", str(path)], check=True)


def make_data(folder: Path, checkout: Path) -> None:
    """Write the rows that judges train on, and a copy of the embedded judge; do nothing where they exist.

    Args:
        folder: gets ``judge``, ``sft.jsonl``, ``dpo.jsonl`` and held-out rows of both.
        checkout: holds the embedded judge.
    """
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkout / "flexgym/shapes/checkpoints/judge", partial / "judge")
    rng, lines = np.random.default_rng(0), defaultdict(list)
    for number in range(16):
        images = [f"{number}{side}.png" for side in "ab"]
        for name in images:
            pixels = rng.integers(0, 256, (32, 32 + 32 * (number % 2), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(partial / name)
        asked = [{"role": "user", "content": f"Which one? {'so ' * (number % 5)}"}]
        good, bad = f"Image {number % 2 + 1} {'well ' * (number % 4)}", "neither"
        part = "_held" if number >= 12 else ""
        lines[f"sft{part}"].append({"images": images, "messages": [*asked, {"role": "assistant", "content": good}]})
        lines[f"dpo{part}"].append({"images": images, "prompt": asked, "chosen": good, "rejected": bad})
    for name, rows in lines.items():
        (partial / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    partial.rename(folder)


def run_case(case: Case, checkout: Path, out: Path, *, side: str) -> str:
    """Run a case in a subprocess; keep its run folder, its log and how it was run in ``out/side``.

    Returns:
        ``"done"``, ``"FAILED"``, or ``"kept"`` where the same command has run on the same commit of the base before.
    """
    words = arguments(case, out, side=side)
    revision = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(revision, check=True, capture_output=True, text=True).stdout.strip()
    stamp, folder = out / side / f"{case.name}.json", out / side / case.name
    how = json.dumps({"commit": commit, "words": words}, indent=1)
    if side == "base" and stamp.exists() and stamp.read_text() == how:
        return "kept"
    stamp.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One thread: how work is split over threads changes sums in the last bit. No GPU: its sums depend on their order.
    own = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (out / side / f"{case.name}.log").open("w") as log, contextlib.suppress(subprocess.TimeoutExpired):
        run = [sys.executable, "-m", *words]
        environment = {**os.environ, **own}
        done = subprocess.run(run, cwd=checkout, env=environment, stdout=log, stderr=log, timeout=TIMEOUT_S)
        if done.returncode == 0:
            stamp.write_text(how)
            return "done"
    return "FAILED"


# --- command line ----------------------------------------------------------------------------------------------------


def run_side(side: str, checkout: Path, out: Path, *, cases: Sequence[Case]) -> bool:
    """Run cases one after the other; print how each ended and return whether all succeeded."""
    if side != "head":
        make_data(out / "data", checkout)
    elif not (out / "data").exists():
        raise SystemExit(f"{out / 'data'} is missing; the base side writes it: run --only base first")
    states = []
    for case in cases:
        began = time.monotonic()
        states.append(run_case(case, checkout, out, side=side))
        hint = f", see {out / side / case.name}.log" if states[-1] == "FAILED" else ""
        console().print(f"{side} {case.name}: {states[-1]} in {time.monotonic() - began:.0f} s{hint}", soft_wrap=True)
    return "FAILED" not in states


def compare_sides(side: str, out: Path, *, cases: Sequence[Case]) -> bool:
    """Print the comparison of ``out/base`` with ``out/side`` and return whether all cases are equal."""
    rows, equal = {}, True
    for case in cases:
        missing = [each for each in ("base", side) if not (out / each / f"{case.name}.json").exists()]
        if missing:
            rows[case.name] = [f"did not run, or failed: {', '.join(missing)}"]
            equal = False
            continue
        renamed = RENAMED_METRICS if side == "head" else {}
        try:
            found = compare_runs(out / "base" / case.name, out / side / case.name, renamed=renamed)
        except (OSError, ValueError) as error:
            rows[case.name], same = [f"cannot be compared: {error}"], False
        else:
            rows[case.name], same = cells(found)
        equal &= same
    console().print(results_table(rows))
    return equal


def main(words: Sequence[str]) -> int:
    """Run and compare as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.same_numbers", description=__doc__.splitlines()[0])
    names = [case.name for case in CASES]
    parser.add_argument("--out", type=Path, required=True, help="folder for the results of both sides")
    parser.add_argument("--only", choices=("base", "head", "compare", "repeat"), help="one step instead of all three")
    parser.add_argument("--case", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--base", default=BASE_COMMIT, help="commit to compare with (default: %(default)s)")
    parser.add_argument("--base-folder", type=Path, help="existing checkout of the base, instead of a temporary one")
    parser.add_argument("--head-folder", type=Path, default=ROOT, help="checkout to check (default: this one)")
    chosen = parser.parse_args(words)
    cases = [case for case in CASES if not chosen.case or case.name in chosen.case]
    steps = {"repeat": ("repeat", "compare"), None: ("base", "head", "compare")}.get(chosen.only, (chosen.only,))
    out, good = chosen.out.resolve(), True
    for side in steps:
        if side in ("base", "repeat"):
            with base_checkout(chosen.base, chosen.base_folder) as checkout:
                good &= run_side(side, checkout, out, cases=cases)
        elif side == "head":
            good &= run_side(side, chosen.head_folder.resolve(), out, cases=cases)
        else:
            good &= compare_sides("repeat" if chosen.only == "repeat" else "head", out, cases=cases)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
