"""Models: where they come from, and the checks on loading them."""

import pytest
import torch
from helpers import make_policies
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

from advgame.kernels import linear_logprobs
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.models.head import head
from advgame.trainer.models.load import check_model, load_policy, save_policy
from advgame.trainer.models.policy import Policy
from advgame.trainer.models.sources import resolve_model
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.settings.schema import SamplingConfig


def test_unknown_models_are_refused_by_name(tmp_path):
    for source in ("gpt-99", str(tmp_path), str(tmp_path / "missing.gguf"), "x" * 300, "a\0b"):
        with pytest.raises(ConfigError, match=r"neither a folder with .*tiny, .*smollm2-135m.*; download it"):
            resolve_model(source)


def test_tiny_is_the_same_every_time(tmp_path):
    first, again = load_policy("tiny").model, load_policy("tiny").model
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_player_begins_as_its_own_average():
    player = make_policies("tiny")
    pairs = zip(player.policy.model.parameters(), player.ema.model.parameters(), strict=True)
    assert all(torch.equal(a, b) and a is not b and not b.requires_grad for a, b in pairs)


def test_a_model_without_chat_template_is_refused(tmp_path):
    policy = load_policy("tiny")
    save_policy(policy, tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="chat template"):
        load_policy(tmp_path)


def test_a_model_that_cannot_be_loaded_is_named_in_one_line(tmp_path):
    policy = load_policy("tiny")
    cut, config, tokenizer, weights, gguf = (
        tmp_path / name for name in ("cut", "config", "token", "weights", "x.gguf")
    )
    for folder in (cut, config, tokenizer, weights):
        save_policy(policy, folder)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    (config / "config.json").write_text("{")
    (tokenizer / "tokenizer.json").unlink()
    (weights / "model.safetensors").unlink()
    gguf.write_text("no gguf")
    for source in (cut, config, tokenizer, weights, gguf):
        reason = "its weights are not there" if source is weights else "cannot be loaded"
        with pytest.raises(ConfigError, match=f"model {source}: {reason}") as caught:
            load_policy(source)
        assert "\n" not in str(caught.value)
    for source in (config, tokenizer, weights, gguf, "gpt-99"):  # all that shows without reading the weights
        with pytest.raises(ConfigError, match=f"--target: model {source}: "):
            check_model(str(source), "--target")
    check_model("tiny", "--target")


def softcapped(folder) -> Gemma2ForCausalLM:
    """A random Gemma 2, whose logits are soft-capped, with tiny's tokenizer."""
    tokenizer = load_policy("tiny").tokenizer
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, pad_token_id=tokenizer.pad_token_id, initializer_range=1.0,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config)
    save_policy(Policy(model, tokenizer), folder)
    return model


def test_softcapped_logits_are_followed(tmp_path):
    softcapped(tmp_path)
    model = load_policy(tmp_path).model
    ids = torch.arange(6)[None]
    hidden = model.base_model(ids).last_hidden_state[0, :-1]
    expected = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    assert torch.allclose(linear_logprobs(hidden, targets=ids[0, 1:], **head(model)), expected, atol=1e-5)


def test_a_head_that_does_more_than_the_losses_know_is_refused(tmp_path, monkeypatch):
    softcapped(tmp_path)
    forward = Gemma2ForCausalLM.forward

    def scaled(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = output.logits * 0.5  # as Granite's logits_scaling or Cohere's logit_scale do
        return output

    monkeypatch.setattr(Gemma2ForCausalLM, "forward", scaled)
    with pytest.raises(ConfigError, match="Gemma2ForCausalLM changes its logits"):
        load_policy(tmp_path)


def test_smollm2_is_dequantised_once_and_talks_sense():
    folder = resolve_model("smollm2-135m")
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_model("smollm2-135m") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written

    plain = AutoModelForCausalLM.from_pretrained(folder)  # as anyone would load it
    assert plain.dtype == torch.float32 and not hasattr(plain.config, "quantization_config")
    assert AutoTokenizer.from_pretrained(folder).chat_template

    policy = load_policy("smollm2-135m")
    request = Request("What is the capital of France? Answer in one word.", (0,))
    (rollout,) = LocalSampler(policy, "player").sample([request], SamplingConfig(temperature=0, max_new_tokens=12))
    assert "Paris" in rollout.text
