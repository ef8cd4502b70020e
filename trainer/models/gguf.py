"""Models in llama.cpp's file format."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from advgame.trainer.models.weights import check_tensors


def convert_gguf(path: Path, folder: Path) -> None:
    """Writes the model and its tokenizer into a Hugging Face folder, in float32."""
    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    model, info = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, output_loading_info=True)
    check_tensors(path, info["missing_keys"], info["unexpected_keys"])
    # The weights are plain float32 now; these two would make save_pretrained refuse them.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
