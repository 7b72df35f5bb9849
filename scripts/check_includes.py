#!/usr/bin/env python3
"""Checks the dependency rule: which folder may include what. Linking enforces it for functions;
this enforces it for headers. Prints every breach as file:line and exits with 1."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# folder -> prefixes of our own headers it may include, besides its own
ALLOWED = {
    "runtime/base": [],
    "kernels": ["runtime/base/"],
    "parallel": ["runtime/base/"],
    "runtime/model": ["runtime/base/", "parallel/shard_spec.h", "parallel/rank_topology.h"],
    "runtime/builder": ["runtime/base/", "runtime/model/", "kernels/"],
    "runtime/scheduler": ["runtime/base/"],
    "runtime/executor": [
        "runtime/base/",
        "runtime/model/",
        "runtime/scheduler/step_plan.h",
        "runtime/scheduler/request.h",
        "kernels/",
        "parallel/",
    ],
    "runtime/server": ["runtime/base/", "runtime/scheduler/", "parallel/step_channel.h"],
    "launcher": [""],
}

# third-party header pattern -> folders (or files) that may include it
CONFINED = [
    (re.compile(r"^mpi\.h$"), ["parallel/"]),
    (re.compile(r"^(cuda|cublas|cudnn|cuda_runtime)"), ["kernels/cuda/"]),
    (re.compile(r"^nccl"), []),
    (re.compile(r"^boost/(asio|beast)"), ["runtime/server/http_", "launcher/llm_gateway", "launcher/bench/serve_"]),
    (re.compile(r"^boost/context"), ["kernels/cuda/emulator/"]),
    (re.compile(r"^kernels/cuda/emulator/"), ["kernels/cuda/"]),
    (re.compile(r"^hwloc"), ["launcher/machine_topology."]),
    (re.compile(r"^(immintrin|x86intrin|arm_neon)\.h$"), ["kernels/cpu/"]),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def folder_of(path: str) -> str | None:
    matches = [folder for folder in ALLOWED if path.startswith(folder + "/")]
    return max(matches, key=len) if matches else None


def main() -> int:
    breaches = []
    for path in sorted(ROOT.glob("**/*")):
        name = path.relative_to(ROOT).as_posix()
        folder = folder_of(name)
        if folder is None or path.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            match = INCLUDE.match(line)
            if not match:
                continue
            target = match.group(2)
            owner = folder_of(target)
            if owner and owner != folder:
                if not any(target.startswith(prefix) for prefix in ALLOWED[folder]):
                    breaches.append(f"{name}:{number}: {folder} may not include {target}")
            for pattern, places in CONFINED:
                if pattern.match(target) and not any(name.startswith(p) for p in places):
                    breaches.append(f"{name}:{number}: {target} belongs only in {', '.join(places) or 'tests'}")
    print("\n".join(breaches) if breaches else "include rule: ok")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
