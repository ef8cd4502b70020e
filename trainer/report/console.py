"""What the user sees during a run: one live view on a terminal, one line a step elsewhere."""

import time
from datetime import timedelta

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from advgame.trainer.base.clock import Clock
from advgame.trainer.base.text import one_line, printable
from advgame.trainer.measure.rates import Rate
from advgame.trainer.records import Game
from advgame.trainer.report.labels import STEP
from advgame.trainer.report.tables import evaluation_text, memory_text
from advgame.trainer.report.wording import number, percent, percent_alone


class Progress:
    """Shows a run from step `start` to `steps`, and the clock's stage; silent unless `visible`."""

    def __init__(self, title: str, start: int, steps: int, visible: bool, clock: Clock):
        self.console = Console(quiet=not visible)
        self._title, self._start, self._done, self._steps, self._clock = title, start, start, steps, clock
        self._began = time.perf_counter()
        self._record: dict | None = None
        self._games: list[Game] = []
        self._live = Live(get_renderable=self.render, console=self.console, refresh_per_second=2)
        self._is_live = visible and self.console.is_terminal

    def __enter__(self) -> "Progress":
        if self._is_live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def step_done(self, record: dict, games: list[Game]) -> None:
        """Shows the step's record, as in metrics.jsonl, its alarms, and one of its games."""
        self._done, self._record, self._games = record["step"], record, games
        if not self._is_live:
            figures = (f"{name} {figure}" for name, figure in _figures(record))
            line = "  ".join([f"step {self._done}/{self._steps}", *figures, f"left {self._time_left()}"])
            self.console.print(Text(line), soft_wrap=True)
        if "predicted_memory_gib" in record["timing"]:
            self.console.print(Text(f"memory {memory_text(record['timing'])}"), soft_wrap=True)
        self._show_alarms(record["step"], record.get("alarms", []))

    def evaluation_done(self, step: int, record: dict) -> None:
        """Shows the record of an evaluation, as in evaluation.jsonl, and its alarms."""
        self.console.print(Text(evaluation_text(f"evaluation at step {step}", record)), soft_wrap=True)
        self._show_alarms(step, record["alarms"])

    def render(self) -> Panel:
        """The live view as it is now."""
        head = Table.grid(expand=True, padding=(0, 2))
        head.add_column(ratio=1)
        head.add_column(justify="right")
        now = self._clock.now
        stage = f"{now[0]} {now[1]:.0f} s" if now else ""
        head.add_row(
            ProgressBar(total=self._steps, completed=self._done),
            f"step {self._done}/{self._steps}   time left {self._time_left()}   {stage}",
        )
        parts: list[RenderableType] = [head]
        if self._record:
            cells = [Text.assemble((f"{name} ", "dim"), (figure, "bold")) for name, figure in _figures(self._record)]
            columns = Columns(cells, padding=(0, 2), equal=True)  # as many as fit into a row
            parts += [Text(), columns, Text(), *_exchange(self._games)]
        return Panel(Group(*parts), title=Text(self._title))

    def _show_alarms(self, step: int, alarms: list[str]) -> None:
        for alarm in alarms:
            self.console.print(Text(f"alarm at step {step}: {alarm}", "yellow"), soft_wrap=True)

    def _time_left(self) -> str:
        if self._done == self._start:
            return "?"
        per_step = (time.perf_counter() - self._began) / (self._done - self._start)
        return str(timedelta(seconds=round(per_step * (self._steps - self._done))))


def _figures(record: dict) -> list[tuple[str, str]]:
    """What is shown of a step, in its order, as (name, text)."""
    game, timing = record["game"], record["timing"]
    rates = {name: percent_alone(Rate(**game[name])) for name in ("attack_success", "benign_compliance", "faithful")}
    shares = rates | {"parsed": percent(game["parsed"])}
    return [
        *((STEP[name], shares[name]) for name in ("attack_success", "benign_compliance", "parsed", "faithful")),
        *((STEP[name], number(game[name])) for name in ("attacker_reward", "defender_reward")),
        *([(STEP["duplicates"], str(game["duplicates"]))] if game["duplicates"] else []),
        *((f"{player} loss", number(record[player].get("loss"), ".4f")) for player in ("attacker", "defender")),
        *(
            (f"{player} {kind}", str(record[player][kind]))
            for player in ("attacker", "defender")
            for kind in ("pairs", "groups")
            if kind in record[player]
        ),
        ("sampled tok/s", number(timing["sampled_tokens_per_second"], ".0f")),
        ("step s", number(timing["seconds"], ".1f")),
    ]


def _exchange(games: list[Game]) -> list[Text]:
    """The first attack that was answered, and its first response, cut to a line each."""
    for game in games:
        for attack in game.attacks:
            for response in attack.responses:
                if response.rollout:
                    return [
                        _exchange_line(f"{game.seed.category} seed", game.seed.query, None),
                        _exchange_line("attacker", attack.content, attack.reward),
                        _exchange_line("defender", response.rollout.text, response.reward),
                    ]
    return []


def _exchange_line(who: str, text: str, reward: float | None) -> Text:
    figure = "" if reward is None else f"{reward:.1f}"
    line = Text.assemble((f"{who:>13} ", "dim"), (f"{figure:>4}  ", "cyan"), one_line(printable(text)))
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
