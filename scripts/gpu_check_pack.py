"""Builds for a GPU and packs what `gpu_check run` needs on a machine that has nothing but a driver
and Python: programs, tests, the shared libraries they want, Open MPI, engines. Called by gpu_check."""

import os
import pathlib
import re
import shutil
import subprocess
import tarfile

MOST_BYTES = 64 << 20
# sm_90a alone: a third of the time and size of all architectures.
ARCHITECTURE = "-gencode=arch=compute_90a,code=sm_90a"
PROGRAMS = ["bin/llm-bench", "bin/llm-build", "bin/llm-worker"]
TESTS = [
    "tests/gpu_kernels_test",
    "tests/gpu_attention_test",
    "tests/gpu_sampler_test",
    "tests/gpu_peers_test",
    "tests/gpu_exactness_test",
]
# The driver's own libraries are the GPU machine's.
DRIVER = re.compile(r"^lib(cuda|nvidia)[-.]")
# The C library stays apart: the machine's own is used when it is as new (gpu_check_parts.py).
GLIBC = re.compile(r"^(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|anl|nss_\w+|mvec))\.so")
# Components of Open MPI for one host: the others want libraries of networks.
MPI_SETTINGS = {"prefix": "/usr", "libdir": "/usr/lib/x86_64-linux-gnu/openmpi/lib"}


class PackError(Exception):
    """Why nothing was packed."""


def run(command, **options):
    print("+", " ".join(map(str, command)), flush=True)
    subprocess.run(list(map(str, command)), check=True, **options)


def build_for_gpu(root):
    build = root / "build" / "gpu-check"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(["cmake", "-S", root, "-B", build, *generator, "-DCMAKE_BUILD_TYPE=Release",
         "-DPHALANX_CUDA=ON", f"-DPHALANX_CUDA_ARCHITECTURES={ARCHITECTURE}"])
    targets = [pathlib.Path(path).name for path in PROGRAMS + TESTS]
    run(["cmake", "--build", build, "--parallel", str(os.cpu_count() or 1), "--target", *targets])
    return build


def needed_libraries(program):
    """Paths by name, of the whole closure. Raises PackError for one that this machine lacks."""
    text = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*(\S+) => (\S+)", line)
        if match and match.group(2) == "not":
            if not DRIVER.match(match.group(1)):
                raise PackError(f"{program} wants {match.group(1)}, which is not here")
        elif match:
            found[match.group(1)] = match.group(2)
        elif (loader := re.match(r"\s*(/\S*ld-linux\S*)", line)) is not None:
            found[pathlib.Path(loader.group(1)).name] = loader.group(1)
    return found


def strip(path):
    subprocess.run(["strip", "--strip-unneeded", path], check=False, stderr=subprocess.DEVNULL)


def copy_program(source, folder, libraries):
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.name
    shutil.copy2(source.resolve(), target)
    strip(target)
    libraries.update(needed_libraries(source))


def copy_mpi(pack, libraries):
    """mpirun and the components that one host needs. Returns the environment that finds them."""
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        raise PackError("mpirun is not here: install Open MPI (scripts/install_packages)")
    mpi = pack / "mpi"
    for name in ("mpirun", "orted"):
        found = shutil.which(name)
        if found is not None:
            (mpi / "bin").mkdir(parents=True, exist_ok=True)
            shutil.copy2(pathlib.Path(found).resolve(), mpi / "bin" / name)
            libraries.update(needed_libraries(found))
    places = {}
    told = subprocess.run(["ompi_info", "--path", "all", "--parsable"], capture_output=True,
                          text=True, check=False).stdout
    for line in told.splitlines():
        fields = line.split(":")
        if fields[0] == "path" and len(fields) >= 3:
            places[fields[1]] = fields[2]
    # All of them would bring in the networks' libraries.
    wanted = re.compile(
        r"mca_(allocator_|bml_r2|btl_(self|vader|tcp)|coll_(basic|libnbc|self|sm|sync|tuned|inter)"
        r"|crs_none|dfs_|errmgr_|ess_(hnp|singleton|pmi|env)|event_|filem_|grpcomm_direct|iof_"
        r"|mpool_|odls_|oob_tcp|op_|osc_(rdma|sm|pt2pt)|plm_isolated|plm_rsh|pmix_|pml_ob1|ras_"
        r"|rcache_grdma|reachable_weighted|regx_|rmaps_|rml_oob|routed_|rtc_hwloc|schizo_ompi"
        r"|sec_|shmem_|state_|topo_basic|vprotocol_)")
    components = pathlib.Path(places.get("pkglibdir", MPI_SETTINGS["libdir"] + "/openmpi3"))
    (mpi / "components").mkdir(parents=True, exist_ok=True)
    for component in sorted(components.glob("*.so")):
        if wanted.match(component.name):
            shutil.copy2(component.resolve(), mpi / "components" / component.name)
            libraries.update(needed_libraries(component))
    texts = pathlib.Path(places.get("pkgdatadir", "/usr/share/openmpi"))
    if texts.is_dir():
        shutil.copytree(texts, mpi / "share", dirs_exist_ok=True)
    pmix = next(iter(sorted(pathlib.Path("/usr/lib").glob("*/pmix2/lib"))), None)
    if pmix is not None:
        libpmix = pmix / "libpmix.so.2"
        libraries["libpmix.so.2"] = str(libpmix)
        libraries.update(needed_libraries(libpmix))
        for component in sorted((pmix / "pmix").glob("*.so")):
            (mpi / "pmix").mkdir(parents=True, exist_ok=True)
            shutil.copy2(component.resolve(), mpi / "pmix" / component.name)
            libraries.update(needed_libraries(component))


def copy_libraries(pack, libraries):
    for name, source in sorted(libraries.items()):
        if DRIVER.match(name):
            continue
        folder = pack / ("glibc" if GLIBC.match(name) else "lib")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(pathlib.Path(source).resolve(), folder / name)
        if folder.name == "lib":
            strip(folder / name)


def make_engines(root, build, pack):
    (pack / "engines").mkdir()
    for weights in ("w8", "bf16"):
        run([build / "bin" / "llm-build", root / "models" / "demo", pack / "engines" / f"demo-{weights}",
             "--weights", weights, "--group-size", "64", "--force"])


def pack(root, build, target):
    if build is None:
        build = build_for_gpu(root)
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    libraries = {}
    for path in PROGRAMS:
        copy_program(build / path, target / "bin", libraries)
    for path in TESTS:
        copy_program(build / path, target / "tests", libraries)
    copy_mpi(target, libraries)
    copy_libraries(target, libraries)
    make_engines(root, build, target)
    commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True,
                            check=False).stdout.strip()
    (target / "commit").write_text(commit + "\n")
    num_bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    archive = target.with_name(target.name + ".tar.xz")
    with tarfile.open(archive, "w:xz", preset=3) as packed:
        packed.add(target, target.name)
    packed_bytes = archive.stat().st_size
    print(f"packed {target}: {num_bytes / (1 << 20):.1f} MiB, {packed_bytes / (1 << 20):.1f} MiB as"
          f" {archive.name}")
    if packed_bytes > MOST_BYTES:
        raise PackError("more than 64 MiB")
