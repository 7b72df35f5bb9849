#!/usr/bin/env python3
"""scripts/planted_bugs without compiling: the list fits the tree, and what does not is told.
Usage: planted_bugs_script_test.py SOURCE_DIR"""

import importlib.machinery
import importlib.util
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()


def load_script():
    loader = importlib.machinery.SourceFileLoader("planted_bugs_script",
                                                  str(ROOT / "scripts" / "planted_bugs"))
    script = importlib.util.module_from_spec(
        importlib.util.spec_from_loader(loader.name, loader))
    sys.dont_write_bytecode = True
    loader.exec_module(script)
    return script


SCRIPT = load_script()


class PlantedBugs(unittest.TestCase):
    def setUp(self):
        self.bugs = SCRIPT.load_bugs()

    def test_every_bug_can_be_planted(self):
        self.assertEqual(SCRIPT.check(self.bugs), [])
        self.assertGreaterEqual(len(self.bugs), 24)

    def test_a_text_that_went_is_told(self):
        bug = {**self.bugs[0], "old": "no such text"}
        self.assertIn(f"{bug['name']}: its text is 0 times in {bug['file']}, wanted is 1",
                      SCRIPT.check([bug]))

    def test_a_text_that_is_there_twice_is_told(self):
        bug = {**self.bugs[0], "old": "__syncthreads();"}
        self.assertRegex(SCRIPT.check([bug])[0], r"its text is \d+ times")

    def test_a_change_that_is_none_is_told(self):
        bug = {**self.bugs[0], "new": self.bugs[0]["old"]}
        self.assertRegex(SCRIPT.check([bug])[0], "stays as it is")

    def test_tests_and_programs_that_went_are_told(self):
        bug = {**self.bugs[0], "tests": ["LinearKernels.NoSuchTest"]}
        self.assertRegex(SCRIPT.check([bug])[0], "has no test LinearKernels.NoSuchTest")
        self.assertRegex(SCRIPT.check([{**bug, "program": "none"}])[0], "no program none")

    def test_filters_name_parameters(self):
        self.assertEqual(SCRIPT.gtest_filter(["A.B", "C.D/int8"]), "A.B:*/A.B/*:*/C.D/int8")

    def program(self, text):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = pathlib.Path(folder.name) / "program"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        SCRIPT.BUILD = path.parent
        return path

    def test_how_a_program_ends(self):
        for text, expected in [
            ("echo '[  PASSED  ] 2 tests.'", ""),
            ("echo '[  PASSED  ] 0 tests.'", "no test ran"),
            ("echo '[ RUN      ] A.B'; echo '[  FAILED  ] A.B (3 ms)'; exit 1", "A.B"),
            ("echo '[ RUN      ] A.B'; kill -SEGV $$", "A.B, signal 11"),
            ("exit 3", "exit status 3"),
            ("sleep 30", "hang, over 1 s"),
        ]:
            self.assertEqual(SCRIPT.run_tests(self.program(text), ["A.B"], 1), expected)


if __name__ == "__main__":
    unittest.main()
