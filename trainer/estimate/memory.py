"""Memory of one GPU, by parts, in bytes.

What is held all run long is a sum over both players. What comes and goes is not: one player samples or learns at a
time, so the peak is the largest of these moments. The parts of a moment are what the trainer's own code keeps (see
learn/, rollouts/ and kernels/), counted in tensors; an allocator's rounding is not.
"""

from dataclasses import dataclass

from advgame.kernels import cpu
from advgame.kernels.decoding import BLOCK, blocks_of
from advgame.trainer.engines.zero import BUCKET, SHARD
from advgame.trainer.estimate.plan import Learning, Plan, Player, Sampling
from advgame.trainer.estimate.shapes import Shape
from advgame.trainer.rollouts.prefixes import PACK_TOKENS

Parts = dict[str, float]
"""Name of a part -> bytes."""

TRITON_CHUNK = 2048
"""CHUNK_TOKENS of kernels/triton, which is there with a GPU only."""
REUSED = 10**9
"""Numbers within which a weight that is needed again stays whole: DeepSpeed's stage3_max_reuse_distance."""


@dataclass(frozen=True)
class Memory:
    held: dict[str, Parts]
    """By player; `both` is a base that they share."""
    host: Parts
    """What a process keeps in its host's memory, by player."""
    moments: dict[str, Parts]
    """What comes and goes, by the moment of which it is the peak."""
    loading: Parts
    """When the defender is shared out: it is there whole, beside its shards and the attacker's."""

    @property
    def always(self) -> float:
        return sum(sum(parts.values()) for parts in self.held.values())

    @property
    def peaks(self) -> dict[str, float]:
        """All that is held at a moment's peak."""
        peaks = {name: self.always + sum(parts.values()) for name, parts in self.moments.items()}
        return peaks | ({"the defender is loaded": sum(self.loading.values())} if self.loading else {})

    @property
    def peak_moment(self) -> str:
        return max(self.peaks, key=self.peaks.__getitem__)

    @property
    def peak(self) -> float:
        return max(self.peaks.values())


def memory(plan: Plan) -> Memory:
    """Of a GPU in this run."""
    held = {name: held_by(player, plan) for name, player in plan.players.items()}
    bases = [base(player, plan) for player in plan.players.values()]
    if plan.one_base:
        held["both"] = {"frozen model": bases[0]}
    else:
        for parts, size in zip(held.values(), bases, strict=True):
            parts |= {"frozen model": size} if size else {}
    moments: dict[str, Parts] = {}
    for name, player in plan.players.items():
        moments[f"the {name} samples"] = sampling(player.shape, player.sampling)
        if player.evaluation:
            moments[f"the {name} plays in an evaluation"] = sampling(player.shape, player.evaluation)
        if player.trained:
            moments[f"the {name} learns"] = learning(player, plan)
    host = {name: size for name, player in plan.players.items() if (size := waiting(player, plan))}
    return Memory(held, host, moments, loading(plan, held))


def held_by(player: Player, plan: Plan) -> Parts:
    """All run long, without a base under an adapter."""
    own, trained = player.own, player.trained
    sampler = {"sampler's copy": player.sampling.bytes * copied(player.shape)}
    if not shards(player, plan):
        return {
            "weights": 4.0 * own,
            "Adam": 8.0 * trained,
            "averages": 4.0 * own * player.averages,
        } | sampler
    ranks = part(plan, 1)
    on_card = 0.0 if plan.zero.offload != "none" else 1.0
    gradients = 0.0
    if plan.zero.stage == 3 and plan.zero.offload != "optimizer":
        gradients = 4 * trained / ranks
    elif plan.zero.stage == 1 and player.learning.bytes == 2 and plan.zero.offload == "none":
        gradients = 4.0 * trained  # DeepSpeed's optimiser for bfloat16 shards none of them
    return {
        "weights": player.learning.bytes * own / part(plan, 3),
        "float32 masters": on_card * 4 * trained / ranks,
        "Adam": on_card * 8 * trained / ranks,
        "averages": on_card * 4 * own * player.averages / ranks,
        "gradients": gradients,
        "to be sent": bucket(player, plan) if plan.zero.stage == 3 else 0.0,
    } | sampler


def base(player: Player, plan: Plan) -> float:
    """The frozen model under an adapter."""
    return (player.learning.bytes / part(plan, 3) if shards(player, plan) else 4.0) * player.base


def bucket(player: Player, plan: Plan) -> float:
    """Room of the gradients that are sent at once. On processors what is never touched takes no memory."""
    return float(player.learning.bytes * (BUCKET if plan.cuda else min(BUCKET, player.trained)))


def waiting(player: Player, plan: Plan) -> float:
    """Bytes of a player that learns in its host's memory: for the whole run, or except during the player's steps."""
    if not shards(player, plan) or plan.zero.offload == "none":
        return 0.0
    summed = 8 if plan.zero.offload == "optimizer" else 0  # gradients, by pack and in the shards' layout
    return (12 + summed + 4 * player.averages) * player.trained / part(plan, 1)


def loading(plan: Plan, held: dict[str, Parts]) -> Parts:
    """A model is loaded whole, in float32, and cast, before it is shared out. Samplers come later."""
    if not shards(plan.defender, plan):
        return {}
    whole = (4.0 if plan.defender.learning.bytes == 4 else 6.0) * plan.defender.shape.parameters
    parts = {name: sum(parts.values()) - parts["sampler's copy"] for name, parts in held.items()}
    return parts | {"the defender, whole": whole}


def shards(player: Player, plan: Plan) -> bool:
    """Whether the processes share out what a player holds: not if it learns nothing."""
    return plan.sharded and player.trained > 0


def part(plan: Plan, stage: int) -> int:
    """Processes that share what ZeRO shards from this stage on (arXiv 1910.02054)."""
    return plan.gpus if plan.sharded and plan.zero.stage >= stage else 1


def copied(shape: Shape) -> int:
    """Numbers in a sampler's copy: a tied head is stored beside the embedding."""
    return shape.parameters + (shape.head if shape.tied else 0)


def sampling(shape: Shape, load: Sampling) -> Parts:
    """While a player samples: keys and values, a layer's work on a pack of prompts, and a step's logits."""
    prompts = load.in_cache
    blocks = blocks_of(load.shared) + prompts * blocks_of(load.own) + load.slots * blocks_of(load.new - 1) + 1
    tokens = min(load.shared + prompts * load.own, max(PACK_TOKENS, load.shared + load.own))
    width = 2 * shape.hidden + max(3 * shape.intermediate, 2 * shape.attended)
    return {
        "key-value cache": 2.0 * shape.layers * shape.kv_heads * shape.width * BLOCK * blocks * load.bytes,
        "activations": float(tokens * width * load.bytes),
        "logits": 2 * 4.0 * load.slots * shape.vocab,
    }


def learning(player: Player, plan: Plan) -> Parts:
    """While a player learns, at the worst of five instants.

    They are the end of the forward pass; the loss; the backward pass of the last layer; its end, when all gradients are
    there; and the optimiser's step. Packs are taken to be equally full.
    """
    shape, load = player.shape, player.learning
    before, first, whole, step = gradients(player, plan)
    kept = load.tokens * shape.layers * (kept_of_layer(shape, load) if load.keeps == "cheap" else 4 * shape.hidden)
    ends = 4 * 4 * load.tokens * shape.hidden + 2 * load.bytes * load.responses * shape.hidden  # norm, states, gradient

    def instant(gradients: float, activations: float, in_use: float, **more: float) -> Parts:
        return {"gradients": gradients, "activations": activations, "weights in use": in_use} | more

    gathered = gathered_weights(player, plan)
    forward, backward = (
        load.tokens * width for width in (forward_of_layer(shape, load), backward_of_layer(shape, load))
    )
    back = {"back from the host": 12 * player.trained / part(plan, 1)} if plan.zero.offload == "idle_player" else {}
    return max(
        instant(before, kept + max(forward, ends), gathered + cast_forward(player, plan)),
        instant(before, kept + ends, gathered + cast_backward(player, plan, 0), loss=loss(player, plan)),
        instant(first, kept + backward, gathered + cast_backward(player, plan, 1)),
        instant(whole, 4 * load.tokens * shape.hidden, gathered),
        instant(step, 0.0, 0.0, **(back if shards(player, plan) else {})),
        key=lambda parts: sum(parts.values()),
    )


def gradients(player: Player, plan: Plan) -> tuple[float, float, float, float]:
    """Bytes beyond those held all run long: before a pack's backward pass; at its first layer; at its end; at the step.

    Under ZeRO a pack's are of the weights' dtype, and from stage 2 on they are sent a bucket at a time, the larger ones
    by themselves.
    """
    load, trained = player.learning, player.trained
    head = 0 if load.rank else player.shape.head
    if not shards(player, plan):
        before = 4.0 * trained if load.packs > 1 else 0.0
        return before, max(before, 4.0 * head), 4.0 * trained, 4.0 * trained
    b, sent = load.bytes, bucket(player, plan)
    if plan.zero.stage == 1:
        before = float(b * trained) if load.packs > 1 else 0.0
        return before, max(before, float(b * head)), float(b * trained), b * trained + sent
    shard, largest = 4 * trained / part(plan, 1), float(b * max(head, player.shape.layer))
    if plan.zero.stage == 3:  # the bucket and the sum over packs are held; the step copies the sum shard by shard
        return 0.0, largest, largest, min(shard, 4.0 * SHARD)
    before = shard if load.packs > 1 else 0.0
    own = 0.0 if b == 2 and before else shard  # of this pack: bfloat16's are added to the sum at once
    return before, before + largest + (sent if plan.cuda else 0.0), before + own + largest + sent, 2 * shard


def gathered_weights(player: Player, plan: Plan) -> float:
    """Under stage 3, weights that stay whole from the forward pass to the backward pass, or are fetched ahead."""
    whole = player.own + player.base
    return float(player.learning.bytes * min(whole, REUSED)) if shards(player, plan) and part(plan, 3) > 1 else 0.0


def cast_forward(player: Player, plan: Plan) -> float:
    """Copies of float32 weights in bfloat16: autocast keeps those that learn for the forward pass."""
    if shards(player, plan) or player.learning.bytes == 4:
        return 0.0
    layer_by_layer = player.learning.rank and player.learning.keeps == "layers"
    return 2.0 * (player.shape.layer if layer_by_layer else player.shape.matrices)


def cast_backward(player: Player, plan: Plan, layers: int) -> float:
    """Those that the backward pass needs: all, or where it computes layers again, those of so many."""
    if shards(player, plan) or player.learning.bytes == 4:
        return 0.0
    return 2.0 * (player.shape.matrices if player.learning.keeps == "cheap" else layers * player.shape.layer)


def kept_of_layer(shape: Shape, load: Learning) -> int:
    """Bytes a token that a layer keeps for the backward pass, when norms and gated activations are computed again.

    The residuals before its two halves in float32, their norms, what attention takes, makes and needs, and the gated
    activation's two factors; under adapters also its product and what the adapters take and make.
    """
    b = load.bytes
    kept = 2 * 4 * shape.hidden + b * (2 * shape.hidden + shape.attended + 2 * shape.intermediate) + 4 * shape.heads
    if load.rank:
        kept += b * (shape.intermediate + shape.linears // shape.layers * load.rank)
        if b == 2:  # peft widens an adapter's input to float32, and autocast makes another copy of it
            kept += 2 * (3 * shape.hidden + shape.heads * shape.width + shape.intermediate)
    return kept


def forward_of_layer(shape: Shape, load: Learning) -> int:
    """Bytes a token at work in a layer, beside what is kept."""
    return load.bytes * shape.intermediate * (1 if load.keeps == "cheap" else 3) + 2 * 4 * shape.hidden


def backward_of_layer(shape: Shape, load: Learning) -> int:
    """Bytes a token of a layer's gradients, and of what it computes again: at the gated activation, or at attention."""
    b, again = load.bytes, load.keeps == "layers"
    widened = 4 * shape.hidden + 2 * shape.intermediate if load.rank and b == 2 else 0
    gated = 4 * shape.hidden + 3 * b * shape.intermediate
    attention = 4 * shape.hidden + b * shape.attended + 8 * shape.heads * shape.width
    if again:
        gated += kept_of_layer(shape, load) - 4 * shape.hidden
        attention += b * (shape.hidden + shape.attended)
    return widened + max(gated, attention)


def loss(player: Player, plan: Plan) -> float:
    """Workspace of the fused loss (docs/kernels/triton.md, kernels/cpu.py), and the gradient of the LM head."""
    shape, load = player.shape, player.learning
    half, trains_head = load.bytes == 2, not load.rank
    copy = 2.0 * shape.head if half and not shards(player, plan) else 0.0
    if not plan.cuda:
        return copy + 4.0 * shape.vocab * min(load.responses, cpu.CHUNK_TOKENS) + 4.0 * shape.head * trains_head
    chunk = min(load.responses, TRITON_CHUNK)
    probs = load.bytes * shape.vocab * chunk
    work = 1.25 * probs + shape.vocab * chunk / 8 + 176 * shape.vocab + 4.0 * chunk * shape.hidden
    sums = (3.0 if half else 4.0) * shape.head * trains_head
    in_both_dtypes = trains_head and half and not shards(player, plan)
    widened = 6.0 * shape.head if in_both_dtypes else 0.0  # the gradient
    return copy + max(work + sums, widened)
