"""``flexgym judge``: compare two samples, rank folders of samples, calibrate a judge, or serve one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from flexgym.commands.judge_options import JudgeOptions
from flexgym.commands.judge_report import calibration_report, outcome_report, ranking_report
from flexgym.commands.serve import ServeOptions
from flexgym.commands.serve import serve as serve_judge
from flexgym.core.errors import ConfigError
from flexgym.core.metrics import without_nan
from flexgym.core.terminal import say, teaching_errors, terminal, with_options
from flexgym.judge import make_tournament
from flexgym.judge.assessment import Assessment
from flexgym.judge.inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Inputs, read_sample
from flexgym.judge.noise import NoisyJudge
from flexgym.judge.protocol import JudgeFailure, Outcome, Pair
from flexgym.judge.tournament import judge_groups
from flexgym.judge.vision_judge import VisionJudge
from flexgym.types import Prompt, SampleGroup

app = typer.Typer(no_args_is_help=True, help="Compare and rank samples with a judge, calibrate a judge, or serve one.")

JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
_MAX_PROMPT = 64 * 1024


@app.command()
@with_options(asked=JudgeOptions)
def compare(
    first: Path,
    second: Path,
    *,
    prompt: Annotated[str, typer.Option(help="caption that both samples were generated for")],
    asked: JudgeOptions,
    as_json: JsonOption = False,
) -> None:
    """Judge two image or video files."""
    with teaching_errors(), asked.opened() as opened:
        both = [_read_sample(path, asked.inputs) for path in (first, second)]
        if isinstance(opened, VisionJudge):
            outcome = opened.compare(Prompt(prompt).text, *both)
        elif both[0].shape != both[1].shape:
            raise ConfigError(
                f"this judge needs samples of the same size, got shapes {both[0].shape} and {both[1].shape}: resize one"
            )
        else:
            outcome = opened.assess([Pair(SampleGroup(Prompt(prompt), np.stack(both)), 0, 1)])[0]
    if as_json:
        _print_json(_as_json(outcome))
    else:
        terminal().print(outcome_report(prompt, outcome))
    if isinstance(outcome, JudgeFailure):
        raise typer.Exit(1)


@app.command()
@with_options(asked=JudgeOptions)
def rank(
    folder: Path,
    *,
    asked: JudgeOptions,
    tournament: Annotated[str, typer.Option(help="schedule: all, regular(k), swiss(rounds) or anchor(m)")] = "all",
    as_json: JsonOption = False,
) -> None:
    """Rank the samples in each subfolder. The prompt is read from prompt.txt, otherwise it is the folder's name."""
    with teaching_errors(), asked.opened() as opened:
        named = _read_groups(folder, asked.inputs)
        settings = make_tournament({"schedule": tournament})
        scores = judge_groups(opened, [group for _, group in named], tournament=settings)
    if as_json:
        rows = [
            {"prompt": group.prompt.text, "rewards": dict(zip(names, score.rewards.tolist(), strict=True))}
            for (names, group), score in zip(named, scores, strict=True)
        ]
        _print_json(rows)
        return
    for (names, group), score in zip(named, scores, strict=True):
        terminal().print(ranking_report(group.prompt.text, names, score))


@app.command()
@with_options(asked=JudgeOptions)
def calibrate(
    folder: Annotated[
        Path | None, typer.Argument(help="folder of groups, as for rank; generated small-world groups by default")
    ] = None,
    *,
    asked: JudgeOptions,
    noise: Annotated[
        tuple[float, float] | None,
        typer.Option(help="add noise to the judge: its accuracy, and how often the first of two equal samples wins"),
    ] = None,
    small_world: Annotated[
        tuple[int, int], typer.Option(help="number and size of generated groups, if no folder is given")
    ] = (40, 8),
    plot: Annotated[Path | None, typer.Option(help="file to write the plot to")] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge all pairs in both orders, and report how faithful each cheaper tournament is."""
    # Imported here because it needs torch, which the other commands do not.
    from flexgym.judge.calibration import calibrate as calibrate_judge
    from flexgym.judge.calibration import draw_calibration

    with teaching_errors(), asked.opened() as opened:
        if folder:
            read = _read_groups(folder, asked.inputs)
            members, truth = [group for _, group in read], None
        else:
            members, truth = _small_world(*small_world)
        tried = NoisyJudge(opened, accuracy=noise[0], first_position_rate=noise[1]) if noise else opened
        report = calibrate_judge(tried, members, truth=truth)
        if plot:
            draw_calibration(report, plot)
    if as_json:
        _print_json({"judge": report.to_figures(), "tournaments": report.to_rows()})
        return
    cheapest = report.cheapest()
    terminal().print(calibration_report(report))
    say(f"Cheapest within 0.03 of 'all': {cheapest.tournament}, {cheapest.calls:g} calls per group.")


@dataclasses.dataclass(frozen=True)
class ListenOptions:
    """Command-line options about the clients of a server.

    Attributes:
        host: address to listen on.
        port: port to listen on.
        api_key_env: name of the environment variable with the API key that clients must send.
    """

    host: Annotated[str, typer.Option(help="address to listen on; this machine only by default")] = "127.0.0.1"
    port: Annotated[int, typer.Option(help="port to listen on")] = 8080
    api_key_env: Annotated[
        str | None, typer.Option(help="environment variable with the API key that clients must send")
    ] = None


@app.command()
@with_options(listen=ListenOptions)
def serve(
    source: Annotated[str, typer.Argument(help="checkpoint folder or hub id")],
    *,
    listen: ListenOptions,
    name: Annotated[str | None, typer.Option(help="model name to use in requests")] = None,
    max_model_len: int | None = None,
    data_parallel_size: int = 1,
    gpu_memory_utilization: float = 0.9,
    log: Annotated[Path, typer.Option(help="file for the server's output")] = Path("runs/judge_server.log"),
) -> None:
    """Start a vLLM server for a judge and run it until Ctrl-C."""
    with teaching_errors():
        options = ServeOptions(
            source,
            name=name,
            host=listen.host,
            port=listen.port,
            max_model_len=max_model_len,
            data_parallel_size=data_parallel_size,
            gpu_memory_utilization=gpu_memory_utilization,
            api_key_env=listen.api_key_env,
        )
        log.parent.mkdir(parents=True, exist_ok=True)
        say(f"Starting {source} at {options.url}; its output is written to {log}.")
        raise typer.Exit(serve_judge(options, log=log))


def _as_json(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Assessment):
        return outcome.model_dump()
    fields = dataclasses.asdict(outcome)
    return {"failure": fields} if isinstance(outcome, JudgeFailure) else fields


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(without_nan(value), indent=2, allow_nan=False))


def _read_sample(path: Path, inputs: Inputs) -> NDArray[np.uint8]:
    """Read a sample; frames of videos no larger than the judge gets them, of which there may be many."""
    return read_sample(path, num_frames=inputs.num_frames, max_side=inputs.max_side)


def _read_groups(folder: Path, inputs: Inputs) -> list[tuple[list[str], SampleGroup]]:
    """Read the file names and samples of every subfolder; each must hold at least two image or video files."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: expected a folder with one subfolder of samples per prompt")
    found = [_read_group(each, inputs) for each in sorted(folder.iterdir()) if each.is_dir()]
    if not found:
        raise ConfigError(f"{folder} has no subfolders: expected one subfolder of samples per prompt")
    return found


def _read_group(folder: Path, inputs: Inputs) -> tuple[list[str], SampleGroup]:
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if len(files) < 2:
        raise ConfigError(f"{folder} has {len(files)} samples: expected at least two image or video files to compare")
    samples = [_read_sample(path, inputs) for path in files]
    sizes = {sample.shape for sample in samples}
    if len(sizes) > 1:
        raise ConfigError(f"{folder}: all samples of a prompt must have the same size, got {sorted(sizes)}")
    written = folder / "prompt.txt"
    text = _read_prompt(written) if written.is_file() else folder.name
    return [path.name for path in files], SampleGroup(Prompt(text), np.stack(samples))


def _read_prompt(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_PROMPT + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    if len(data) > _MAX_PROMPT:
        raise ConfigError(
            f"{path}: expected the prompt of the samples in this folder, up to {_MAX_PROMPT // 1024} KiB."
        )
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected UTF-8 text, got other bytes at offset {error.start}. Save the file as UTF-8."
        ) from error
    if not text:
        raise ConfigError(f"{path}: expected the prompt of the samples in this folder, got an empty file.")
    return text


def _small_world(count: int, size: int) -> tuple[list[SampleGroup], list[Any]]:
    """Generate groups of rendered scenes, half from another caption, with their true advantages by the oracle."""
    from flexgym.judge.calibration import full_advantages
    from flexgym.shapes.oracle import OracleJudge
    from flexgym.shapes.sampling import draw_group

    rng = np.random.default_rng(0)
    groups = [draw_group(rng, size) for _ in range(count)]
    return groups, list(full_advantages(OracleJudge(), groups))
