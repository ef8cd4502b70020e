"""What the user sees while a run goes on: one live view on a terminal, one line a step elsewhere."""

import time
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from advgame.trainer.game import Game


class Progress:
    """Measures the stages of each step and shows the run; silent unless `visible`."""

    def __init__(self, title: str, start: int, steps: int, visible: bool):
        self.console = Console(quiet=not visible)
        self._title, self._start, self._done, self._steps = title, start, start, steps
        self._stage = "starting"
        self._began = self._taken = self._stage_began = time.perf_counter()
        self.stages: dict[str, float] = defaultdict(float)
        """Seconds of each since the last `take_stages`."""
        self._record: dict | None = None
        self._games: list[Game] = []
        self._live = Live(get_renderable=self._view, console=self.console, refresh_per_second=2)
        self._is_live = visible and self.console.is_terminal

    def __enter__(self) -> "Progress":
        if self._is_live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_) -> None:
        self._live.stop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Shows what is going on, and adds its time to the step's."""
        self._stage, self._stage_began = name, time.perf_counter()
        yield
        self.stages[name] += time.perf_counter() - self._stage_began
        self._stage = ""

    def take_stages(self) -> dict:
        """Seconds since the last call, or since the start: of all, and of each stage."""
        now = time.perf_counter()
        taken = {"elapsed": now - self._taken, "stages": dict(self.stages)}
        self._taken, self.stages = now, defaultdict(float)
        return taken

    def step_done(self, record: dict, games: list[Game]) -> None:
        self._done, self._record, self._games = record["step"], record, games
        if not self._is_live:
            self.console.print(Text(self._line()), soft_wrap=True)

    def evaluation_done(self, step: int, record: dict) -> None:
        self.console.print(Text(evaluation_line(step, record)), soft_wrap=True)
        for alarm in record["alarms"]:
            self.console.print(Text(f"alarm at step {step}: {alarm}", "yellow"), soft_wrap=True)

    def _time_left(self) -> str:
        if self._done == self._start:
            return "?"
        per_step = (time.perf_counter() - self._began) / (self._done - self._start)
        return str(timedelta(seconds=round(per_step * (self._steps - self._done))))

    def _line(self) -> str:
        parts = [f"step {self._done}/{self._steps}", *(f"{k} {v}" for k, v in _numbers(self._record))]
        return "  ".join([*parts, f"left {self._time_left()}"])

    def _view(self) -> Group:
        head = Table.grid(expand=True, padding=(0, 2))
        head.add_column(ratio=1)
        head.add_column(justify="right")
        stage = f"{self._stage} {time.perf_counter() - self._stage_began:.0f} s" if self._stage else ""
        head.add_row(
            ProgressBar(total=self._steps, completed=self._done),
            f"step {self._done}/{self._steps}   time left {self._time_left()}   {stage}",
        )
        parts = [head]
        if self._record:
            cells = [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in _numbers(self._record)]
            numbers = Columns(cells, padding=(0, 2), equal=True)  # as many as fit into a row
            parts += [Text(), numbers, Text(), *_exchange(self._games)]
        return Group(Panel(Group(*parts), title=Text(self._title)))


def _numbers(record: dict) -> list[tuple[str, str]]:
    """The figures that are shown, in their order, as (name, text)."""
    game, timing = record["game"], record["timing"]
    return [
        ("attack success", number(game["attack_success"], ".0%")),
        ("benign compliance", number(game["benign_compliance"], ".0%")),
        ("parsed", number(game["parsed"], ".0%")),
        ("faithful", number(game["faithful"], ".0%")),
        ("attacker reward", number(game["attacker_reward"])),
        ("defender reward", number(game["defender_reward"])),
        ("attacker loss", number(record["attacker"].get("loss"), ".4f")),
        ("defender loss", number(record["defender"].get("loss"), ".4f")),
        *(
            (f"{player} {kind}", str(record[player][kind]))
            for player in ("attacker", "defender")
            for kind in ("pairs", "groups")
            if kind in record[player]
        ),
        ("sampled tok/s", number(timing["sampled_tokens_per_second"], ".0f")),
        ("step s", number(timing["seconds"], ".1f")),
    ]


def evaluation_line(step: int, record: dict) -> str:
    """Attack success of all attacks, benign compliance, and one measure of diversity."""

    def share(name: str, rate: str) -> str:
        return number(record[name][rate], ".0%")

    asked = {"current": "current", "initial": "initial", "written": "held-out", "plain": "plain"}
    success = ", ".join(f"{share(name, 'attack_success')} {label}" for name, label in asked.items())
    compliance = f"{share('plain', 'benign_compliance')} plain, {share('current', 'benign_compliance')} under attack"
    bleu = number(record["diversity"]["self_bleu"])
    return f"evaluation at step {step}: attack success {success}; benign compliance {compliance}; self-BLEU {bleu}"


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def _exchange(games: list[Game]) -> list[Text]:
    """The first attack that was answered, cut to a line each."""
    for game in games:
        for attack in game.attacks:
            for response in attack.responses:
                if response.rollout is not None:
                    lines = [
                        (f"{game.seed.category} seed", game.seed.prompt, ""),
                        ("attacker", attack.content, attack.reward),
                        ("defender", response.rollout.text, response.reward),
                    ]
                    return [_exchange_line(*line) for line in lines]
    return []


def _exchange_line(who: str, text: str, reward: float | str | None) -> Text:
    shown = " ".join(printable(text).split())
    figure = "" if reward in ("", None) else f"{reward:.1f}"
    line = Text.assemble((f"{who:>13} ", "dim"), (f"{figure:>4}  ", "cyan"), shown)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def warn_plainly() -> None:
    """Shows warnings as a line, without the place in the code that they come from."""
    warnings.formatwarning = lambda message, *_: f"warning: {printable(str(message))}\n"


def printable(text: str) -> str:
    """What a model wrote, with everything that could steer a terminal spelt out."""
    return "".join(c if _is_harmless(c) else c.encode("unicode_escape").decode() for c in text)


def _is_harmless(c: str) -> bool:
    """Joiners are part of words in many scripts, and there are more spaces than one."""
    return c.isprintable() or c in "\n\t\u200c\u200d" or unicodedata.category(c) == "Zs"
