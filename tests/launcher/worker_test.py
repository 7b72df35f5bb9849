#!/usr/bin/env python3
"""llm-worker as a user starts it: real mpirun, real HTTP, the demo model. Standard library only.

    worker_test.py BIN_DIRECTORY [unittest arguments]
"""

import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from running_worker import RunningWorker

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 else ROOT / "build/cpu-release/bin"
MPIRUN = ROOT / "scripts/mpirun"
CONFIG = ROOT / "configs/demo.textproto"
LAW_SECONDS = 5  # a failure ends the job within this


def Worker(engine, **options):
    return RunningWorker(BIN / "llm-worker", engine, **options)


class WorkerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory(prefix="phalanx-test-")
        cls.engine = cls.directory.name + "/demo-w8"
        subprocess.run(
            [BIN / "llm-build", ROOT / "models/demo", cls.engine, "--weights", "w8",
             "--group-size", "64"],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def offline(self, ranks, *arguments, tp=None, settings=()):
        tp = ranks if tp is None else tp
        command = [MPIRUN, "-np", str(ranks), BIN / "llm-worker", "--config", CONFIG]
        for setting in (f"engine={self.engine}", f"parallel.tp_size={tp}",
                        f"parallel.pp_size={ranks // tp}", "kv_cache.capacity_tokens=4096",
                        *settings):
            command += ["--set", setting]
        return subprocess.run(command + list(arguments), capture_output=True, text=True, cwd=ROOT,
                              timeout=120)

    def test_the_same_bits_at_every_topology(self):
        outputs = {}
        for ranks, tp in ((1, 1), (2, 2), (2, 1), (4, 2), (8, 8)):
            run = self.offline(ranks, "--prompt", "Once upon a time", "--max-tokens", "24",
                               "--digest", tp=tp)
            self.assertEqual(run.returncode, 0, run.stderr)
            outputs[ranks, tp] = run.stdout
        self.assertEqual(len(outputs[1, 1].splitlines()), len(set(outputs[1, 1].splitlines())))
        for shape, output in outputs.items():
            self.assertEqual(output, outputs[1, 1], f"ranks, tp {shape}")

    def test_completion_chat_stream_and_errors(self):
        with Worker(self.engine) as worker:
            answer = worker.complete("Once", max_tokens=8)
            self.assertEqual(answer["usage"]["completion_tokens"], 8)
            status, text = worker.request(
                "POST", "/v1/chat/completions",
                {"model": "demo", "messages": [{"role": "user", "content": "What is Phalanx?"}],
                 "max_tokens": 12, "temperature": 0})
            self.assertEqual(status, 200, text)
            self.assertEqual(json.loads(text)["choices"][0]["message"]["role"], "assistant")
            status, text = worker.request(
                "POST", "/v1/completions",
                {"model": "demo", "prompt": "Once", "max_tokens": 8, "temperature": 0,
                 "stream": True})
            events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
            self.assertEqual(events[-1], "[DONE]")
            streamed = "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1])
            self.assertEqual(streamed, answer["choices"][0]["text"])
            status, text = worker.request("POST", "/v1/completions",
                                          {"model": "demo", "prompt": "x", "temperature": -1})
            self.assertEqual(status, 400)
            self.assertIn("temperature", json.loads(text)["error"]["message"])
            for path in ("/health", "/live", "/ready", "/v1/models", "/metrics", "/"):
                self.assertEqual(worker.request("GET", path)[0], 200, path)

    def test_64_random_arrivals_equal_their_single_runs(self):
        random.seed(3)
        words = "the of and to in that was he for it with as his on be at by had".split()
        requests = [
            {"prompt": " ".join(random.choices(words, k=random.randint(1, 150))),
             "max_tokens": random.randint(1, 48), "temperature": 0.7, "seed": i}
            for i in range(64)
        ]

        def run(worker, delay, fields):
            time.sleep(delay)
            return worker.complete(**fields)["choices"][0]

        # A quarter of the memory that the whole load wants, so that some are preempted.
        with Worker(self.engine, settings=("kv_cache.capacity_tokens=2048",
                                           "scheduling.max_sequences=48")) as worker:
            alone = [run(worker, 0, fields) for fields in requests]
            steps = worker.metric("phalanx_steps_total")
            tokens = worker.metric("phalanx_generated_tokens_total")
            with concurrent.futures.ThreadPoolExecutor(64) as pool:
                delays = [random.random() * 0.1 for _ in requests]
                together = list(pool.map(run, [worker] * 64, delays, requests))
            shared_steps = worker.metric("phalanx_steps_total") - steps
            shared_tokens = worker.metric("phalanx_generated_tokens_total") - tokens
            for index, (a, b) in enumerate(zip(alone, together)):
                self.assertEqual(a["text"], b["text"], f"request {index}")
                self.assertEqual(a["finish_reason"], b["finish_reason"], f"request {index}")
            self.assertLess(shared_steps, shared_tokens * 0.75, "requests did not share steps")
            self.assertEqual(worker.metric("phalanx_requests_running"), 0)
            self.assertEqual(worker.metric("phalanx_kv_blocks_free"),
                             worker.metric("phalanx_kv_blocks"), "blocks leaked")

    def test_a_client_that_goes_away_frees_its_blocks(self):
        with Worker(self.engine) as worker:
            connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=30)
            connection.request("POST", "/v1/completions", json.dumps(
                {"model": "demo", "prompt": "Once", "max_tokens": 1900, "temperature": 0,
                 "ignore_eos": True, "stream": True}), {"Content-Type": "application/json"})
            connection.getresponse().read(64)
            self.assertEqual(worker.metric("phalanx_requests_running"), 1)
            connection.close()
            deadline = time.monotonic() + 2
            while worker.metric("phalanx_requests_running") and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertEqual(worker.metric("phalanx_requests_running"), 0)

    def test_llm_bench_serve_loads_it(self):
        report = pathlib.Path(self.directory.name) / "serve.json"
        for load in (("--streams", "4"), ("--rate", "20"), ("--endpoint", "chat")):
            with self.subTest(load=load), Worker(self.engine) as worker:
                run = subprocess.run(
                    [BIN / "llm-bench", "serve", "--url", f"http://127.0.0.1:{worker.port}",
                     "--requests", "12", "--prompt-tokens", "20..60", "--output-tokens", "8..16",
                     "--ignore-eos", "--json", report, *load],
                    capture_output=True, text=True, timeout=120,
                )
                self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
                found = json.loads(report.read_text())
                (facts,) = found["facts"]["serve"]["runs"]
                self.assertEqual((facts["ok"], facts["errors"]), (12, "none"), run.stdout)
                self.assertEqual(facts["requests_without_usage"], 0)
                self.assertLess(facts["cached_tokens_mean"], 16, "prompts repeat")
                rows = {row["name"]: row["median"] for row in found["measurements"]}
                self.assertGreater(rows["output"], 0)
                self.assertGreater(rows["ttft"], 0)
                self.assertEqual(worker.metric("phalanx_requests_running"), 0)

    def test_sigusr1_to_mpirun_drains(self):
        with Worker(self.engine, ranks=4, tp=2) as worker:
            thread, outcome = worker.stream_in_thread(400)
            worker.process.send_signal(signal.SIGUSR1)
            status, _ = worker.wait_exit(40)
            thread.join(10)
            self.assertEqual(status, 0, worker.text())
            self.assertIn("[DONE]", outcome[0], "the running request was cut off")

    def test_drain_deadline_ends_what_does_not_finish(self):
        with Worker(self.engine, settings=("server.drain_seconds=0",)) as worker:
            thread, outcome = worker.stream_in_thread(1900)
            worker.process.send_signal(signal.SIGUSR1)
            status, seconds = worker.wait_exit(20)
            thread.join(10)
            self.assertEqual(status, 0, worker.text())
            self.assertLess(seconds, LAW_SECONDS)
            self.assertIn("shutting down", outcome[0])

    def fail_rank(self, rank, how, ranks=3, tp=1, busy=True):
        with Worker(self.engine, ranks=ranks, tp=tp) as worker:
            pids = worker.rank_pids()
            self.assertEqual(len(pids), ranks)
            thread = outcome = None
            if busy:
                thread, outcome = worker.stream_in_thread(1900)
            os.kill(pids[rank], how)
            status, seconds = worker.wait_exit(30)
            if thread:
                thread.join(10)
            self.assertNotEqual(status, 0)
            self.assertLess(seconds, LAW_SECONDS, worker.text())
            self.assertRegex(worker.text(), rf"rank {rank} on \S+")
            self.assertEqual([pid for pid in pids if self.is_running(pid)], [], "a rank survived")
            return worker.text(), outcome

    @staticmethod
    def is_running(pid):
        """Not gone and not merely waiting for its parent to take note."""
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        return stat.rsplit(")", 1)[1].split()[0] not in "ZX"

    def test_a_killed_rank_ends_the_job(self):
        text, _ = self.fail_rank(1, signal.SIGKILL)
        self.assertRegex(text, r"step \d+")

    def test_a_stopped_rank_ends_the_job(self):
        text, outcome = self.fail_rank(2, signal.SIGSTOP)
        self.assertRegex(text, r"step \d+")
        self.assertNotIn("[DONE]", outcome[0])

    def test_a_stopped_leader_ends_the_job(self):
        self.fail_rank(0, signal.SIGSTOP)

    def test_an_idle_rank_that_is_killed_ends_the_job(self):
        self.fail_rank(1, signal.SIGKILL, ranks=2, tp=2, busy=False)

    def test_wrong_settings_say_what_is_allowed(self):
        cases = (
            (("parallel.tp_size=3",), "tp_size"),
            (("parallel.pp_size=9",), "pp_size"),
            (("engine=/nonexistent",), 'engine = "/nonexistent"'),
            (("kv_cache.capacity_tokens=2000000000",), "capacity_tokens = 2000000000"),
            (("kv_cache.capacity_tokens=10",), "capacity_tokens"),
            (("scheduling.max_context_tokens=99999",), "2048"),
            (("cpu.isa=sse",), "avx512"),
            (("cpu.tuning=/nonexistent",), 'cpu.tuning = "/nonexistent"'),
        )
        for settings, says in cases:
            run = self.offline(1, "--prompt", "x", settings=settings)
            self.assertEqual(run.returncode, 2, (settings, run.stderr))
            self.assertIn(says, run.stderr, settings)
            self.assertEqual(run.stderr.count("llm-worker:"), 1, run.stderr)

    def test_an_engine_without_tokenizer_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            for file in pathlib.Path(self.engine).iterdir():
                if file.name != "tokenizer.json":
                    os.symlink(file, pathlib.Path(folder) / file.name)
            run = self.offline(2, "--prompt", "x", settings=(f"engine={folder}",))
            self.assertEqual(run.returncode, 2, run.stderr)
            self.assertIn("tokenizer.json", run.stderr)

    def test_a_stopped_llm_build_leaves_nothing(self):
        for stop in (signal.SIGINT, signal.SIGTERM):
            with tempfile.TemporaryDirectory() as folder:
                build = subprocess.Popen(
                    [BIN / "llm-build", ROOT / "models/demo", folder + "/e", "--weights", "w4"],
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                while build.poll() is None and not os.listdir(folder):
                    time.sleep(0.002)
                build.send_signal(stop)
                _, text = build.communicate(timeout=60)
                if build.returncode == 0:
                    continue  # it was quicker
                self.assertEqual(build.returncode, 128 + stop, text)
                self.assertEqual(os.listdir(folder), [], text)

    def test_a_file_size_limit_ends_llm_build_with_an_error(self):
        with tempfile.TemporaryDirectory() as folder:
            run = subprocess.run(
                ["bash", "-c", 'ulimit -f 1024 && exec "$@"', "x", BIN / "llm-build",
                 ROOT / "models/demo", folder + "/e"],
                capture_output=True, text=True, timeout=60)
            self.assertEqual(run.returncode, 1, run.stderr)
            self.assertIn("File too large", run.stderr)
            self.assertEqual(os.listdir(folder), [])

    def test_sigterm_to_mpirun_tells_the_clients(self):
        with Worker(self.engine) as worker:
            # mpirun waits a second before it passes the signal on: enough work for longer.
            streams = [worker.stream_in_thread(1900) for _ in range(16)]
            worker.process.send_signal(signal.SIGTERM)
            status, seconds = worker.wait_exit(20)
            self.assertNotEqual(status, 0)
            self.assertLess(seconds, LAW_SECONDS)
            for thread, outcome in streams:
                thread.join(10)
                self.assertRegex(outcome[0][-300:], r"shutting down|\[DONE\]")

    def test_no_shared_memory_has_a_name(self):
        """So that nothing stays in /dev/shm, however the job ends."""
        with Worker(self.engine, ranks=4, tp=2) as worker:
            for pid in worker.rank_pids():
                maps = pathlib.Path(f"/proc/{pid}/maps").read_text()
                named = re.findall(r"/dev/shm/\S+$", maps, re.MULTILINE)
                self.assertEqual([name for name in named if os.path.exists(name)], [])
            worker.complete("Once", max_tokens=4)
            worker.process.send_signal(signal.SIGUSR1)
            self.assertEqual(worker.wait_exit(20)[0], 0, worker.text())
            self.assertNotIn("system call failed", worker.text().lower())

    def test_a_taken_port_is_named(self):
        with Worker(self.engine) as worker:
            run = subprocess.run(
                [MPIRUN, "-np", "1", BIN / "llm-worker", "--config", CONFIG, "--set",
                 f"engine={self.engine}", "--set", "parallel.tp_size=1", "--set",
                 f"server.port={worker.port}"],
                capture_output=True, text=True, cwd=ROOT, timeout=60)
            self.assertEqual(run.returncode, 2, run.stderr)
            self.assertIn(str(worker.port), run.stderr)

    def test_wrong_rank_count(self):
        run = subprocess.run(
            [MPIRUN, "-np", "3", BIN / "llm-worker", "--config", CONFIG, "--set",
             f"engine={self.engine}", "--set", "parallel.tp_size=2"],
            capture_output=True, text=True, cwd=ROOT, timeout=60)
        self.assertEqual(run.returncode, 2)
        self.assertIn("-np", run.stderr)

    def test_plan_prints_the_ledger_without_mpirun(self):
        run = subprocess.run(
            [BIN / "llm-worker", "--config", CONFIG, "--set", f"engine={self.engine}", "--set",
             "parallel.tp_size=4", "--set", "parallel.pp_size=2", "--plan"],
            capture_output=True, text=True, cwd=ROOT, timeout=60)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(len(re.findall(r"^ +[0-7] ", run.stdout, re.MULTILINE)), 8, run.stdout)

    def test_an_operation_longer_than_the_deadline_is_no_hang(self):
        """A long prefill in the slowest tier, under the shortest deadline that may be set."""
        with Worker(self.engine, ranks=2, tp=1,
                    settings=("cpu.isa=portable", "cpu.num_threads=1",
                              "scheduling.max_step_tokens=2048", "scheduling.max_chunk_tokens=2048",
                              "failure.heartbeat_ms=10",
                              "failure.operation_deadline_ms=100")) as worker:
            prompt = [7 + i % 1000 for i in range(500)]
            self.assertEqual(worker.complete(prompt, max_tokens=2)["usage"]["prompt_tokens"], 500)

    def test_ranks_bind_to_cores_of_their_own_where_memory_is_far(self):
        """This machine, as if half of its cores had a memory node of their own."""
        cpus = os.sched_getaffinity(0)
        if len(cpus) < 2:
            self.skipTest("needs two cores")
        two_nodes = f"numa:2 core:{max(cpus) // 2 + 1} pu:1"

        def mask(task):
            return re.search(r"^Cpus_allowed_list:\s*(\S+)$", task.joinpath("status").read_text(),
                             re.MULTILINE).group(1)

        texts = set()
        for pins, settings in (("bound", ()), ("not bound", ("cpu.pin_threads=false",))):
            with Worker(self.engine, ranks=2, settings=settings,
                        environment={"HWLOC_SYNTHETIC": two_nodes}) as worker:
                texts.add(worker.complete("Once upon", max_tokens=16)["choices"][0]["text"])
                pids = worker.rank_pids()
                own = [mask(pathlib.Path(f"/proc/{pid}/task/{pid}")) for pid in pids]
                others = [mask(task) for task in pathlib.Path(f"/proc/{pids[0]}/task").iterdir()]
            cores = re.search(r"^  cores +(.*)$", worker.text(), re.MULTILINE).group(1)
            self.assertEqual(cores.rsplit(", ", 1)[-1], pins, cores)
            if pins == "bound":
                self.assertTrue(all(one.isdigit() for one in own), own)
                self.assertEqual(len(set(own)), 2, own)
                # The leader and the HTTP server go where there is room.
                self.assertTrue(any(not one.isdigit() for one in others), others)
            else:
                self.assertFalse(any(one.isdigit() for one in own + others), own + others)
        self.assertEqual(len(texts), 1, texts)

    def test_a_tuning_is_found_and_changes_no_token(self):
        with tempfile.TemporaryDirectory() as cache:
            environment = {"XDG_CACHE_HOME": cache}
            subprocess.run(
                [BIN / "llm-bench", "tune", "--engine", self.engine, "--rows", "1,8,64", "--threads",
                 "1", "--repetitions", "2", "--sample-ms", "1"],
                check=True, capture_output=True, env={**os.environ, **environment},
            )
            (path,) = pathlib.Path(cache).glob("phalanx/tuning/*.json")
            tuning = json.loads(path.read_text())
            columns = {"qkv": (768, 256), "down": (256, 1024)}
            tuning["products"] = [
                {"weights": "w8", "outputs": outputs, "columns": cols, "group_size": 64,
                 "gated": False, "rows": rows, "tile_rows": 1, "split": "default", "row_parts": 0,
                 "piece_panels": 1, "ahead_bytes": 64}
                for outputs, cols in columns.values() for rows in ("1", "2", "3-4", "5-8", "9-16")
            ]
            path.write_text(json.dumps(tuning))
            answers = []
            for setting, says in (("auto", "tuning: 10 products from"), ("off", None),
                                  (path, "tuning: 10 products from")):
                settings = ("cpu.num_threads=1", f"cpu.tuning={setting}")
                with Worker(self.engine, ranks=1, settings=settings,
                            environment=environment) as worker:
                    answer = worker.complete("Once upon a time", max_tokens=24, logprobs=3)
                    answers.append(answer["choices"])
                if says:
                    self.assertIn(says, worker.text())
                else:
                    self.assertNotIn("tuning", worker.text())
            self.assertEqual(answers[0], answers[1])
            self.assertEqual(answers[0], answers[2])
            path.write_text(path.read_text()[:-9])
            with Worker(self.engine, ranks=1, settings=("cpu.num_threads=1",),
                        environment=environment) as worker:
                worker.complete("Once", max_tokens=2)
            self.assertIn("tuning file not used", worker.text())

    def test_eight_idle_ranks_sleep(self):
        with Worker(self.engine, ranks=8, tp=8) as worker:
            worker.complete("Once", max_tokens=4)
            time.sleep(1)
            begin = self.cpu_seconds(worker)
            time.sleep(4)
            used = self.cpu_seconds(worker) - begin
            # The figure is in docs/performance.md; this catches a rank that spins.
            self.assertLess(used, 0.4, "idle ranks use CPU")

    @staticmethod
    def cpu_seconds(worker):
        ticks = 0
        for pid in worker.rank_pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    unittest.main(verbosity=2)
