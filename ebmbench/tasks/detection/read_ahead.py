"""Reads images on threads before they are asked for, so that no step waits for their decoding.

Threads are enough, since Pillow decodes without holding Python's lock. A process would inherit the locks of the run's
directory, and keep them for a while after a kill.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from ebmbench.tasks.detection.data import Dataset, Example

MOST_WORKERS = 8


class ReadAhead:
    """A split whose images are read before they are asked for. Their number and order come from who asks alone.

    It has as many threads as the split says: by default one for each core but one, at most `MOST_WORKERS`.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        cores = os.cpu_count() or 1
        workers = min(cores - 1, MOST_WORKERS) if dataset.workers is None else dataset.workers
        self._pool = ThreadPoolExecutor(workers, "images") if workers else None
        self._coming: dict[int, Future[Example | None]] = {}

    def expect(self, indices: Iterable[int]) -> None:
        """Starts to read the images that are asked for next; what was expected before and is not now is let go."""
        if self._pool is None:
            return
        before, self._coming = self._coming, {}
        for index in indices:
            coming = before.pop(index) if index in before else self._pool.submit(self.dataset.load, index)
            self._coming[index] = coming
        for coming in before.values():
            coming.cancel()

    def load(self, index: int) -> Example | None:
        """Returns an image with its boxes, as the dataset does.

        Raises:
            UserError: it is damaged.
        """
        coming = self._coming.pop(index, None)
        return self.dataset.load(index) if coming is None else coming.result()
