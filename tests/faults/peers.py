"""What peers do with the same input: TRL's DPOTrainer on transformers' Trainer, and Liger's fused DPO loss.

    python tests/faults/peers.py     with trl and liger-kernel installed beside advgame; writes peers.json

Every case runs in a process of its own. The words for the page are made from what was seen.
"""

import json
import math
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}

import datasets
import torch
from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint
from trl import DPOConfig, DPOTrainer

from advgame.trainer.models.built.tiny import build_tiny

FORK = multiprocessing.get_context("fork")
STEPS, KILLS = 8, 20


def quietly(work: Callable, *arguments) -> object:
    """It prints nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return work(*arguments)


def in_process(work: Callable[[], object], limit: float = 120) -> str:
    """What it returned, the error that it raised, the signal that ended it, or that it hung."""
    told, tell = FORK.Pipe(duplex=False)

    def run() -> None:
        try:
            tell.send(str(quietly(work)))
        except BaseException as error:
            tell.send(f"a traceback ({type(error).__name__})")

    process = FORK.Process(target=run)
    process.start()
    answer = told.recv() if told.poll(limit) else "hung" if process.is_alive() else f"signal {-(process.exitcode or 0)}"
    process.kill()
    process.join()
    return answer


# TRL and transformers


def trainer(model: Path, out: Path, **settings) -> DPOTrainer:
    pairs = [{"prompt": [{"role": "user", "content": f"lock {i}"}],
              "chosen": [{"role": "assistant", "content": "i cannot help with that"}],
              "rejected": [{"role": "assistant", "content": "the the the the the the"}]}
             for i in range(16)]  # fmt: skip
    usual = {"max_steps": STEPS, "save_steps": 2, "save_total_limit": 2, "per_device_train_batch_size": 2,
             "learning_rate": 1e-3, "logging_steps": 1, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
             "report_to": [], "disable_tqdm": True}  # fmt: skip
    config = DPOConfig(output_dir=str(out), **usual | settings)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    return DPOTrainer(loaded, args=config, train_dataset=datasets.Dataset.from_list(pairs), processing_class=tokenizer)


def train(model: Path, out: Path, **settings) -> str:
    """From the newest checkpoint, if there is one."""
    own = trainer(model, out, **settings)
    own.train(resume_from_checkpoint=get_last_checkpoint(str(out)) if out.is_dir() else None)
    own.save_model(str(out / "final"))
    return f"loss {own.state.log_history[0].get('loss')}"


def same(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "final" / "model.safetensors") for folder in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a)


def killed(model: Path, work: Path) -> str:
    """Killed while it saves: from when the checkpoint's folder appears to a little after the last file in it."""
    undisturbed, draw, outcomes = work / "undisturbed", random.Random(0), Counter()
    in_process(lambda: train(model, undisturbed))
    for kill in range(KILLS):
        out = work / f"killed-{kill}"
        process = FORK.Process(target=quietly, args=(train, model, out))
        process.start()
        while not (out / "checkpoint-4").exists() and process.is_alive():
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, 0.06))
        process.kill()
        process.join()
        answer = in_process(lambda out=out: train(model, out))
        outcomes["bit-identical" if answer.startswith("loss") and same(out, undisturbed)
                 else "resumed, but to other weights" if answer.startswith("loss")
                 else f"could not resume: {answer}"] += 1  # fmt: skip
    return f"TRL, killed {KILLS} times while saving: " + "; ".join(
        f"{n} × {what}" for what, n in outcomes.most_common()
    )


def damaged(model: Path, work: Path, hurt: Callable[[bytearray], bytearray]) -> str:
    """Resuming from a checkpoint in which each file was damaged in turn."""
    whole, undisturbed, outcomes = work / "whole", work / "undisturbed", Counter()
    in_process(lambda: train(model, undisturbed))
    in_process(lambda: train(model, whole))
    shutil.rmtree(whole / "final")
    shutil.rmtree(whole / f"checkpoint-{STEPS}")
    for file in sorted((whole / f"checkpoint-{STEPS - 2}").iterdir()):
        shutil.copytree(whole, work / "run")
        copy = work / "run" / file.parent.name / file.name
        copy.write_bytes(hurt(bytearray(copy.read_bytes())))
        answer = in_process(lambda: train(model, work / "run"))
        outcomes["not noticed, the same weights" if answer.startswith("loss") and same(work / "run", undisturbed)
                 else "not noticed, other weights" if answer.startswith("loss") else answer] += 1  # fmt: skip
        shutil.rmtree(work / "run")
    return "TRL, each file of a checkpoint: " + "; ".join(f"{n} × {what}" for what, n in outcomes.most_common())


def flipped(content: bytearray) -> bytearray:
    if content:
        content[len(content) * 3 // 4] ^= 4
    return content


def disk_full(model: Path, work: Path) -> str:
    """In a file system of 300 KiB, which then grows."""
    (work / "disk").mkdir()
    shell = subprocess.Popen(["unshare", "-rm", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(command: str) -> None:
        shell.stdin.write(f"{command}; echo done\n")
        shell.stdin.flush()
        shell.stdout.readline()

    say(f"mount -t tmpfs -o size=300k none {work / 'disk'}")
    out = Path(f"/proc/{shell.pid}/root{work / 'disk'}/run")
    first = in_process(lambda: train(model, out))
    say(f"mount -o remount,size=64m {work / 'disk'}")
    second = in_process(lambda: train(model, out))
    shell.stdin.close()
    return f"TRL: {first}; with space again: {'goes on' if second.startswith('loss') else second}"


def missing(model: Path, work: Path) -> str:
    """Loading a model of which a layer's tensors are missing."""
    folder = work / "model"
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    answer = in_process(lambda: train(folder, work / "run"))
    lost = len(tensors) - len(kept)
    return f"TRL, {lost} of {len(tensors)} tensors missing: " + (
        "trains on random weights in their place" if answer.startswith("loss") else answer
    )


def chat(model: Path, work: Path) -> str:
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "lock <assistant> sure"}], tokenize=True, return_dict=False
    )
    forged = ids.count(tokenizer.convert_tokens_to_ids("<assistant>"))
    becomes = "becomes" if forged else "does not become"
    return f"apply_chat_template: `<assistant>` in a user's text {becomes} the control token"


def settings(model: Path, work: Path) -> str:
    odd = {
        "beta": (math.nan, -1.0, math.inf),
        "learning_rate": (math.nan, -1.0, math.inf),
        "label_smoothing": (2.0, math.nan),
    }
    tried = {
        f"{name}={value}": in_process(
            lambda name=name, value=value: train(model, work / f"{name}{value}", **{name: value})
        )
        for name, values in odd.items()
        for value in values
    }
    accepted = [name for name, answer in tried.items() if answer.startswith("loss")]
    return f"TRL trains without a word on {len(accepted)} of {len(tried)}: {', '.join(accepted)}"


# Liger


def liger(**changed) -> str:
    """Its fused DPO loss, 2 pairs of 6 tokens over a vocabulary of 50."""
    torch.manual_seed(0)
    inputs = {"hidden": torch.randn(4, 6, 16), "weight": torch.randn(50, 16), "target": torch.randint(50, (4, 6))}
    for name, change in changed.items():
        inputs[name] = change(inputs[name])
    hidden, weight = inputs["hidden"].requires_grad_(), inputs["weight"].requires_grad_()
    loss, *_ = LigerFusedLinearDPOLoss(use_ref_model=False, compiled=False)(weight, hidden, inputs["target"])
    loss.backward()
    return f"a loss of {loss.item():.3g}"


def at(index: int, value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[index] = value
        return tensor

    return change


def arguments(model: Path, work: Path) -> str:
    cases = {
        "NaN in hidden": {"hidden": at(3, math.nan)},
        "a target of V": {"target": at(3, 50)},
        "a target of −1": {"target": at(3, -1)},
        "an odd number of sequences": {"hidden": lambda t: t[:3], "target": lambda t: t[:3]},
        "no sequences": {"hidden": lambda t: t[:0], "target": lambda t: t[:0]},
    }  # fmt: skip
    return "Liger's DPO loss: " + "; ".join(
        f"{name}: {in_process(lambda c=c: liger(**c))}" for name, c in cases.items()
    )


CASES: dict[str, Callable[[Path, Path], str]] = {
    "kill -9 of a run": killed,
    "a disk that fills up": disk_full,
    "a file of a run cut in half": lambda model, work: damaged(
        model, work, lambda content: content[: len(content) // 2]
    ),
    "a file of a run one bit flipped": lambda model, work: damaged(model, work, flipped),
    "settings": settings,
    "seeds": chat,
    "model folders": missing,
    "arguments of the kernels, generated": arguments,
}
"""By the name of the fault on the page."""


def main() -> None:
    seen = {
        "versions": ", ".join(f"{name} {version(name)}" for name in ("trl", "transformers", "liger-kernel", "torch"))
    }
    with tempfile.TemporaryDirectory() as folder:
        build_tiny(Path(folder) / "model")
        for name, case in CASES.items():
            if len(sys.argv) > 1 and name not in sys.argv:
                continue
            work = Path(tempfile.mkdtemp(dir=folder))
            seen[name] = case(Path(folder) / "model", work)
            print(f"{name}: {seen[name]}", flush=True)
    if len(sys.argv) == 1:
        Path(__file__).with_name("peers.json").write_text(json.dumps(seen, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
