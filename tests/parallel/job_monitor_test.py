#!/usr/bin/env python3
"""Lets ranks of monitor_probe fail in every way and checks how the job ends.

usage: job_monitor_test.py MPIRUN MONITOR_PROBE [NAME_PART]

For each case: mpirun ends with a non-zero status within five seconds of the failure (the probe prints
when it fails), stderr names the rank, its host, the step and the operation, no process is left, and
/dev/shm holds nothing of ours. Standard library only.
"""
import mmap
import os
import re
import socket
import subprocess
import sys
import time

LAW_SECONDS = 5.0
HOST = socket.gethostname()

# name, way, rank, number of ranks, what stderr must match
CASES = [
    ("kill a worker", "kill", 2, 4,
     r"rank 2 on {host} died .* at step \d+ in \w+, layer 5; rank 0 on {host} is at step 40 in .*"),
    ("kill the leader", "kill", 0, 4, r"rank 0 on {host} died .* at step \d+ in \w+, layer 5"),
    ("crash of a worker", "crash", 1, 2, r"rank 1 on {host} died .* at step \d+ in \w+, layer 5"),
    ("stop a worker", "stop", 3, 4,
     r"rank 3 on {host} stopped answering \(no heartbeat for 3\.\d s\) at step \d+ in \w+, layer 5"),
    ("stop the leader", "stop", 0, 4,
     r"rank 0 on {host} stopped answering \(no heartbeat for 3\.\d s\) at step \d+ in \w+, layer 5"),
    ("exception in a worker", "throw", 1, 4,
     r"rank 1 on {host} failed at step 40 in linear, layer 5: the probe throws"),
    ("exception in the leader", "throw", 0, 2,
     r"rank 0 on {host} failed at step 40 in linear, layer 5: the probe throws"),
    ("exception of a job of one", "throw", 0, 1,
     r"rank 0 on {host} failed at step 40 in linear, layer 5: the probe throws"),
    ("endless loop in a worker", "hang", 3, 4,
     r"rank 3 on {host} hangs \(busy .*\) at step 40 in attention, layer 5"),
    ("endless loop in the leader", "hang", 0, 2,
     r"rank 0 on {host} hangs \(busy .*\) at step 40 in attention, layer 5"),
    ("endless loop of a job of one", "hang", 0, 1,
     r"rank 0 on {host} hangs \(busy .*\) at step 40 in attention, layer 5"),
    ("a rank that does not come to start-up", "absent", 2, 4,
     r"all_gather at start-up: waiting for rank 2 on {host}: .* deadline of 1\.0 s"),
    ("a message that never comes", "lose", 1, 4,
     r"rank \d on {host} hangs \(waiting .*\) at step 40 in \w+, layer 5"),
]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Job:
    """One run of the probe, watched to its end."""

    def __init__(self, mpirun, probe, way, rank, num_ranks, env=None):
        # The event's clock is CLOCK_MONOTONIC, which time.monotonic() reads too.
        self.process = subprocess.Popen(
            [mpirun, "-np", str(num_ranks), probe, way, str(rank)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(env or {})})
        try:
            self.stdout, self.stderr = self.process.communicate(timeout=60)
            self.timed_out = False
        except subprocess.TimeoutExpired:
            self.timed_out = True
            for pid in self.pids_of_children():
                os.kill(pid, 9)
            self.process.kill()
            self.stdout, self.stderr = self.process.communicate()
        self.end = time.monotonic()

    def pids_of_children(self):
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(path) as children:
            return [int(pid) for pid in children.read().split()]

    def said(self, key):
        return [float(value) for value in re.findall(rf"^{key} \d+ (\S+)$", self.stdout, re.M)]

    def complaints(self):
        found = []
        if self.timed_out:
            found.append("did not end within 60 s")
        left = [int(pid) for pid in self.said("pid") if is_alive(int(pid))]
        for pid in left:
            os.kill(pid, 9)
        if left:
            found.append(f"processes left: {left}")
        if self.said("survived"):
            found.append("an evicted rank went on")
        remains = [name for name in os.listdir("/dev/shm") if "phalanx" in name]
        if remains:
            found.append(f"left in /dev/shm: {remains}")
        return found


def check_failure(mpirun, probe, way, rank, num_ranks, pattern, env):
    job = Job(mpirun, probe, way, rank, num_ranks, env)
    found = job.complaints()
    lines = [line for line in job.stderr.splitlines() if line.startswith("phalanx: ")]
    pattern = "phalanx: " + pattern.format(host=re.escape(HOST)) + ".*; ending the job"
    if job.process.returncode == 0:
        found.append("mpirun returned 0")
    event = job.said("event")
    seconds = job.end - event[0] if event else float("inf")
    if seconds > LAW_SECONDS:
        found.append(f"took {seconds:.2f} s from the failure to the end")
    if not any(re.fullmatch(pattern, line) for line in lines):
        found.append(f"no line matches {pattern}")
    if rank != 0 and len(lines) != 1:
        found.append("the leader alone prints, and once")
    return found, f"{seconds:.2f} s, exit {job.process.returncode}: {lines[0] if lines else ''}", job


def check_orderly(mpirun, probe, way, num_ranks):
    job = Job(mpirun, probe, way, 1, num_ranks)
    found = job.complaints()
    if job.process.returncode != 0:
        found.append(f"exit {job.process.returncode}")
    if "phalanx:" in job.stderr:
        found.append("an orderly end printed a failure")
    detail = f"exit {job.process.returncode}"
    if way == "idle":
        total = sum(job.said("idle_cpu"))
        detail += f", {100 * total:.2f} % of a core for {num_ranks} idle ranks"
        if len(job.said("idle_cpu")) != num_ranks or total > 0.02:
            found.append(f"idle ranks take {100 * total:.2f} % of a core")
    return found, detail, job


def check_leftovers(mpirun, probe):
    """mpirun takes away what killed jobs left in /dev/shm, and nothing that may be in use."""
    paths = [f"/dev/shm/vader_segment.{HOST}.{os.getuid()}.phalanxtest.{name}"
             for name in ("old", "fresh", "mapped")]
    files = [open(path, "w+b") for path in paths]
    try:
        for file in files:
            file.truncate(4096)
        memory = mmap.mmap(files[2].fileno(), 4096)
        for path in (paths[0], paths[2]):
            os.utime(path, (time.time() - 600, time.time() - 600))
        job = subprocess.run([mpirun, "-np", "1", "true"], capture_output=True, text=True, timeout=60)
        left = [os.path.exists(path) for path in paths]
        memory.close()
        found = [] if left == [False, True, True] else [f"old, fresh, mapped: {left}"]
        return found, f"exit {job.returncode}", job
    finally:
        for file, path in zip(files, paths):
            file.close()
            if os.path.exists(path):
                os.remove(path)


def main():
    mpirun, probe = sys.argv[1], sys.argv[2]
    part = sys.argv[3] if len(sys.argv) > 3 else ""
    runs = []
    for name, way, rank, num_ranks, pattern in CASES:
        runs.append((name, lambda c=(way, rank, num_ranks, pattern): check_failure(
            mpirun, probe, *c, None)))
    runs.append(("stop a worker, the others wait inside MPI messages",
                 lambda: check_failure(mpirun, probe, "stop", 1, 3 + 1, CASES[3][4].replace(
                     "rank 3", "rank 1"), {"PHALANX_PROBE_MPI": "1"})))
    runs.append(("an orderly end", lambda: check_orderly(mpirun, probe, "none", 4)))
    runs.append(("an orderly end of a job of one", lambda: check_orderly(mpirun, probe, "none", 1)))
    runs.append(("a pause of one second", lambda: check_orderly(mpirun, probe, "pause", 4)))
    runs.append(("an operation of five seconds", lambda: check_orderly(mpirun, probe, "long", 4)))
    runs.append(("leftovers of killed jobs", lambda: check_leftovers(mpirun, probe)))
    runs.append(("idle", lambda: check_orderly(mpirun, probe, "idle", 8)))
    num_failed = 0
    for name, run in runs:
        if part not in name:
            continue
        found, detail, job = run()
        print(f"{'FAILED' if found else 'ok    '} {name}: {detail}", flush=True)
        if found:
            num_failed += 1
            for complaint in found:
                print(f"       {complaint}")
            print(job.stdout[-2000:] + job.stderr[-4000:], flush=True)
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
