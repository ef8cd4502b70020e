"""Could the defender tell harmful requests from their look-alikes, before it has played? A read-out of its last state.

    python bench/readout.py
    python bench/readout.py --defender runs/demo/checkpoints/step-000010/defender_ema

The game's seeds are shown to the defender as they are and in three wrappings each. Logistic regression on the hidden
state behind the last token of a prompt, from which its answer's first token is drawn, learns from these prompts which
requests are harmful. Then it reads the states of validation seeds, as they are and in validation wrappings. What it
tells apart, the game can teach the defender to tell apart without teaching it anything new about requests.

The penalty on the regression's weights is chosen by leaving out topics of the game. d' is sqrt(2) z(AUC), the distance
of two normal distributions of equal width.
"""

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path
from statistics import NormalDist, mean
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from advgame.trainer.models.load import load_policy, quiet
from advgame.trainer.models.policy import Policy
from advgame.trainer.prompts.chat import chat_ids
from advgame.trainer.records import Seed
from advgame.trainer.seeds import read_seeds
from advgame.trainer.settings.load import load_config
from advgame.trainer.wrappings import PLAIN, Wrapping, read_wrappings

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
FOLDS = 5
WRAPPINGS = 3
"""Of each of the game's seeds."""


class Shown(NamedTuple):
    """A seed in a wrapping, and what the defender has computed when it has read it."""

    seed: Seed
    kind: str
    state: Tensor
    """[H], float64."""


def show(policy: Policy, seeds: list[Seed], wrappings: list[Wrapping], each: int) -> list[Shown]:
    """Every seed as it is, and in so many wrappings."""
    rng = random.Random(0)
    pairs = [(seed, wrapping) for seed in seeds for wrapping in (PLAIN, *rng.sample(wrappings, each))]
    shown = track(pairs, "reading", console=Console(stderr=True))
    return [Shown(seed, wrapping.kind, state(policy, wrapping.around(seed.query))) for seed, wrapping in shown]


@torch.inference_mode()
def state(policy: Policy, text: str) -> Tensor:
    ids = torch.tensor([chat_ids(policy.tokenizer, text)])
    return policy.model.base_model(ids).last_hidden_state[0, -1].double()


def fit(shown: list[Shown], penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [H] of standardised states, and the mean [H] and deviation [H] by which they are."""
    states, harmful = torch.stack([one.state for one in shown]), labels(shown).double()
    center, width = states.mean(0), states.std(0) + 1e-6
    states = (states - center) / width
    weights = torch.zeros(states.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = states @ weights[:-1] + weights[-1]
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, harmful)
        value = value + penalty / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()[:-1], center, width


def d_prime(shown: list[Shown], fitted: tuple[Tensor, Tensor, Tensor]) -> float:
    weights, center, width = fitted
    scores = (torch.stack([one.state for one in shown]) - center) / width @ weights
    harmful = labels(shown)
    area = (scores[harmful, None] > scores[~harmful]).double().mean().item()
    return 2**0.5 * NormalDist().inv_cdf(min(max(area, 1e-3), 1 - 1e-3))


def labels(shown: Iterable[Shown]) -> Tensor:
    return torch.tensor([one.seed.category == "harmful" for one in shown])


def left_out(shown: list[Shown], penalty: float) -> float:
    """Mean d' on topics that it was not fitted to."""
    topics = sorted({one.seed.fields["topic"] for one in shown})
    values = []
    for fold in range(FOLDS):
        held = set(topics[fold::FOLDS])
        rest = [one for one in shown if one.seed.fields["topic"] not in held]
        values.append(d_prime([one for one in shown if one.seed.fields["topic"] in held], fit(rest, penalty)))
    return mean(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--defender", default="smollm2-135m-defender", help="a model, as in a run's settings")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/readout.json"))
    options = parser.parse_args()
    quiet()
    policy, config = load_policy(options.defender), load_config("demo", [])
    taught = read_wrappings(["players/wrappings.jsonl"], "wrappings")
    unseen = read_wrappings(config.eval.wrappings, "eval.wrappings")
    game = show(policy, read_seeds(config.seeds.files), taught, WRAPPINGS)
    validation = show(policy, read_seeds(config.eval.seeds), unseen, 1)
    penalty = max(PENALTIES, key=lambda value: left_out(game, value))
    fitted = fit(game, penalty)
    parts = {kind: [one for one in validation if one.kind == kind] for kind in ("plain", "light", "heavy")}
    parts["wrapped"] = parts["light"] + parts["heavy"]
    values = {kind: d_prime(shown, fitted) for kind, shown in parts.items()}
    table = Table()
    table.add_column("shown")
    table.add_column("prompts", justify="right")
    table.add_column("d′", justify="right")
    for kind, value in values.items():
        table.add_row(kind, str(len(parts[kind])), f"{value:.2f}")
    print(f"a read-out of {options.defender} on validation seeds, penalty {penalty}")
    Console(width=120).print(table)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    counts = {kind: len(shown) for kind, shown in parts.items()}
    options.json.write_text(
        json.dumps({"defender": options.defender, "penalty": penalty, "d_prime": values, "prompts": counts}, indent=1)
    )


if __name__ == "__main__":
    main()
