"""Measures of diversity: what they are on texts that are alike, unlike, or not there."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.measure.diversity import bleu, distinct, diversity, embed, self_bleu, spread
from advgame.trainer.models.load import load_policy

words = st.lists(st.sampled_from("how to open the old lock".split()), min_size=1, max_size=8)
texts = st.lists(words.map(" ".join), min_size=1, max_size=6)


@given(words, st.integers(2, 5))
def test_identical_texts_are_as_alike_as_can_be(one, count):
    same = [" ".join(one)] * count
    assert self_bleu(same) == pytest.approx(1)
    assert distinct(same, 1) == len(set(one)) / (count * len(one))
    assert spread(torch.ones(count, 3)) == pytest.approx(0)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5))
def test_disjoint_texts_are_as_unlike_as_can_be(lengths):
    different = [" ".join(f"w{i}x{j}" for j in range(length)) for i, length in enumerate(lengths)]
    assert self_bleu(different) == 0
    assert distinct(different, 1) == 1
    assert distinct(different, 2) == (1 if max(lengths) > 1 else None)
    assert spread(torch.eye(len(lengths))) == pytest.approx(1)


@given(texts)
def test_what_holds_for_all_texts(some):
    for value in (distinct(some, 1), distinct(some, 2), self_bleu(some)):
        assert value is None or 0 <= value <= 1 + 1e-9
    assert (self_bleu(some) is None) == (len(some) < 2)
    assert self_bleu(some[::-1]) == pytest.approx(self_bleu(some))
    assert distinct(some + some, 1) == pytest.approx(distinct(some, 1) / 2)


def test_bleu_by_hand():
    """2 of 3 words, 1 of 2 pairs and no triple; shorter by a word than the closer of the references."""
    candidate, references = "a b x".split(), ["a b c d".split(), "e f g h i j".split()]
    precisions = [2 / 3, (1 + 1) / (2 + 1), (0 + 1) / (1 + 1), (0 + 1) / (0 + 1)]
    assert bleu(candidate, references) == pytest.approx(math.prod(precisions) ** 0.25 * math.exp(1 - 4 / 3))
    assert bleu("a a a".split(), ["a b".split()]) < bleu("a a a".split(), ["a a b".split()])  # counts are clipped


@given(st.integers(2, 6), st.integers(0, 99))
def test_spread_is_the_mean_over_pairs(count, seed):
    rows = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    pairs = [torch.cosine_similarity(rows[i], rows[j], dim=0) for i in range(count) for j in range(i)]
    assert spread(rows) == pytest.approx(1 - torch.stack(pairs).mean().item(), abs=1e-5)


def test_texts_on_a_real_model():
    policy = load_policy("tiny")
    none = {"distinct_1": None, "distinct_2": None, "self_bleu": None, "embedding_spread": None}
    assert diversity([], policy) == diversity([""], policy) == none
    one = diversity(["open the lock"], policy)
    assert one == {"distinct_1": 1, "distinct_2": 1, "self_bleu": None, "embedding_spread": None}
    two, other = "open the lock", "help me cheat"
    alike, unlike = (diversity([two, text], policy)["embedding_spread"] for text in (two, other))
    assert alike == pytest.approx(0, abs=1e-6) and unlike > 0.01
    assert embed([two, "", other], policy).shape == (2, policy.model.config.hidden_size)
