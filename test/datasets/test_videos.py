from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.datasets.videos import open_videos, street_videos
from panoptic_ros.errors import DatasetError


def test_streets_keep_the_ids_of_their_objects() -> None:
    videos, label_set = open_videos('synthetic', None, rate_hz=5.0)
    assert label_set.name == 'cityscapes'
    assert [len(video.samples) for video in videos] == [100] * 8
    assert len({video.name for video in videos}) == 8
    first, second = (videos[0].samples[i] for i in (0, 1))
    assert (first.image_id, second.image_id) == ('street_3000_000000', 'street_3000_000001')
    assert (videos[0].stamp_ns(0), videos[0].stamp_ns(3)) == (0, 600_000_000)
    stay = np.intersect1d(first.truth.segments.track_id, second.truth.segments.track_id)
    assert len(stay) > 3
    assert videos[0].samples[-1].image_id == 'street_3000_000099'
    with pytest.raises(IndexError):
        videos[0].samples[100]


def test_streets_of_other_seeds() -> None:
    videos = street_videos(5, rate_hz=2.0)
    assert [video.name for video in videos] == [f'street {seed}' for seed in range(5, 13)]
    assert videos[0].samples[0].image_id == 'street_5_000000'
    assert videos[0].stamp_ns(1) == 500_000_000


def test_images_whose_names_differ_in_the_last_number_are_a_video(tmp_path: Path) -> None:
    for name in ('ulm_000000_000010', 'ulm_000000_000009', 'ulm_000001_000003'):
        image = tmp_path / 'leftImg8bit' / 'val' / 'ulm' / f'{name}_leftImg8bit.png'
        truth = tmp_path / 'gtFine' / 'val' / 'ulm' / f'{name}_gtFine_instanceIds.png'
        for path, picture in ((image, np.zeros((2, 4, 3), np.uint8)), (truth, NUMBERED)):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture)
    videos, _ = open_videos('cityscapes', tmp_path, 'val', rate_hz=17.0)
    names = [[sample.image_id for sample in video.samples] for video in videos]
    assert names == [['ulm_000000_000009', 'ulm_000000_000010'], ['ulm_000001_000003']]
    assert [video.name for video in videos] == ['ulm_000000_', 'ulm_000001_']
    assert videos[0].rate_hz == 17.0
    assert videos[0].samples[0].truth.segments.things.track_id.tolist() == [26007]


NUMBERED = np.array([[26007, 26007, 7, 7]] * 2, np.uint16)


@pytest.mark.parametrize('rate_hz', [0.0, 1001.0, float('nan')])
def test_rates_out_of_range_are_refused(rate_hz: float) -> None:
    with pytest.raises(DatasetError, match=f'rate_hz is {rate_hz}; expected 0.1..1000'):
        open_videos('synthetic', None, rate_hz=rate_hz)


def test_what_cannot_be_opened_is_named() -> None:
    with pytest.raises(DatasetError, match="'coco' needs the path of its folder"):
        open_videos('coco', None)
