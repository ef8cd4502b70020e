"""Decoding on a GPU: a step's hundreds of small kernels are recorded once, and replayed without Python.

A recording is of a number of rows and of the tensors that it was made with: rows are filled up to one of a few numbers,
and their tokens copied to where the recording reads them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig

from advgame.kernels.decoding import BLOCK
from advgame.trainer.rollouts.decoder import Cache, Decoder, Tokens

LOOKS_AT_POSITIONS = ("dynamic", "longrope")
"""Rotary embeddings that ask how long the sequences are, for which the host would have to wait."""

Step = Callable[[Tokens], Tensor]
"""[R, V] logits of what follows R tokens, one of each sequence; `sees` of them is a tensor."""


def make_step(decoder: Decoder, cache: Cache, spare: int) -> Step:
    """spare: a block of the cache that no sequence has."""

    def step(tokens: Tokens) -> Tensor:
        return decoder.logits(decoder.forward(tokens, cache))

    if decoder.device.type != "cuda" or rope_type(decoder.model.config) in LOOKS_AT_POSITIONS:
        return step
    return Replayed(step, spare, record)


class Recorded(NamedTuple):
    tokens: Tokens
    """That it reads."""
    run: Callable[[], Tensor]


class Replayed:
    """A step that is recorded by `record` for each number of rows, when that is first met with."""

    def __init__(self, step: Step, spare: int, record: Callable[[Step, Tokens], Callable[[], Tensor]]):
        self._step, self._spare, self._record = step, spare, record
        self._recorded: dict[int, Recorded] = {}

    def __call__(self, tokens: Tokens) -> Tensor:
        rows = len(tokens.ids)
        tokens = filled_up(tokens, padded(rows), self._spare)
        key = len(tokens.ids)
        if key not in self._recorded:
            self._recorded[key] = Recorded(tokens, self._record(self._step, tokens))
        recorded = self._recorded[key]
        for name in ("ids", "positions", "places", "sees"):
            getattr(recorded.tokens, name).copy_(getattr(tokens, name))
        return recorded.run()[:rows]


def padded(rows: int) -> int:
    """The next power of two up to 16, then the next multiple of 16."""
    return 1 << (rows - 1).bit_length() if rows <= 16 else -(-rows // 16) * 16


def filled_up(tokens: Tokens, rows: int, spare: int) -> Tokens:
    """With copies of the first token in a block of their own, which see nothing else."""
    assert isinstance(tokens.sees, Tensor)
    more = rows - len(tokens.ids)
    places = torch.arange(spare * BLOCK, spare * BLOCK + more, device=tokens.places.device)
    sees = torch.zeros_like(tokens.sees[:1].expand(more, -1, -1))
    sees[:, 0] = torch.tensor([spare, 1], dtype=sees.dtype, device=sees.device)
    return Tokens(
        ids=torch.cat([tokens.ids, tokens.ids[:1].expand(more)]),
        positions=torch.cat([tokens.positions, tokens.positions[:1].expand(more)]),
        places=torch.cat([tokens.places, places]),
        sees=torch.cat([tokens.sees, sees]),
    )


def record(step: Step, tokens: Tokens) -> Callable[[], Tensor]:
    """As a CUDA graph. The step is run once before: libraries and kernels must be loaded."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(tokens)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step(tokens)

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay


def rope_type(config: PretrainedConfig) -> str | None:
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return parameters.get("rope_type")
