import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.datasets.coco_json import PanopticJson
from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.coco_files import _decode_fast, score_files
from panoptic_ros.packing import ids_to_rgb, rgb_to_ids

DATA = Path(os.environ.get('PANOPTIC_DATA', Path(__file__).parents[3] / 'shared' / 'data'))
REAL = DATA / 'coco_panoptic_sample' / 'panoptic_examples.json'
CATEGORIES = [
    {'id': 7, 'name': 'road', 'isthing': 0},
    {'id': 26, 'name': 'car', 'isthing': 1},
    {'id': 24, 'name': 'person', 'isthing': 1},
]

needs_real = pytest.mark.skipif(not REAL.is_file(), reason=f'the COCO sample is not at {REAL}')


def write(path: Path, ids: np.ndarray | list, segments: list[dict], **changes: object) -> Path:
    """Write one side: a JSON, and a picture in the folder of its name."""
    folder = path.with_suffix('')
    folder.mkdir(exist_ok=True)
    rgb = ids_to_rgb(np.array(ids))
    assert cv2.imwrite(str(folder / 'one.png'), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    annotation = {'image_id': 5, 'file_name': 'one.png', 'segments_info': segments}
    content = {'annotations': [annotation], 'categories': CATEGORIES} | changes
    path.write_text(json.dumps(content))
    return path


def segment(number: int, category_id: int, **more: object) -> dict:
    return {'id': number, 'category_id': category_id, **more}


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    ids = [[1, 1, 1, 1], [300, 300, 300, 0]]
    info = [segment(1, 7, area=4, iscrowd=0), segment(300, 26, area=3, iscrowd=0)]
    return write(tmp_path / 'truth.json', ids, info)


@pytest.fixture
def prediction(tmp_path: Path) -> Path:
    """Road 3 of 4 pixels right, the car found (and on void), a person invented."""
    ids = [[9, 9, 9, 70000], [2, 2, 2, 2]]
    info = [segment(9, 7), segment(70000, 24), segment(2, 26)]
    return write(tmp_path / 'prediction.json', ids, info)


def test_literal_figures(truth: Path, prediction: Path) -> None:
    score = score_files(truth, prediction)
    assert [(c.name, c.PQ, c.tp, c.fp, c.fn) for c in score.quality.per_class] == [
        ('road', 75, 1, 0, 0),
        ('car', 100, 1, 0, 0),
        ('person', 0, 0, 1, 0),
    ]
    assert pytest.approx(175 / 3) == score.quality.PQ
    assert score.quality.images == 1
    assert score.misstated == 0
    # Semantic: 3 of 4 road pixels, 3 of 3 car pixels.
    assert score.overlap.pixel_accuracy == pytest.approx(600 / 7)


def test_folders_may_have_other_names(truth: Path, prediction: Path, tmp_path: Path) -> None:
    prediction.with_suffix('').rename(tmp_path / 'elsewhere')
    score = score_files(truth, prediction, prediction_folder=tmp_path / 'elsewhere')
    assert score.quality.images == 1


def test_a_misstated_area_is_used_and_counted(prediction: Path, tmp_path: Path) -> None:
    """The COCO panoptic tools take the true area from the JSON."""
    ids = [[1, 1, 1, 1], [300, 300, 300, 0]]
    truth = write(tmp_path / 't.json', ids, [segment(1, 7, area=5), segment(300, 26)])
    score = score_files(truth, prediction)
    assert score.quality.per_class[0].PQ == 60
    assert score.misstated == 1


def test_ids_that_are_text_match_those_that_are_numbers(truth: Path, prediction: Path) -> None:
    prediction.write_text(prediction.read_text().replace('"image_id": 5', '"image_id": "5"'))
    assert score_files(truth, prediction).quality.images == 1


def test_an_image_without_prediction_is_named(truth: Path, prediction: Path) -> None:
    prediction.write_text(prediction.read_text().replace('"image_id": 5', '"image_id": 6'))
    with pytest.raises(DatasetError, match=r'image 5: .*prediction\.json has no prediction'):
        score_files(truth, prediction)


@pytest.mark.parametrize(
    ('ids', 'info', 'message'),
    [
        ([[1] * 4, [8] * 4], [segment(1, 7)], r'image 5: .* prediction has segment ids \[8\]'),
        ([[1] * 4, [1] * 4], [segment(1, 9)], r'image 5: the prediction has category ids \[9\]'),
        ([[1] * 3], [segment(1, 7)], 'image 5: the prediction is 3x1, the truth is 4x2'),
        (
            [[1] * 4] * 2,
            [segment(1, 7), segment(1, 26)],
            r'image 5: the prediction lists segment ids \[1\]; expected 0 to .* once',
        ),
        ([[1] * 4] * 2, [segment(1, 7), segment(-1, 26)], r'ids \[-1\]; expected 0 to'),
        ([[1] * 4] * 2, [segment(1, 7), segment(1 << 24, 26)], r'ids \[16777216\]; .* 16777215,'),
        ([[1] * 4] * 2, [segment(1, 7), segment(3, 26)], r'ids \[3\] that its PNG lacks'),
    ],
)
def test_a_bad_prediction_is_named(
    truth: Path, tmp_path: Path, ids: list, info: list, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        score_files(truth, write(tmp_path / 'p.json', ids, info))


def test_of_several_images_the_wrong_one_is_named(truth: Path, prediction: Path) -> None:
    """The same ids in two images are no repetition."""
    for path in (truth, prediction):
        content = json.loads(path.read_text())
        content['annotations'].append(content['annotations'][0] | {'image_id': 6})
        path.write_text(json.dumps(content))
    assert score_files(truth, prediction).quality.images == 2
    content['annotations'][1]['segments_info'] = [segment(9, 7), segment(9, 26)]
    prediction.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r'image 6: the prediction lists segment ids \[9\]'):
        score_files(truth, prediction)


def test_a_picture_that_is_none_is_named(truth: Path, prediction: Path) -> None:
    (prediction.with_suffix('') / 'one.png').write_bytes(b'no')
    with pytest.raises(DatasetError, match=r'image 5: file .*one\.png is not an image'):
        score_files(truth, prediction)


def test_the_fast_decoder_gives_the_same_picture_or_nothing(truth: Path) -> None:
    pytest.importorskip('kornia_rs', reason='extra bench')
    picture = truth.with_suffix('') / 'one.png'
    expected = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(_decode_fast(picture), expected)
    grey = picture.with_name('grey.png')
    cv2.imwrite(str(grey), expected[..., 0])
    assert _decode_fast(grey) is None
    assert _decode_fast(picture.with_name('none.png')) is None
    picture.write_bytes(picture.read_bytes()[:60])
    assert _decode_fast(picture) is None


def test_categories_of_one_name_are_told_apart(truth: Path) -> None:
    content = json.loads(truth.read_text())
    content['categories'].append({'id': 8, 'name': 'road', 'isthing': 1})
    truth.write_text(json.dumps(content))
    assert PanopticJson.read(truth).categories.label_set().names == (
        'road (7)',
        'car',
        'person',
        'road (8)',
    )


def test_a_truth_without_categories_is_refused(truth: Path, prediction: Path) -> None:
    content = json.loads(truth.read_text())
    del content['categories']
    truth.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r'truth\.json has no categories'):
        score_files(truth, prediction)


@needs_real
def test_the_coco_sample_against_itself_is_perfect() -> None:
    score = score_files(REAL, REAL)
    quality = score.quality
    assert quality.PQ == quality.SQ == quality.RQ == quality.PQ_things == quality.PQ_stuff == 100
    assert quality.images == 2
    assert score.misstated == 0


def corrupt_real(folder: Path) -> Path:
    """Shift the sample's maps, make every fifth segment void and cut every fourth in two."""
    content = json.loads(REAL.read_bytes())
    target = folder / 'corrupted'
    target.mkdir()
    for annotation in content['annotations']:
        bgr = cv2.imread(str(REAL.with_suffix('') / annotation['file_name']))
        ids = rgb_to_ids(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
        ids = np.roll(ids, (1, 2), axis=(0, 1))
        columns = np.arange(ids.shape[1])[None, :]
        category_of = {i['id']: i['category_id'] for i in annotation['segments_info']}
        for number, old in enumerate(list(category_of)):
            if number % 5 == 0:
                ids[ids == old] = 0
            elif number % 4 == 0:
                ids[(ids == old) & (columns % 100 < 40)] = number + 1
                category_of[number + 1] = category_of[old]
            elif number % 7 == 0:
                category_of[old] = 1
        annotation['segments_info'] = [
            segment(i, category_of[i]) for i in np.unique(ids).tolist() if i
        ]
        rgb = ids_to_rgb(ids)
        cv2.imwrite(str(target / annotation['file_name']), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    path = folder / 'corrupted.json'
    path.write_text(json.dumps(content))
    return path


@needs_real
@pytest.mark.parametrize('threads', [1, 2])
def test_the_corrupted_coco_sample_equals_the_reference(tmp_path: Path, threads: int) -> None:
    """The figures are those that panopticapi-lite 0.2.0 gives for the same files."""
    quality = score_files(REAL, corrupt_real(tmp_path), threads=threads).quality
    reference = {
        'PQ': 0.42743113888805473,
        'SQ': 0.5766675726797398,
        'RQ': 0.5424019607843137,
        'PQ_things': 0.28813384382241136,
        'SQ_things': 0.38293045678100396,
        'RQ_things': 0.3764705882352941,
        'PQ_stuff': 0.566728433953698,
        'SQ_stuff': 0.7704046885784757,
        'RQ_stuff': 0.7083333333333333,
    }
    for name, value in reference.items():
        assert getattr(quality, name) == pytest.approx(100 * value, abs=1e-12)


# --- files of other tools -----------------------------------------------------------------------


def test_predicted_segments_may_be_numbered_from_0(truth: Path, tmp_path: Path) -> None:
    """DETR's evaluation numbers from 0; panopticapi gives PQ 100 for this perfect prediction."""
    ids = [[0, 0, 0, 0], [1, 1, 1, 2]]
    info = [segment(0, 7), segment(1, 26), segment(2, 24)]
    prediction = write(tmp_path / 'p.json', ids, info)
    quality = score_files(truth, prediction).quality
    assert [(c.PQ, c.tp, c.fp, c.fn) for c in quality.per_class[:2]] == [(100, 1, 0, 0)] * 2
    assert quality.per_class[2].fp == 0  # it lies on void


def test_true_segments_are_not_numbered_from_0(prediction: Path, tmp_path: Path) -> None:
    truth = write(tmp_path / 't.json', [[0] * 4, [1] * 4], [segment(0, 7), segment(1, 26)])
    with pytest.raises(DatasetError, match=r'the truth lists segment ids \[0\]; expected 1 to'):
        score_files(truth, prediction)


@pytest.mark.parametrize('side', ['truth', 'prediction'])
@pytest.mark.parametrize('key', ['area', 'iscrowd', 'bbox'])
def test_a_null_is_a_missing_value(
    truth: Path, prediction: Path, tmp_path: Path, side: str, key: str
) -> None:
    expected = score_files(truth, prediction).quality
    path = {'truth': truth, 'prediction': prediction}[side]
    content = json.loads(path.read_text())
    for info in content['annotations'][0]['segments_info']:
        info[key] = None
    path.write_text(json.dumps(content))
    assert score_files(truth, prediction).quality == expected


@pytest.mark.parametrize('area', ['NaN', 'Infinity', '-1', '"many"', '1e300'])
def test_an_area_that_is_no_number_of_pixels_is_counted(
    truth: Path, prediction: Path, area: str
) -> None:
    expected = score_files(truth, prediction).quality
    text = prediction.read_text().replace('"category_id"', f'"area": {area}, "category_id"')
    prediction.write_text(text)
    assert score_files(truth, prediction).quality == expected


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('[{"image_id": 1}]', 'it is a list, or an entry is of the wrong kind'),
        ('{"annotations": [{"image_id": 1}]}', "'file_name' is missing"),
        (
            '{"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": '
            '[{"id": Infinity, "category_id": 1}]}]}',
            'cannot convert float infinity to integer',
        ),
    ],
)
def test_what_is_no_panoptic_json(truth: Path, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / 'other.json'
    path.write_text(text)
    with pytest.raises(DatasetError, match=f'other.json is not a panoptic JSON.*: {words}'):
        score_files(truth, path)


def test_an_id_of_any_size_is_refused(truth: Path, prediction: Path) -> None:
    content = json.loads(prediction.read_text())
    content['annotations'][0]['segments_info'][0]['id'] = 10**30
    prediction.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match='the prediction lists segment ids'):
        score_files(truth, prediction)


def test_categories_of_a_prediction_do_not_matter(truth: Path, prediction: Path) -> None:
    content = json.loads(prediction.read_text())
    content['categories'] = [{'id': 7, 'name': 'road'}]
    prediction.write_text(json.dumps(content))
    assert score_files(truth, prediction).quality.images == 1


def test_a_true_category_without_isthing_is_named(truth: Path, prediction: Path) -> None:
    content = json.loads(truth.read_text())
    del content['categories'][1]['isthing']
    truth.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r'category 26 \(\'car\'\) has no "isthing"; add 1 for'):
        score_files(truth, prediction)


def test_any_number_of_categories(tmp_path: Path) -> None:
    """Segment n is of category n; every third is predicted as its neighbour."""
    count = 700
    ids = np.arange(1, count + 1).repeat(4).reshape(-1, 40)
    categories = [{'id': n, 'name': f'c{n}', 'isthing': n % 2} for n in range(1, count + 1)]
    true_info = [segment(n, n) for n in range(1, count + 1)]
    info = [segment(n, n % count + 1 if n % 3 == 0 else n) for n in range(1, count + 1)]
    truth = write(tmp_path / 't.json', ids, true_info, categories=categories)
    prediction = write(tmp_path / 'p.json', ids, info, categories=[])
    score = score_files(truth, prediction)
    assert sum(c.tp for c in score.quality.per_class) == count - count // 3
    assert sum(c.fp for c in score.quality.per_class) == count // 3
    assert score.quality.per_class[3].fp == 1  # category 4, predicted for 3 as well
    assert score.overlap.pixel_accuracy == pytest.approx(100 * (1 - (count // 3) / count))


@pytest.mark.parametrize('side', ['truth', 'prediction'])
@pytest.mark.parametrize(('dtype', 'bits'), [(np.uint8, 8), (np.uint16, 16)])
def test_a_png_of_one_channel_is_refused(
    truth: Path, prediction: Path, side: str, dtype: type, bits: int
) -> None:
    path = {'truth': truth, 'prediction': prediction}[side]
    cv2.imwrite(str(path.with_suffix('') / 'one.png'), np.ones((2, 4), dtype))
    with pytest.raises(DatasetError, match=rf'image 5: .* has 1 channel of {bits} bits; a COCO'):
        score_files(truth, prediction)


def test_a_png_with_alpha_is_read(truth: Path, prediction: Path) -> None:
    png = prediction.with_suffix('') / 'one.png'
    expected = score_files(truth, prediction).quality
    cv2.imwrite(str(png), cv2.cvtColor(cv2.imread(str(png)), cv2.COLOR_BGR2BGRA))
    assert score_files(truth, prediction).quality == expected


# --- which prediction belongs to which image ----------------------------------------------------


def write_images(path: Path, names: dict[int | str, str], values: dict[str, int]) -> Path:
    """Write images of one segment; ``values`` gives the category of each file name."""
    folder = path.with_suffix('')
    folder.mkdir()
    annotations = []
    for number, (image_id, name) in enumerate(names.items()):
        cv2.imwrite(str(folder / f'{number}.png'), np.full((2, 2, 3), (0, 0, 1), np.uint8))
        info = [segment(1, values[Path(name).stem])]
        annotations.append(
            {'image_id': image_id, 'file_name': f'{number}.png', 'segments_info': info}
        )
    images = [{'id': image_id, 'file_name': name} for image_id, name in names.items()]
    content = {'images': images, 'annotations': annotations, 'categories': CATEGORIES}
    path.write_text(json.dumps(content))
    return path


VALUES = {'000139': 7, '000285': 26, '000632': 24}


@pytest.mark.parametrize(
    ('true_names', 'names'),
    [
        # panoptic segment numbers from 1.
        ({139: '000139.jpg', 285: '000285.jpg'}, {1: '000139.jpg', 2: '000285.jpg'}),
        ({139: '000139.jpg', 285: '000285.jpg'}, {1: '000285.png', 2: '000139.png'}),
        # The ids are the same by chance, the names are not.
        ({1: '000139.jpg', 2: '000285.jpg'}, {1: '000285.jpg', 2: '000139.jpg'}),
        ({1: 'val/000139.jpg', 2: 'val/000285.jpg'}, {1: '000285.jpg', 2: '000139.jpg'}),
        ({139: '000139.jpg'}, {1: 'a/000139.jpg', 2: 'a/000285.jpg', 3: 'a/000632.jpg'}),
    ],
)
def test_images_are_matched_by_file_name(
    tmp_path: Path, true_names: dict[int | str, str], names: dict[int | str, str]
) -> None:
    truth = write_images(tmp_path / 't.json', true_names, VALUES)
    prediction = write_images(tmp_path / 'p.json', names, VALUES)
    assert score_files(truth, prediction).quality.PQ == 100


def test_cityscapes_names_of_truth_and_images_match(tmp_path: Path) -> None:
    values = {'ulm_0_leftImg8bit': 7, 'ulm_0_gtFine_leftImg8bit': 7}
    truth = write_images(tmp_path / 't.json', {'ulm_0': 'ulm_0_gtFine_leftImg8bit.png'}, values)
    prediction = write_images(tmp_path / 'p.json', {1: 'ulm/ulm_0_leftImg8bit.png'}, values)
    assert score_files(truth, prediction).quality.PQ == 100


def test_ids_match_where_names_are_of_another_kind(tmp_path: Path) -> None:
    truth = write_images(tmp_path / 't.json', {139: '000139.jpg', 285: '000285.jpg'}, VALUES)
    values = {'139': 7, '285': 26}
    prediction = write_images(tmp_path / 'p.json', {139: '139.png', 285: '285.png'}, values)
    assert score_files(truth, prediction).quality.PQ == 100


def test_ids_do_not_replace_a_missing_name(tmp_path: Path) -> None:
    truth = write_images(tmp_path / 't.json', {1: '000139.jpg', 2: '000285.jpg'}, VALUES)
    prediction = write_images(tmp_path / 'p.json', {1: '000285.jpg', 2: '000632.jpg'}, VALUES)
    with pytest.raises(
        DatasetError, match=r'image 1 \(000139\.jpg\): .* has no prediction for it'
    ):
        score_files(truth, prediction)
