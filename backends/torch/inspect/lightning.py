"""A callback of Lightning that logs a model's forget gates (extra ``lightning``)."""

from typing import Any

import numpy as np

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"gatecore.backends.torch.inspect.lightning needs {error.name}, which is not installed: "
        "in a checkout of gatecore, pip install -e '.[lightning]'",
        name=error.name,
    ) from error

from gatecore.backends.torch.inspect.watch import Watch, watch

__all__ = ["GateHistograms"]


class GateHistograms(Callback):
    """Log the forget gates of a LightningModule's recurrent layers once per training epoch.

    The gates are those of the training batches since the last log, of every n-th call of a layer
    (``every``), as :func:`gatecore.backends.torch.watch` collects them; they are logged before each
    validation and at the end of an epoch. For a layer "rnn.l0", every logger of the Trainer gets
    the scalars "gates/rnn.l0/median_timescale", in steps, "gates/rnn.l0/open" and
    "gates/rnn.l0/shut", the fractions of activations within ``saturated`` of 1 and of 0.
    TensorBoard and Weights & Biases also get the histograms "gates/rnn.l0/forget" and
    "gates/rnn.l0/log10_timescale" over the units. With several processes the gates are those
    of the first.

    Raises ValueError at the start of a fit if the Trainer has no logger, or the model no gates.

    >>> import lightning
    >>> trainer = lightning.Trainer(logger=False, callbacks=[GateHistograms(every=10)])
    """

    def __init__(self, every: int = 1, saturated: float = 0.1) -> None:
        self.every, self.saturated = every, saturated
        self._watch: Watch | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check that there is something to log, and a logger."""
        if not trainer.loggers:
            raise ValueError("GateHistograms needs a logger, but the Trainer has none: "
                             "Trainer(logger=True) or a logger of your own")  # fmt: skip
        watch(pl_module, every=self.every, saturated=self.saturated).remove()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to collect."""
        self._collect(pl_module)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Log, and leave out the batches of the validation."""
        self._log(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Continue to collect, if training goes on."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._collect(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what was collected since the last validation, if anything was."""
        self._log(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the model without hooks."""
        self._stop()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the model without hooks."""
        self._stop()

    def _collect(self, module: Any) -> None:
        self._stop()
        self._watch = watch(module, every=self.every, saturated=self.saturated)

    def _stop(self) -> Watch | None:
        stopped, self._watch = self._watch, None
        if stopped:
            stopped.remove()
        return stopped

    def _log(self, trainer: Any) -> None:
        if (gates := self._stop()) is None:
            return
        saturation, means = gates.saturation(), gates.means()
        for name, timescales in gates.timescales().items():
            tag = f"gates/{name}"
            scalars = {
                f"{tag}/median_timescale": float(np.median(timescales)),
                f"{tag}/open": float(saturation[name].open.mean()),
                f"{tag}/shut": float(saturation[name].shut.mean()),
            }
            finite = timescales[np.isfinite(timescales)]
            drawn = {f"{tag}/forget": means[name].value, f"{tag}/log10_timescale": np.log10(finite)}
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=trainer.global_step)
                _draw(logger, drawn, trainer.global_step)


def _draw(logger: Any, drawn: dict[str, np.ndarray], step: int) -> None:
    """Write histograms to the loggers that have them; by name, since each imports its library."""
    kind = type(logger).__name__
    for tag, values in drawn.items():
        if values.size and kind == "TensorBoardLogger":
            logger.experiment.add_histogram(tag, values, step)
        elif values.size and kind == "WandbLogger":
            import wandb

            logger.experiment.log({tag: wandb.Histogram(values.tolist())})
