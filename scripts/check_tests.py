#!/usr/bin/env python3
"""Fails when a source has no test: tests/ mirrors the sources, and a file counts as tested when a
test includes its header or carries its name. Mains, stubs and generated code are exempt."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ["runtime", "parallel", "kernels", "launcher"]
# Stub backends, mains, and the per-ISA files and parts that only a tested unit of their folder
# reaches (their tests run through that unit, on every tier).
EXEMPT = [
    re.compile(r"^parallel/no_nccl\.cpp$"),
    re.compile(r"^launcher/llm_[a-z_]+\.cpp$"),
    re.compile(r"^kernels/(cpu|reference|cuda)/"),
]
INCLUDE = re.compile(r'#include "([^"]+)"')


def main() -> int:
    tests = list((ROOT / "tests").rglob("*.cpp"))
    included = set()
    pending = list(tests) + list((ROOT / "tests").rglob("*.h"))
    for test in pending:
        included.update(INCLUDE.findall(test.read_text()))
    names = {test.name for test in tests}
    missing = []
    for folder in FOLDERS:
        for source in sorted((ROOT / folder).rglob("*.cpp")):
            name = source.relative_to(ROOT).as_posix()
            if any(pattern.match(name) for pattern in EXEMPT):
                continue
            header = name.removesuffix(".cpp") + ".h"
            if header in included or f"{source.stem}_test.cpp" in names:
                continue
            # Part of a unit: its own header is included by a header or source that is tested.
            if any(
                header in INCLUDE.findall(other.read_text())
                for other in (ROOT / folder).rglob("*")
                if other.suffix in {".h", ".cpp"}
                and (other.relative_to(ROOT).as_posix().rsplit(".", 1)[0] + ".h") in included
            ):
                continue
            missing.append(name)
    print("\n".join(f"no test reaches {name}" for name in missing) or "every source has a test: ok")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
