#!/usr/bin/env python3
"""scripts/cuda_budget and cmake/keep_messages.sh: what fails, what is only said and what is
written, on cubins made here. Usage: cuda_budget_script_test.py SOURCE_DIR"""

import json
import pathlib
import stat
import subprocess
import sys
import tempfile
import unittest

import cubin_writer as writer

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
SCRIPT = ROOT / "scripts" / "cuda_budget"
LAUNCHER = ROOT / "cmake" / "keep_messages.sh"
ADD = "_ZN7phalanx7kernels4cuda12add_rms_normINS1_7AddNormEEEvT_"
ROPE = "_ZN7phalanx7kernels4cuda4ropeINS1_4RopeEEEvT_"
WORDS = [writer.HMMA, writer.LDG_128, writer.LDG_64] + [writer.NOP] * 200
REMARK = (
    "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are"
    f" serialized in around line 12 in function '{ADD}'\n"
)


class CudaBudget(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)
        self.table = self.path / "budget.json"
        self.kernels = {
            ADD: {"registers": 32, "shared": 64, "words": WORDS},
            ROPE: {"registers": 30, "stack": 16, "words": [writer.STL_U16]},
        }
        self.hot = ["add_rms_norm<*"]

    def cubin(self, toolkit="13.0.88"):
        kernels = [{"symbol": symbol, **row} for symbol, row in self.kernels.items()]
        path = self.path / "kernels.cubin"
        path.write_bytes(writer.make_cubin(kernels, "sm_90a", toolkit))
        return path

    def run_script(self, *arguments):
        command = [sys.executable, SCRIPT, "--table", self.table, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin"}
        )

    def write_table(self):
        """The table of the kernels as they are, with the hot patterns."""
        empty = {"toolkit": "", "hot": self.hot, "advice": [], "kernels": {}}
        self.table.write_text(json.dumps(empty))
        result = self.run_script("--update", self.disassembler(), self.cubin())
        self.assertEqual(result.returncode, 0)

    def disassembler(self, text=None):
        """A stand-in for nvdisasm that prints `text`, or else what the cubin holds."""
        if text is None:
            text = ""
            for symbol, row in self.kernels.items():
                names = {writer.HMMA: "HMMA", writer.LDG_128: "LDG.E.128"}
                names |= {writer.LDG_64: "LDG.E.64", writer.STL_U16: "STL.U16"}
                names |= {writer.LDL_64: "LDL.64", writer.BAR: "BAR"}
                found = [names[word] for word in row["words"] if word in names]
                lines = "".join(f"        /*0000*/    {name} R0 ;\n" for name in found)
                text += f".text.{symbol}:\n{lines}"
        (self.path / "text").write_text(text)
        tool = self.path / "nvdisasm"
        tool.write_text(f'#!/bin/sh\ncat "{self.path}/text"\n')
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        return f"--disassembler={tool}"

    def check(self, toolkit="13.0.88"):
        """The exit status, and the lines about what got worse or changed."""
        result = self.run_script("--check", self.disassembler(), self.cubin(toolkit))
        self.assertEqual(result.stderr, "")
        lines = result.stdout.splitlines()
        return result.returncode, [l for l in lines if l.startswith(("worse: ", "changed: "))]

    def test_what_was_written_passes(self):
        self.write_table()
        self.assertEqual(self.check(), (0, []))

    def test_the_table_has_a_line_a_kernel(self):
        self.write_table()
        lines = self.table.read_text().splitlines()
        self.assertEqual(
            [line.strip() for line in lines if "sm_90a" in line],
            [
                '"add_rms_norm<AddNorm> sm_90a": {"registers": 32, "shared_bytes": 64,'
                ' "instructions": 204, "HMMA": 1, "LDG.128": 1, "LDG.narrow": 1},',
                '"rope<Rope> sm_90a": {"registers": 30, "stack_bytes": 16,'
                ' "local_store_bytes": 2}',
            ],
        )
        self.assertIn('  "toolkit": "13.0.88",', lines)

    def test_more_of_what_costs_fails(self):
        for field, value, name in (
            ("registers", 33, "registers 33, was 32"),
            ("stack", 8, "stack_bytes 8, was 0"),
            ("shared", 65, "shared_bytes 65, was 64"),
        ):
            self.setUp()
            self.write_table()
            self.kernels[ADD][field] = value
            line = f"worse: add_rms_norm<AddNorm> sm_90a: {name}"
            self.assertEqual(self.check(), (1, [line]))

    def test_less_of_what_costs_is_said(self):
        self.write_table()
        self.kernels[ROPE] |= {"registers": 20, "stack": 0, "words": []}
        status, lines = self.check()
        self.assertEqual(status, 0)
        self.assertEqual(len(lines), 3)
        self.assertIn("changed: rope<Rope> sm_90a: registers 20, was 30", lines)

    def test_more_spills_of_any_kernel_fail(self):
        self.write_table()
        self.kernels[ROPE]["words"] = [writer.STL_U16, writer.LDL_64]
        line = "worse: rope<Rope> sm_90a: local_load_bytes 8, was 0"
        self.assertEqual(self.check(), (1, [line]))

    def test_a_hot_kernel_may_not_spill_whatever_the_table_says(self):
        self.hot = ["rope<* sm_90a"]
        self.write_table()
        status, lines = self.check()
        self.assertEqual(status, 1)
        self.assertIn("a hot kernel may have no local memory", lines[0])

    def test_instructions_of_hot_kernels(self):
        for words, expected in (
            (WORDS[1:], ["HMMA 0, was 1"]),
            (WORDS + [writer.BAR], ["BAR 1, was 0"]),
            ([writer.HMMA] + WORDS[2:], ["LDG.128 0, was 1"]),
            (WORDS + [writer.LDG_64], ["LDG.narrow 2, was 1"]),
            (WORDS + [writer.NOP] * 11, ["instructions 215, was 204"]),
            (WORDS + [writer.NOP] * 10, []),
            (WORDS + [writer.HMMA], []),
        ):
            self.setUp()
            self.write_table()
            self.kernels[ADD]["words"] = words
            status, lines = self.check()
            worse = [line for line in lines if line.startswith("worse")]
            self.assertEqual(
                worse, [f"worse: add_rms_norm<AddNorm> sm_90a: {text}" for text in expected]
            )
            self.assertEqual(status, 1 if expected else 0)

    def test_instructions_of_other_kernels_do_not_matter(self):
        self.hot = []
        self.write_table()
        self.kernels[ADD]["words"] = WORDS[2:]
        self.assertEqual(self.check(), (0, []))

    def test_kernels_that_come_and_go_fail(self):
        self.write_table()
        self.kernels["_Z3addPf"] = self.kernels.pop(ROPE)
        status, lines = self.check()
        self.assertEqual(status, 1)
        self.assertIn("worse: rope<Rope> sm_90a: is in the table, but not in the code", lines)
        self.assertIn("worse: add sm_90a: is not in the table", lines)

    def test_a_pattern_without_a_kernel_fails(self):
        self.hot.append("gone<*")
        self.write_table()
        self.assertEqual(self.check(), (1, ["worse: hot: gone<* names no kernel"]))

    def test_another_compiler_fails_for_local_memory_alone(self):
        self.write_table()
        self.kernels[ADD] |= {"registers": 99, "words": WORDS[1:]}
        self.kernels["_Z3addPf"] = {"words": []}
        status, lines = self.check("13.1.80")
        self.assertEqual(status, 0)
        self.assertIn("changed: add_rms_norm<AddNorm> sm_90a: registers 99, was 32", lines)
        self.assertIn("13.0.88, this is 13.1.80", lines[0])
        self.kernels["_Z3addPf"] = {"stack": 16, "words": []}
        self.kernels[ROPE]["stack"] = 24
        status, lines = self.check("13.1.80")
        self.assertEqual(status, 1)
        self.assertEqual(
            [line for line in lines if line.startswith("worse")],
            [
                "worse: add sm_90a: stack_bytes 16, was 0",
                "worse: rope<Rope> sm_90a: stack_bytes 24, was 16",
            ],
        )

    def test_a_disassembler_that_counts_otherwise_fails(self):
        self.write_table()
        other = f".text.{ADD}:\n        /*0000*/    HMMA R0 ;\n.text.{ROPE}:\n"
        result = self.run_script("--check", self.disassembler(other), self.cubin())
        self.assertEqual(result.returncode, 1)
        self.assertIn("nvdisasm counts {'HMMA': 1}, cubin_reader", result.stdout)

    def test_remarks_of_ptxas_fail_until_the_table_has_them(self):
        self.write_table()
        folder = self.path / "build" / "kernels" / "cuda"
        messages = folder / "CMakeFiles" / "phalanx_cuda.dir" / "deeper" / "a.cu.o.messages"
        messages.parent.mkdir(parents=True)
        fatbin = writer.make_fatbin([self.cubin().read_bytes()])
        archive = writer.make_archive(writer.make_object(fatbin))
        (folder / "libphalanx_cuda.a").write_bytes(archive)
        build = ["--build", self.path / "build", self.disassembler()]
        messages.write_text("")
        self.assertEqual(self.run_script("--check", *build).returncode, 0)
        messages.write_text("other text\n" + REMARK)
        result = self.run_script("--check", *build)
        self.assertEqual(result.returncode, 1)
        self.assertIn(
            "worse: ptxas remarks: C7510 Potential Performance Loss: wgmma.mma_async instructions"
            " are serialized in function 'add_rms_norm<AddNorm>'\n",
            result.stdout,
        )
        table = json.loads(self.table.read_text())
        self.table.write_text(json.dumps(table | {"toolkit": "12.9.41"}))
        result = self.run_script("--check", *build)  # another compiler remarks what it likes
        self.assertEqual(result.returncode, 0)
        self.assertIn("changed: ptxas remarks: C7510", result.stdout)
        self.assertEqual(self.run_script("--update", *build).returncode, 0)
        self.assertEqual(self.run_script("--check", *build).returncode, 0)
        messages.write_text("")
        result = self.run_script("--check", *build)
        self.assertEqual(result.returncode, 0)
        self.assertIn("no longer remarks: C7510", result.stdout)
        messages.unlink()
        result = self.run_script("--check", *build)
        self.assertEqual(result.returncode, 2)
        self.assertIn("no messages of the compiler", result.stderr)

    def test_the_launcher_keeps_messages_and_the_exit_status(self):
        compiler = self.path / "compiler"
        compiler.write_text('#!/bin/sh\necho "$@"\necho "a remark" >&2\nexit 3\n')
        compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
        output = self.path / "with space.o"
        for arguments in (["-c", "a.cu", "-o", str(output)], ["--version"]):
            command = [LAUNCHER, compiler, *arguments]
            result = subprocess.run(command, capture_output=True, text=True, timeout=60)
            self.assertEqual(result.returncode, 3)
            self.assertEqual(result.stdout, " ".join(arguments) + "\n")
            self.assertEqual(result.stderr, "a remark\n")
        kept = [path for path in self.path.iterdir() if path.suffix == ".messages"]
        self.assertEqual(kept, [pathlib.Path(f"{output}.messages")])
        self.assertEqual(kept[0].read_text(), "a remark\n")

    def test_what_cannot_be_read_is_named(self):
        self.write_table()
        cubin = self.cubin()
        bad = self.path / "bad.o"
        bad.write_bytes(b"no machine code")
        for arguments, reason in (
            (["--check", self.path / "missing.a"], "missing.a: No such file"),
            (["--check", bad], "bad.o: is neither an archive nor"),
            (["--check", "--disassembler=/no/tool", cubin], "/no/tool: No such file"),
            (["--check", "--build", self.path, cubin], "either --build or FILEs"),
        ):
            result = self.run_script(*arguments)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertIn(reason, result.stderr)
            self.assertNotIn("Traceback", result.stderr)
        for text in ("", "[]", "{}", '{"toolkit": "", "hot": [], "advice": [], "kernels": [1]}'):
            self.table.write_text(text)
            result = self.run_script("--check", cubin)
            self.assertEqual(result.returncode, 2)
            self.assertIn("budget.json: is no budget", result.stderr)
        self.table.unlink()
        self.assertIn("No such file", self.run_script("--check", cubin).stderr)


if __name__ == "__main__":
    unittest.main()
