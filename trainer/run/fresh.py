"""Whether a sampler samples from the weights that it was given: asked after each load, for a sampler with stale or
misread weights would go unnoticed."""

import torch

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.learn.forward import reference_logps
from advgame.trainer.models.policy import Policy
from advgame.trainer.packs import Group, pack
from advgame.trainer.rollouts.local import LocalSampler

TOLERATED = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Mean difference of a token's log-prob, by what the sampler computes in."""
PROMPT, COMPLETION = 28, 4
"""Tokens."""


def check_fresh(sampler: LocalSampler, policy: Policy, name: str) -> None:
    """Compares the log-probs of a fixed sequence, the sampler's with those of the weights that play.

    name: attacker or defender. Raises ConfigError.
    """
    vocab = policy.model.config.get_text_config().vocab_size
    ids = [(37 * i + 11) % vocab for i in range(PROMPT + COMPLETION)]
    prompt, completion = ids[:PROMPT], ids[PROMPT:]
    expected = reference_logps(policy, pack([Group(prompt, [completion])], policy.model.device))
    difference = (sampler.logprobs(prompt, completion) - expected).abs().mean().item()
    tolerated = max(TOLERATED[sampler.dtype], TOLERATED[policy.products])
    if not difference <= tolerated:
        fix = f"; set {name}.sampling.precision=float32" if sampler.dtype == torch.bfloat16 else ""
        raise ConfigError(
            f"{name}: its sampler does not compute what its weights do: log-probs of the same tokens differ by "
            f"{difference:.3g}, more than {tolerated}{fix}"
        )
