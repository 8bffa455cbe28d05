"""Run a GGUF file in llama.cpp. A program of its own, because its threads and torch's get in each other's way.

python llama_child.py job.json answers.json
"""

import json
import os
import sys
import urllib.request
from pathlib import Path


def main(asked: Path, answered: Path) -> None:
    import xllamacpp

    job = json.loads(asked.read_text(encoding="utf-8"))
    settings = xllamacpp.CommonParams()
    settings.model.path = job["model"]
    settings.n_ctx = job["context"]
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.warmup = False
    settings.verbosity = 0
    settings.use_jinja = True
    settings.ui = False
    settings.port = 0
    settings.hostnames = ["127.0.0.1"]
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(settings)

    def ask(path: str, body: dict) -> dict:
        request = urllib.request.Request(
            server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine needs no proxy
        with opener.open(request, timeout=600) as answer:
            return json.loads(answer.read())

    tokens, logprobs = [], []
    for prompt in job["prompts"]:
        greedy = {"temperature": 0, "samplers": ["top_k"], "top_k": 1, "cache_prompt": False}
        wanted = {"n_predict": job["max_new_tokens"], "n_probs": 1, "return_tokens": True}
        said = ask("/completion", {"prompt": prompt, **greedy, **wanted})
        tokens.append(said["tokens"])
        logprobs.append([each["logprob"] for each in said.get("completion_probabilities", [])])
    texts = [ask("/apply-template", {"messages": messages})["prompt"] for messages in job["conversations"]]
    answered.write_text(json.dumps({"tokens": tokens, "logprobs": logprobs, "texts": texts}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # its threads would keep the process alive
