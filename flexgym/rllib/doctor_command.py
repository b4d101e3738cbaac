"""The command ``flexgym doctor``, without what examines the machine or the cluster, which loads more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from flexgym.core.terminal import say, teaching_errors, terminal
from flexgym.doctor.findings import Finding

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    *,
    root: Annotated[Path, typer.Option(help="folder of the runs, as run.root")] = Path("runs"),
    shared: Annotated[list[Path] | None, typer.Option(help="folder that other machines use too; repeatable")] = None,
    port: Annotated[list[int] | None, typer.Option(help="port that must be free on this machine; repeatable")] = None,
    connect: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT of another machine that must answer; repeatable")
    ] = None,
    judge: Annotated[
        list[str] | None, typer.Option(help="address of a judge server, such as http://host:8000/v1; repeatable")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="environment variable with the key of the judge servers")
    ] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="check every machine of the running Ray cluster")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON: a list of findings")] = False,
) -> None:
    """Check a machine or a cluster and say what to do about each finding; exit with status 1 if there is a problem."""
    from flexgym.doctor.examination import Wishes, examine

    with teaching_errors():
        wishes = Wishes(
            root=root,
            shared=tuple(shared or ()),
            ports=tuple(port or ()),
            connections=tuple(connect or ()),
            judges=tuple(judge or ()),
            api_key_env=api_key_env,
        )
        if cluster:
            from flexgym.rllib.cluster_doctor import examine_cluster

            findings = examine_cluster(wishes)
        else:
            findings = examine(wishes)
        if as_json:
            say(json.dumps([vars(finding) for finding in findings], indent=1))
        else:
            show(findings)
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


def show(findings: Sequence[Finding]) -> None:
    """Print findings, one line each, with the advice below, and the number of problems and warnings.

    Args:
        findings: in the order in which they are printed.
    """
    from rich.text import Text

    console = terminal()
    for finding in findings:
        line = Text.assemble((f"{finding.level:<8}", _STYLES[finding.level]), f"{finding.check:<9} {finding.what}")
        console.print(line, soft_wrap=True)
        if finding.advice:
            console.print(f"{'':<17} {finding.advice}", soft_wrap=True)
    counts = {level: sum(finding.level == level for finding in findings) for level in ("problem", "warning")}
    said = [f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts.items()]
    console.print(", ".join(said), soft_wrap=True)
