"""Fused losses and sampling for training language models: needs torch alone, never the trainer."""

from advgame.kernels.logprobs import linear_logprobs
from advgame.kernels.preference import PreferenceOutput, linear_preference_loss
from advgame.kernels.sampling import sample_top_p

__all__ = ["PreferenceOutput", "linear_logprobs", "linear_preference_loss", "sample_top_p"]
