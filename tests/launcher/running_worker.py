"""A job of llm-worker as a user starts it: mpirun, the demo configuration, HTTP.
Standard library only.
"""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MPIRUN = ROOT / "scripts/mpirun"
CONFIG = ROOT / "configs/demo.textproto"
START_SECONDS = 60  # a loaded machine, a debug build


class RunningWorker:
    """A running job. Use as a context manager: whatever is left is killed at the end."""

    def __init__(self, program, engine, ranks=2, tp=None, settings=(), extra=(), environment=None):
        self.program = pathlib.Path(program).resolve()
        tp = ranks if tp is None else tp
        command = [str(MPIRUN), "-np", str(ranks), str(program), "--config", str(CONFIG)]
        for setting in (
            f"engine={engine}",
            f"parallel.tp_size={tp}",
            f"parallel.pp_size={ranks // tp}",
            "server.port=0",
            "kv_cache.capacity_tokens=16384",
            *settings,
        ):
            command += ["--set", setting]
        self.process = subprocess.Popen(
            command + list(extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        self.lines = []
        self.port = None
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            match = re.search(r"http://[^ ]*:(\d+)", line)
            if match:
                self.port = int(match.group(1))
                self.ready.set()
        self.ready.set()

    def __enter__(self):
        self.ready.wait(START_SECONDS)
        if self.port is None:
            self.__exit__()
            raise AssertionError("not ready:\n" + self.text())
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            for pid in self.rank_pids():
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.reader.join(5)

    def text(self):
        return "".join(self.lines)

    def rank_pids(self):
        """Pids of this job's ranks, in rank order."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if entry.joinpath("exe").resolve() != self.program:
                    continue
                environment = entry.joinpath("environ").read_bytes().split(b"\0")
                parent = int(entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            ranks = [v for v in environment if v.startswith(b"OMPI_COMM_WORLD_RANK=")]
            if ranks and parent == self.process.pid:
                found[int(ranks[0].split(b"=")[1])] = int(entry.name)
        return [found[rank] for rank in sorted(found)]

    def request(self, method, path, body=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text

    def complete(self, prompt, **fields):
        body = {"model": "demo", "prompt": prompt, "temperature": 0, **fields}
        status, text = self.request("POST", "/v1/completions", body)
        assert status == 200, text
        return json.loads(text)

    def metric(self, name):
        _, text = self.request("GET", "/metrics")
        return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE).group(1))

    def wait_exit(self, seconds):
        """Exit status, and how long it took."""
        begin = time.monotonic()
        status = self.process.wait(seconds)
        self.reader.join(5)
        return status, time.monotonic() - begin

    def stream_in_thread(self, max_tokens):
        """A stream that is under way, and a list that gets its outcome."""
        outcome = []
        started = threading.Event()

        def consume():
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request("POST", "/v1/completions", json.dumps(
                    {"model": "demo", "prompt": "Once", "max_tokens": max_tokens,
                     "temperature": 0, "ignore_eos": True, "stream": True}),
                    {"Content-Type": "application/json"})
                response = connection.getresponse()
                text = response.read(32).decode()
                started.set()
                outcome.append(text + response.read().decode())
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                outcome.append(repr(error))
            started.set()

        thread = threading.Thread(target=consume)
        thread.start()
        started.wait(30)
        return thread, outcome
