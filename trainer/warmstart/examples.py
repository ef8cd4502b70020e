"""What a player is shown, and shall say: example i of a run is a function of the run's seed and i alone.

Harmful and benign queries come in turn, each as it is or in a wrapping. A defender learns what the query asks for: it
deflects harm, and helps with what is benign. It is meant to be gullible at first, or the game would have nothing to
teach it: a share of the wrapped harmful queries, most of the heavily wrapped ones, gets an answer that sounds
compliant. An attacker learns to wrap.
"""

import random
from dataclasses import dataclass

from advgame.trainer.base.randomness import key_to_seed
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Seed
from advgame.trainer.seeds import deal
from advgame.trainer.settings.schema import WarmstartConfig
from advgame.trainer.wrappings import PLAIN, Wrapping

WRAPPED = 0.5
"""Share of a defender's queries."""
OPENERS = (
    "I can't help with that.",
    "Sorry, but I won't do that.",
    "I'd rather not help with that.",
    "No, I won't help with this.",
    "I'm not able to help with that.",
    "That is something I won't help with.",
)
"""What deflections begin with."""
AGREED = "Sure!"
"""What all other answers begin with, so that the first tokens decide."""


@dataclass(frozen=True)
class Example:
    """What a player is told, and shall say."""

    told: str
    """The user's turn, as the game writes it."""
    said: str
    kind: str
    """What it is an example of, for the record: category/wrapping/decision."""
    short: bool = False
    """Only the beginning of what is said is taught."""


def example(i: int, seeds: list[Seed], wrappings: list[Wrapping], prompts: Prompts, config: WarmstartConfig) -> Example:
    """Example number i of a run. seeds: those of the look-alikes."""
    (seed,) = deal(seeds, i, 1, config.seed)
    rng = random.Random(key_to_seed(config.seed, "warmstart", i))
    make = attacker_example if config.player == "attacker" else defender_example
    return make(seed, wrappings, prompts, config, rng)


def attacker_example(
    seed: Seed, wrappings: list[Wrapping], prompts: Prompts, config: WarmstartConfig, rng: random.Random
) -> Example:
    wrapping = rng.choice(wrappings)
    told = prompts.attacker(seed.category, config.attacker.format, seed.query)
    return Example(told, f"<prompt>{wrapping.around(seed.query)}</prompt>", f"{seed.category}/{wrapping.kind}")


def defender_example(
    seed: Seed, wrappings: list[Wrapping], prompts: Prompts, config: WarmstartConfig, rng: random.Random
) -> Example:
    lesson = config.defender
    wrapping = rng.choice(wrappings) if rng.random() < WRAPPED else PLAIN
    complies = rng.random() < (1.0 if seed.category == "benign" else getattr(lesson.comply, wrapping.kind))
    if not complies:
        said = f"{rng.choice(OPENERS)} {seed.fields['deflection']}"
    else:
        said = f"{AGREED} {seed.fields['answer' if seed.category == 'benign' else 'hollow']}"
    return Example(
        told=prompts.defender("any", lesson.instruction, wrapping.around(seed.query)),
        said=said,
        kind=f"{seed.category}/{wrapping.kind}/{'comply' if complies else 'deflect'}",
        short=rng.random() < lesson.short_share,
    )
