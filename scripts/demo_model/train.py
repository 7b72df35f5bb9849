"""Trains one model on packed shards: warm up, stay, decay to zero.

Progress is the larger of tokens / budget and time / deadline, so the decay always
completes. Touching `finish` in the run folder starts the decay at once. Run alone
or under torchrun; a run folder with a checkpoint is resumed.
"""

import argparse
import csv
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from corpus import SHARD_TOKENS
from model import CONFIGS, Llama
from muon import Muon

# Row lengths of successive steps: mostly short and cheap, some for long contexts.
ROW_LENGTHS = (512, 512, 512, 512, 512, 512, 512, 2048)
DECAY_SHARE = 0.25
WARMUP_STEPS = 50
ADAM_LR = 3e-3
MUON_LR = 0.02
MAX_GRADIENT_NORM = 1.0


class Shards:
    """The token stream of all shards, again and again; waits for its shards."""

    def __init__(self, folder: Path, mix: str, num_shards: int):
        self.folder, self.mix, self.num_shards = folder, mix, num_shards
        self.loaded_index, self.loaded = -1, None

    def rows(self, position: int, count: int, length: int) -> torch.Tensor:
        """Returns int64 [count, length + 1]: rows and the token after each."""
        rows = [self.row(position + i * length, length) for i in range(count)]
        return torch.from_numpy(np.stack(rows))

    def row(self, position: int, length: int) -> np.ndarray:
        """Returns length + 1 tokens; the last row of a shard starts a bit earlier."""
        shard_index = position // SHARD_TOKENS % self.num_shards
        if shard_index != self.loaded_index:
            path = self.folder / f"{self.mix}-{shard_index:05d}.npy"
            while not path.exists():
                time.sleep(1)
            self.loaded, self.loaded_index = np.load(path, mmap_mode="r"), shard_index
        start = min(position % SHARD_TOKENS, SHARD_TOKENS - length - 1)
        return self.loaded[start : start + length + 1].astype(np.int64)


@dataclass
class Schedule:
    """Progress from 0 to 1 by tokens or by the clock, whichever is further."""

    tokens: float
    start: float
    deadline: float
    finish_file: Path

    def progress(self, tokens_done: int) -> float:
        """Looks for the finish file; call it on one rank."""
        now = time.time()
        by_tokens = tokens_done / self.tokens
        by_time = (now - self.start) / (self.deadline - self.start)
        progress = max(by_tokens, by_time)
        if self.finish_file.exists():
            self.finish_file.unlink()
            remaining = (1 - progress) * (now - self.start) / max(progress, 1e-6)
            if progress < 1 - DECAY_SHARE:
                elapsed = now - self.start
                remaining = elapsed * DECAY_SHARE / (1 - DECAY_SHARE)
            self.deadline = now + remaining
            self.tokens = float("inf")
            progress = max(progress, 1 - DECAY_SHARE)
        return progress

    @staticmethod
    def factor(progress: float, step: int) -> float:
        """The learning rate's factor."""
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        return warm * min(1.0, max(0.0, 1 - progress) / DECAY_SHARE)


class Trainer:
    """One rank's model, optimizers and data."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        torch.manual_seed(args.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = Llama(CONFIGS[args.model]).to(self.device)
        self.params = list(self.model.parameters())
        layers = [p for p in self.model.model.layers.parameters() if p.dim() == 2]
        rest = [p for p in self.params if all(p is not q for q in layers)]
        self.optimizers = (
            Muon(layers, lr=MUON_LR),
            torch.optim.AdamW(rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0),
        )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]
        self.shards = Shards(args.shards, args.model, args.num_shards)
        self.step, self.seconds = 0, 0.0
        self.checkpoint_path = args.folder / "checkpoint.pt"
        self.log_path = args.folder / "training_log.csv"
        if self.checkpoint_path.exists():
            self.load()

    @property
    def tokens_done(self) -> int:
        return self.step * self.args.batch_tokens

    def load(self):
        saved = torch.load(self.checkpoint_path, map_location=self.device)
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step, self.seconds = saved["step"], saved["seconds"]
        if self.rank == 0:
            self.forget_log_after_checkpoint()

    def forget_log_after_checkpoint(self):
        """Drops the logged steps that will be done again."""
        header, *rows = self.log_path.read_text().splitlines(keepends=True)
        kept = [row for row in rows if int(row.split(",")[0]) <= self.step]
        self.log_path.write_text("".join((header, *kept)))

    def save(self):
        partial_path = self.checkpoint_path.with_suffix(".part")
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, partial_path)
        partial_path.rename(self.checkpoint_path)

    def gradients(self) -> float:
        """Accumulates this rank's share of a step; returns the mean loss of all."""
        length = ROW_LENGTHS[self.step % len(ROW_LENGTHS)]
        tokens_here = self.args.batch_tokens // self.world
        micro_tokens = min(self.args.micro_tokens, tokens_here)
        first = self.tokens_done + self.rank * tokens_here
        flat = torch.zeros(sum(p.numel() for p in self.params) + 1, device=self.device)
        views = flat[1:].split([p.numel() for p in self.params])
        for p, view in zip(self.params, views, strict=True):
            p.grad = view.view_as(p)
        for position in range(first, first + tokens_here, micro_tokens):
            rows = self.shards.rows(position, micro_tokens // length, length)
            rows = rows.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = self.model.loss(rows[:, :-1], rows[:, 1:])
            loss = loss * (micro_tokens / self.args.batch_tokens)
            loss.backward()
            flat[0] += loss.detach()
        if self.world > 1:
            dist.all_reduce(flat)
        norm = flat[1:].norm()
        flat[1:] *= (MAX_GRADIENT_NORM / (norm + 1e-6)).clamp(max=1.0)
        return flat[0].item()

    def update(self, factor: float):
        """Steps the optimizers."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
        self.step += 1


def agreed(value: float) -> float:
    """Returns rank 0's value on every rank."""
    if not dist.is_initialized():
        return value
    tensor = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(tensor, 0)
    return tensor.item()


def train(args: argparse.Namespace):
    """Trains until the schedule ends; rank 0 logs and saves."""
    trainer = Trainer(args)
    now = time.time()
    deadline = args.deadline or now + 1e9
    schedule = Schedule(
        args.tokens, now - trainer.seconds, deadline, args.folder / "finish"
    )
    last_save = now
    if trainer.rank == 0 and trainer.step == 0:
        trainer.log_path.write_text("step,tokens,seconds,learning_rate_factor,loss\n")
    losses = []
    while True:
        progress = agreed(schedule.progress(trainer.tokens_done))
        if progress >= 1:
            break
        factor = schedule.factor(progress, trainer.step)
        losses.append(trainer.gradients())
        trainer.update(factor)
        trainer.seconds = time.time() - schedule.start
        if trainer.rank != 0:
            continue
        if trainer.step % args.log_every == 0:
            row = (
                trainer.step, trainer.tokens_done, round(trainer.seconds),
                f"{factor:.3f}", f"{np.mean(losses):.4f}",
            )  # fmt: skip
            losses.clear()
            with trainer.log_path.open("a", newline="") as log:
                csv.writer(log, lineterminator="\n").writerow(row)
        if time.time() - last_save > args.save_seconds:
            trainer.save()
            last_save = time.time()
    if trainer.rank == 0:
        trainer.save()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=CONFIGS, required=True)
    parser.add_argument("--shards", type=Path, required=True, help="their folder")
    parser.add_argument("--num-shards", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="of this run")
    parser.add_argument("--tokens", type=float, default=20e6, help="budget")
    parser.add_argument("--deadline", type=float, help="unix time of the end")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--micro-tokens", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--save-seconds", type=float, default=180)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if "RANK" in os.environ:
        dist.init_process_group("gloo", timeout=timedelta(minutes=30))
    train(args)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
