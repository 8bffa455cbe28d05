"""How long until the page is up, against an empty Gradio page in the same run; and that no torch is in its process.

python benchmarks/page.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EMPTY = """
import sys, gradio as gr
with gr.Blocks() as demo:
    gr.Markdown("hello")
demo.launch(server_port=int(sys.argv[1]), server_name="127.0.0.1", quiet=True, ssr_mode=False, run_history=False)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def seconds_until_up(command: list[str], port: int, env: dict[str, str]) -> tuple[float, bool]:
    """(seconds from start to the page's configuration being served, whether libtorch is mapped in the process)."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=2).read()
                seconds = time.perf_counter() - began
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(f"{command} ended before it was up") from None
                time.sleep(0.02)
        maps = Path(f"/proc/{process.pid}/maps")
        return seconds, maps.exists() and "libtorch" in maps.read_text()
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=5)
    repeats = options.parse_args().repeats
    times: dict[str, list[float]] = {"empty": [], "fijn": []}
    torch_seen = False
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY)
        env = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "FINETUNE_RUNS_DIR": f"{folder}/runs"}
        for turn in range(repeats + 1):  # the first pair fills the file cache and is not counted
            for name in ("empty", "fijn") if turn % 2 else ("fijn", "empty"):
                port = free_port()
                line = {
                    "empty": [sys.executable, str(empty), str(port)],
                    "fijn": [sys.executable, "app.py", "--port", str(port)],
                }[name]
                seconds, has_torch = seconds_until_up(line, port, env)
                torch_seen |= name == "fijn" and has_torch
                if turn:
                    times[name].append(seconds)
    median = {name: statistics.median(values) for name, values in times.items()}
    print(
        json.dumps(
            {
                "empty_seconds": round(median["empty"], 2),
                "fijn_seconds": round(median["fijn"], 2),
                "ratio": round(median["fijn"] / median["empty"], 3),
                "repeats": repeats,
                "torch_in_the_page": torch_seen,
            }
        )
    )


if __name__ == "__main__":
    main()
