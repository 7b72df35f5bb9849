#!/usr/bin/env python3
"""scripts/gpu_check on the emulated device: every part runs and the report has every section; a
part that fails does not stop the others; the time is bounded.
Usage: gpu_check_test.py SOURCE_DIR BUILD_DIR"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(sys.argv.pop(1)).resolve()
BUILD = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(SOURCE / "scripts"))
import gpu_check_parts  # noqa: E402
import gpu_check_report  # noqa: E402


def gpu_check(out, *arguments):
    return subprocess.run(
        [sys.executable, SOURCE / "scripts" / "gpu_check", "--emulated", "--build", BUILD, "--out", out,
         *arguments],
        capture_output=True, text=True, timeout=280, env={"PATH": "/usr/bin:/bin"}, cwd="/")


class GpuCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = pathlib.Path(folder.name)

    def report(self):
        return json.loads((self.out / "emulated.json").read_text())

    def test_rehearsal_has_all_sections(self):
        result = gpu_check(self.out)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        report = self.report()
        self.assertTrue(report["emulated"])
        machine = gpu_check_parts.EmulatedMachine(SOURCE, BUILD)
        parts = {part["name"]: part for part in report["parts"]}
        self.assertEqual(list(parts), [part.name for part in gpu_check_parts.parts_of(machine)])
        for part in parts.values():
            self.assertIn(part["status"], ("passed", "skipped"), part)
        names = {row["name"] for part in parts.values() for row in part["findings"].get("measurements", [])}
        self.assertEqual(names, {
            "ceiling", "linear", "attention_decode", "attention_prefill", "add_rms_norm", "silu_mul",
            "sample", "all_reduce_add_norm", "decode_step", "gpu_idle_between_steps",
            "kernels_of_a_layer", "prefill"})
        w8 = [row for row in parts["serving"]["findings"]["compared"] if row["weights"] == "w8"]
        self.assertTrue(w8 and all(row["same_logits"] == row["tokens"] > 0 for row in w8), w8)
        text = (self.out / "emulated.md").read_text()
        self.assertIn(gpu_check_report.MARK, text)
        for heading in ["Machine", "Asked and measured", "Parts"] + [p["title"] for p in parts.values()]:
            self.assertIn(f"\n## {heading}\n", text)

    def test_a_part_that_fails_does_not_stop_the_others(self):
        def fails(_machine, _runner):
            raise ValueError("as planned")

        def hangs(_machine, runner):
            status, _ = runner.run(gpu_check_parts.Step("hangs", ["sleep", "60"]))
            return gpu_check_parts.verdict([f"status {status}"])

        machine = gpu_check_parts.EmulatedMachine(SOURCE, BUILD)
        parts = [gpu_check_parts.Part("a", "A", 5, fails), gpu_check_parts.Part("b", "B", 0.5, hangs),
                 gpu_check_parts.Part("c", "C", 5, lambda *_: {})]
        results = gpu_check_parts.run_parts(machine, parts, gpu_check_parts.time.monotonic() + 60)
        self.assertEqual([r["status"] for r in results], ["failed", "failed", "passed"])
        self.assertIn("as planned", results[0]["why"])
        self.assertIn("124", results[1]["why"])
        report = gpu_check_report.make_report(machine, results, 1)
        self.assertFalse(report["passed"])
        self.assertEqual(report["failed_parts"], ["a", "b"])

    def test_no_part_starts_when_the_time_is_up(self):
        result = gpu_check(self.out, "--seconds", "0", "--only", "linear,nccl")
        self.assertEqual(result.returncode, 1)
        self.assertEqual([p["why"] for p in self.report()["parts"]], ["no time was left"] * 2)

    def test_an_unknown_part_is_refused(self):
        result = gpu_check(self.out, "--only", "nothing")
        self.assertEqual(result.returncode, 1)
        self.assertIn("unknown part nothing", result.stderr)


if __name__ == "__main__":
    unittest.main()
