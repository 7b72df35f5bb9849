"""The parts of gpu_check: what is run on the GPU, or on the emulated device, each with a time limit
of its own. A part that fails or takes too long is reported, and the others go on."""

import dataclasses
import glob
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

SKIPPED = 77
TAIL_LINES = 40
# Tests that only the emulated device can run: tests/kernels/cuda/on_gpu/CMakeLists.txt.
EMULATED_ONLY = [
    "PeerGroup.AKilledProcessIsNamed",
    "PeerMemory.ARankThatCannotAllocateFailsAllByName",
    "PeerMemory.ProcessesSeeEachOthersRegionsAndLeaveNothing",
    "PeerMemory.ATicketOfAnotherFileIsAReason",
    "PeerMemory.ARankOnAnotherHostIsAReasonForAll",
]
PROMPTS = ["Once upon a time", "The king said", "In the morning they"]


@dataclasses.dataclass
class Step:
    """One command of a part."""

    title: str
    command: list
    json: pathlib.Path | None = None  # what it writes
    environment: dict = dataclasses.field(default_factory=dict)
    limit_s: float = 0  # 0: what the part has left


@dataclasses.dataclass
class Part:
    name: str
    title: str
    limit_s: float
    run: object  # (Part, Runner) -> dict of findings


class Machine:
    """Where programs lie and how they are started."""

    emulated = False

    def __init__(self, root):
        self.root = root
        self.folder = tempfile.TemporaryDirectory(prefix="phalanx-gpu-check-")
        self.scratch = pathlib.Path(self.folder.name)
        self.facts = {}
        self.environment = {
            name: os.environ[name]
            for name in ("PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR", "USER")
            if name in os.environ
        }
        self.environment.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        self.environment.setdefault("HOME", str(self.scratch))


class EmulatedMachine(Machine):
    emulated = True

    def __init__(self, root, build):
        super().__init__(root)
        self.build = build.resolve()
        self.facts = {"gpu": "emulated", "commit": commit_of(root)}

    def program(self, name):
        emulated = name if name == "llm-build" else f"{name}-emulated"
        return [str(self.build / "bin" / emulated)]

    def test(self, name):
        return [str(self.build / "tests" / name.replace("gpu_", "cuda_"))]

    def mpirun(self, ranks):
        return [str(self.root / "scripts" / "mpirun"), "-np", str(ranks)]

    def engine(self, weights):
        """Made when it is asked for."""
        path = self.scratch / f"demo-{weights}"
        if not path.is_dir():
            subprocess.run([*self.program("llm-build"), self.root / "models" / "demo", path, "--weights",
                            weights, "--group-size", "64"], check=True, capture_output=True, timeout=60)
        return path


class GpuMachine(Machine):
    def __init__(self, root, pack):
        super().__init__(root)
        self.pack = pack.resolve()
        archive = self.pack.with_name(self.pack.name + ".tar.xz")
        if not (self.pack / "bin").is_dir() and archive.is_file():
            with tarfile.open(archive) as packed:
                packed.extractall(self.pack.parent)
        if not (self.pack / "bin").is_dir():
            sys.exit(f"gpu_check: nothing is packed in {self.pack}; run scripts/gpu_check pack first")
        mpi = self.pack / "mpi"
        libraries = [str(self.pack / "lib")]
        self.loader = []
        if not self.starts(libraries):
            # An older C library than ours: the packed one, with its own loader.
            self.loader = [str(self.pack / "glibc" / "ld-linux-x86-64.so.2")]
            libraries.append(str(self.pack / "glibc"))
        kept = [p for p in self.environment.get("LD_LIBRARY_PATH", "").split(":") if p]
        self.environment["LD_LIBRARY_PATH"] = ":".join(libraries + kept)
        self.environment |= {
            "CUDA_MODULE_LOADING": "EAGER",  # ranks that are threads: kernels/cuda/peer_group.h
            "OPAL_PREFIX": str(mpi),
            "OPAL_LIBDIR": str(self.pack / "lib"),
            "OPAL_PKGLIBDIR": str(mpi / "components"),
            "OPAL_PKGDATADIR": str(mpi / "share"),
            "OPAL_DATADIR": str(mpi),
            "OPAL_SYSCONFDIR": str(mpi),
            "PMIX_PREFIX": str(mpi),
            "PMIX_PKGLIBDIR": str(mpi / "pmix"),
            "PMIX_MCA_mca_base_component_path": str(mpi / "pmix"),
            "OMPI_MCA_mca_base_component_path": str(mpi / "components"),
        }
        self.environment |= mpi_settings(root)
        self.facts = {"commit": (self.pack / "commit").read_text().strip()}
        self.facts |= find_gpu_facts()
        self.cublaslt = find_in_packages("nvidia/*/lib/libcublasLt.so.*", "libcublasLt.so")
        self.facts["cublaslt"] = self.cublaslt or "not in Python packages"

    def starts(self, libraries):
        command = [self.pack / "bin" / "llm-bench", "--help"]
        environment = {**self.environment, "LD_LIBRARY_PATH": ":".join(libraries)}
        try:
            return subprocess.run(command, env=environment, capture_output=True, timeout=30).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False

    def program(self, name):
        return [*self.loader, str(self.pack / "bin" / name)]

    def test(self, name):
        return [*self.loader, str(self.pack / "tests" / name)]

    def mpirun(self, ranks):
        return [*self.loader, str(self.pack / "mpi" / "bin" / "mpirun"), "-np", str(ranks)]

    def engine(self, weights):
        return self.pack / "engines" / f"demo-{weights}"


def commit_of(root):
    told = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    return told.stdout.strip()


def mpi_settings(root):
    """What scripts/mpi_env.sh exports."""
    settings = {}
    path = root / "scripts" / "mpi_env.sh"
    for line in path.read_text().splitlines() if path.is_file() else []:
        if line.startswith("export "):
            words = line.split("#")[0].split()[1:]
            settings |= dict(word.split("=", 1) for word in words)
    return settings


def find_gpu_facts():
    fields = ["name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.mem",
              "temperature.gpu", "power.limit"]
    facts = {"gpu": "unknown: no nvidia-smi"}
    smi = shutil.which("nvidia-smi") or "/usr/local/nvidia/bin/nvidia-smi"
    try:
        told = subprocess.run([smi, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
                              capture_output=True, text=True, timeout=30, check=True).stdout
        values = [value.strip() for value in told.splitlines()[0].split(",")]
        facts = dict(zip(fields, values))
        facts["gpu"] = facts.pop("name")
    except (OSError, IndexError, subprocess.SubprocessError):
        pass
    return facts


def python_places():
    """Folders of Python packages: this interpreter's, and those of the one in PATH."""
    places = [pathlib.Path(p) for p in sys.path if p]
    other = shutil.which("python3")
    if other:
        try:
            told = subprocess.run([other, "-c", "import sys; print('\\n'.join(p for p in sys.path if p))"],
                                  capture_output=True, text=True, timeout=20).stdout
            places += [pathlib.Path(line) for line in told.splitlines()]
        except subprocess.SubprocessError:
            pass
    return places


def find_in_packages(pattern, name):
    for place in python_places():
        found = sorted(glob.glob(str(place / pattern)))
        if found:
            return found[-1]
    for place in ("/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu"):
        found = sorted(glob.glob(f"{place}/{name}*"))
        if found:
            return found[-1]
    return ""


# ------------------------------------------------------------------------------------- running ---


class Runner:
    """Runs the commands of one part until its time is up."""

    def __init__(self, machine, deadline):
        self.machine = machine
        self.deadline = deadline
        self.log = []  # dicts of what was run

    def left(self):
        return self.deadline - time.monotonic()

    def run(self, step):
        """(exit status, output); the status is 124 when the time was up."""
        limit = min(step.limit_s or self.left(), self.left())
        command = [str(word) for word in step.command]
        entry = {"title": step.title, "command": self.shown(command)}
        self.log.append(entry)
        begin = time.monotonic()
        if limit <= 0:
            entry |= {"status": 124, "seconds": 0, "output": "no time was left"}
            return 124, ""
        environment = {**self.machine.environment, **step.environment}
        try:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, text=True, errors="replace",
                                       cwd=self.machine.scratch, start_new_session=True)
        except OSError as error:
            entry |= {"status": 127, "seconds": 0, "output": str(error)}
            return 127, str(error)
        try:
            output, _ = process.communicate(timeout=limit)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            output += f"\n(stopped after {limit:.0f} s)"
            status = 124
        entry |= {"status": status, "seconds": round(time.monotonic() - begin, 2),
                  "output": "\n".join(output.splitlines()[-TAIL_LINES:])}
        return status, output

    def shown(self, command):
        """Without the folders of this machine."""
        scratch, root = str(self.machine.scratch), str(self.machine.root)
        pack = str(getattr(self.machine, "pack", root))
        return " ".join(re.sub(r"^(%s|%s|%s)/" % tuple(map(re.escape, (scratch, pack, root))), "", word)
                        for word in command)


def run_parts(machine, parts, deadline):
    results = []
    for part in parts:
        limit = min(part.limit_s, deadline - time.monotonic())
        print(f"== {part.title} (at most {max(limit, 0):.0f} s)", flush=True)
        begin = time.monotonic()
        runner = Runner(machine, begin + limit)
        result = {"name": part.name, "title": part.title, "limit_s": part.limit_s}
        if limit <= 0:
            result |= {"status": "failed", "why": "no time was left", "findings": {}}
        else:
            try:
                findings = part.run(machine, runner)
                result["status"] = findings.pop("status", "passed")
                result["why"] = findings.pop("why", "")
                result["findings"] = findings
            except Exception as error:  # the other parts go on
                result |= {"status": "failed", "why": f"{type(error).__name__}: {error}", "findings": {}}
        result["seconds"] = round(time.monotonic() - begin, 2)
        result["steps"] = runner.log
        print(f"   {result['status']} in {result['seconds']:.1f} s {result['why']}", flush=True)
        results.append(result)
    return results


# --------------------------------------------------------------------------------------- parts ---


def verdict(failures, skipped=(), **findings):
    if failures:
        return {"status": "failed", "why": "; ".join(failures), **findings}
    if skipped:
        return {"status": "skipped", "why": "; ".join(skipped), **findings}
    return findings


def run_tests(machine, runner):
    tests = {"gpu_kernels_test": "", "gpu_attention_test": "", "gpu_sampler_test": "", "gpu_peers_test": ""}
    if machine.emulated:  # ctest runs all of them; here only that they are reached
        tests = {"gpu_kernels_test": "*RowKernels*", "gpu_peers_test": "PeerGroup.ChoosesByBytesAndSize"}
    failures, skipped, counts = [], [], {}
    for name, only in tests.items():
        chosen = only + "-" + ":".join(EMULATED_ONLY)
        status, output = runner.run(Step(name, [*machine.test(name), f"--gtest_filter={chosen}"],
                                         limit_s=60))
        passed = re.search(r"\[  PASSED  \] (\d+) test", output)
        counts[name] = int(passed.group(1)) if passed else 0
        if status == SKIPPED:
            skipped.append(f"{name}: no device")
        elif status != 0:
            failed = re.findall(r"\[  FAILED  \] (\w\S*)", output)
            failures.append(f"{name}: status {status} {' '.join(sorted(set(failed)))[:300]}")
    return verdict(failures, skipped, passed=counts)


def run_bench(machine, runner, parts, *more, limit_s=0):
    """llm-bench cuda of some parts; its JSON also when cases failed."""
    path = machine.scratch / f"cuda-{parts.replace(',', '-')}-{len(more)}-{len(runner.log)}.json"
    command = [*machine.program("llm-bench"), "cuda", "--part", parts, "--json", path, *more]
    if machine.emulated:
        command += ["--tiny", "--repetitions", "2", "--sample-ms", "0", "--threads", "1"]
    elif machine.cublaslt:
        command += ["--cublaslt", machine.cublaslt]
    status, output = runner.run(Step(parts, command, path, limit_s=limit_s))
    findings = {"measurements": [], "facts": {}}
    if path.is_file():
        report = json.loads(path.read_text())
        for row in report["measurements"]:
            row.pop("samples", None)
            if "limit" in row:
                row["limit"].pop("samples", None)
        findings = {"measurements": report["measurements"], "facts": report["facts"]}
    if status != 0:
        last = output.strip().splitlines()[-1:] or ["no output"]
        failures = [f"{key}: {value}" for key, value in findings["facts"].items()
                    if key.startswith("failure")]
        findings |= {"status": "failed", "why": "; ".join(failures[:4]) or f"status {status}: {last[0]}"}
    return findings


def bench_part(parts, *more):
    return lambda machine, runner: run_bench(machine, runner, parts, *more)


def steps_part(model, formats):
    def run(machine, runner):
        if machine.emulated:
            return run_bench(machine, runner, "steps", "--model", "tiny", "--weights", formats)
        return run_bench(machine, runner, "steps", "--model", model, "--weights", formats)

    return run


def run_ranks(machine, runner):
    """The whole model over ranks that share the GPU."""
    failures, skipped = [], []
    # ctest runs the whole model on the emulated device; here only that ranks start and meet.
    test = "cuda_peer_processes_test" if machine.emulated else "gpu_exactness_test"
    for ranks in (2,) if machine.emulated else (1, 2, 4):
        command = [*machine.mpirun(ranks), *machine.test(test)]
        status, output = runner.run(Step(f"tests of the whole model, {ranks} ranks", command))
        if status != 0:
            failures.append(f"{ranks} ranks: status {status}")
        elif "[  SKIPPED ]" in output:
            skipped.append(f"{ranks} ranks: no device")
    return verdict(failures, skipped)


def digests_of(output):
    """[token id, digest of its logits], as llm-worker --digest prints them."""
    return [line.split() for line in output.splitlines() if re.match(r"^\d+ [0-9a-f]{16}$", line)]


def run_serving(machine, runner):
    """llm-worker with the demo model: the GPU's tokens against the CPU's."""
    failures, compared = [], []
    for weights, kv, must_equal in (("w8", "INT8", True), ("bf16", "BF16", False)):
        engine = machine.engine(weights)
        for prompt in PROMPTS[:1] if machine.emulated else PROMPTS:
            tokens = {}
            for device in ("CPU", "CUDA"):
                command = [*machine.program("llm-worker"), "--set", f"engine={engine}", "--set",
                           f"device={device}", "--set", f"kv_cache.format={kv}", "--set",
                           "kv_cache.capacity_tokens=2048", "--set", "log_level=WARNING", "--prompt", prompt,
                           "--max-tokens", "8" if machine.emulated else "64", "--temperature", "0",
                           "--digest"]
                if not machine.emulated:
                    command = [*machine.mpirun(1), *command]
                status, output = runner.run(Step(f"{weights} on {device}", command, limit_s=60))
                tokens[device] = digests_of(output)
                if status != 0 or not tokens[device]:
                    failures.append(f"{weights} on {device}: status {status},"
                                    f" {len(tokens[device])} tokens")
            pairs = list(zip(tokens["CPU"], tokens["CUDA"]))
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
            same_ids = next((i for i, (a, b) in enumerate(pairs) if a[0] != b[0]), len(pairs))
            compared.append({"weights": weights, "kv": kv, "prompt": prompt, "tokens": len(pairs),
                             "same_logits": same, "same_tokens": same_ids})
            if must_equal and (same < len(pairs) or not pairs):
                failures.append(f"{weights}, \"{prompt}\": logits part at token {same}")
    return verdict(failures, compared=compared)


def run_sanitizer(machine, runner):
    tool = shutil.which("compute-sanitizer") or next(
        iter(glob.glob("/usr/local/cuda/bin/compute-sanitizer")), None)
    if machine.emulated or tool is None:
        return {"status": "skipped", "why": "emulated" if machine.emulated else "compute-sanitizer was not found"}
    failures, ran = [], []
    small = {"gpu_kernels_test": "*RowKernels*:LinearKernels.FewRows*", "gpu_attention_test": "KvWrite.*"}
    for check in ("memcheck", "racecheck"):
        for name, only in small.items():
            command = [tool, "--tool", check, "--error-exitcode", "9", *machine.test(name),
                       f"--gtest_filter={only}"]
            status, output = runner.run(Step(f"{check} of {name}", command, limit_s=30))
            found = re.findall(r"ERROR SUMMARY: .*", output)
            ran.append(f"{check} of {name}: {found[-1] if found else f'status {status}'}")
            if status == 9:
                failures.append(f"{check} of {name}: {found[-1] if found else 'errors'}")
            elif status != 0:
                failures.append(f"{check} of {name}: status {status}")
    return verdict(failures, ran=ran)


TORCH = """
import time, torch
n = 8192
def rate(a, b):
    for _ in range(3): a @ b
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(20): a @ b
    torch.cuda.synchronize()
    return 2 * n ** 3 * 20 / (time.perf_counter() - begin) / 1e12
a = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
b = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
print("torch", torch.__version__, "bf16 TFLOP/s", sorted(rate(a, b.T) for _ in range(5))[2])
"""


def run_torch(machine, runner):
    python = shutil.which("python3", path=machine.environment["PATH"])
    if machine.emulated or python is None:
        return {"status": "skipped", "why": "emulated" if machine.emulated else "no python3"}
    # Its libraries are its own, not ours.
    status, output = runner.run(Step("PyTorch's product", [python, "-c", TORCH],
                                     environment={"LD_LIBRARY_PATH": ""}))
    found = re.search(r"torch (\S+) bf16 TFLOP/s ([\d.]+)", output)
    if status != 0 or found is None:
        return {"status": "skipped", "why": (output.strip().splitlines() or ["no output"])[-1][:200]}
    return {"torch": found.group(1), "bf16_tflops": float(found.group(2))}


def run_nccl(machine, _runner):
    library = "" if machine.emulated else find_in_packages("nvidia/nccl/lib/libnccl.so.2", "libnccl.so.2")
    if not library:
        return {"status": "skipped", "why": "emulated" if machine.emulated else "no NCCL library was found"}
    import ctypes

    version = ctypes.c_int()
    ctypes.CDLL(library).ncclGetVersion(ctypes.byref(version))
    text = f"{version.value // 10000}.{version.value // 100 % 100}.{version.value % 100}"
    if version.value < 23000:
        return {"status": "skipped", "why": f"NCCL is {text}; several ranks on one GPU need 2.30"}
    return {"status": "skipped", "why": f"NCCL {text} is there; no test of several ranks is packed"}


def parts_of(machine):
    """In the order of importance; limits of all together are what --seconds has by default."""
    return [
        Part("tests", "Kernel tests", 75, run_tests),
        Part("linear", "Ceilings and matrix products", 90, bench_part("linear")),
        Part("kernels", "Attention, rows, sampling", 45, bench_part("attention,rows,sampling")),
        Part("peers", "Sums over ranks that share the GPU", 20, bench_part("peers")),
        Part("steps-8b", "Whole steps, Llama-3.1-8B", 80, steps_part("llama-3.1-8b", "fp8,w4,bf16")),
        Part("steps-1b", "Whole steps, Llama-3.2-1B", 30, steps_part("llama-3.2-1b", "bf16,fp8,w4")),
        Part("serving", "Demo model: the GPU's tokens against the CPU's", 30, run_serving),
        Part("ranks", "Whole model over ranks that share the GPU", 45, run_ranks),
        Part("torch", "PyTorch's product", 20, run_torch),
        Part("sanitizer", "compute-sanitizer on small shapes", 40, run_sanitizer),
        Part("nccl", "NCCL", 5, run_nccl),
    ]
