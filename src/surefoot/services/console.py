"""What the user sees while it trains: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

from surefoot.terminal import PlainConsole
from surefoot.training import Hook, Run, TrainState

_ROWS = (
    # label, metric, format
    ("episode return", "rollout/episode_return", "{:.2f}"),
    ("evaluated return", "eval/episode_return", "{:.2f}"),
    ("success", "rollout/success_rate", "{:.0%}"),
    ("evaluated success", "eval/success_rate", "{:.0%}"),
    ("episode length", "rollout/episode_length", "{:.0f}"),
    ("KL", "policy/approx_kl", "{:.4f}"),
    ("clip fraction", "policy/clip_fraction", "{:.1%}"),
    ("explained variance", "value/explained_variance", "{:.2f}"),
    ("entropy", "policy/entropy", "{:.2f}"),
    ("std", "policy/std", "{:.3f}"),
    ("learning rate", "optim/learning_rate", "{:.1e}"),
)
_WIDTH = 30  # columns of the progress bar and of the curve: with its numbers it fits into 80
_HEIGHTS = "▁▂▃▄▅▆▇█"
_PLAIN = (
    "rollout/episode_return",
    "eval/episode_return",
    "rollout/success_rate",
    "policy/approx_kl",
)
_PLAIN += ("policy/clip_fraction", "value/explained_variance")


class ConsoleProgress(Hook):
    """Progress on the console; used as a context, which leaves the terminal as it should be.

    Args:
        console: where to.
        before: what is shown until training starts, and of which nothing stays: some simulators load a
            model for each environment, which takes a while, and it may be a mistake that comes of it.
        seeds: how many are trained, of which this is the first.
        every_s: least seconds between two plain lines.
    """

    def __init__(
        self, console: PlainConsole, before: str = "", *, seeds: int = 1, every_s: float = 5.0
    ) -> None:
        self._console, self._before, self._seeds = console, before, seeds
        self._every_s = every_s
        self._live: Live | None = None
        self._last_line = float("-inf")
        self._seen: dict[str, Any] = {}
        self._returns: list[tuple[int, float]] = []
        self._run: Run | None = None

    def __enter__(self) -> ConsoleProgress:
        self._show(Live(self._before, console=self._console, auto_refresh=False, transient=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def on_start(self, run: Run) -> None:
        """Say what is trained; the first iteration compiles, which takes a few seconds."""
        self._leave()
        self._run = run
        if self._seeds > 1:
            self._console.print(f"{self._seeds} seeds side by side; progress of the first:")
        env, config = run.env, run.config
        size = sum(spec.size for spec in run.agent.observations.values())
        self._console.print(
            f"{run.task}: {size} observation{'s' if size > 1 else ''}, "
            f"{env.action.kind} actions {tuple(env.action.sizes)}, {env.num_envs} environments x "
            f"{config.num_steps} steps, seed {config.seed}. Compiling...",
            soft_wrap=True,
        )
        self._show(Live(console=self._console, refresh_per_second=4))

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Show the newest numbers; an episode mean stays until the next one."""
        self._seen |= {name: value for name, value in metrics.items() if value is not None}
        if (value := metrics.get("rollout/episode_return")) is not None:
            self._returns.append((metrics["step"], value))
        if self._live is not None:
            self._live.update(self._table())
            return
        now = time.monotonic()
        assert self._run is not None
        if now - self._last_line >= self._every_s or state.step >= self._run.config.total_steps:
            self._last_line = now
            self._console.print(self._line(), soft_wrap=True)

    def on_log(self, text: str) -> None:
        """Say it, above the table."""
        self._console.print(text, soft_wrap=True)

    def on_end(self, state: TrainState, policy: Any, *, finished: bool) -> None:
        """Leave the last table standing."""
        self._leave()

    def _show(self, live: Live) -> None:
        """Begin what changes in place, where there is a terminal."""
        if self._console.is_terminal:
            self._live = live
            live.start(refresh=True)

    def _leave(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _progress(self) -> tuple[str, str, str]:
        assert self._run is not None
        step, total = self._seen["step"], self._run.config.total_steps
        left = "?"  # no step was experience yet
        if step:  # resumed or not: both count from the start
            seconds = int(max(0.0, (total - step) * self._seen["wall_time_s"] / step))
            left = f"{seconds // 60}:{seconds % 60:02d}"
        return (
            f"{step:,} / {total:,} ({min(1.0, step / total):.0%})",
            f"{self._seen['time/env_steps_per_second']:,.0f}",
            left,
        )

    def _table(self) -> Table:
        assert self._run is not None
        steps, rate, left = self._progress()
        table = Table(title=self._run.task, title_justify="left", show_header=False)
        total = self._run.config.total_steps
        bar = ProgressBar(total=total, completed=min(self._seen["step"], total), width=_WIDTH)
        table.add_row("progress", bar)
        table.add_row("steps", steps)
        table.add_row("steps/s", rate)
        table.add_row("time left", left)
        if len(self._returns) > 1 and not self._console.options.ascii_only:
            table.add_row("return so far", curve(self._returns, total, _WIDTH))
        for label, name, form in _ROWS:
            if name in self._seen:
                table.add_row(label, form.format(self._seen[name]))
        return table

    def _line(self) -> str:
        steps, rate, left = self._progress()
        labels = {name: (label, form) for label, name, form in _ROWS}
        parts = [f"steps {steps}", f"{rate} steps/s", f"left {left}"]
        for name in _PLAIN:
            if name in self._seen:
                label, form = labels[name]
                parts.append(f"{label} {form.format(self._seen[name])}")
        return "  ".join(parts)


def curve(points: Sequence[tuple[int, float]], total: int, width: int) -> str:
    """A small curve, from its lowest point to its highest, as wide as its share of the whole.

    Args:
        points: (step, value), in order.
        total: the step at which it is `width` columns wide.
        width: columns.
    """
    columns: dict[int, list[float]] = {}
    for step, value in points:
        columns.setdefault(min(width - 1, step * width // total), []).append(value)
    means = {column: sum(values) / len(values) for column, values in columns.items()}
    low, high = min(means.values()), max(means.values())
    scale = (len(_HEIGHTS) - 1) / (high - low) if high > low else 0.0
    drawn, shown = "", _HEIGHTS[0]
    for column in range(max(means) + 1):
        if column in means:
            shown = _HEIGHTS[round((means[column] - low) * scale)]
        drawn += shown if column >= min(means) else " "
    return f"{drawn} {low:.4g} to {high:.4g}"


class EpisodeProgress:
    """How many episodes have ended, on standard error, where that is a terminal; used as a context.

    Args:
        episodes: how many there are to be.
        shown: whether to show anything.
    """

    def __init__(self, episodes: int, *, shown: bool) -> None:
        console = PlainConsole(stderr=True)
        columns = (TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = not (shown and console.is_terminal)
        self._progress = Progress(*columns, console=console, transient=True, disable=hidden)
        self._task = self._progress.add_task("episodes", total=episodes)

    def __enter__(self) -> EpisodeProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, ended: int) -> None:
        """So many have ended."""
        self._progress.update(self._task, completed=ended)
