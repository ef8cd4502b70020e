"""Fused losses, packed attention and sampling for training language models. It needs PyTorch, but never the trainer."""

from advgame.kernels.attention import shared_prefix_attention
from advgame.kernels.decoding import cache_tokens, cached_attention, empty_cache
from advgame.kernels.flash_attention import activate_flash_attention, choose_flash_attention
from advgame.kernels.logprobs import linear_logprobs
from advgame.kernels.packed import PackedWeight, pack_weight, packed_linear
from advgame.kernels.packs import PrefixTree, prefix_tree
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
    "PackedWeight",
    "PolicyOutput",
    "PreferenceInputs",
    "PreferenceOutput",
    "PrefixTree",
    "activate_flash_attention",
    "cache_tokens",
    "cached_attention",
    "choose_flash_attention",
    "empty_cache",
    "linear_game_loss",
    "linear_logprobs",
    "linear_policy_loss",
    "linear_preference_loss",
    "pack_weight",
    "packed_linear",
    "prefix_tree",
    "sample_top_p",
    "shared_prefix_attention",
]
