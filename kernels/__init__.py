"""Fused losses, packed attention and sampling for training language models: needs torch alone, never the trainer."""

from advgame.kernels.attention import SharedPrompts, shared_prompt_attention, shared_prompts
from advgame.kernels.logprobs import linear_logprobs
from advgame.kernels.policy import PolicyOutput, linear_policy_loss
from advgame.kernels.preference import (
    GameOutput,
    PreferenceInputs,
    PreferenceOutput,
    linear_game_loss,
    linear_preference_loss,
)
from advgame.kernels.sampling import sample_top_p

__all__ = [
    "GameOutput",
    "PolicyOutput",
    "PreferenceInputs",
    "PreferenceOutput",
    "SharedPrompts",
    "linear_game_loss",
    "linear_logprobs",
    "linear_policy_loss",
    "linear_preference_loss",
    "sample_top_p",
    "shared_prompt_attention",
    "shared_prompts",
]
