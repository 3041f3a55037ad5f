"""Run a Trainer of transformers so that a kill loses at most what was learnt since its last checkpoint."""

import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import is_torch_bf16_gpu_available
from transformers.utils.logging import disable_progress_bar

from training.errors import Stopped, TrainingError, tell
from training.flags import Schedule

TELL_EVERY_S: Final = 30.0
"""How often there is a line, where there is no terminal."""
_MOST_STEPS: Final = 500
"""Between two checkpoints."""
_STATE: Final = "trainer_state.json"
_LOGGED: Final = 200
"""Points of the loss curve."""


def begin(seed: int) -> None:
    """Make what follows depend on the seed alone: before any weight is drawn. And stop what would tear the bar."""
    set_seed(seed)
    disable_progress_bar()


def training_arguments(checkpoints: Path, schedule: Schedule, *, examples: int, **others: Any) -> TrainingArguments:
    """Return the arguments of a Trainer that evaluates and keeps a checkpoint in the folder every `save_steps`.

    Raises:
        TrainingError: they do not fit each other.
    """
    batch, parts = schedule.batch_size, schedule.gradient_accumulation_steps
    if batch % parts:
        raise TrainingError("--batch-size must be a multiple of --gradient-accumulation-steps.")
    has_gpu = torch.accelerator.is_available()
    if schedule.bf16 and has_gpu and not is_torch_bf16_gpu_available():
        raise TrainingError("the GPU has no bfloat16: do without --bf16.")
    per_epoch = max(1, math.ceil(examples / batch))
    steps = schedule.max_steps or math.ceil(per_epoch * schedule.num_train_epochs)
    every = min(schedule.save_steps or min(per_epoch, _MOST_STEPS), steps)
    return TrainingArguments(
        str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=batch // parts,
        gradient_accumulation_steps=parts,
        per_device_eval_batch_size=max(batch, 32),
        learning_rate=schedule.learning_rate,
        warmup_steps=math.ceil(steps * schedule.warmup_ratio),
        weight_decay=schedule.weight_decay,
        bf16=schedule.bf16,
        use_cpu=not has_gpu,  # else it refuses bf16
        seed=schedule.seed,
        eval_strategy="steps",
        eval_steps=every,
        save_steps=every,
        save_total_limit=2,
        logging_steps=max(1, steps // _LOGGED),
        logging_nan_inf_filter=False,
        restore_callback_states_from_checkpoint=True,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        **others,
    )


class LengthGroupedTrainer(Trainer):
    """One whose batches have texts of about one length, in an order that depends on the seed and the epoch alone.

    The library's draws it from the state of the generator, which is another one when a run goes on within an epoch.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> "_ByLength":
        rows = self.train_dataset if train_dataset is None else train_dataset
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return _ByLength([len(ids) for ids in rows["input_ids"]], step, self.args.seed)


class _ByLength(torch.utils.data.Sampler[int]):
    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Go on to an epoch; accelerate calls it."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        return iter(get_length_grouped_indices(self._lengths, self._batch_size, generator=generator))


def train(trainer: Trainer) -> list[dict[str, float]]:
    """Train, on from the last whole checkpoint, and return what was logged: by step, the loss or an evaluation.

    Raises:
        TrainingError: it cannot go on.
        KeyboardInterrupt: it was stopped; the message says how to go on.
        Stopped: it was stopped, as well.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress())
    checkpoints = Path(trainer.args.output_dir)
    last = _last_checkpoint(checkpoints)
    if last is not None:
        tell(f"Going on from step {_step(last):,} of {trainer.args.max_steps:,}.")
        state = TrainerState.load_from_json(str(last / _STATE))
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            # It was killed after its last step; the library would do one more.
            trainer.state = state
            best = checkpoints / f"checkpoint-{state.best_global_step or _step(last)}"
            trainer._load_from_checkpoint(str(best))  # noqa: SLF001 - nothing public reads weights alone
            return [*state.log_history]
    try:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    except (KeyboardInterrupt, Stopped) as stop:
        last = _last_checkpoint(checkpoints)
        then = "begins anew: there was no checkpoint yet" if last is None else f"goes on from step {_step(last):,}"
        raise type(stop)(
            f"Stopped at step {trainer.state.global_step:,} of {trainer.args.max_steps:,}. The same command {then}."
        ) from None
    except torch.OutOfMemoryError:
        raise TrainingError(
            "the GPU's memory is too small: give --gradient-accumulation-steps, or a smaller --max-length."
        ) from None
    return [*trainer.state.log_history]  # a copy: later evaluations are no part of the run


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole, and remove those that a kill left unfinished."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        try:
            # The Trainer writes it last.
            json.loads((checkpoint / _STATE).read_text())
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
        else:
            return checkpoint
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


class BestStep(TrainerCallback):
    """The step that is kept: the best by a figure, and of equals the one of the lowest loss. Steps without a better one end a run.

    So a figure that does not move yet ends no run whose loss still falls. All is read from the log, which goes on after a kill.
    """

    def __init__(self, figure: str, patience: int) -> None:
        """Name them.

        Args:
            figure: More of it is better.
            patience: Evaluations without a better one that end a run; 0 for as many as there are.
        """
        self._figure = f"eval_{figure}"
        self._patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        evaluated = [entry for entry in state.log_history if self._figure in entry]
        best = max(evaluated, key=lambda entry: (entry[self._figure], -entry["eval_loss"]))
        # The Trainer keeps it unless it finds a better figure.
        state.best_metric, state.best_global_step = best[self._figure], int(best["step"])
        if 0 < self._patience < len(evaluated) - evaluated.index(best):
            control.should_training_stop = True


class Progress(TrainerCallback):
    """A bar on a terminal with the loss and the time that is left, else a line now and then; a line for each evaluation."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._begun = (0.0, 0)
        self._told_at = 0.0
        self._loss = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        self._begun = (time.monotonic(), state.global_step)
        self._told_at = time.monotonic()
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}% |{bar}| step {n_fmt} of {total_fmt}{desc}, {remaining} left",
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        assert self._bar is not None
        self._bar.update(state.global_step - self._bar.n)
        now = time.monotonic()
        if self._bar.disable and now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            began_at, first = self._begun
            left_s = (now - began_at) / (state.global_step - first) * (state.max_steps - state.global_step)
            tell(f"step {state.global_step:,} of {state.max_steps:,}{self._loss}, {tqdm.format_interval(left_s)} left")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **others: Any,
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} after step {state.global_step:,}: lower --learning-rate, or do without --bf16."
            )
        self._loss = f", loss {loss:.3f}"
        if self._bar is not None:
            self._bar.set_description_str(self._loss, refresh=False)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **others: Any,
    ) -> None:
        shown = ", ".join(
            f"{name.removeprefix('eval_').replace('_', ' ')} {value:.4g}"
            for name, value in (metrics or {}).items()
            if not name.endswith(("_second", "_runtime", "epoch"))
        )
        line = f"step {state.global_step:,} of {state.max_steps:,}: held out: {shown}"
        if self._bar is not None and not self._bar.disable:
            self._bar.write(line, file=sys.stderr)
        else:
            tell(line)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        assert self._bar is not None
        self._bar.close()
