"""Writes a trained model in the Hugging Face layout."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import CONFIGS, ModelConfig
from train_tokenizer import SPECIAL_TOKENS

BOS, EOS, IM_END, PAD = (
    SPECIAL_TOKENS.index(t) for t in ("<|begin|>", "<|end|>", "<|im_end|>", "<|pad|>")
)


def hugging_face_config(config: ModelConfig) -> dict:
    """Returns config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": config.rms_norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": [EOS, IM_END],
        "pad_token_id": PAD,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def export(state: dict, config: ModelConfig, folder: Path):
    """Writes config.json, generation_config.json and model.safetensors (bf16)."""
    folder.mkdir(parents=True, exist_ok=True)
    generation = {
        "bos_token_id": BOS,
        "eos_token_id": [EOS, IM_END],
        "pad_token_id": PAD,
        "do_sample": False,
    }
    for name, content in (
        ("config.json", hugging_face_config(config)),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    tensors = {name: t.bfloat16().cpu().contiguous() for name, t in state.items()}
    partial_path = folder / "model.safetensors.part"
    save_file(tensors, partial_path, metadata={"format": "pt"})
    partial_path.rename(folder / "model.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=CONFIGS, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    state = torch.load(args.checkpoint, map_location="cpu")["model"]
    export(state, CONFIGS[args.model], args.out)


if __name__ == "__main__":
    main()
