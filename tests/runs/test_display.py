from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from flexgym.core.metrics import Max, Mean, Share
from flexgym.runs.display import TrainingDisplay, format_duration, sparkline
from flexgym.runs.interrupt import NOTICE
from flexgym.runs.known_metrics import ACCURACY, REWARD, iteration_seconds, phase_seconds

KNOWN = {
    "reward/mean": REWARD,
    "eval/verifier_accuracy": ACCURACY,
    "policy/max_abs_log_ratio": Max(label="max |log ratio|", format=".1e", priority=0),
    "policy/ratio_mean": Mean(label="ratio mean", format=".4f", priority=1),
    "policy/clip_share": Share(label="clipped", priority=2),
    **{f"time/{phase}_s": phase_seconds(phase, float("nan")) for phase in ("rollout", "reward", "update")},
    "time/iteration_s": iteration_seconds(float("nan")),
}
FROM_THE_START = {name: KNOWN[name] for name in ("reward/mean", "eval/verifier_accuracy")}


def measured(**numbers: Any) -> dict[str, Any]:
    """A row as a run hands it over: numbers with the look of their metrics."""
    return {
        name: value if value is None or name not in KNOWN else KNOWN[name].with_value(value)
        for name, value in numbers.items()
    }


def row(iteration: int, **extra: Any) -> dict[str, Any]:
    numbers = {
        "iteration": iteration,
        "reward/mean": 0.5 + iteration / 100,
        "policy/max_abs_log_ratio": 0.031,
        "policy/ratio_mean": 1.0002,
        "policy/clip_share": 0.021,
        "time/rollout_s": 2.1,
        "time/reward_s": 0.3,
        "time/update_s": 4.0,
        "time/iteration_s": 6.5,
    }
    return measured(**numbers | extra)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain_console() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=80), stream


def panel(display: TrainingDisplay, width: int = 80) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(display)
    return stream.getvalue().splitlines()


def test_without_a_terminal_each_iteration_is_one_line() -> None:
    console, stream = plain_console()
    clock = Clock()
    with TrainingDisplay(10, title="run", console=console, clock=clock, known=FROM_THE_START) as display:
        assert not display.is_live
        display.update(measured(**{"iteration": 0, "eval/verifier_accuracy": 0.48}))
        clock.now = 8.0
        display.update(row(1))
        display.note("saved [1]")
    assert stream.getvalue().splitlines() == [
        "iteration 0/10  reward –  verified accuracy 0.480",
        "iteration 1/10  reward 0.510  max |log ratio| 3.1e-02  ratio mean 1.0002  clipped 2.1%  "
        "rollout 2.1 s  reward 0.3 s  update 4.0 s  left 1:12 min",
        "saved [1]",
    ]


def test_the_time_left_ends_at_the_deadline() -> None:
    clock = Clock()
    display = TrainingDisplay(60, title="run", console=plain_console()[0], deadline=clock.now + 100, clock=clock)
    for iteration in range(3):
        display.update(row(iteration))
        clock.now += 6.5
    assert display.seconds_left() == pytest.approx(100 - 3 * 6.5)
    assert "1:20 min left" in "\n".join(panel(display))
    clock.now += 200
    assert display.seconds_left() == 0


def test_the_panel_shows_every_value_in_80_columns() -> None:
    clock = Clock()
    display = TrainingDisplay(60, title="Pref-GRPO [x], runs/a", console=plain_console()[0], clock=clock)
    for iteration in range(21):
        extra = {"eval/verifier_accuracy": 0.48 + iteration / 200} if iteration % 10 == 0 else {}
        display.update(row(iteration, **extra))
        clock.now += 6.5
    display.phase("rollout")
    lines = panel(display)
    text = "\n".join(lines)
    assert {len(line) for line in lines} == {80}
    for part in (
        "Pref-GRPO [x], runs/a",
        "iteration 20/60",
        "33%",
        "4:14 min left",
        "0.700",
        "+0.110 since the start",
        "0.580",
        "+0.100 over 0.480 (iteration 20)",
        "3.1e-02",
        "ratio mean 1.0002",
        "clipped 2.1%",
        "time 6.5 s",
        "rollout 2.1 s",
        "reward 0.3 s",
        "update 4.0 s",
        "other 0.1 s",
        "now rollout",
        "▁",
        "█",
    ):
        assert part in text, part


@pytest.mark.parametrize("width", [40, 60, 120])
def test_other_widths_hold_the_values_too(width: int) -> None:
    display = TrainingDisplay(60, title="run", console=plain_console()[0])
    display.update(row(1, **{"eval/verifier_accuracy": 0.61}))
    lines = panel(display, width)
    assert {len(line) for line in lines} == {width}
    assert "0.510" in "\n".join(lines)
    assert "0.610" in "\n".join(lines)


def test_missing_and_undefined_values_are_dashes() -> None:
    display = TrainingDisplay(5, title="run", console=plain_console()[0], known=KNOWN)
    assert "not evaluated yet" in "\n".join(panel(display))
    display.update(measured(**{"iteration": 1, "reward/mean": float("nan"), "policy/max_abs_log_ratio": None}))
    text = "\n".join(panel(display))
    assert "ratio mean –   clipped –" in text
    assert "nan" not in text.lower()


def test_what_a_run_never_names_is_left_out() -> None:
    console, stream = plain_console()
    row_of_sb3 = measured(**{"iteration": 1, "reward/mean": 0.5, "time/rollout_s": 4.0, "time/update_s": 1.0})
    with TrainingDisplay(5, title="run", console=console) as display:
        display.update(row_of_sb3)
    assert stream.getvalue() == "iteration 1/5  reward 0.500  rollout 4.0 s  update 1.0 s\n"
    assert not [line for line in panel(display) if "log ratio" in line]
    display.update(row(2))
    assert [line for line in panel(display) if "log ratio" in line]
    display.update({"iteration": 3})
    assert "–   clipped –" in "\n".join(panel(display))


def test_metrics_of_a_new_algorithm_are_shown_as_they_say_themselves() -> None:
    console, stream = plain_console()
    new = {
        "nft/positive_share": Share(0.51, label="positive", priority=0),
        "nft/loss": Mean(0.12345),
        "nft/hidden": Mean(7.0, panel="hidden"),
        "nft/text_s": Max(0.5, label="text", unit="s", panel="time"),
        "nft/margin": Mean(3.0, label="margin", format=".2f", panel="headline"),
        "nft/probe": Mean(0.25, label="probe", sparse=True),
        "plain": 8.0,
    }
    with TrainingDisplay(5, title="run", console=console) as display:
        display.update({"iteration": 1, **new})
        display.update({"iteration": 2, "nft/margin": Mean(4.0, label="margin", format=".2f", panel="headline")})
    assert stream.getvalue().splitlines()[0] == (
        "iteration 1/5  margin 3.00  positive 51.0%  nft/loss 0.1235  probe 0.25  text 0.5 s"
    )
    assert "margin 4.00  positive –  nft/loss –" in stream.getvalue().splitlines()[1]
    lines = panel(display)
    assert [line.split()[1:3] for line in lines if "margin" in line] == [["margin", "4.00"]]
    assert "+1.00 since the start" in next(line for line in lines if "margin" in line)
    # a sparse metric keeps its last value
    assert next(line for line in lines if "nft" in line).split()[1:-1] == [
        "positive",
        "–",
        "nft/loss",
        "–",
        "probe",
        "0.25",
    ]
    assert not [line for line in lines if "hidden" in line or "plain" in line]


def test_groups_follow_from_the_names() -> None:
    display = TrainingDisplay(5, title="run", console=plain_console()[0])
    names = ("loss/policy", "kl/mean", "loss/value", "entropy", "margin")
    display.update({"iteration": 1, **{name: Mean(0.5, label=name.replace("/", " of ")) for name in names}})
    lines = [line.strip("│ ").split() for line in panel(display) if "0.5" in line]
    assert [" ".join(line) for line in lines] == [
        "loss of policy 0.5 loss of value 0.5",
        "kl of mean 0.5",
        "entropy 0.5 margin 0.5",
    ]


def test_a_curve_of_a_maximum_keeps_its_peaks() -> None:
    assert sparkline([0.0, 7.0, 0.0, 0.0, 0.0, 0.0], 3, merge=Max.over_time) == "█▁▁"


def test_an_exact_zero_log_ratio_reads_as_0() -> None:
    display = TrainingDisplay(5, title="run", console=plain_console()[0])
    display.update(row(1, **{"policy/max_abs_log_ratio": 0.0}))
    assert [line.split()[4] for line in panel(display) if "log ratio" in line] == ["0"]
    display.update(row(2, **{"policy/max_abs_log_ratio": 1e-12}))
    assert [line.split()[4] for line in panel(display) if "log ratio" in line] == ["1.0e-12"]


def test_time_left_follows_the_clock_and_counts_down() -> None:
    clock = Clock()
    display = TrainingDisplay(10, title="run", console=plain_console()[0], clock=clock)
    assert display.seconds_left() is None
    display.update(row(1))
    assert display.seconds_left() == pytest.approx(9 * 6.5)
    clock.now = 10.0
    display.update(row(2))
    assert display.seconds_left() == pytest.approx(80.0)
    clock.now = 13.0
    assert display.seconds_left() == pytest.approx(77.0)
    clock.now = 1000.0
    assert display.seconds_left() == pytest.approx(70.0)


def test_the_history_of_a_resumed_run_gives_the_base() -> None:
    history = [
        {"iteration": 0, "eval/verifier_accuracy": 0.4},
        {"iteration": 4, "reward/mean": 0.5},
        {"iteration": 5, "reward/mean": 0.6},
    ]
    display = TrainingDisplay(10, title="run", console=plain_console()[0], history=history, known=KNOWN)
    assert "+0.100 since the start" in "\n".join(panel(display))
    display.update(row(6, **{"eval/verifier_accuracy": 0.5}))
    assert "+0.100 over 0.400 (iteration 6)" in "\n".join(panel(display))


def test_the_live_panel_shows_a_notice_and_closes() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, _environ={"TERM": "xterm-256color"})
    with TrainingDisplay(2, title="run", console=console) as display:
        assert display.is_live
        display.update(row(1))
        display.announce(NOTICE)
        display.update(row(2))
        assert "Stopping after this iteration" in stream.getvalue()
        # the cursor rests below the panel, where the ^C that a terminal echoes does no harm
        assert "\n" in stream.getvalue().rpartition("╯")[2]
    last = stream.getvalue()[stream.getvalue().rindex("╭") :]
    assert "now finished" in last.replace("\x1b[90m", "").replace("\x1b[0m", "")
    assert "done" in last


def test_a_notice_without_a_panel_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with TrainingDisplay(2, title="run", console=plain_console()[0]) as display:
        display.announce(NOTICE)
    assert capfd.readouterr().err == f"\n{NOTICE}\n"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([3.0], "▄"),
        ([2.0, 2.0], "▄▄"),
        ([0.0, 1.0], "▁█"),
        ([0.0, 3.5, 7.0], "▁▅█"),
        ([0.0, 0.0, 1.0, 1.0], "▁█"),
    ],
)
def test_sparkline(values: list[float], expected: str) -> None:
    assert sparkline(values, 3 if len(values) < 4 else 2) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (185, "3:05 min"), (3600, "1:00 h"), (7500, "2:05 h")],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
