"""Judges: a batch of requests in, scores or None out."""

from advgame.trainer.judges.requests import Judge, JudgeRequest, Rubric, Scores

__all__ = ["Judge", "JudgeRequest", "Rubric", "Scores"]
