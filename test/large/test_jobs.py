"""Bands on a dask cluster: the same bytes as here, also if a worker dies in the middle."""

import os
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from panoptic_ros.cluster import ModelChoice
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.large import jobs
from panoptic_ros.large.bands import model_segmenter
from panoptic_ros.large.reading.pictures import ReadOptions

distributed = pytest.importorskip('distributed', reason='the extra cluster runs these tests')


@pytest.fixture
def job(write_geotiff, street_picture, tiny_model) -> jobs.MapJob:
    choice = ModelChoice(str(tiny_model), 'onnxruntime', threads=1)
    source = write_geotiff(street_picture)
    return jobs.plan_map(source, ReadOptions(), choice, (64, 32), 16).job


@pytest.mark.process
def test_a_cluster_gives_the_same_bytes_though_a_worker_dies(job) -> None:
    rows = range(len(job.grid.rows))
    segmenter = job.model.open()
    with closing(segmenter.engine):
        here = dict(jobs.run_here(job, model_segmenter(segmenter), rows, lambda: None))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
    ) as cluster:
        tasks = {row: (job, row) for row in rows}
        results = jobs.run_on_cluster(cluster.scheduler_address, tasks)
        found = [next(results)]
        # What this worker does, and what it has done that nobody fetched yet, is lost.
        os.kill(cluster.workers[0].process.pid, signal.SIGKILL)
        found += results
    assert sorted(row for row, _ in found) == list(rows)
    assert dict(found) == here


@pytest.mark.process
def test_a_file_that_the_workers_do_not_see(job) -> None:
    lost = replace(job, source=Path('/nowhere/picture.tif'))
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, processes=False
        ) as cluster,
        pytest.raises(PanopticRosError, match=r'failed on the cluster .*does not exist'),
    ):
        list(jobs.run_on_cluster(cluster.scheduler_address, {0: (lost, 0)}))


def test_no_scheduler(job) -> None:
    with pytest.raises(PanopticRosError, match='no dask scheduler answers'):
        list(jobs.run_on_cluster('nonsense://x', {0: (job, 0)}))
