"""Learners on a machine that does not see the run folder: ``python -m tests.demonstrations.two_machines``.

Two raylets on this machine act as two machines: the second one runs in a mount namespace of its own, where the
folder of the runs and the temporary folder are other disks. It has the IP address of the first one, or with ``--ip``
another one. Linux only; needs the right to mount.

For agents (with one and with two learners) and for judge training, runs with all learners on the second machine must
leave complete checkpoints, export, resume, and have the rows and files of a run whose learner sees everything.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import flexgym
from flexgym.runs.checkpoints import latest_checkpoint, verify_checkpoint
from flexgym.runs.export import export_generator
from flexgym.runs.manifest import read_manifest
from flexgym.runs.metrics import read_metrics
from tests.rm.small import write_rows

AWAY = "second_machine"
"""Resource of Ray that only the second machine has."""
AGENT = [
    "agents.grpo",
    "--config=pref_grpo_shapes_t2i.yaml",
    "algorithm.name=grpo",
    "rollout.prompts_per_iteration=2",
    "rollout.groups_per_forward=1",
    "rollout.group_size=3",
    "generator.sampling={num_steps: 4}",
    "algorithm.window={size: 2, strategy: random, first: [0, 1]}",
    "reward.name=ShapesOracle",
    "training.ema_decay=0.9",
    "verification.reward=null",
    "run.checkpoint_interval=1",
]
NAMESPACE = "mount -t tmpfs tmpfs {runs} && mount -t tmpfs tmpfs {temporary} && exec {command}"
WAIT = f"""
import ray, time
ray.init(log_to_driver=False)
while {AWAY!r} not in ray.cluster_resources():
    time.sleep(0.2)
"""
"""Program that ends when the second machine has joined."""


@dataclass(frozen=True)
class Cluster:
    """Two raylets.

    Attributes:
        root: folder of the runs, which is empty on the second machine.
        environment: of programs that train in the cluster.
    """

    root: Path
    environment: Mapping[str, str]

    def train(self, words: Sequence[str], *more: str) -> str:
        """Run a program and return what it printed."""
        command = [sys.executable, "-m", *words, *more]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=600, check=False, cwd=Path.cwd()
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done.stdout


@contextlib.contextmanager
def two_machines(folder: Path, *, ip: str | None = None) -> Iterator[Cluster]:
    """Start two raylets that share no folder of runs.

    Args:
        folder: for everything.
        ip: address of the second one; None takes that of the first one.
    """
    root, sessions, temporary = folder / "runs", folder / "ray", folder / "temporary"
    for each in (root, sessions, temporary):
        each.mkdir()
    port = _free_port()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": str(sessions),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_MEMORY_MONITOR": "1",
        "PYTHONPATH": str(Path.cwd()),
        "TMPDIR": str(temporary),
    }
    ray = f"{Path(sys.executable).parent / 'ray'} start --block --disable-usage-stats --object-store-memory=200000000"
    first = f"{ray} --head --port={port} --node-ip-address=127.0.0.1 --num-cpus=1 --include-dashboard=false"
    second = f"{ray} --address=127.0.0.1:{port} --node-ip-address={ip or '127.0.0.1'} --num-cpus=4"
    second += f" --resources='{json.dumps({AWAY: 4})}'"
    # The second raylet's own temporary files must not be those of the first one either.
    apart = NAMESPACE.format(runs=root, temporary=temporary, command=f"env TMPDIR={temporary} {second}")
    with contextlib.ExitStack() as stack:
        for command in (["sh", "-c", f"exec {first}"], ["unshare", "-m", "sh", "-c", apart]):
            stack.enter_context(_running(command, environment, folder / f"log{len(list(folder.glob('log*')))}"))
            _wait_for_port(port)
        environment["RAY_ADDRESS"] = f"127.0.0.1:{port}"
        subprocess.run([sys.executable, "-c", WAIT], env=environment, check=True, timeout=240, capture_output=True)
        yield Cluster(root, environment)


@contextlib.contextmanager
def _running(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True, stdin=subprocess.DEVNULL
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)


def _wait_for_port(port: int) -> None:
    """Wait until something listens at a port of this machine."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens at port {port}")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def away(learners: int) -> list[str]:
    """Return the overrides that put all learners on the second machine."""
    return [f"resources.num_learners={learners}", f"rllib.custom_resources_per_learner={{{AWAY}: 1}}"]


def compared(run: Path, other: Path) -> list[str]:
    """Return what differs between two runs: rows without times, and the files of the last checkpoints."""
    found = []
    rows = [
        [{name: value for name, value in row.items() if not name.startswith("time/")} for row in read_metrics(path)]
        for path in (run / "metrics.jsonl", other / "metrics.jsonl")
    ]
    found += [] if rows[0] == rows[1] else ["rows"]
    ours, theirs = _tensors(run), _tensors(other)
    return found + sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def _tensors(run: Path) -> dict[str, str]:
    """Return a checksum for each tensor of the last checkpoint, without wall times and random states."""
    from safetensors import safe_open

    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None, f"{run} has no checkpoint"
    verify_checkpoint(checkpoint)
    found = {}
    for path in sorted(checkpoint.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if "metrics_logger" not in name and ":random" not in name:
                    data = file.get_tensor(name).contiguous().view(-1).float().numpy().tobytes()
                    place = f"{path.relative_to(checkpoint)}/{name.partition(':')[2] or name}"
                    found[place] = hashlib.sha256(data).hexdigest()
    return found


def show_agent(cluster: Cluster, learners: int) -> list[str]:
    """Train, resume and export with all learners away; return what differs from a run that was never interrupted."""
    name = f"agent{learners}"
    place = [f"run.root={cluster.root}", *away(learners)]
    cluster.train(AGENT, *place, f"run.name={name}_whole", "run.iterations=3")
    cluster.train(AGENT, *place, f"run.name={name}", "run.iterations=2")
    assert not list(cluster.root.rglob(".tmp-*")), "nothing half written is left"
    parts = sorted({file.split("/")[0] for file in read_manifest(_newest(cluster.root / name)).files})
    assert parts == ["algorithm", "generator"], parts
    cluster.train(AGENT[:1], "--resume", str(cluster.root / name), "run.iterations=3")
    export_generator(cluster.root / name, cluster.root / f"{name}_exported")
    return compared(cluster.root / f"{name}_whole", cluster.root / name)


def show_quickly(cluster: Cluster) -> list[str]:
    """Train one iteration with the learner away, resume for another one, and export; return what is missing."""
    place = [f"run.root={cluster.root}", *away(1)]
    cluster.train(AGENT, *place, "run.name=quick", "run.iterations=1")
    cluster.train(AGENT[:1], "--resume", str(cluster.root / "quick"), "run.iterations=2")
    assert verify_checkpoint(_newest(cluster.root / "quick")) == 2
    export_generator(cluster.root / "quick", cluster.root / "exported")
    return [] if len(read_metrics(cluster.root / "quick" / "metrics.jsonl")) == 3 else ["rows"]


def show_judge(cluster: Cluster, data: Path) -> list[str]:
    """Train and resume a judge with two learners away; return what differs from an uninterrupted run."""
    files = write_rows(data, count=8)
    words = ["flexgym.rm", "train", "sft"]
    settings = [
        "--config=rm_sft_shapes.yaml",
        f"judge.source={Path(flexgym.__file__).parent / 'shapes/checkpoints/judge'}",
        f"data.files=[{files['sft']}]",
        "training.batch_size=4",
        "training.micro_batch_size=2",
        "training.steps_per_iteration=2",
        "run.checkpoint_interval=1",
        f"run.root={cluster.root}",
        *away(2),
    ]
    cluster.train(words, *settings, "run.name=judge_whole", "run.iterations=3")
    cluster.train(words, *settings, "run.name=judge", "run.iterations=2")
    parts = sorted({file.split("/")[0] for file in read_manifest(_newest(cluster.root / "judge")).files})
    assert parts == ["algorithm", "judge"], parts
    cluster.train(words, "--resume", str(cluster.root / "judge"), "run.iterations=3")
    cluster.train(["flexgym.rm", "export"], str(cluster.root / "judge"), str(cluster.root / "judge_exported"))
    return compared(cluster.root / "judge_whole", cluster.root / "judge")


def show_same_as_here(cluster: Cluster) -> list[str]:
    """Return what differs between a learner that is away and one on the machine of the run folder."""
    own = ["resources.num_learners=1"]
    cluster.train(AGENT, f"run.root={cluster.root}", *own, "run.name=here", "run.iterations=3")
    return compared(cluster.root / "agent1_whole", cluster.root / "here")


def _newest(run: Path) -> Path:
    found = latest_checkpoint(run)
    assert found is not None, f"{run} has no checkpoint"
    return found


def main() -> int:
    """Run everything and print one line for each comparison; 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ip", help="address of the second machine, such as 127.0.0.2")
    parser.add_argument("--learners", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="only train, resume and export with one learner")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # which ends the raylets, too
    failed = False
    with tempfile.TemporaryDirectory() as folder, two_machines(Path(folder), ip=options.ip) as cluster:
        shown = {
            f"agent, {count} learner(s)": lambda count=count: show_agent(cluster, count) for count in options.learners
        }
        if options.quick:
            shown = {"one learner, quickly": lambda: show_quickly(cluster)}
        else:
            shown["judge, 2 learners"] = lambda: show_judge(cluster, Path(folder) / "data")
        if 1 in options.learners and not options.quick:
            shown["learner away and here"] = lambda: show_same_as_here(cluster)
        for name, show in shown.items():
            differences = show()
            failed |= bool(differences)
            print(f"{name}: {'equal' if not differences else f'{len(differences)} differ, such as {differences[:3]}'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
