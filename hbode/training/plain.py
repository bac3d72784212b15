"""The loop of the package: no dependency but torch."""

from __future__ import annotations

import torch

from .processes import sum_gradients
from .run import Run


class Plain:
    """A loop over epochs and batches; several processes add up the gradients of their parts of a batch."""

    def run(self, run: Run) -> None:
        """Train until the run has its epochs."""
        while run.goes_on:
            run.start_epoch()
            for shard in run.train_shards():
                loss, measured = run.objective(shard.data)
                run.optimizer.zero_grad()
                (loss * shard.share).backward()
                sum_gradients(run.parameters)
                run.check_and_clip(float(loss.detach()))
                run.optimizer.step()
                run.schedule.step()
                run.measured(measured, shard)
            run.start_validation()
            with torch.no_grad():
                for shard in run.validation_shards():
                    run.validated(run.objective(shard.data)[1], shard)
            run.end_epoch()
