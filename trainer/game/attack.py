"""Seeds -> attacker rollouts: every seed is rewritten A times."""

from advgame.trainer.config import AttackerConfig
from advgame.trainer.formats import ATTACKER_FORMATS, parse
from advgame.trainer.game import Attack, Game, Rollout, Seed
from advgame.trainer.models import Policy
from advgame.trainer.prompts import Prompts, chat_ids
from advgame.trainer.sampler import Prompt, sample


def attack(
    seeds: list[Seed], keys: list[tuple], policy: Policy, prompts: Prompts, config: AttackerConfig
) -> list[Game]:
    """A game per seed, with its attacks and no responses yet; `keys` are the seeds' random keys."""
    inputs = [chat_ids(policy.tokenizer, prompts.attacker(seed.category, config.format, seed.prompt)) for seed in seeds]
    requests = [
        Prompt(input_ids, (*key, "attacker", a))
        for input_ids, key in zip(inputs, keys, strict=True)
        for a in range(config.samples)
    ]
    rollouts = iter(sample(policy, requests, config.sampling, "attacker"))
    return [
        Game(seed, input_ids, [read_attack(next(rollouts), config.format) for _ in range(config.samples)])
        for seed, input_ids in zip(seeds, inputs, strict=True)
    ]


def read_attack(rollout: Rollout, format: str) -> Attack:
    """Takes a rollout apart; what did not end, or does not parse, is not shown to anybody."""
    if not rollout.finished:
        return Attack("max_length", rollout)
    parsed = parse(ATTACKER_FORMATS[format], rollout.text)
    if parsed is None:
        return Attack("parsing", rollout)
    return Attack("no_error", rollout, *parsed)
