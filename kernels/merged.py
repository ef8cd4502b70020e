"""Attention over packs that share prefixes, in parts that operators for pieces of variable length compute.

One part is causal attention within the segments. The others have no mask, one for each pair of depths: the segments of
the upper depth are neighbouring keys, and the descendants of each of them are neighbouring queries. The outputs are
merged by their log-sum-exps.

The operators' log-sum-exps are not differentiable, so the merge is not left to autograd. The gradient of a part's
scores depends on the rest of the softmax through the output and the log-sum-exp alone (Dao 2023, arXiv 2307.08691,
algorithm 2): given the merged ones, each part's own backward operator computes its share of the whole's gradients.
"""

import torch
from torch import Tensor

from advgame.kernels.packs import PrefixTree
from advgame.kernels.varlen import OPERATORS


def attend_in_parts(
    query: Tensor, key: Tensor, value: Tensor, layout: PrefixTree, scale: float
) -> tuple[Tensor, Tensor]:
    """(output [T, Hq, D], log-sum-exp of the scores [Hq, T]) of query [T, Hq, D], key and value [T, Hkv, D]."""
    attend = OPERATORS[query.device.type].forward
    out, lse = attend(query, key, value, layout.segments, layout.segments, True, scale)
    for part in layout.descents:
        q, k = part.query_tokens, part.key_tokens
        above, above_lse = attend(query[q], key[k], value[k], part.queries, part.keys, False, scale)
        merged = torch.logaddexp(lse[:, q], above_lse)
        share = torch.exp(lse[:, q] - merged).T[:, :, None].to(out.dtype)
        out[q] = torch.lerp(above, out[q], share)
        lse[:, q] = merged
    return out, lse


def differentiate_in_parts(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    layout: PrefixTree,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients with respect to query, key and value, from what attend_in_parts takes and returns."""
    differentiate = OPERATORS[query.device.type].backward
    grad_out, own = grad_out.contiguous(), layout.segments
    d_query, d_key, d_value = differentiate(grad_out, query, key, value, out, lse, own, own, True, scale)
    for part in layout.descents:
        q, k = part.query_tokens, part.key_tokens
        above = differentiate(
            grad_out[q], query[q], key[k], value[k], out[q], lse[:, q].contiguous(),
            part.queries, part.keys, False, scale,
        )  # fmt: skip
        d_query[q] += above[0]
        d_key[k] += above[1]
        d_value[k] += above[2]
    return d_query, d_key, d_value
