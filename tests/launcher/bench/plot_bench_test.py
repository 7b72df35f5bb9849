#!/usr/bin/env python3
"""scripts/plot_bench: what it draws is well-formed SVG with a point for every row in the right
place; what it cannot draw it says. Usage: plot_bench_test.py SOURCE_DIR"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

SCRIPT = pathlib.Path(sys.argv.pop(1)).resolve() / "scripts" / "plot_bench"
SVG = "{http://www.w3.org/2000/svg}"


def row(name, parameters, median, unit="tok/s", **more):
    return {
        "name": name,
        "parameters": {key: str(value) for key, value in parameters.items()},
        "unit": unit,
        "better": "higher",
        "median": median,
        "least": 0.9 * median,
        "most": 1.1 * median,
        "samples": [median],
        **more,
    }


def limit(median):
    return {"limit": {"name": "roof", "median": median}, "fraction": {"median": 0.5}}


def kernel(name, parameters, median, unit, ops, moved):
    details = {"ops": ops, "bytes": moved, "read_gbs": 30.0, "peak_gops": 900.0}
    return row(name, parameters, median, unit, details=details, **limit(2 * median))


class PlotBench(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)

    def write(self, rows, name="report.json"):
        report = {"format": "phalanx-bench-1", "measurements": rows}
        (self.path / name).write_text(json.dumps(report))
        return str(self.path / name)

    def run_script(self, *arguments):
        return subprocess.run(
            [sys.executable, SCRIPT, *arguments, "--out", self.path / "plots"],
            capture_output=True,
            text=True,
            timeout=60,
        )

    def draw(self, *reports):
        """The plots drawn, by name."""
        result = self.run_script(*reports)
        self.assertEqual(result.returncode, 0, result.stderr)
        plots = {path.name: ElementTree.parse(path) for path in (self.path / "plots").iterdir()}
        self.assertEqual(
            {pathlib.Path(line).name for line in result.stdout.splitlines()}, set(plots)
        )
        return plots

    def points(self, plot):
        """(x, y, tooltip, color) of each point."""
        return [
            (float(c.get("cx")), float(c.get("cy")), c.find(SVG + "title").text, c.get("fill"))
            for c in plot.iter(SVG + "circle")
            if c.get("class") == "point"
        ]

    def legend(self, plot):
        return [t.text for t in plot.iter(SVG + "text") if t.get("class") == "legend"]

    def refuse(self, *reports):
        result = self.run_script(*reports)
        self.assertEqual(result.returncode, 1)
        self.assertNotIn("Traceback", result.stderr)
        return result.stderr

    def test_roofline_has_a_point_for_each_kernel_that_computes(self):
        rows = [
            kernel("linear", {"weights": "w8", "rows": 1}, 50.0, "GOP/s", 2e6, 1e6),
            kernel("linear", {"weights": "w8", "rows": 512}, 800.0, "GOP/s", 1e9, 2e6),
            # 25 GB/s at 4 operations a byte: 100 GOP/s.
            kernel("attention_decode", {"kv": "bf16"}, 25.0, "GB/s", 4e6, 1e6),
            kernel("rms_norm", {}, 60.0, "GB/s", 0, 1e6),
        ]
        plot = self.draw(self.write(rows))["roofline.svg"]
        points = self.points(plot)
        self.assertEqual(len(points), 3)
        self.assertEqual(self.legend(plot), ["linear w8", "attention_decode bf16"])
        slow, fast, decode = points
        self.assertLess(slow[0], decode[0])
        self.assertLess(decode[0], fast[0])
        self.assertGreater(slow[1], decode[1])  # y runs downwards
        self.assertGreater(decode[1], fast[1])
        self.assertNotEqual(slow[3], decode[3])
        self.assertIn("50 % of roof", slow[2])
        roofs = [p for p in plot.iter(SVG + "polyline") if p.get("stroke-dasharray")]
        self.assertEqual(len(roofs), 2)

    def test_throughput_has_a_line_a_series_and_its_limit(self):
        rows = []
        for weights, rate in (("w8", 40), ("w4", 60)):
            for batch in (32, 1, 8):
                parameters = {"model": "m", "weights": weights, "batch": batch}
                rows.append(row("decode", parameters, rate * batch, **limit(2 * rate * batch)))
        rows.append(row("prefill", {"model": "m", "prompt": 512}, 700))
        plot = self.draw(self.write(rows))["throughput.svg"]
        points = self.points(plot)
        self.assertEqual(len(points), 6)
        self.assertEqual(self.legend(plot), ["weights w8", "weights w4"])
        for series in (points[:3], points[3:]):
            xs, ys = [p[0] for p in series], [p[1] for p in series]
            self.assertEqual(xs, sorted(xs))  # by batch, not by place in the report
            self.assertEqual(ys, sorted(ys, reverse=True))
        self.assertEqual(len(list(plot.iter(SVG + "polyline"))), 4)

    def test_latency_has_a_panel_for_each_kind(self):
        rows = []
        for name in ("ttft", "tpot", "itl", "e2e"):
            for streams in (8, 16):
                for i, stat in enumerate(("mean", "p50", "p90", "p95", "p99", "max")):
                    parameters = {"streams": streams, "stat": stat}
                    rows.append(row(name, parameters, streams * (i + 1.0), "ms"))
        plot = self.draw(self.write(rows))["latency.svg"]
        self.assertEqual(len(self.points(plot)), 4 * 2 * 4)
        self.assertEqual(self.legend(plot), ["streams 8", "streams 16"])
        titles = [t.text for t in plot.iter(SVG + "text") if t.get("class") == "title"]
        self.assertEqual(len(titles), 4)

    def test_collectives_run_over_bytes(self):
        rows = [
            row("all_reduce", {"bytes": size, "transport": t}, size / 100 + 1, unit, **limit(50.0))
            for size in (64, 16384)
            for t in ("shm-spin", "mpi")
            for unit in ("us", "GB/s")
        ]
        plot = self.draw(self.write(rows))["collectives.svg"]
        self.assertEqual(len(self.points(plot)), 4)
        self.assertEqual(self.legend(plot), ["transport shm-spin", "transport mpi"])

    def test_two_reports_are_told_apart_by_their_files(self):
        rows = [row("decode", {"batch": 1}, 40.0), row("decode", {"batch": 8}, 300.0)]
        plot = self.draw(self.write(rows, "ours.json"), self.write(rows, "theirs.json"))
        self.assertEqual(self.legend(plot["throughput.svg"]), ["ours", "theirs"])

    def test_text_from_reports_is_escaped(self):
        rows = [row("decode", {"batch": 1, "model": "<a&\"b"}, 40.0)]
        plot = self.draw(self.write(rows))["throughput.svg"]
        self.assertIn('model=<a&"b', self.points(plot)[0][2])

    def test_extreme_values_stay_inside(self):
        for values in ([1e-9, 1e12], [5.0, 5.0], [0.3, 1e-300], [0.0, 7.0]):
            rows = [row("decode", {"batch": i + 1}, v) for i, v in enumerate(values)]
            rows += [
                kernel("linear", {"weights": "w8"}, v, "GOP/s", 1e3 ** (i + 1), 1e3)
                for i, v in enumerate(values)
            ]
            for plot in self.draw(self.write(rows)).values():
                height = float(plot.getroot().get("height"))
                width = float(plot.getroot().get("width"))
                for x, y, _, _ in self.points(plot):
                    self.assertTrue(0 <= x <= width and 0 <= y <= height, (values, x, y))

    def test_rows_without_what_a_plot_needs_are_left_out(self):
        rows = [
            row("decode", {"batch": "many"}, 40.0),
            row("decode", {}, 40.0),
            row("decode", {"batch": 0}, 40.0),
            row("decode", {"batch": 4}, 40.0),
        ]
        self.assertEqual(len(self.points(self.draw(self.write(rows))["throughput.svg"])), 1)

    def test_what_is_no_report_is_named(self):
        missing = str(self.path / "missing.json")
        self.assertIn("missing.json: No such file", self.refuse(missing))
        for text, reason in (
            ("", "is not JSON"),
            ("[]", "format must be"),
            ('{"format": "other"}', "format must be"),
            ('{"format": "phalanx-bench-1"}', "measurements must be an array"),
            ('{"format": "phalanx-bench-1", "measurements": [3]}', "measurements[0] needs"),
            ('{"format": "phalanx-bench-1", "measurements": [{"name": "x"}]}', "needs name"),
            (
                '{"format": "phalanx-bench-1", "measurements":'
                ' [{"name": "x", "parameters": {}, "median": NaN}]}',
                "needs name",
            ),
        ):
            (self.path / "bad.json").write_text(text)
            error = self.refuse(str(self.path / "bad.json"))
            self.assertIn("bad.json", error)
            self.assertIn(reason, error)

    def test_nothing_to_draw_is_said(self):
        self.assertIn("nothing to draw", self.refuse(self.write([])))
        self.assertIn("nothing to draw", self.refuse(self.write([row("prefill", {}, 7.0)])))

    def test_an_output_folder_that_cannot_be_is_named(self):
        (self.path / "plots").write_text("a file in the way")
        self.assertIn("plots", self.refuse(self.write([row("decode", {"batch": 1}, 4.0)])))


if __name__ == "__main__":
    unittest.main()
