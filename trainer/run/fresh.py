"""Whether a sampler samples from the weights that it was given: a sampler with stale or misread weights would go
unnoticed. It is asked after each load, and what it sampled is compared."""

import torch

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.learn.forward import reference_logps
from advgame.trainer.models.policy import Policy
from advgame.trainer.packs import Group, pack
from advgame.trainer.records import Game, Rollout
from advgame.trainer.rollouts.local import LocalSampler

TOLERATED = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Mean difference of a token's log-prob, by what the sampler computes in. The tokens are improbable ones: bfloat16's
errors are largest there, up to .2 in players of 135M parameters."""
PROMPT, COMPLETION = 28, 4
"""Tokens."""


def check_fresh(sampler: LocalSampler, policy: Policy, name: str) -> None:
    """Compares the log-probs of a fixed sequence, the sampler's with those of the weights that play.

    name: attacker or defender. Raises ConfigError.
    """
    vocab = policy.model.config.get_text_config().vocab_size
    ids = [(37 * i + 11) % vocab for i in range(PROMPT + COMPLETION)]
    prompt, completion = ids[:PROMPT], ids[PROMPT:]
    (expected,) = reference_logps(policy, [pack([Group(prompt, [completion])], policy.model.device)])
    difference = (sampler.logprobs(prompt, completion) - expected).abs().mean().item()
    tolerated = max(TOLERATED[sampler.dtype], TOLERATED[policy.products])
    if not difference <= tolerated:
        fix = f"; set {name}.sampling.precision=float32" if sampler.dtype == torch.bfloat16 else ""
        raise ConfigError(
            f"{name}: its sampler does not compute what its weights do: log-probs of the same tokens differ by "
            f"{difference:.3g}, more than {tolerated}{fix}"
        )


def rollout_mismatch(policy: Policy, samples: list[Rollout]) -> dict[str, float]:
    """How far the log-probs of samples of one prompt are from those that the policy's weights give in training.

    Differences of a token's log-prob, and the KL divergence from the sampler to the policy as k3 estimates it (mean of
    r - 1 - log r, where r is the ratio of policy to sampler), as if tokens were drawn at temperature 1.
    """
    group = Group(samples[0].prompt_ids, [sample.token_ids for sample in samples])
    sampled = [logprob for sample in samples for logprob in sample.logprobs]
    (logps,) = reference_logps(policy, [pack([group], policy.model.device)])
    log_ratio = logps.double() - torch.tensor(sampled, dtype=torch.float64, device=logps.device)
    off = log_ratio.abs()
    return {"mean": off.mean().item(), "largest": off.max().item(), "k3": (log_ratio.expm1() - log_ratio).mean().item()}


def first_samples(name: str, games: list[Game]) -> list[Rollout]:
    """All samples of the first prompt that a player continued, if it continued any. name: attacker or defender."""
    if name == "attacker":
        prompts = [[attack.rollout for attack in game.attacks] for game in games]
    else:
        prompts = [[response.rollout for response in attack.responses] for game in games for attack in game.shown]
    samples = ([rollout for rollout in rollouts if rollout] for rollouts in prompts)
    return next(filter(None, samples), [])
