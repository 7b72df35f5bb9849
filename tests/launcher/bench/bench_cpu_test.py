#!/usr/bin/env python3
"""scripts/bench_cpu on the tiny shape, with the real programs: every step gives its figures, peers
are joined, what is wrong is named, a failed step does not stop the others.
Usage: bench_cpu_test.py SOURCE_DIR BIN_DIR"""

import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(sys.argv.pop(1)).resolve() / "scripts" / "bench_cpu"
BIN = pathlib.Path(sys.argv.pop(1)).resolve()
STEPS = "limits,kernels,model,ranks,collectives,serve,start,idle,demo"


def bench_cpu(*arguments, timeout=500):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def left_over(engine_folder):
    """Command lines of processes that still use the run's engines."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            line = entry.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            continue
        if "llm-worker" in line and str(engine_folder) in line:
            found.append(line)
    return found


class BenchCpu(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="phalanx-test-")
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)

    def test_every_step_gives_its_figures(self):
        peers = {
            "rows": [
                {"row": "prefill_512_w8", "peer": "other", "value": 0.5, "unit": "tok/s"},
                {"row": "never_measured", "peer": "other", "value": 1, "unit": "tok/s"},
            ]
        }
        (self.path / "peers.json").write_text(json.dumps(peers))
        result = bench_cpu(
            "--quick", "--shape", "tiny", "--bin", BIN, "--only", STEPS, "--out", self.path / "out",
            "--engines", self.path / "engines", "--peer-results", self.path / "peers.json",
        )
        logs = "".join(
            f"--- {log.name}\n{log.read_text()[-1500:]}" for log in (self.path / "out").glob("*.log")
        )
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr + logs)
        table = json.loads((self.path / "out" / "table.json").read_text())
        self.assertEqual(table["failed"], {})
        expected = {
            "read_dram", "peak_int8", "kernels_checked", "prefill_512_w8", "decode_1_w8",
            "decode_32_w8", "prefill_2x1_over_1x1", "decode_2x1_over_1x2", "all_reduce_16k",
            "all_reduce_16k_over_mpi", "serve_8_output", "serve_8_ttft_p50", "resident",
            "resident_beyond", "start_to_first_token", "idle_8_ranks", "decode_1_demo",
        }
        self.assertLessEqual(expected, set(table["rows"]))
        for key, cell in table["rows"].items():
            self.assertTrue(math.isfinite(cell["value"]) and cell["value"] >= 0, key)
            self.assertLessEqual(cell["least"], cell["value"])
            self.assertLessEqual(cell["value"], cell["most"])
        text = (self.path / "out" / "table.md").read_text()
        self.assertIn(text, result.stdout)
        prefill = next(line for line in text.splitlines() if line.startswith("| prefill 512, w8"))
        self.assertIn("0.5 tok/s (other)", prefill)
        self.assertIn("never_measured", result.stdout)
        plots = {path.name for path in (self.path / "out" / "plots").iterdir()}
        self.assertEqual(
            plots, {"roofline.svg", "throughput.svg", "latency.svg", "collectives.svg"}
        )
        self.assertEqual(left_over(self.path), [])

    def test_a_failed_step_is_named_and_the_others_go_on(self):
        # Programs of which one always fails.
        programs = self.path / "bin"
        programs.mkdir()
        (programs / "llm-bench").symlink_to(BIN / "llm-bench")
        (programs / "llm-worker").symlink_to("/bin/false")
        (programs / "llm-build").symlink_to(BIN / "llm-build")
        result = bench_cpu(
            "--quick", "--shape", "tiny", "--bin", programs, "--only", "start,limits", "--out",
            self.path / "out", "--engines", self.path / "engines",
        )
        self.assertEqual(result.returncode, 1)
        self.assertNotIn("Traceback", result.stderr)
        table = json.loads((self.path / "out" / "table.json").read_text())
        self.assertEqual(list(table["failed"]), ["start"])
        self.assertIn("did not become ready", table["failed"]["start"])
        self.assertIn("start.log", table["failed"]["start"])
        self.assertIn("read_dram", table["rows"])
        self.assertIn("Failed: start", result.stdout)

    def test_wrong_arguments_are_named(self):
        for arguments, message in (
            (["--only", "modle"], '--only has "modle"'),
            (["--threads", "-1"], "--threads is -1"),
            (["--peer-results", self.path / "none.json"], "none.json: No such file"),
        ):
            result = bench_cpu(*arguments, "--bin", BIN, "--out", self.path / "out")
            self.assertNotEqual(result.returncode, 0)
            self.assertIn(message, result.stderr)
            self.assertNotIn("Traceback", result.stderr)
        (self.path / "bad.json").write_text('{"rows": [{"row": "x"}]}')
        result = bench_cpu("--peer-results", self.path / "bad.json", "--bin", BIN)
        self.assertIn("needs rows with row, peer, value and unit", result.stderr)

    def test_a_peer_takes_the_same_load(self):
        settings = ["parallel.tp_size=1", "server.port=0", "scheduling.max_context_tokens=1024"]
        engine = subprocess.run(
            [BIN / "llm-bench", "engine", "--shape", "tiny", "--engines", self.path / "engines"],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()[-1]
        command = [BIN / "llm-worker", "--config", SCRIPT.parent.parent / "configs/demo.textproto"]
        for setting in (f"engine={engine}", *settings):
            command += ["--set", setting]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as peer:
            try:
                url = next(
                    match.group(0)
                    for line in peer.stderr
                    if (match := re.search(r"http://[0-9.]+:[0-9]+", line))
                )
                result = bench_cpu(
                    "--quick", "--shape", "tiny", "--bin", BIN, "--only", "serve", "--out",
                    self.path / "out", "--engines", self.path / "engines", "--peer-url", url,
                )
            finally:
                peer.kill()
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        rows = json.loads((self.path / "out" / "table.json").read_text())["rows"]
        self.assertGreater(rows["serve_8_output_peer"]["value"], 0)
        text = (self.path / "out" / "table.md").read_text()
        ours = next(line for line in text.splitlines() if "64 out, output |" in line)
        self.assertIn("(--peer-url)", ours)

    def test_programs_that_are_not_there_fail_their_steps(self):
        result = bench_cpu("--bin", self.path, "--only", "limits", "--out", self.path / "out")
        self.assertEqual(result.returncode, 1)
        self.assertIn("llm-bench", result.stdout)
        self.assertNotIn("Traceback", result.stderr)


if __name__ == "__main__":
    os.environ.setdefault("OMPI_MCA_rmaps_base_oversubscribe", "1")
    unittest.main()
