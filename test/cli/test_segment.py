import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_ros import cli
from panoptic_ros.cli import segment
from panoptic_ros.labels import LabelSet
from panoptic_ros.packing import from_coco

SKY, ROAD, CAR = 10, 0, 13


@pytest.fixture
def picture(tiny_scene, tmp_path):
    """Return a function that writes the tiny scene as a picture file."""

    def write(name, size_wh=(128, 64)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), tiny_scene(size_wh)[..., ::-1])
        return path

    return write


@pytest.fixture
def run(tiny_model, tmp_path):
    """Return a function that runs the command with the tiny model and returns its status."""

    def run(source, *options):
        fixed = ['--model', str(tiny_model), '--out', str(tmp_path / 'out')]
        return cli.main(['segment', str(source), *fixed, '--engine', 'onnxruntime', *options])

    return run


def exif_turned(jpeg):
    """Add the EXIF orientation of an upright phone picture to a JPEG."""
    body = b'Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0'
    return jpeg[:2] + b'\xff\xe1' + (len(body) + 2).to_bytes(2, 'big') + body + jpeg[2:]


def read_coco(out: Path):
    content = json.loads((out / 'panoptic.json').read_text())
    label_set = LabelSet.load('cityscapes')
    maps = []
    for annotation in content['annotations']:
        bgr = cv2.imread(str(out / 'panoptic' / annotation['file_name']))
        maps.append(
            from_coco(
                np.ascontiguousarray(bgr[..., ::-1]), annotation['segments_info'], label_set
            )[0]
        )
    return content, maps


def test_picture_gives_overlay_and_coco_files(run, picture, tmp_path, capsys):
    source = picture('street.png')
    assert run(source) == 0
    out = tmp_path / 'out'
    content, (panoptic,) = read_coco(out)
    assert panoptic.semantic[4, 4] == SKY
    assert panoptic.semantic[60, 4] == ROAD
    assert panoptic.semantic[32, 32] == panoptic.semantic[32, 96] == CAR
    assert panoptic.instance[32, 32] != panoptic.instance[32, 96]
    assert content['images'] == [{'id': 1, 'file_name': 'street.png', 'width': 128, 'height': 64}]
    assert content['annotations'][0]['image_id'] == 1
    car = content['categories'][CAR]
    assert (car['id'], car['name'], car['isthing']) == (26, 'car', 1)
    drawn = cv2.imread(str(out / 'overlay' / 'street.jpg'))
    assert drawn.shape == (64, 128, 3)
    assert np.abs(drawn - cv2.imread(str(source)).astype(float)).mean() > 10
    captured = capsys.readouterr()
    assert 'engine onnxruntime' in captured.err
    for stage in (*segment.STAGES, 'total', '1 frames'):
        assert stage in captured.out


def test_folder_with_folders_in_it(run, picture, tmp_path):
    picture('in/b/two.jpg')
    picture('in/a/one.png')
    picture('in/three.bmp', (64, 32))
    (tmp_path / 'in' / 'notes.txt').write_text('no picture')
    assert run(tmp_path / 'in') == 0
    content, maps = read_coco(tmp_path / 'out')
    assert [i['file_name'] for i in content['images']] == ['a/one.png', 'b/two.jpg', 'three.bmp']
    assert [m.size_wh for m in maps] == [(128, 64), (128, 64), (64, 32)]
    assert (tmp_path / 'out' / 'overlay' / 'b' / 'two.jpg').is_file()


def test_results_inside_the_source_are_not_read_again(picture, tiny_model, tmp_path):
    folder = picture('in/one.png').parent
    arguments = ['segment', str(folder), '--model', str(tiny_model)]
    arguments += ['--out', str(folder / 'out')]
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 0
    assert len(read_coco(folder / 'out')[0]['images']) == 1


@pytest.mark.parametrize('broken', ['a.png', 'c.png'])
def test_folder_goes_on_after_an_unreadable_picture(run, picture, tmp_path, capsys, broken):
    picture('in/b.png')
    (tmp_path / 'in' / broken).write_bytes(b'no picture')
    assert run(tmp_path / 'in') == 1
    assert [i['file_name'] for i in read_coco(tmp_path / 'out')[0]['images']] == ['b.png']
    captured = capsys.readouterr()
    assert f'{broken} is not a readable image' in captured.err
    assert '1 unreadable' in captured.out


def test_folder_of_nothing_but_unreadable_pictures(run, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'a.png').write_bytes(b'no picture')
    assert run(tmp_path / 'in') == 2
    assert 'could be read' in capsys.readouterr().err


def test_unreadable_picture_fails(run, tmp_path, capsys):
    (tmp_path / 'a.png').write_bytes(b'no picture')
    assert run(tmp_path / 'a.png') == 2
    assert 'a.png' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_source_that_is_not_there(run, tmp_path, capsys):
    assert run(tmp_path / 'nowhere.png') == 2
    error = capsys.readouterr().err
    assert 'nowhere.png' in error
    assert error.count('\n') == 1


def test_empty_folder(run, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    assert run(tmp_path / 'in') == 2
    assert 'has no images, nor have its folders' in capsys.readouterr().err


def test_limit(run, picture, tmp_path):
    for name in 'abc':
        picture(f'in/{name}.png')
    assert run(tmp_path / 'in', '--limit', '2') == 0
    assert len(read_coco(tmp_path / 'out')[0]['images']) == 2


def write_video(path, frames, rate_hz=10.0):
    height, width = frames[0].shape[:2]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), rate_hz, (width, height))
    for frame in frames:
        video.write(frame)
    video.release()


def frame_times_ms(path):
    """Return the stamps of a video's frames."""
    video, times = cv2.VideoCapture(str(path)), []
    while video.grab():
        times.append(video.get(cv2.CAP_PROP_POS_MSEC))
    return times


def test_video_gives_a_video(run, tiny_scene, tmp_path):
    frame = np.ascontiguousarray(tiny_scene((256, 128))[..., ::-1])
    write_video(tmp_path / 'drive.mp4', [frame] * 3)
    assert run(tmp_path / 'drive.mp4') == 0
    assert frame_times_ms(tmp_path / 'out' / 'overlay.mp4') == pytest.approx([0, 100, 200])
    content, maps = read_coco(tmp_path / 'out')
    assert len(maps) == len({i['file_name'] for i in content['images']}) == 3
    assert maps[2].semantic[8, 8] == SKY
    assert not (tmp_path / 'out' / 'overlay').exists()


def test_default_folders_never_replace_another_run(picture, tiny_model, tmp_path, monkeypatch):
    for name in ('run.01/a.png', 'run.02/b.png', 'run.02.png'):
        picture(name)
    monkeypatch.chdir(tmp_path)
    for source in ('run.01', 'run.02', 'run.02.png', 'run.02'):
        assert cli.main(['segment', source, '--model', str(tiny_model)]) == 0
    names = {
        path.parent.name: [i['file_name'] for i in read_coco(path.parent)[0]['images']]
        for path in tmp_path.glob('out/segment/*/panoptic.json')
    }
    assert names == {
        'run.01': ['a.png'],
        'run.02': ['b.png'],
        'run.02-2': ['run.02.png'],
        'run.02-3': ['b.png'],
    }


def test_a_given_folder_is_replaced_with_a_note(run, picture, capsys):
    source = picture('a.png')
    assert run(source) == 0
    assert 'replacing' not in capsys.readouterr().err
    assert run(source) == 0
    assert 'replacing the results in' in capsys.readouterr().err


def test_hidden_files_and_companions_are_skipped(run, picture, tmp_path):
    picture('in/a.png')
    for name in ('in/._a.png', 'in/.cache/b.png', 'in/__MACOSX/._a.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'companion')
    assert run(tmp_path / 'in') == 0
    assert [i['file_name'] for i in read_coco(tmp_path / 'out')[0]['images']] == ['a.png']


def test_names_are_in_numeric_order(run, picture, tmp_path):
    names = [f'frame{number}.png' for number in range(1, 12)]
    for name in names:
        picture(f'in/{name}')
    assert run(tmp_path / 'in') == 0
    assert [i['file_name'] for i in read_coco(tmp_path / 'out')[0]['images']] == names


def test_names_that_are_not_utf8(picture, tiny_model, tiny_scene, tmp_path, monkeypatch, capsys):
    """Read a folder, an image and a video, and name the results after them."""
    name = os.fsdecode(b'stra\xdfe')
    folder = tmp_path / name
    folder.mkdir()
    picture('a.png').rename(folder / f'{name}.png')
    frame = np.ascontiguousarray(tiny_scene((256, 128))[..., ::-1])
    write_video(tmp_path / 'drive.mp4', [frame] * 3)
    (tmp_path / 'drive.mp4').rename(folder / f'{name}.mp4')
    monkeypatch.chdir(tmp_path)
    for source in (folder, folder / f'{name}.png', folder / f'{name}.mp4'):
        assert cli.main(['segment', str(source), '--model', str(tiny_model)]) == 0
    assert 'out/segment/stra\\udcdfe' in capsys.readouterr().out
    out = tmp_path / 'out' / 'segment'
    content = json.loads((out / name / 'panoptic.json').read_text())
    assert [os.fsencode(i['file_name']) for i in content['images']] == [b'stra\xdfe.png']
    assert (out / name / 'overlay' / f'{name}.jpg').is_file()
    assert (out / f'{name}-3' / 'overlay.mp4').is_file()


def test_exif_orientation_is_ignored_as_in_the_truth(run, picture, tmp_path):
    """Row 6 of the cases: results have the size of the stored pixels, which annotations have."""
    path = picture('phone.jpg')
    path.write_bytes(exif_turned(path.read_bytes()))
    assert cv2.imread(str(path)).shape == (128, 64, 3)  # OpenCV would rotate it
    assert run(path) == 0
    content, (panoptic,) = read_coco(tmp_path / 'out')
    assert panoptic.size_wh == (128, 64)
    assert (content['images'][0]['width'], content['images'][0]['height']) == (128, 64)


def test_objects_of_a_video_keep_their_ids(run, tiny_scene, tmp_path):
    both = np.ascontiguousarray(tiny_scene((256, 128))[..., ::-1])
    right = both.copy()
    right[:, :128] = right[:, :1]  # sky and road where the left car was
    write_video(tmp_path / 'drive.mp4', [both, right, right, both])
    assert run(tmp_path / 'drive.mp4') == 0
    content, _ = read_coco(tmp_path / 'out')
    things = [
        {s['bbox'][0] > 128: s['id'] for s in a['segments_info'] if s['id'] < 65536}
        for a in content['annotations']
    ]
    left, right = things[0][False], things[0][True]
    assert things == [{False: left, True: right}, {True: right}, {True: right}, things[0]]


def test_interrupted_run_keeps_what_it_has(run, picture, tmp_path, monkeypatch):
    for name in 'abc':
        picture(f'in/{name}.png')
    real, calls = segment.overlay, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(segment, 'overlay', interrupted)
    assert run(tmp_path / 'in') == 130
    assert len(read_coco(tmp_path / 'out')[1]) == 2


def test_folder_that_cannot_be_written(run, picture, tmp_path, capsys):
    (tmp_path / 'out').write_text('a file, not a folder')
    assert run(picture('a.png')) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'cannot write the results to' in error
    assert 'choose another folder with --out' in error


def test_default_folder_is_named_after_the_source(picture, tiny_model, tmp_path, monkeypatch):
    source = picture('street.png')
    monkeypatch.chdir(tmp_path)
    assert cli.main(['segment', str(source), '--model', str(tiny_model)]) == 0
    assert (tmp_path / 'out' / 'segment' / 'street' / 'panoptic.json').is_file()


def test_changed_model_is_one_sentence(run, picture, own_tiny_model, capsys):
    (own_tiny_model / 'model.onnx').write_bytes(b'')
    source = str(picture('a.png'))
    assert cli.main(['segment', source, '--model', str(own_tiny_model)]) == 2
    assert 'SHA-256' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('option', 'match'),
    [
        (['--limit', '0'], "'0' is not a whole number of 1 or more"),
        (['--limit', 'x'], "'x' is not a whole number"),
        (['--opacity', '2'], "'2' is not a number between 0 and 1"),
        (['--opacity', 'nan'], "'nan' is not a number"),
        (['--opacity', 'x'], "'x' is not a number"),
        (['--engine', 'abacus'], 'invalid choice'),
    ],
)
def test_options_that_make_no_sense(capsys, option, match):
    with pytest.raises(SystemExit) as caught:
        cli.main(['segment', 'a.png', *option])
    assert caught.value.code == 2
    assert match in capsys.readouterr().err


def test_report():
    table_ns = np.array([[1, 2, 3, 4, 6, 5], [1, 2, 3, 4, 6, 5]]) * 1_000_000
    report = segment._report(table_ns, 50_000_000).splitlines()
    assert report[3].split() == ['inference', '3.00', '3.00']
    assert report[5].split() == ['tracking', '6.00', '6.00']
    assert report[7].split() == ['segmentation', '9.00', '9.00']
    assert report[8].split() == ['total', '21.00', '21.00']
    assert report[9].startswith('2 frames; 40.0 frames/s with reading and writing, 111.1')


@given(
    st.sets(st.tuples(st.sampled_from('ab'), st.sampled_from(['', '.jpg', '.png', '.jpg.png'])))
)
def test_names_are_unique(parts):
    paths = sorted(Path('x', stem + suffix) for stem, suffix in parts)
    assert len(set(segment._names(paths))) == len(paths)


def test_names_lose_their_suffix_unless_two_would_be_one():
    assert segment._names([Path('a.jpg'), Path('b/a.png')]) == ['a', 'b/a']
    assert segment._names([Path('a.jpg'), Path('a.png'), Path('b.png')])[2] == 'b.png'


def test_picture_by_itself_is_no_video_whatever_its_suffix_looks_like(
    tiny_model, tmp_path, picture
):
    shutil.copy(picture('a.png'), tmp_path / 'A.PNG')
    arguments = ['segment', str(tmp_path / 'A.PNG'), '--model', str(tiny_model)]
    assert cli.main([*arguments, '--out', str(tmp_path / 'o')]) == 0
    assert (tmp_path / 'o' / 'overlay' / 'A.jpg').is_file()


@pytest.mark.parametrize('is_turned', [False, True])
def test_results_score_against_truth_with_the_ids_of_coco(
    run, picture, tmp_path, capsys, is_turned
):
    """Ids in the results count from 1; the truth has the data set's. Truth is of stored pixels."""
    for number, size_wh in ((139, (128, 64)), (285, (64, 32))):
        path = picture(f'val2017/{number:012}.jpg', size_wh)
        if is_turned:
            path.write_bytes(exif_turned(path.read_bytes()))
    assert run(tmp_path / 'val2017') == 0
    content = json.loads((tmp_path / 'out' / 'panoptic.json').read_text())
    ids = {image['id']: int(Path(image['file_name']).stem) for image in content['images']}
    for image in content['images']:
        image['id'] = ids[image['id']]
    for annotation in content['annotations']:
        annotation['image_id'] = ids[annotation['image_id']]
    content['images'].reverse()
    content['annotations'].reverse()
    truth = tmp_path / 'truth.json'
    truth.write_text(json.dumps(content))
    folder = str(tmp_path / 'out' / 'panoptic')
    capsys.readouterr()
    command = ['score', str(truth), str(tmp_path / 'out' / 'panoptic.json')]
    assert cli.main([*command, '--truth-folder', folder]) == 0
    assert 'All       |  100.0  100.0  100.0 ' in capsys.readouterr().out
