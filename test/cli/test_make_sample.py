import csv
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rasterio', reason='the extra large runs these tests')

from panoptic_ros import cli
from panoptic_ros.large import samples
from panoptic_ros.large.reading.pictures import Picture, ReadOptions

SIZE_WH = (600, 500)


def test_change_of_the_aerial_truths_is_the_true_change(tmp_path: Path) -> None:
    size = f'{SIZE_WH[0]}x{SIZE_WH[1]}'
    assert cli.main(['make-sample', 'aerial', '--size', size, '--out', str(tmp_path)]) == 0
    truths = [str(tmp_path / f'{date}_truth.tif') for date in ('before', 'after')]
    assert cli.main(['change', *truths, '--out', str(tmp_path / 'change')]) == 0
    with (tmp_path / 'change' / 'objects.csv').open() as file:
        rows = list(csv.DictReader(file))
    before, after = (
        samples.aerial(SIZE_WH, after=a).labels(0, 0, *SIZE_WH) for a in (False, True)
    )
    ids = [set(np.unique(labels[1])) - {0} for labels in (before, after)]
    gone = {int(row['before_id']) for row in rows if row['state'] == 'vanished'}
    new = {int(row['after_id']) for row in rows if row['state'] == 'appeared'}
    assert gone == ids[0] - ids[1]
    assert new == ids[1] - ids[0]


def test_slide_has_levels_and_a_pixel_size(tmp_path: Path) -> None:
    assert cli.main(['make-sample', 'slide', '--size', '600x500', '--out', str(tmp_path)]) == 0
    picture = Picture.open(tmp_path / 'slide.ome.tif', ReadOptions('1um'))
    assert picture.size_wh == (300, 250)
    picture.close()
    full = Picture.open(tmp_path / 'slide.ome.tif')
    image, _ = full.read(100, 90, 400, 300)
    np.testing.assert_array_equal(image, samples.slide(SIZE_WH).read(100, 90, 400, 300).image_rgb)


def test_sizes_are_checked(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(['make-sample', 'slide', '--size', 'large'])
    assert "'large' is not a size; expected for example 4096x4096" in capsys.readouterr().err
