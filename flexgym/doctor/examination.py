"""All checks of a machine, in order."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flexgym.core.secrets import secret_from_environment
from flexgym.core.urls import url_of
from flexgym.doctor.clocks import check_clock
from flexgym.doctor.disks import check_disk, check_shared
from flexgym.doctor.findings import Finding
from flexgym.doctor.machine import check_gpus, check_memory, check_nccl
from flexgym.doctor.network import check_connection, check_judge, check_name, check_ports
from flexgym.doctor.versions import check_versions


@dataclass(frozen=True)
class Wishes:
    """Folders, ports and servers that a training will use.

    Attributes:
        root: folder of the runs, or a URL, which is not checked.
        shared: folders that other machines use too.
        ports: ports that this machine must be able to listen on.
        connections: ports of other machines, each as ``HOST:PORT``.
        judges: addresses of judge servers.
        api_key_env: environment variable with the key of the judge servers.
    """

    root: Path = Path("runs")
    shared: tuple[Path, ...] = ()
    ports: tuple[int, ...] = ()
    connections: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    api_key_env: str | None = None


def examine(wishes: Wishes) -> list[Finding]:
    """Run all checks.

    Args:
        wishes: what the training will use.

    Raises:
        ConfigError: an address that has another form, or a variable with a key that is not set.
    """
    api_key = secret_from_environment(wishes.api_key_env)
    models = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    found = [*check_versions(), *check_gpus(), *check_memory()]
    found += [] if url_of(wishes.root) else [check_disk(wishes.root, "runs")]
    found += [check_disk(models, "models"), check_disk(Path(tempfile.gettempdir()), "temporary files")]
    for folder in wishes.shared:
        found += check_shared(folder)
    found += [check_name()] if wishes.shared or wishes.connections else []
    found += [*check_ports(wishes.ports), *map(check_connection, wishes.connections)]
    found += check_nccl(os.environ)
    for url in wishes.judges:
        found += check_judge(url, api_key)
    return [*found, *check_clock()]
