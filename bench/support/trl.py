"""TRL's GRPO trainer, the user's way to train one of two players at a time."""

import itertools
import tempfile
import time
from pathlib import Path

import torch

from advgame.trainer.models.policy import Policy
from advgame.trainer.settings.schema import SamplingConfig
from support.reference import BETA


def trl_step(policy: Policy, texts: list[str], sampling: SamplingConfig, precision: str) -> float:
    """Seconds of a GRPO step on two samples of each prompt, with a reference; raises ImportError without trl.

    As its documentation has it, but that no sample ends early, rewards are given, and the learning rate is 0.
    """
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Watch(TrainerCallback):
        seconds = 0.0

        def on_step_begin(self, *_, **__) -> None:
            self.seconds -= time.perf_counter()

        def on_step_end(self, *_, **__) -> None:
            self.seconds += time.perf_counter()

    rewards = itertools.cycle([0.0, 1.0])
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model")
        policy.model.save_pretrained(model)
        policy.tokenizer.save_pretrained(model)
        watch = Watch()
        trainer = GRPOTrainer(
            str(model),
            reward_funcs=lambda completions, **_: [next(rewards) for _ in completions],
            args=GRPOConfig(
                folder,
                max_steps=1,
                learning_rate=0.0,
                per_device_train_batch_size=2 * len(texts),
                num_generations=2,
                beta=BETA,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_completion_length=sampling.max_new_tokens,
                generation_kwargs={"min_new_tokens": sampling.max_new_tokens},
                model_init_kwargs={"dtype": "float32"},
                bf16=precision == "bfloat16",
                use_cpu=not torch.cuda.is_available(),
                shuffle_dataset=False,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts]),
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return watch.seconds
