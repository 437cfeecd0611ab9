"""Images on a dask cluster: the results of one process, also if a worker dies in the middle."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.cli import main
from panoptic_ros.cluster import ModelChoice, open_model
from panoptic_ros.errors import FrameError, PanopticRosError

distributed = pytest.importorskip('distributed', reason='the extra cluster runs these tests')


@pytest.fixture
def choice(tiny_model: Path) -> ModelChoice:
    return ModelChoice(str(tiny_model), 'onnxruntime', threads=1)


@pytest.fixture
def start_cluster():
    """Return a function that starts a cluster of worker processes of one thread each."""

    def start(workers: int, *, processes: bool = True) -> 'distributed.LocalCluster':
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            processes=processes,
        )

    return start


@pytest.mark.process
def test_a_cluster_gives_the_same_maps_in_order_though_a_worker_dies(
    choice, tiny_scene, start_cluster
) -> None:
    images = [(n, np.roll(tiny_scene((128, 64)), 9 * n, axis=1)) for n in range(12)]
    with open_model(choice) as (engine, segment):
        here = [(n, result.panoptic) for n, result in segment(images, 'rgb8')]
    with (
        start_cluster(2) as cluster,
        open_model(choice, cluster.scheduler_address) as (remote_engine, segment),
    ):
        results = segment(images, 'rgb8')
        found = [next(results)]
        os.kill(cluster.workers[0].process.pid, signal.SIGKILL)
        found += results
    assert remote_engine == engine
    assert [n for n, _ in found] == list(range(12))
    for (_, expected), (_, result) in zip(here, found, strict=True):
        np.testing.assert_array_equal(result.panoptic.semantic, expected.semantic)
        np.testing.assert_array_equal(result.panoptic.instance, expected.instance)
        np.testing.assert_array_equal(result.panoptic.segments.score, expected.segments.score)


@pytest.mark.process
def test_segment_writes_the_same_files(tiny_model, tiny_scene, start_cluster, tmp_path) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    for name, shift in (('a.png', 0), ('b.png', 20), ('c.png', 40)):
        assert cv2.imwrite(str(source / name), np.roll(tiny_scene((128, 64)), shift, axis=1))
    command = ['segment', str(source), '--model', str(tiny_model), '--engine', 'onnxruntime']
    assert main([*command, '--out', str(tmp_path / 'here')]) == 0
    with start_cluster(1) as cluster:
        remote = ['--scheduler', cluster.scheduler_address, '--out', str(tmp_path / 'there')]
        assert main(command + remote) == 0
    here, there = (files_of(tmp_path / name) for name in ('here', 'there'))
    assert len(here) == 7
    assert there == here


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


@pytest.mark.process
def test_an_error_of_a_worker_names_the_image(choice, tiny_scene, start_cluster) -> None:
    images = [('good', tiny_scene((128, 64))), ('bad', np.zeros((4, 4), np.float32))]
    with (
        start_cluster(1, processes=False) as cluster,
        open_model(choice, cluster.scheduler_address) as (_, segment),
    ):
        results = segment(images, 'rgb8')
        assert next(results)[0] == 'good'
        with pytest.raises(PanopticRosError, match=r'image 1 failed on the cluster .*float32'):
            next(results)


def test_here_an_error_stays_what_it_is(choice) -> None:
    with open_model(choice) as (_, segment), pytest.raises(FrameError):
        next(segment([('bad', np.zeros((4, 4), np.float32))], 'rgb8'))


def test_images_are_read_as_they_are_needed(choice, tiny_scene) -> None:
    taken = []

    def images() -> Iterator[tuple[int, np.ndarray]]:
        for n in range(5):
            taken.append(n)
            yield n, tiny_scene((128, 64))

    with open_model(choice) as (_, segment):
        next(segment(images(), 'rgb8'))
    assert taken == [0]


def test_no_scheduler(choice) -> None:
    with (
        pytest.raises(PanopticRosError, match='no dask scheduler answers'),
        open_model(choice, 'nonsense://x'),
    ):
        pass
