#!/usr/bin/env python3
"""Does clconv.dask filter a signal that is larger than memory, and equal to its chunks alone?

A signal of --gigabytes is made on the fly, chunk by chunk, filtered by an FIR filter of --taps, and
written to a zarr array in --folder, which is removed at the end: by threads of this process, or by
--workers processes of dask.distributed. Tells the time, the most memory that any process had, and
whether chunks in the array equal the filter of these samples alone: bit by bit, since the samples
are whole numbers. Needs dask, distributed and zarr.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.diagnostics import ProgressBar
from numpy.typing import NDArray

import clconv.dask
from clconv import signal

CHANNELS = 8
CHUNK = 2**22  # samples


def made(block_info: Any = None) -> NDArray[np.float32]:
    """A chunk of whole numbers, which depend on their place alone."""
    (row, row_stop), (start, stop) = block_info[None]["array-location"]
    return samples(row, row_stop, start, stop)


def samples(row: int, row_stop: int, start: int, stop: int) -> NDArray[np.float32]:
    """The signal's samples of some rows."""
    place = np.arange(start, stop, dtype=np.uint32)
    rows = np.arange(row, row_stop, dtype=np.uint32)[:, None]
    mixed = (place + rows * np.uint32(40503)) * np.uint32(2654435761)
    return ((mixed >> np.uint32(28)).astype(np.float32)) - np.float32(8)


def memory() -> int:
    """Bytes that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write(y: da.Array, path: Path, workers: int) -> list[int]:
    """Computes the array into a zarr array; the most bytes of each process."""
    if not workers:
        with ProgressBar(dt=1):
            y.to_zarr(str(path), compute=True)
        return [memory()]
    from distributed import Client, LocalCluster, progress

    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, memory_limit="2GB", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        future = client.compute(y.to_zarr(str(path), compute=False))
        progress(future, notebook=False)
        future.result()
        return [memory(), *client.run(memory).values()]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=20.0, help="(%(default)s)")
    parser.add_argument("--taps", type=int, default=301, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 means threads here")
    parser.add_argument("--threads", type=int, default=2, help="without workers (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("."))
    given = parser.parse_args()
    length = int(given.gigabytes * 1e9 / 4 / CHANNELS)
    chunks = (1, CHUNK)
    x = da.map_blocks(
        made, chunks=da.core.normalize_chunks(chunks, (CHANNELS, length)), dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
    )  # fmt: skip
    taps = np.random.default_rng(1).integers(-4, 5, given.taps).astype(np.float32)
    y = clconv.dask.lfilter(taps, np.float32([1]), x, axis=1)
    path = given.folder / "dask_large.zarr"
    shutil.rmtree(path, ignore_errors=True)
    import dask

    begin = time.perf_counter()
    with dask.config.set(num_workers=given.threads):
        most = write(y, path, given.workers)
    took = time.perf_counter() - begin
    written = da.from_zarr(str(path))
    wrong = 0
    places = [(0, 0), (3, CHUNK - 500), (7, length // 2), (CHANNELS - 1, length - 1000)]
    for row, start in places:
        first = max(start - given.taps + 1, 0)
        alone = signal.lfilter(taps, np.float32([1]), samples(row, row + 1, first, start + 1000))
        there = np.asarray(written[row : row + 1, start : start + 1000])
        wrong += not np.array_equal(there, alone[:, start - first :])
    shutil.rmtree(path)
    how = f"{given.workers} workers" if given.workers else f"{given.threads} threads"
    print(
        f"{length * CHANNELS * 4 / 1e9:.1f} GB through {given.taps} taps by {how}: {took:.0f} s, "
        f"at most {sum(most) / 1e9:.2f} GB of memory in {len(most)} processes "
        f"({', '.join(f'{one / 1e9:.2f}' for one in most)}), {wrong} of {len(places)} pieces wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
