"""What the trainer writes into the diary while it learns, as one transformers callback."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from .errors import FinetuneError
from .events import Event
from .memory import CONTEXT_GB
from .recipe import Recipe
from .render import ChatTokenizer, render_prompt
from .run import Run

SAMPLE_TOKENS = 24
SAMPLE_ROWS = 50  # at most so many are looked at for one that is short enough to answer


class Diary(TrainerCallback):
    """Steps, validation, samples, checkpoints; obeys the run's `stop` file; refuses a loss that is no number."""

    def __init__(
        self,
        run: Run,
        tell: Callable[..., Event],
        tokenizer: ChatTokenizer,
        sample: list[dict],
        everybody: bool = False,
    ):
        """`everybody`: the weights are shared among the processes, so all of them answer, and the first one tells."""
        self.run, self.tell, self.tokenizer = run, tell, tokenizer
        self.everybody = everybody
        self.sample_prompt = sample[-1]["content"] if sample else ""
        self.sample_ids = render_prompt(sample, tokenizer) if sample else []
        self.real_tokens = 0  # trained on by this worker, without padding
        self.busy_seconds = 0.0  # in training steps of this worker, without looks and samples
        self.peak_gb = 0.0
        self._model: Any = None
        self._mark = 0.0
        self._logged = (0, 0.0)  # tokens and busy seconds at the last log line

    def forget(self) -> None:
        """Let go of the model, so that its memory can be used for the proof."""
        self._model = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self._model = model
        self.tell("stage", name="training", step=state.global_step, total_steps=state.max_steps)
        if state.global_step == 0:
            self._sample(0)
        self._mark = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._mark = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait_for_device()
        self.busy_seconds += time.monotonic() - self._mark
        if self._is_asked_to_stop(args.device):
            control.should_training_stop = True
            control.should_save = True

    def _is_asked_to_stop(self, device: torch.device) -> bool:
        """The `stop` file; of several processes the first one looks, so that all stop after the same step."""
        asked = (self.run.path / "stop").exists()
        if not torch.distributed.is_initialized():
            return asked
        said = torch.tensor(int(asked), device=device)
        torch.distributed.broadcast(said, 0)
        return bool(said)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        logs = logs or {}
        if "loss" not in logs:
            return
        loss, step = float(logs["loss"]), state.global_step
        tokens = int(logs.get("num_tokens", 0))
        self.real_tokens = tokens  # TRL counts from zero in every worker
        before_tokens, before_seconds = self._logged
        spent = self.busy_seconds - before_seconds
        self._logged = (tokens, self.busy_seconds)
        self.peak_gb = max(self.peak_gb, peak_memory_gb())
        self.tell(
            "step",
            step=step,
            total_steps=state.max_steps,
            epoch=round(float(state.epoch or 0.0), 4),
            loss=loss,
            learning_rate=logs.get("learning_rate"),
            grad_norm=_finite(logs.get("grad_norm")),
            tokens=tokens,
            tokens_per_second=round((tokens - before_tokens) / spent, 1) if spent > 0 else None,
            memory_gb=round(self.peak_gb, 3),
            token_accuracy=_rounded(logs.get("mean_token_accuracy")),
        )
        if not math.isfinite(loss):
            raise FinetuneError(
                f"The loss is no longer a number (step {step}).",
                "Lower the learning rate (a tenth is a good try) and start again; "
                "float16 weights can also cause this: choose bfloat16 or float32.",
                code="loss-not-finite",
            )

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        metrics = metrics or {}
        self.tell(
            "eval",
            step=state.global_step,
            loss=_finite(metrics.get("eval_loss")),
            token_accuracy=_rounded(metrics.get("eval_mean_token_accuracy")),
        )
        if not control.should_training_stop or state.global_step >= state.max_steps:
            self._sample(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tell("checkpoint", step=state.global_step, path=f"checkpoints/checkpoint-{state.global_step}")

    @torch.no_grad()
    def _sample(self, step: int) -> None:
        """The fixed prompt's answer, greedy; a short one, so that watching costs little."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if not self.sample_ids or self._model is None or (rank > 0 and not self.everybody):
            return
        was_training = self._model.training
        self._model.eval()
        ids = torch.tensor([self.sample_ids], device=self._model.device)
        out = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=SAMPLE_TOKENS,
            do_sample=False,
            eos_token_id=sorted(self.tokenizer.stop_ids),
            pad_token_id=self.tokenizer.pad_id,
        )
        if was_training:
            self._model.train()
        new = [token for token in out[0, len(self.sample_ids) :].tolist() if token not in self.tokenizer.stop_ids]
        self.tell("sample", step=step, prompt=self.sample_prompt, answer=self.tokenizer.backend.decode(new))


def sample_messages(recipe: Recipe, rows: list[dict], tokenizer: ChatTokenizer) -> list[dict]:
    """The conversation that is answered while it learns: the person's prompt, or a row up to its first answer.

    Of the first rows, one that leaves room for the answer in what the model reads and in max_length; [] if none does.
    """
    room = tokenizer.model_max_length - SAMPLE_TOKENS
    if recipe.sample_prompt:
        system = [{"role": "system", "content": recipe.system_prompt}] if recipe.system_prompt else []
        prompts = [[*system, {"role": "user", "content": recipe.sample_prompt}]]
    else:
        room = min(room, recipe.max_length)
        prompts = [prompt for row in rows[:SAMPLE_ROWS] if (prompt := _question(row.get("messages") or []))]
    return next((prompt for prompt in prompts if _fits(prompt, tokenizer, room)), [])


def _fits(prompt: list[dict], tokenizer: ChatTokenizer, room: int) -> bool:
    """Some templates refuse what stands before the first answer of a row that they take: a system prompt alone."""
    try:
        return len(render_prompt(prompt, tokenizer)) <= room
    except FinetuneError:
        return False


def _question(messages: list[dict]) -> list[dict]:
    """What stands before the first answer."""
    answered = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[: answered[0]] if answered else []


def wait_for_device() -> None:
    """Until a GPU has done what it was given, which it does after the call that gave it: before a clock is read.

    Most of the backward pass is still to come when a step "ends".
    """
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def peak_memory_gb() -> float:
    """Peak so far in GiB: of the GPU where there is one (with CUDA's own part, as the plan counts it), else of this
    process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 1024**3 + CONTEXT_GB["cuda"]
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset / 1024**3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / (1024**3 if sys.platform == "darwin" else 1024**2)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else round(float(value), 6)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
