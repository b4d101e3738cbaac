"""A run that lives on an S3 server: ``python -m tests.demonstrations.run_at_a_url``.

An agent trains in a folder for three iterations, and at a URL for two; there it is killed while it trains on, resumes
from the URL with nothing left on this machine, and finishes. Rows and tensors of the two runs must be equal, and the
export must work. The server is moto's where moto and s3fs are installed; otherwise the store is a folder
behind ``file://``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flexgym.runs.export import export_generator
from flexgym.runs.storage import RemoteRun, cache, local_run
from tests.demonstrations.two_machines import AGENT, compared


@contextlib.contextmanager
def store(folder: Path) -> Iterator[str]:
    """Start an S3 server and yield the URL of a place for runs in it."""
    try:
        import s3fs
        from moto.server import ThreadedMotoServer
    except ImportError:
        yield f"file://{folder}/store"
        return
    server = ThreadedMotoServer(port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }
    s3fs.S3FileSystem(endpoint_url=address).mkdir("bucket")
    try:
        yield "s3://bucket/runs"
    finally:
        server.stop()


def train(*words: str) -> None:
    """Run an agent to its end."""
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def train_and_kill(url: str, *words: str) -> None:
    """Run an agent until its second checkpoint is at the URL, then kill it."""
    process = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    remote, deadline = RemoteRun(url), time.monotonic() + 600
    while not any(name.startswith("iteration_000002/manifest") for name in remote.names("checkpoints")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{words}: no second checkpoint")
        time.sleep(0.2)
    process.kill()
    process.wait()


def main() -> int:
    """Run everything and print what differs; 1 when anything does."""
    with tempfile.TemporaryDirectory() as name, store(Path(name)) as root:
        folder = Path(name)
        os.environ |= {"XDG_CACHE_HOME": str(folder / "cache")}
        train(*AGENT, f"run.root={folder}", "run.name=whole", "run.iterations=3")
        train_and_kill(f"{root}/run", *AGENT, f"run.root={root}", "run.name=run", "run.iterations=500")
        shutil.rmtree(cache())
        train(AGENT[0], "--resume", f"{root}/run/checkpoints/iteration_000002", "run.iterations=3")
        with local_run(f"{root}/run") as copy:
            differences = compared(folder / "whole", copy)
        exported = export_generator(f"{root}/run", folder / "exported")
        left = list(cache().iterdir())
        print(f"{root}: {differences or 'equal'}; exported iteration {exported.iteration}; left here: {left}")
    return int(bool(differences or left))


if __name__ == "__main__":
    sys.exit(main())
