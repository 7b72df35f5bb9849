#!/usr/bin/env python3
"""Fails when no test reaches a source. A source is reached when a test carries its name or includes
its header; or as a part of a reached unit: its header is included by a reached source or header of
the same folder (unit_of), or it has no header of its own and includes a reached one of it."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ["runtime", "parallel", "kernels", "launcher"]
EXEMPT = [
    re.compile(r"^launcher/llm_(worker|build)\.cpp$"),  # mains
    # Reached through dispatch: the tests of the kernels run every tier.
    re.compile(r"^kernels/cpu/[a-z_]+_(portable|avx2|avx2_vnni_vex|avx2_vnni_evex|avx512)\.cpp$"),
    # Reached through the program: tests/launcher/worker_test.py starts llm-worker.
    re.compile(r"^launcher/(offline_client|worker_job|worker_setup)\.cpp$"),
    re.compile(r"^runtime/server/tokenizer_text\.cpp$"),
]
SUFFIXES = {".cpp", ".cu"}
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


def unit_of(name: str) -> str:
    """kernels/cpu/x.h and kernels/y.cpp are of one unit; runtime/model and runtime/server are not."""
    parts = name.split("/")
    return "/".join(parts[: 2 if parts[0] == "runtime" else 1])


def header_of(source: str) -> str:
    return str(pathlib.PurePosixPath(source).with_suffix(".h"))


def includes(path: pathlib.Path) -> set[str]:
    return set(INCLUDE.findall(path.read_text())) if path.exists() else set()


def main() -> int:
    tests = [p for p in (ROOT / "tests").rglob("*") if p.suffix in {".cpp", ".h", ".py"}]
    names = {test.stem.removesuffix("_test") for test in tests if test.stem.endswith("_test")}
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SUFFIXES
    }
    reached = {header for test in tests for header in includes(test)}
    reached |= {header_of(name) for name in sources
                if pathlib.PurePath(name).stem in names}

    grown = True
    while grown:
        grown = False
        for header in list(reached):
            for part in (header, *(header.removesuffix(".h") + suffix for suffix in SUFFIXES)):
                inner = {i for i in includes(ROOT / part) if unit_of(i) == unit_of(header)}
                grown |= not inner <= reached
                reached |= inner
        for name in sources:
            header = header_of(name)
            if header in reached or (ROOT / header).exists():
                continue
            if any(i in reached and unit_of(i) == unit_of(name) for i in includes(ROOT / name)):
                reached.add(header)
                grown = True

    missing = sorted(
        name
        for name in sources
        if header_of(name) not in reached
        and not any(pattern.match(name) for pattern in EXEMPT)
    )
    print("\n".join(f"no test reaches {name}" for name in missing) or "tests reach every source: ok")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
