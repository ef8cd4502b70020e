"""Seeds -> games with attacks: every seed is rewritten A times."""

from itertools import islice

from advgame.trainer.base.randomness import Key
from advgame.trainer.prompts.formats import ATTACKER_FORMATS, parse
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Attack, Game, Rollout, Seed
from advgame.trainer.rollouts.base import Request, Sampler
from advgame.trainer.settings.schema import AttackerConfig


def attack(
    seeds: list[Seed], keys: list[Key], attacker: Sampler, prompts: Prompts, config: AttackerConfig
) -> list[Game]:
    """A game for each seed, whose attacks have no responses yet; `keys` are the seeds' random keys."""
    texts = [prompts.attacker(seed.category, config.format, seed.query) for seed in seeds]
    requests = [
        Request(text, (*key, "attacker", a))
        for text, key in zip(texts, keys, strict=True)
        for a in range(config.samples)
    ]
    attacks = (read_attack(rollout, config.format) for rollout in attacker.sample(requests, config.sampling))
    return [Game(seed, tuple(islice(attacks, config.samples))) for seed in seeds]


def read_attack(rollout: Rollout | None, format: str) -> Attack:
    """Takes a sample apart, if it is complete."""
    return Attack(rollout, parse(ATTACKER_FORMATS[format], rollout.text) if rollout and rollout.finished else None)
