"""Other people's engines, as samplers of prompts that the bench gives them. No sample ends before its limit."""

import os
import tempfile
from collections.abc import Callable

from transformers import ContinuousBatchingConfig, GenerationConfig

from advgame.trainer.models.policy import Policy
from advgame.trainer.prompts.chat import chat_ids
from advgame.trainer.rollouts.base import Request
from advgame.trainer.settings.schema import SamplingConfig

Sample = Callable[[list[Request], SamplingConfig], object]
PAGE, MOST_TOKENS = 256, 2048
NEVER = -1
"""A token that is never sampled, in the place of those that end a sample."""


def static_cache(policy: Policy) -> Sample:
    """transformers' generate on a cache of a fixed size, compiled where transformers compiles it."""

    def sample(requests: list[Request], sampling: SamplingConfig) -> None:
        prompts = [chat_ids(policy.tokenizer, request.text) for request in requests]
        prompts.sort(key=len)
        for begin in range(0, len(prompts), sampling.batch_size):
            batch = prompts[begin : begin + sampling.batch_size]
            ids = policy.tokenizer.pad({"input_ids": batch}, padding_side="left", return_tensors="pt")
            policy.model.generate(**ids, generation_config=generation(policy, sampling, cache_implementation="static"))

    return sample


def continuous_batching(policy: Policy) -> Sample:
    """transformers' own, with as many blocks as it needs: left to itself it fills the machine's memory."""

    def sample(requests: list[Request], sampling: SamplingConfig) -> None:
        prompts = [chat_ids(policy.tokenizer, request.text) for request in requests]
        blocks = sum(1 + -(-(len(prompt) + sampling.max_new_tokens) // PAGE) for prompt in prompts)
        config = ContinuousBatchingConfig(page_size=PAGE, num_blocks=blocks, max_batch_tokens=MOST_TOKENS)
        outputs = policy.model.generate_batch(
            prompts, generation_config=generation(policy, sampling), continuous_batching_config=config
        )
        assert all(len(output.generated_tokens) == sampling.max_new_tokens for output in outputs.values())

    return sample


def generation(policy: Policy, sampling: SamplingConfig, **options: object) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=NEVER,
        pad_token_id=policy.tokenizer.pad_token_id,
        **options,
    )


def vllm(policy: Policy, dtype: str, batch_size: int) -> Sample:
    """vLLM's engine in this process, with its prefix cache."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        policy.model.save_pretrained(folder)
        policy.tokenizer.save_pretrained(folder)
        engine = LLM(folder, dtype=dtype, max_num_seqs=batch_size, max_model_len=1024, enforce_eager=True)

    def sample(requests: list[Request], sampling: SamplingConfig) -> None:
        engine.reset_prefix_cache()  # as after each load of weights
        prompts = [{"prompt_token_ids": chat_ids(policy.tokenizer, request.text)} for request in requests]
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            ignore_eos=True,
            logprobs=0,
        )
        outputs = engine.generate(prompts, parameters, use_tqdm=False)
        assert all(len(output.outputs[0].token_ids) == sampling.max_new_tokens for output in outputs)

    return sample
