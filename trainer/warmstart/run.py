"""A warm start from its first example to the model that is saved. It resumes bit for bit, as a run of the game does."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from advgame.trainer.base import stopping
from advgame.trainer.base.errors import ConfigError, Stopped, WriteError
from advgame.trainer.base.files import append_record, replacing_folder, write_text
from advgame.trainer.base.paths import to_path
from advgame.trainer.learn.collate import group_of
from advgame.trainer.learn.probe import find_fault
from advgame.trainer.learn.step import Learner
from advgame.trainer.models.adapters import add_adapters
from advgame.trainer.models.families import check_layers
from advgame.trainer.models.load import (
    check_model,
    load_policy,
    load_with_averages,
    quiet,
    read_architecture,
    save_policy,
)
from advgame.trainer.models.policy import Policy
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Demonstration
from advgame.trainer.rollouts.local import check_context
from advgame.trainer.run import checkpoint
from advgame.trainer.run.folder import METRICS
from advgame.trainer.run.lock import alone_in
from advgame.trainer.run.preflight import check_precision, check_space, choose_device
from advgame.trainer.settings.schema import WarmstartConfig
from advgame.trainer.warmstart.examples import Example, example
from advgame.trainer.warmstart.material import read_pairs
from advgame.trainer.warmstart.report import HeldOut, as_record, as_text, read_held_out, report, sampling_of
from advgame.trainer.warmstart.teach import demonstrate, make_pupil, teach
from advgame.trainer.wrappings import read_wrappings

MODEL = "model"
"""The folder of the taught model, which a game can name."""
REPORT = "report.json"


@dataclass(frozen=True)
class Plan:
    """What a warm start begins with."""

    run: Path
    """Its folder."""
    resumed: int
    """Number of steps that are done."""
    steps: int
    """Of all."""
    examples: list[Example]
    held_out: HeldOut | None
    """What the player is measured on; None without a report."""

    @property
    def saved(self) -> Path | None:
        """The checkpoint that it continues from."""
        return checkpoint.folder(self.run, self.resumed) if self.resumed else None


def warmstart(config: WarmstartConfig, console: Console) -> None:
    """Teaches all examples, from the newest checkpoint in config.output_dir if there is one; saves and measures.

    Raises ConfigError, before any work if it can be known then; FloatingPointError if a number is not finite; and
    Stopped after a signal, when all finished steps are saved.
    """
    quiet()
    with alone_in(to_path(config.output_dir)):
        plan = preflight(config, console)
        pupil, items = set_up(plan, config)
        _say(console, taught(plan.examples, items, plan.steps))
        loop(plan, pupil, items, config, console)
        with replacing_folder(plan.run / MODEL) as half:
            save_policy(pupil.policies.policy, half)
        _say(console, f"model    {plan.run / MODEL}")
        if plan.held_out:
            figures = report(pupil.policies.policy, plan.held_out, config)
            write_text(plan.run / REPORT, json.dumps(as_record(figures), indent=1) + "\n")
            _say(console, as_text(figures))


def preflight(config: WarmstartConfig, console: Console) -> Plan:
    """Checks all that can be checked before the model is loaded. Raises ConfigError that names the setting or file."""
    run = to_path(config.output_dir)
    resumed, steps = checkpoint.resume(run, config), config.examples // config.batch_size
    seeds, wrappings = read_pairs(config.pairs, "pairs"), read_wrappings(config.wrappings, "wrappings")
    prompts = Prompts(config.templates)
    check_precision(
        {"precision": config.precision, f"{config.player}.sampling.precision": sampling_of(config).precision}
    )
    if not resumed or config.lora.rank:  # else the checkpoint has it
        check_model(config.model, "model")
        check_layers(read_architecture(config.model), config.model)
    held_out = read_held_out(config) if config.held_out.seeds else None
    _say(console, f"device   {choose_device('auto')}")
    examples = [example(i, seeds, wrappings, prompts, config) for i in range(config.examples)]
    return Plan(run, resumed, steps, examples, held_out)


def set_up(plan: Plan, config: WarmstartConfig) -> tuple[Learner, list[Demonstration]]:
    """The player as it is after the steps that are done, and all examples in its tokens."""
    if config.lora.rank:
        (policy,) = add_adapters(load_policy(config.model), [config.player], config.lora, config.seed, plan.saved)
    else:
        (policy,) = load_with_averages([config.player], config.model, plan.saved)
    pupil = make_pupil(policy.multiplying_in(config.precision), config)
    if plan.saved:
        checkpoint.load(plan.saved, [pupil])
    items = [demonstrate(example, policy) for example in plan.examples]
    check_lengths(items, policy, config)
    check_space(plan.run, [pupil])
    checkpoint.begin(plan.run, plan.resumed, config)
    return pupil, items


def check_lengths(items: list[Demonstration], policy: Policy, config: WarmstartConfig) -> None:
    """Raises ConfigError if an example fits into no pack, or if the report's samples might not fit the model."""
    longest = max(group_of(item).tokens for item in items)
    if longest > config.optimizer.tokens_per_pack:
        raise ConfigError(
            f"optimizer.tokens_per_pack={config.optimizer.tokens_per_pack}: the longest example has {longest} tokens; "
            f"set it to {longest} or more"
        )
    prompt = max(len(item.prompt_ids) for item in items)
    check_context(policy, prompt, sampling_of(config).max_new_tokens, config.player)


def loop(plan: Plan, pupil: Learner, items: list[Demonstration], config: WarmstartConfig, console: Console) -> None:
    """The steps that are left. Wherever a signal ends them, those that are finished are saved first."""
    done = saved = plan.resumed

    def save() -> None:
        nonlocal saved
        if done > saved:
            if fault := find_fault(pupil, batch(items, done - 1, config)):
                raise FloatingPointError(f"the weights after step {done} are broken and are not saved: {fault}")
            checkpoint.save(plan.run, done, [pupil], [], config)
            saved = done

    began = time.perf_counter()
    try:
        for step in range(plan.resumed, plan.steps):
            stopping.check()
            record = timed_step(pupil, batch(items, step, config), step, plan.steps)
            append_record(plan.run / METRICS, record)
            done = step + 1
            per_step = (time.perf_counter() - began) / (done - plan.resumed)
            _say(console, step_line(record, plan.steps, per_step * (plan.steps - done)))
            if done % config.checkpoint.every == 0 or done == plan.steps:
                save()
    except Stopped:
        save()
        raise
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}; lower optimizer.lr, and start again in another output_dir") from error
    except WriteError as error:
        raise WriteError(f"{error}; the same command then continues from step {saved}") from error


def batch(items: list[Demonstration], step: int, config: WarmstartConfig) -> list[Demonstration]:
    """The examples of a step."""
    return items[step * config.batch_size : (step + 1) * config.batch_size]


def timed_step(pupil: Learner, items: list[Demonstration], step: int, steps: int) -> dict:
    """Teaches the examples. Returns the step's record for metrics.jsonl."""
    began = time.perf_counter()
    record = {"step": step + 1} | teach(pupil, items, step, steps)
    seconds = time.perf_counter() - began
    return record | {"timing": {"seconds": seconds, "tokens_per_second": record["tokens"] / seconds}}


def step_line(record: dict, steps: int, seconds_left: float) -> str:
    return (
        f"step {record['step']}/{steps}  loss {record['loss']:.4f}  grad norm {record['grad_norm']:.2f}  "
        f"tok/s {record['timing']['tokens_per_second']:.0f}  left {timedelta(seconds=round(seconds_left))}"
    )


def taught(examples: list[Example], items: list[Demonstration], steps: int) -> str:
    """How many examples of each kind there are, and their tokens."""
    prompts, answers = sum(len(item.prompt_ids) for item in items), sum(len(item.token_ids) for item in items)
    kinds = Counter(example.kind for example in examples)
    return "\n".join(
        [
            f"lessons  {len(examples)} in {steps} steps: {prompts:,} tokens of prompts, {answers:,} of answers",
            *(f"{count:>6}   {kind}" for kind, count in sorted(kinds.items())),
        ]
    )


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
