#!/usr/bin/env python3
"""llm-worker on the emulated GPU: the shipped demo model by ranks as processes, against the CPU; and
what a user without enough GPUs is told. Standard library only.

    cuda_worker_test.py BIN_DIRECTORY [unittest arguments]
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

from running_worker import RunningWorker

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 else ROOT / "build/cpu-release/bin"
SECONDS = 240  # an emulated kernel is slow, and the machine may be loaded
PROMPT = "The capital of France is"


class CudaWorker(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.engine = os.path.join(cls.directory.name, "demo-w8")
        subprocess.run([BIN / "llm-build", ROOT / "models/demo", cls.engine, "--weights", "w8"],
                       check=True, capture_output=True, timeout=SECONDS)

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def command(self, program, ranks, *settings):
        command = [ROOT / "scripts/mpirun", "-np", str(ranks), BIN / program]
        for setting in (f"engine={self.engine}", f"parallel.tp_size={ranks}",
                        "kv_cache.capacity_tokens=2048", "scheduling.max_context_tokens=512",
                        "scheduling.max_step_tokens=64", "failure.operation_deadline_ms=60000",
                        *settings):
            command += ["--set", setting]
        return command

    def digests(self, program, ranks, *settings):
        """Each token's id and the digest of its logits."""
        done = subprocess.run(
            self.command(program, ranks, *settings)
            + ["--digest", "--max-tokens", "10", "--prompt", PROMPT],
            capture_output=True, text=True, timeout=SECONDS)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(done.stdout.split("\n")), 11, done.stdout)
        return done.stdout

    def test_int8_kv_gives_the_cpus_bits_at_every_tp_size(self):
        cpu = self.digests("llm-worker", 1, "kv_cache.format=INT8")
        for ranks in (1, 2, 4):
            with self.subTest(ranks=ranks):
                self.assertEqual(cpu, self.digests("llm-worker-emulated", ranks, "device=CUDA",
                                                   "kv_cache.format=INT8"))

    def test_bf16_kv_is_the_same_at_every_tp_size(self):
        one = self.digests("llm-worker-emulated", 1, "device=CUDA")
        for ranks in (2, 4):
            with self.subTest(ranks=ranks):
                self.assertEqual(one, self.digests("llm-worker-emulated", ranks, "device=CUDA"))

    def test_tokens_drawn_on_the_device_make_the_cpus_text(self):
        def text(program, *settings):
            done = subprocess.run(
                self.command(program, 1, "kv_cache.format=INT8", *settings)
                + ["--max-tokens", "16", "--temperature", "0.8", "--prompt", PROMPT],
                capture_output=True, text=True, timeout=SECONDS)
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stdout
        self.assertEqual(text("llm-worker"), text("llm-worker-emulated", "device=CUDA"))

    def test_a_rank_without_a_gpu_ends_the_job_with_what_to_do(self):
        done = subprocess.run(
            self.command("llm-worker-emulated", 2, "device=CUDA") + ["--prompt", PROMPT],
            capture_output=True, text=True, timeout=SECONDS,
            env={**os.environ, "PHALANX_EMULATED_DEVICES": "1"})
        self.assertEqual(done.returncode, 2)
        self.assertIn("finds no GPU of its own", done.stderr)
        self.assertIn("cuda.share_devices", done.stderr)
        shared = self.digests_shared()
        self.assertEqual(shared, self.digests("llm-worker-emulated", 1, "device=CUDA"))

    def digests_shared(self):
        done = subprocess.run(
            self.command("llm-worker-emulated", 2, "device=CUDA", "cuda.share_devices=true")
            + ["--digest", "--max-tokens", "10", "--prompt", PROMPT],
            capture_output=True, text=True, timeout=SECONDS,
            env={**os.environ, "PHALANX_EMULATED_DEVICES": "1"})
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_without_any_gpu_the_reason_is_told(self):
        done = subprocess.run(
            self.command("llm-worker-emulated", 1, "device=CUDA") + ["--prompt", PROMPT],
            capture_output=True, text=True, timeout=SECONDS,
            env={**os.environ, "PHALANX_EMULATED_DEVICES": "0"})
        self.assertEqual(done.returncode, 2)
        self.assertIn("device: CUDA, but no GPU here", done.stderr)

    def test_a_killed_rank_ends_the_job(self):
        with RunningWorker(BIN / "llm-worker-emulated", self.engine,
                           settings=("device=CUDA",)) as worker:
            thread, outcome = worker.stream_in_thread(1900)
            os.kill(worker.rank_pids()[1], signal.SIGKILL)
            status, seconds = worker.wait_exit(60)
            thread.join(10)
            self.assertNotEqual(status, 0)
            self.assertLess(seconds, 20, worker.text())
            self.assertRegex(worker.text(), r"rank 1 on \S+")
            self.assertNotIn("[DONE]", outcome[0])


if __name__ == "__main__":
    unittest.main()
