"""The report of gpu_check: what was asked beside what was measured, then everything that ran.
Markdown for people, JSON for programs. Called by gpu_check."""

import datetime
import json
import re

FORMAT = "phalanx-gpu-check-1"
MARK = "emulated: no figure means anything"
KV_BYTES = 256e6  # decode attention is judged where its keys and values do not fit in L2


class Rows:
    """All rows of llm-bench cuda."""

    def __init__(self, results):
        self.all = []
        for result in results:
            self.all += result["findings"].get("measurements", [])

    def find(self, name, **parameters):
        wanted = {key: str(value) for key, value in parameters.items()}
        return [row for row in self.all if row["name"] == name
                and wanted.items() <= row["parameters"].items()]

    def first(self, name, **parameters):
        return next(iter(self.find(name, **parameters)), None)


def fraction(row):
    return row["fraction"]["median"] if row and "fraction" in row else None


def percent(value):
    return f"{100 * value:.1f} %"


def asked_rows(machine, results):
    """Dicts of asked, bar, measured, reached (None: not measured), command."""
    rows = Rows(results)
    by_name = {result["name"]: result for result in results}
    asked = []

    def add(what, bar, measured, reached, part):
        result = by_name.get(part)
        command = result["steps"][0]["command"] if result and result["steps"] else ""
        asked.append({"asked": what, "bar": bar, "measured": measured or "not measured",
                      "reached": reached if measured else None, "command": command})

    def add_fraction(what, row, least, part):
        value = fraction(row)
        add(what, f"at least {percent(least)}", value is not None and
            f"{percent(value)} ({row['median']:.4g} {row['unit']})", value is not None and value >= least, part)

    theirs = [row["details"]["of_cublaslt"] for row in rows.find("linear", weights="fp8", rows=1)
              if "of_cublaslt" in row.get("details", {})]
    add("fp8 product of one row, of cuBLASLt's rate (worst shape)", "at least 95 %",
        theirs and percent(min(theirs)), bool(theirs) and min(theirs) >= 0.95, "linear")
    add_fraction("int4 product of one row, 12288 x 73728, of read bandwidth",
                 rows.first("linear", weights="w4", rows=1, n=12288, k=73728), 0.86, "linear")
    add_fraction("int4 product of one row, 4096 x 14336, of read bandwidth",
                 rows.first("linear", weights="w4", rows=1, n=4096, k=14336), 0.75, "linear")
    decodes = [row for row in rows.find("attention_decode") if fraction(row) is not None
               and row["details"]["bytes"] >= KV_BYTES]
    add_fraction("decode attention over 256 MB of KV or more, of read bandwidth (worst)",
                 min(decodes, key=fraction, default=None), 0.85, "kernels")
    torch = by_name.get("torch", {}).get("findings", {}).get("bf16_tflops")
    ours = rows.first("ceiling", of="bf16 product")
    both = torch and ours
    add("cuBLASLt's bf16 product, beside PyTorch's", "within 3 %",
        both and f"{ours['median']:.0f} against {torch:.0f} TFLOP/s",
        both and ours["median"] >= 0.97 * torch, "torch")
    is_h200 = "H200" in machine.facts.get("gpu", "")
    for model, weights, h100, h200 in (
        ("llama-3.1-8b", "fp8", 300, 430), ("llama-3.1-8b", "bf16", 160, 230),
        ("llama-3.1-8b", "w4", 515, 740), ("llama-3.2-1b", "bf16", 970, 1390),
    ):
        part = "steps-8b" if "8b" in model else "steps-1b"
        row = rows.first("decode_step", model=model, weights=weights, batch=1)
        bar = h200 if is_h200 else h100
        add(f"decode step of {model} {weights}, batch 1", f"at least {bar} tok/s",
            row and f"{row['median']:.0f} tok/s", row and row["median"] >= bar, part)
        add_fraction("the same, of the bandwidth ceiling", row, 0.8, part)
    kernels = rows.find("kernels_of_a_layer")
    add("kernels of a layer in decode", "at most 9",
        kernels and f"{max(row['median'] for row in kernels):.0f}",
        bool(kernels) and max(row["median"] for row in kernels) <= 9, "steps-8b")
    idle = rows.find("gpu_idle_between_steps")
    add("GPU idle between decode steps (worst)", "under 2 %",
        idle and f"{max(row['median'] for row in idle):.1f} %",
        bool(idle) and max(row["median"] for row in idle) < 2, "steps-8b")
    add_fraction("prefill of 2048 tokens, llama-3.1-8b fp8, of the fp8 product rate",
                 rows.first("prefill", model="llama-3.1-8b", weights="fp8"), 0.6, "steps-8b")
    for part, what in (("tests", "kernel tests"), ("peers", "sums over 2 and 4 ranks are equal by =="),
                       ("ranks", "the whole model alone, in batches and over 1, 2 and 4 ranks, equal by =="),
                       ("serving", "the demo model's tokens, w8 with int8 KV, equal the CPU's"),
                       ("sanitizer", "compute-sanitizer finds nothing on small shapes")):
        result = by_name.get(part)
        ran = result is not None and result["status"] != "skipped"
        add(what, "pass", ran and result["status"], ran and result["status"] == "passed", part)
    return asked


def make_report(machine, results, seconds):
    failed = [result["name"] for result in results if result["status"] == "failed"]
    return {
        "format": FORMAT,
        "emulated": machine.emulated,
        "mark": MARK if machine.emulated else "",
        "time": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(seconds, 1),
        "machine": machine.facts,
        "passed": not failed,
        "failed_parts": failed,
        "asked": asked_rows(machine, results),
        "parts": results,
    }


def file_name(machine):
    if machine.emulated:
        return "emulated"
    gpu = machine.facts.get("gpu", "gpu")
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "gpu"


def cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows]


def measurement_row(row):
    details = row.get("details", {})
    parameters = " ".join(f"{key}={value}" for key, value in row["parameters"].items())
    spread = f"{row['median']:.4g} ({row['least']:.4g} .. {row['most']:.4g}) {row['unit']}"
    share = percent(fraction(row)) + " of " + row["limit"]["name"] if fraction(row) is not None else ""
    theirs = percent(details["of_cublaslt"]) if "of_cublaslt" in details else ""
    micros = f"{details['us']:.4g}" if "us" in details else ""
    return [row["name"], parameters, spread, micros, share, theirs]


def to_markdown(report):
    verdict = {True: "yes", False: "NO", None: "-"}
    lines = ["# GPU check: " + report["machine"].get("gpu", "unknown")]
    if report["emulated"]:
        lines += ["", f"**{MARK}**"]
    lines += ["", f"{report['time']}, {report['seconds']:.0f} s. "
              + ("All parts passed." if report["passed"]
                 else "Failed: " + ", ".join(report["failed_parts"]) + "."), "", "## Machine", ""]
    lines += table(["what", "value"], report["machine"].items())
    lines += ["", "## Asked and measured", ""]
    lines += table(["asked", "bar", "measured", "reached", "command"],
                   [[row["asked"], row["bar"], row["measured"], verdict[row["reached"]],
                     f"`{row['command']}`" if row["command"] else ""] for row in report["asked"]])
    lines += ["", "## Parts", ""]
    lines += table(["part", "status", "seconds", "at most", "why"],
                   [[part["title"], part["status"], part["seconds"], part["limit_s"], part["why"]]
                    for part in report["parts"]])
    for part in report["parts"]:
        lines += ["", f"## {part['title']}", ""]
        if part["why"]:
            lines += [f"{part['status']}: {part['why']}", ""]
        findings = part["findings"]
        if findings.get("measurements"):
            lines += table(["kernel", "of", "median (least .. most)", "us", "share", "of cuBLASLt"],
                           map(measurement_row, findings["measurements"]))
        for row in findings.get("compared", []):
            lines.append(f"- {row['weights']}, KV {row['kv']}, \"{row['prompt']}\": of {row['tokens']} tokens"
                         f" {row['same_tokens']} are the CPU's, {row['same_logits']} with its logits")
        for line in findings.get("ran", []):
            lines.append(f"- {line}")
        for name, count in findings.get("passed", {}).items():
            lines.append(f"- {name}: {count} tests passed")
        if "bf16_tflops" in findings:
            lines.append(f"- PyTorch {findings['torch']}: {findings['bf16_tflops']:.0f} TFLOP/s")
        lines += ["", "Commands:", ""]
        for step in part["steps"]:
            lines.append(f"- `{step['command']}`: status {step['status']} in {step['seconds']} s")
            if step["status"] not in (0, 77):
                lines += ["", "  ```"] + ["  " + line for line in step["output"].splitlines()[-15:]] + ["  ```", ""]
    return "\n".join(lines) + "\n"


def write_report(report, folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.md", folder / f"{name}.json"]
    paths[0].write_text(to_markdown(report))
    paths[1].write_text(json.dumps(report, indent=1) + "\n")
    return paths


def summary(report):
    lines = [MARK] if report["emulated"] else []
    for row in report["asked"]:
        state = {True: "ok  ", False: "MISS", None: "-   "}[row["reached"]]
        lines.append(f"{state} {row['asked']}: {row['measured']} (asked: {row['bar']})")
    lines.append("failed parts: " + (", ".join(report["failed_parts"]) or "none"))
    return "\n".join(lines)
