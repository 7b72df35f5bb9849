"""Makes both demo models from nothing: one command, the same steps in order.

Tokenizer, corpus shards, training, export, evaluation. Finished shards and
checkpoints in the work folder are kept, so an interrupted run goes on.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from corpus import SHARD_TOKENS
from model import CONFIGS

HERE = Path(__file__).parent
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# A freed buffer is used again instead of going back to the system: on a CPU this
# saves the page faults of every step.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "134217728",
}


def run(*command: object):
    """Runs one of the scripts beside this one."""
    script, *arguments = map(str, command)
    environment = os.environ | KEEP_MEMORY | {"OMP_NUM_THREADS": "1"}
    module = []
    if script == "train.py" and not torch.cuda.is_available():
        ranks = len(os.sched_getaffinity(0))
        module = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    line = [sys.executable, *module, str(HERE / script), *arguments]
    subprocess.run(line, check=True, env=environment)


def build_model(args: argparse.Namespace, name: str, tokens: float, minutes: float):
    """Makes the shards of one model, trains it and exports it."""
    folder, work = args.out / name, args.work / name
    tokenizer = args.out / "demo" / "tokenizer.json"
    num_shards = min(args.max_shards, -(-int(tokens) // SHARD_TOKENS))
    run(
        "corpus.py", "--mix", name, "--tokens", num_shards * SHARD_TOKENS,
        "--entities", args.entities, "--seed", args.seed, "--tokenizer", tokenizer,
        "--out", args.work / "shards", "--processes", args.processes,
    )  # fmt: skip
    run(
        "train.py", "--model", name, "--shards", args.work / "shards",
        "--num-shards", num_shards, "--folder", work, "--tokens", tokens,
        "--deadline", time.time() + 60 * minutes, "--seed", args.seed,
        "--batch-tokens", args.batch_tokens, "--micro-tokens", args.micro_tokens,
    )  # fmt: skip
    run(
        "export.py", "--model", name, "--checkpoint", work / "checkpoint.pt",
        "--out", folder,
    )  # fmt: skip
    shutil.copy(work / "training_log.csv", folder)


def main():
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the models' folder")
    parser.add_argument("--work", type=Path, required=True, help="shards, checkpoints")
    parser.add_argument("--entities", type=int, default=2000 if gpu else 200)
    parser.add_argument("--tokens", type=float, default=500e6 if gpu else 20e6)
    parser.add_argument("--draft-tokens", type=float, default=100e6 if gpu else 6e6)
    parser.add_argument(
        "--minutes", type=float, default=600, help="limit of a training"
    )
    parser.add_argument("--max-shards", type=int, default=250, help="then again")
    parser.add_argument("--batch-tokens", type=int, default=65536 if gpu else 8192)
    parser.add_argument("--micro-tokens", type=int, default=65536 if gpu else 2048)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    demo, draft = (args.out / name for name in CONFIGS)
    run("train_tokenizer.py", "--seed", args.seed, "--out", demo)
    build_model(args, "demo", args.tokens, args.minutes)
    build_model(args, "demo-draft", args.draft_tokens, args.minutes)
    for name in TOKENIZER_FILES:
        shutil.copy(demo / name, draft)
    evaluate = ("evaluate.py", "--entities", args.entities)
    run(*evaluate, "--model", draft, "--out", draft / "evaluation.json")
    run(
        *evaluate, "--model", demo, "--draft", draft,
        "--out", demo / "evaluation.json",
    )  # fmt: skip


if __name__ == "__main__":
    main()
