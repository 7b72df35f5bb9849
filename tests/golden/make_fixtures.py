#!/usr/bin/env python3
"""Makes the golden fixtures: tiny random checkpoints of every family and what transformers computes
from them in float32.

    make_fixtures.py                  write every fixture under tests/golden
    make_fixtures.py --only NAME      just one
    make_fixtures.py --check          regenerate in memory and compare with what is committed
    make_fixtures.py --demo DIR       the fixture of the demo model (models/demo), named "demo"

Needs torch, transformers (5.x), safetensors, numpy; for --demo also tokenizers. Run under the
versions in README.md: another version may differ in the last bits, which --check allows for.

A fixture is a directory:
    checkpoint/             config.json and safetensors (not for the demo, which is in models/)
    expected.safetensors    for each prompt i:
        prompt<i>.tokens     I32 [T]         the prompt
        prompt<i>.positions  I32 [P]         positions whose logits are kept
        prompt<i>.logits     F32 [P, vocab]  float32, eager attention
        prompt<i>.greedy     I32 [n]         the greedy continuation of the whole prompt: 32 tokens,
                                             or fewer where an eos token (the last one) ends it
"""

import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
NUM_POSITIONS = 96
NUM_GREEDY = 32
# Greedy tokens must not hang on rounding: the best logit leads the second by at least this.
MIN_MARGIN = 2e-3
TOLERANCE = 2e-5

# Old-dialect configs are spelled as transformers 4 wrote them, the others as transformers 5 does.
FIXTURES = {
    "llama": dict(family="llama", seed=1),
    "llama-llama3-rope": dict(
        family="llama", seed=2, tied=True, old_dialect=True, rope_theta=500000.0,
        rope=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=32)),
    "llama-linear-rope": dict(family="llama", seed=3, dtype="float32", hidden=32, intermediate=64,
                              rope=dict(rope_type="linear", factor=4.0)),
    "llama-biases": dict(family="llama", seed=4, dtype="float16", attention_bias=True,
                         mlp_bias=True, kv_heads=4),
    "mistral-window": dict(family="mistral", seed=5, window=24, shards=2),
    "mistral-old": dict(family="mistral", seed=6, old_dialect=True, window=None, kv_heads=1,
                        head_dim=None, hidden=64),
    "qwen2": dict(family="qwen2", seed=7, tied=True, rope_theta=1000000.0),
    "qwen2-window": dict(family="qwen2", seed=8, old_dialect=True, window=40),
    "qwen3": dict(family="qwen3", seed=9, head_dim=32, tied=True),
}


def dimensions(spec):
    hidden = spec.get("hidden", 48)
    heads = spec.get("heads", 4)
    head_dim = spec.get("head_dim", 16)
    return dict(hidden=hidden, layers=2, heads=heads, kv_heads=spec.get("kv_heads", 2),
                head_dim=hidden // heads if head_dim is None else head_dim,
                intermediate=spec.get("intermediate", 96), vocab=128)


def make_config(spec):
    d = dimensions(spec)
    family = spec["family"]
    config = {
        "architectures": [{"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
                           "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[family]],
        "model_type": family,
        "hidden_size": d["hidden"],
        "num_hidden_layers": d["layers"],
        "num_attention_heads": d["heads"],
        "num_key_value_heads": d["kv_heads"],
        "head_dim": spec.get("head_dim", 16),
        "intermediate_size": d["intermediate"],
        "vocab_size": d["vocab"],
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "tie_word_embeddings": spec.get("tied", False),
        "bos_token_id": 1,
        "eos_token_id": None,
        "use_cache": True,
    }
    rope = dict(spec.get("rope", dict(rope_type="default")))
    dtype = spec.get("dtype", "bfloat16")
    if spec.get("old_dialect"):
        config["torch_dtype"] = dtype
        config["rope_theta"] = spec.get("rope_theta", 10000.0)
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    else:
        config["dtype"] = dtype
        config["rope_parameters"] = {**rope, "rope_theta": spec.get("rope_theta", 10000.0)}
    if family == "llama":
        config["attention_bias"] = spec.get("attention_bias", False)
        config["mlp_bias"] = spec.get("mlp_bias", False)
        config["pretraining_tp"] = 1
    if family == "mistral":
        config["sliding_window"] = spec["window"]
    if family in ("qwen2", "qwen3"):
        config["use_sliding_window"] = "window" in spec
        config["sliding_window"] = spec.get("window")
        config["max_window_layers"] = 0 if "window" in spec else d["layers"]
    if family == "qwen3":
        config["attention_bias"] = False
    if family in ("qwen2", "qwen3") and not spec.get("old_dialect"):
        kind = "sliding_attention" if "window" in spec else "full_attention"
        config["layer_types"] = [kind] * d["layers"]
    return config


def make_weights(spec):
    """Matrices N(0, 1/K), so that logits have a standard deviation of about 1."""
    d = dimensions(spec)
    family = spec["family"]
    random = np.random.Generator(np.random.PCG64(spec["seed"]))
    dtype = getattr(torch, spec.get("dtype", "bfloat16"))
    weights = {}

    def add(name, values):
        weights[name] = torch.from_numpy(values.astype(np.float32)).to(dtype)

    def matrix(name, rows, cols, bias=False):
        add(name + ".weight", random.standard_normal((rows, cols)) / np.sqrt(cols))
        if bias:
            add(name + ".bias", 0.2 * random.standard_normal(rows))

    def norm(name, size):
        add(name + ".weight", 1 + 0.2 * random.standard_normal(size))

    q_size, kv_size = d["heads"] * d["head_dim"], d["kv_heads"] * d["head_dim"]
    qkv_bias = family == "qwen2" or spec.get("attention_bias", False)
    mlp_bias = spec.get("mlp_bias", False)
    matrix("model.embed_tokens", d["vocab"], d["hidden"])
    for layer in range(d["layers"]):
        p = f"model.layers.{layer}."
        norm(p + "input_layernorm", d["hidden"])
        # Sharper attention than random q and k would give, so that positions matter.
        matrix(p + "self_attn.q_proj", q_size, d["hidden"], qkv_bias)
        weights[p + "self_attn.q_proj.weight"] *= 2
        matrix(p + "self_attn.k_proj", kv_size, d["hidden"], qkv_bias)
        matrix(p + "self_attn.v_proj", kv_size, d["hidden"], qkv_bias)
        matrix(p + "self_attn.o_proj", d["hidden"], q_size, spec.get("attention_bias", False))
        if family == "qwen3":
            norm(p + "self_attn.q_norm", d["head_dim"])
            norm(p + "self_attn.k_norm", d["head_dim"])
        norm(p + "post_attention_layernorm", d["hidden"])
        matrix(p + "mlp.gate_proj", d["intermediate"], d["hidden"], mlp_bias)
        matrix(p + "mlp.up_proj", d["intermediate"], d["hidden"], mlp_bias)
        matrix(p + "mlp.down_proj", d["hidden"], d["intermediate"], mlp_bias)
    norm("model.norm", d["hidden"])
    if not spec.get("tied", False):
        matrix("lm_head", d["vocab"], d["hidden"])
    return weights


def write_checkpoint(directory, spec):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(make_config(spec), indent=2) + "\n")
    weights = make_weights(spec)
    shards = spec.get("shards", 1)
    if shards == 1:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "model.safetensors").chmod(0o644)
        return
    names = list(weights)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        save_file(part, directory / file, metadata={"format": "pt"})
        (directory / file).chmod(0o644)
        weight_map.update({name: file for name in part})
    total = sum(w.numel() * w.element_size() for w in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32,
                                                 attn_implementation="eager")
    return model.eval()


@torch.no_grad()
def expect(model, prompts, positions_of):
    """Logits of the prompts in one pass each; greedy by whole passes, without a cache."""
    out, margin = {}, float("inf")
    ends = model.generation_config.eos_token_id or []
    ends = ends if isinstance(ends, list) else [ends]
    for i, tokens in enumerate(prompts):
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
        positions = positions_of(len(tokens))
        ids = list(tokens)
        for _ in range(NUM_GREEDY):
            last = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            best = torch.topk(last, 2).values
            margin = min(margin, float(best[0] - best[1]))
            ids.append(int(last.argmax()))
            if ids[-1] in ends:
                break
        out[f"prompt{i}.tokens"] = torch.tensor(tokens, dtype=torch.int32)
        out[f"prompt{i}.positions"] = torch.tensor(positions, dtype=torch.int32)
        out[f"prompt{i}.logits"] = logits[positions].contiguous().float()
        out[f"prompt{i}.greedy"] = torch.tensor(ids[len(tokens):], dtype=torch.int32)
    return out, margin


def random_expectation(directory, spec):
    """The first prompt, by seed, whose greedy tokens are clear of rounding."""
    model = load(directory)
    vocab = dimensions(spec)["vocab"]
    for attempt in range(100):
        random = np.random.Generator(np.random.PCG64(1000 * spec["seed"] + attempt))
        tokens = random.integers(0, vocab, NUM_POSITIONS).tolist()
        out, margin = expect(model, [tokens], lambda length: list(range(length)))
        if margin >= MIN_MARGIN:
            return out, margin
    raise SystemExit(f"{directory}: no prompt with a greedy margin of {MIN_MARGIN}")


DEMO_POSITIONS = 12


def demo_prompts(directory):
    """A fact, a story, a chat turn and a copying task, as the demo corpus has them."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    texts = json.loads((HERE / "demo_prompts.json").read_text())
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def demo_expectation(directory):
    def last_positions(length):
        # The end of the prompt, and a few spread over it.
        spread = {length * k // 6 for k in range(1, 6)}
        tail = set(range(max(0, length - (DEMO_POSITIONS - len(spread))), length))
        return sorted(spread | tail)
    return expect(load(directory), demo_prompts(directory), last_positions)


def save(tensors, path):
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    path.chmod(0o644)


def read(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def compare(name, made, path):
    """Committed and regenerated expectations agree."""
    committed = read(path)
    assert committed.keys() == made.keys(), f"{name}: other tensors"
    for key, value in made.items():
        if value.dtype == torch.float32:
            worst = float((value - committed[key]).abs().max())
            assert worst <= TOLERANCE, f"{name}: {key} differs by {worst}"
        else:
            assert torch.equal(value, committed[key]), f"{name}: {key} differs"


def same_files(a, b):
    names = sorted(p.name for p in a.iterdir())
    assert names == sorted(p.name for p in b.iterdir()), f"{b}: other files"
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes(), f"{b / name} differs"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(FIXTURES))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--demo", type=pathlib.Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    if args.demo:
        target = HERE / "demo" / "expected.safetensors"
        made, margin = demo_expectation(args.demo)
        if args.check:
            compare("demo", made, target)
        else:
            save(made, target)
        print(f"demo: greedy margin {margin:.4f}" +
              ("" if margin >= MIN_MARGIN else "  (small: change a prompt in demo_prompts.json)"))
        return

    for name, spec in FIXTURES.items():
        if args.only and name != args.only:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            target = HERE / name
            directory = pathlib.Path(scratch) / "checkpoint" if args.check else target / "checkpoint"
            write_checkpoint(directory, spec)
            made, margin = random_expectation(directory, spec)
            if args.check:
                same_files(directory, target / "checkpoint")
                compare(name, made, target / "expected.safetensors")
            else:
                save(made, target / "expected.safetensors")
        logits = made["prompt0.logits"]
        print(f"{name}: logits std {float(logits.std()):.2f}, greedy margin {margin:.4f}")


if __name__ == "__main__":
    sys.exit(main())
