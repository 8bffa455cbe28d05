"""The main job, timed: from the Start click to an answer in the chat, with the starter model and rows.

python benchmarks/journey.py [field=value ...]      (the preset quick-look, with these values replaced)
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from finetune_core import launch  # noqa: E402
from finetune_core.preflight import create_run_from, look  # noqa: E402
from finetune_core.presets import resolve_recipe  # noqa: E402
from finetune_core.progress import summarize  # noqa: E402


def ask(url: str, model: str, message: str) -> tuple[float, float, str]:
    """(seconds to the first token, seconds in all, the answer) of one streamed question."""
    messages = [{"role": "system", "content": "Sort this shop message."}, {"role": "user", "content": message}]
    body = {"model": model, "stream": True, "temperature": 0, "max_tokens": 60, "messages": messages}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    began, first, text = time.perf_counter(), None, ""
    with urllib.request.urlopen(request, timeout=120) as lines:
        for line in lines:
            if not line.startswith(b"data: {"):
                continue
            piece = json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
            if piece and first is None:
                first = time.perf_counter() - began
            text += piece
    return first or 0.0, time.perf_counter() - began, text


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = look(resolve_recipe("quick-look", sys.argv[1:]))  # the page has looked at the rows when Start is clicked
        began = time.monotonic()
        run = create_run_from(seen, Path(folder) / "runs")
        launch.start(run, options=launch.THEN_CHAT)  # as the page does
        first_step = None
        while run.is_alive():
            if first_step is None and summarize(run.events()).step >= 1:
                first_step = time.monotonic() - began
            time.sleep(0.1)
        trained = time.monotonic() - began
        progress, report = summarize(run.events()), run.report() or {}
        server = launch.start_serving(run)
        _, _, answer = ask(server.url, "tuned", "My kettle gives off smoke, help me today!")
        chatting = time.monotonic() - began
        tuned = ask(server.url, "tuned", "De lamp is nog niet bezorgd, geen haast hoor.")
        base = ask(server.url, "base", "De lamp is nog niet bezorgd, geen haast hoor.")
        again = ask(server.url, "tuned", "Where is my bicycle?")
        launch.stop_serving(run.path.parent)
        print(
            json.dumps(
                {
                    "status": run.status(),
                    "start_to_first_step_seconds": round(first_step or 0, 1),
                    "start_to_trained_and_compared_seconds": round(trained, 1),
                    "start_to_chat_answer_seconds": round(chatting, 1),
                    "stages": {name: round(seconds, 1) for name, seconds in progress.stage_seconds.items()},
                    "tokens_per_second": progress.tokens_per_second,
                    "first_token_seconds": {
                        "tuned": round(tuned[0], 2),
                        "base": round(base[0], 2),
                        "tuned_again": round(again[0], 2),
                    },
                    "rivals": {rival["name"]: rival["score"] for rival in report.get("rivals", [])},
                    "n": report.get("n"),
                    "verdict": (report.get("verdict") or {}).get("sentence"),
                    "answer": answer,
                },
                ensure_ascii=False,
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
