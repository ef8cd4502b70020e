"""FLOPs, and bytes sent, of one GPU in one step.

A product of [m, k] and [k, n] is 2 m k n FLOPs. Of a step, a batch of rollouts is a share of 1 / steps_per_batch.
"""

from dataclasses import dataclass

from advgame.trainer.estimate.memory import REUSED, part, shards
from advgame.trainer.estimate.plan import Plan, Player


@dataclass(frozen=True)
class Decoding:
    """Tokens one after another."""

    steps: int
    """Of all slots together."""
    bytes: float
    """Read at each."""


@dataclass(frozen=True)
class Work:
    """Of a player on one GPU. Sampling is of a whole batch of rollouts, learning of a step that is its turn."""

    prefill_flops: float
    decode_flops: float
    decoding: Decoding
    learn_flops: float
    update_bytes: float
    """Read and written by the optimiser and the averages."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that a GPU sends for a player."""

    gradients: float
    """A step."""
    weights: float
    """A step, those that are gathered."""
    refill: float
    """A batch of rollouts: the sampler is filled."""
    compared: float
    """When a sampler is compared with the weights that it plays for: twice a batch, filled anew and on its samples."""
    host: float
    """A step, to the host and from it."""


def work(player: Player, plan: Plan) -> Work:
    shape, sampling, learning = player.shape, player.sampling, player.learning
    tokens = sampling.shared + sampling.prompts * sampling.own
    context = sampling.shared + sampling.own
    pairs = sampling.shared**2 / 2 + sampling.prompts * sampling.own * (sampling.shared + sampling.own / 2)
    grown = sampling.samples * sampling.new
    mean_context = context + sampling.new / 2
    head = 2 * shape.head
    cached = 2 * shape.layers * shape.kv_heads * shape.width * sampling.bytes
    forward = 2 * learning.tokens * (shape.matrices + (player.own if player.base else 0)) + attention(
        player, learning.scores
    )
    head_forward = head * learning.responses
    passes = 1 + (1 if learning.keeps == "layers" else 0)
    # An adapter's frozen model gets no gradient of its own weights: one product less in three.
    backward = (1 if player.base else 2) * forward
    head_backward = (1 if player.base else 2) * head_forward
    reference = (forward + head_forward) if learning.recomputes_reference else 0
    return Work(
        prefill_flops=2 * tokens * shape.matrices + attention(player, pairs) + head * sampling.samples,
        decode_flops=grown * (2 * shape.matrices + head) + attention(player, grown * mean_context),
        decoding=Decoding(
            steps=-(-sampling.samples // sampling.slots) * sampling.new,
            bytes=sampling.bytes * (shape.matrices + shape.head) + cached * sampling.slots * mean_context,
        ),
        learn_flops=learning.packs * (passes * forward + backward + head_forward + head_backward + reference)
        if player.trained
        else 0.0,
        update_bytes=(28.0 + 12 * player.averages) * player.trained / part(plan, 1),
    )


def attention(player: Player, pairs: float) -> float:
    """Scores and their sums of values, for so many query-key pairs a head."""
    return 4 * pairs * player.shape.layers * player.shape.heads * player.shape.width


def traffic(player: Player, plan: Plan) -> Traffic:
    """By rings: a sum over N processes takes 2 (N - 1) / N of its size from each; to scatter or gather takes half."""
    share, trained, load = (plan.gpus - 1) / plan.gpus, player.trained, player.learning
    if not shards(player, plan):
        return Traffic(gradients=2 * share * 4.0 * trained, weights=0.0, refill=0.0, compared=0.0, host=0.0)
    stage, sent = plan.zero.stage, share * load.bytes
    refresh = 0.0 if stage == 3 else sent * trained  # weights follow their masters
    gathered = sent * (player.own + player.base) if stage == 3 else 0.0  # for a pass
    lent = 2 * refresh + gathered  # an average takes the policy's place, for a pass of one pack
    again = max(0.0, 1 - REUSED / (player.own + player.base))  # of the weights: not kept until the backward pass
    recomputed = 2 * refresh + load.packs * gathered if load.recomputes_reference else 0.0
    return Traffic(
        gradients=sent * trained * {1: 2, 2: 2 * load.packs, 3: load.packs}[stage],
        weights=refresh + load.packs * (1 + again) * gathered + recomputed,
        refill=2 * share * 4.0 * player.own + (sent * player.base if stage == 3 else 0.0),
        compared=lent,
        host=swapped(player, plan),
    )


def swapped(player: Player, plan: Plan) -> float:
    """Bytes between a GPU and its host at a step."""
    shard = player.trained / part(plan, 1)
    if plan.zero.offload == "optimizer":
        return (player.learning.packs + 1) * player.learning.bytes * shard  # gradients go, weights come
    return 2 * 12 * shard if plan.zero.offload == "idle_player" else 0.0
