"""A step of teaching against the same step spelt out: plain cross-entropy, one sequence at a time."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.learn.step import accumulate
from advgame.trainer.models.load import load_policy
from advgame.trainer.models.policy import Policy
from advgame.trainer.prompts.chat import chat_ids
from advgame.trainer.records import Demonstration
from advgame.trainer.settings.load import load_warmstart
from advgame.trainer.warmstart.examples import Example
from advgame.trainer.warmstart.teach import FIRST, ImitationObjective, demonstrate, make_pupil, places, teach


def random_demonstrations(vocab: int, count: int = 9) -> list[Demonstration]:
    """Half of the prompts begin alike; answers have 1 to 11 tokens."""
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> list[int]:
        return torch.randint(vocab, (length,), generator=generator).tolist()

    opening = tokens(20)
    return [Demonstration(opening * (i % 2) + tokens(2 + i), tokens(1 + (5 * i) % 11)) for i in range(count)]


def spelt_out_loss(model, items: list[Demonstration], first: float) -> torch.Tensor:
    """The weighted mean over all tokens, from the model's own logits."""
    losses, weights = [], []
    for item in items:
        prompt, answer = item.prompt_ids, item.token_ids
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits.float(), torch.tensor(answer), reduction="none"))
        weights += [first if place < 3 else 1.0 for place in range(len(answer))]
    return (torch.cat(losses) * torch.tensor(weights)).sum() / sum(weights)


@pytest.mark.parametrize("tokens_per_pack", [45, 8192])
@pytest.mark.parametrize(("player", "first"), [("defender", 6.0), ("defender", 1.0), ("attacker", 1.0)])
def test_the_loss_is_weighted_cross_entropy_whatever_the_packs(player, first, tokens_per_pack):
    settings = [f"player={player}", "model=tiny", f"optimizer.tokens_per_pack={tokens_per_pack}", "precision=float32"]
    pupil = make_pupil(load_policy("tiny"), load_warmstart(None, [*settings, f"defender.first_tokens_weight={first}"]))
    model = pupil.policies.policy.model
    items = random_demonstrations(model.config.vocab_size)
    expected = copy.deepcopy(model)
    loss = spelt_out_loss(expected, items, first)
    loss.backward()
    assert accumulate(pupil, items)["loss"] == pytest.approx(loss.item(), abs=1e-5)
    for parameter, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        assert (parameter.grad - wanted.grad).norm() <= 1e-4 * wanted.grad.norm() + 1e-7


def test_a_step_is_adamw_after_clipping_and_warming_up():
    settings = ["model=tiny", "optimizer={lr: 1e-2, betas: [0.8, 0.9], weight_decay: 0.1, warmup_steps: 4}"]
    settings += ["optimizer.max_grad_norm=0.5", "defender.first_tokens_weight=2", "precision=float32"]
    pupil = make_pupil(load_policy("tiny"), load_warmstart(None, settings))
    model = pupil.policies.policy.model
    items, expected = random_demonstrations(model.config.vocab_size), copy.deepcopy(model)
    spelt_out_loss(expected, items, 2.0).backward()
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5).item()
    matrices, vectors = ([p for p in expected.parameters() if (p.dim() > 1) == flat] for flat in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=2.5e-3, betas=(0.8, 0.9)).step()
    metrics = teach(pupil, items, step=0, steps=10)
    assert metrics["examples"] == 9 and metrics["lr"] == pytest.approx(2.5e-3)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4) and norm > 0.5
    for after, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        apart, gradient = (after - wanted).abs(), wanted.grad.abs()
        assert apart.max() < 2.01 * 2.5e-3  # Adam steps by a gradient's sign, which rounding decides near 0
        assert apart[gradient > 1e-3 * gradient.max()].max() < 1e-3 * 2.5e-3


def test_the_learning_rate_rises_and_then_falls_to_nothing():
    settings = ["model=tiny", "optimizer.lr=1e-3", "optimizer.warmup_steps=4"]
    pupil = make_pupil(load_policy("tiny"), load_warmstart(None, settings))
    items = random_demonstrations(pupil.policies.policy.model.config.vocab_size)
    rates = [teach(pupil, items, step, steps=8)["lr"] for step in range(8)]
    assert rates == pytest.approx([1e-3 * part for part in (1 / 4, 7 / 16, 9 / 16, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 1 / 8)])


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), first=st.floats(1, 9))
def test_the_weights_of_tokens(lengths, first):
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    assert places(ends).tolist() == [place for length in lengths for place in range(length)]
    items = [Demonstration([1], [2] * length) for length in lengths]
    weights = [first if place < FIRST else 1.0 for place in places(ends).tolist()]
    assert ImitationObjective(first).count(items) == pytest.approx(sum(weights))


def test_an_example_in_tokens():
    policy = load_policy("arena-defender")
    end = policy.tokenizer.eos_token_id
    words = [word for word in policy.tokenizer.get_vocab() if word.isalpha()][:20]
    example = Example(told=" ".join(words[:3]), said=" ".join(words), kind="")
    whole = demonstrate(example, policy)
    assert whole.prompt_ids == chat_ids(policy.tokenizer, example.told)
    assert policy.tokenizer.decode(whole.token_ids) == f"{example.said} {policy.tokenizer.eos_token}"
    short = demonstrate(Example(example.told, example.said, "", short=True), policy)
    assert short.token_ids == whole.token_ids[:8]
    assert demonstrate(Example("", words[0], "", short=True), policy).token_ids[-1] == end


def test_what_is_said_has_no_control_token_but_its_end():
    policy = load_policy("arena-defender")
    token_ids = demonstrate(Example("", "<end> <user> <assistant> <end>", ""), policy).token_ids
    assert token_ids == [policy.tokenizer.eos_token_id]


def test_numbers_that_are_not_finite_end_it():
    pupil = make_pupil(load_policy("tiny"), load_warmstart(None, ["model=tiny"]))
    model = pupil.policies.policy.model
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match="step 3: loss nan"):
        teach(pupil, random_demonstrations(model.config.vocab_size), step=2, steps=10)
    assert all(torch.equal(value.nan_to_num(), before[name].nan_to_num()) for name, value in model.state_dict().items())


def test_a_model_that_cannot_be_packed_is_refused():
    policy = load_policy("tiny")
    policy.model.config.model_type = "gpt2"
    with pytest.raises(ConfigError, match="gpt2"):
        make_pupil(Policy(policy.model, policy.tokenizer), load_warmstart(None, ["model=mine"]))
