import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from panoptic_ros import model as model_module
from panoptic_ros.errors import ModelError
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model, add_onnx, list_models, write_metrics, write_model
from panoptic_ros.model.card import FileEntry, Metric, TensorSpec, TrainingData


def edit_card(folder: Path, **fields: object) -> None:
    path = folder / 'card.yaml'
    card = yaml.safe_load(path.read_text()) | fields
    path.write_text(yaml.safe_dump({k: v for k, v in card.items() if v is not None}))


def file_entry(folder: Path, **fields: object) -> dict[str, object]:
    entry = yaml.safe_load((folder / 'card.yaml').read_text())['files']['float32']
    return {'float32': entry | fields}


def test_load_reads_the_card(tiny_model):
    model = Model.load(tiny_model)
    assert model.card.name == 'tiny'
    assert model.card.size_wh == (64, 32)
    assert set(model.card.files) == {'float32', 'float16'}
    assert model.card.fusion == {'centre_threshold': 0.3}
    assert model.label_set == LabelSet.load('cityscapes')
    assert model.card.classes[13] == 'car'


@pytest.mark.parametrize('precision', ['float32', 'float16'])
def test_onnx_path_is_inside_the_folder(tiny_model, precision):
    path = Model.load(tiny_model).onnx_path(precision)
    assert path.is_file()
    assert path.parent == tiny_model.resolve()


def test_golden_is_what_was_written(tiny_model, tiny_scene):
    image, outputs = Model.load(tiny_model).golden()
    np.testing.assert_array_equal(image, tiny_scene())
    assert outputs['semantic'].shape == (16, 32)
    assert outputs['semantic'][0, 0] == 10
    assert outputs['centre_index'][:2].tolist() == [4 * 16 + 4, 4 * 16 + 12]
    np.testing.assert_allclose(outputs['centre_score'][:3], [1, 0.8, 0])


def test_name_is_looked_up_in_the_package(tiny_model, tmp_path, monkeypatch):
    shutil.copytree(tiny_model, tmp_path / 'models' / 'tiny')
    monkeypatch.setattr(model_module, 'resource', lambda *parts: tmp_path.joinpath(*parts))
    assert list_models() == ('tiny',)
    assert Model.load('tiny').folder == tmp_path / 'models' / 'tiny'
    with pytest.raises(ModelError, match=r"'street-big'.*expected one of tiny or the path"):
        Model.load('street-big')


def test_relative_path_without_a_slash(tiny_model, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    assert Model.load('tiny').card.name == 'tiny'


@pytest.mark.parametrize('name', ['', '..', '/nowhere', 'no/such', Path('street-lite-not-here')])
def test_no_such_folder(name):
    with pytest.raises(ModelError, match=r'is not a model folder, it has no card\.yaml'):
        Model.load(name)


@pytest.mark.parametrize(
    ('text', 'match'),
    [
        ('', 'not a map of fields'),
        ('- a list', 'not a map of fields'),
        ('{', 'not valid YAML'),
        ('\x00\x01', 'not valid YAML'),
        ('name: x', "lacks the field 'head'"),
    ],
)
def test_corrupt_card(own_tiny_model, text, match):
    (own_tiny_model / 'card.yaml').write_text(text)
    with pytest.raises(ModelError, match=match) as caught:
        Model.load(own_tiny_model)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('fields', 'match'),
    [
        ({'name': 7}, '7 where a text was expected'),
        ({'head': 'boxes'}, "head kind 'boxes'; this version knows centres, masks, queries"),
        ({'label_set': 'marsscapes'}, "no label set is called 'marsscapes'"),
        ({'label_set': '../cityscapes.yaml'}, 'outside the model folder'),
        ({'classes': ['road', 'pavement']}, "class 1 is 'pavement', the label set says 'side"),
        ({'classes': ['road', 'sidewalk']}, 'it has 2 classes, the label set 19'),
        ({'size_wh': [64]}, 'not enough values'),
        ({'size_wh': [64.0, 32]}, 'two whole numbers'),
        ({'size_wh': [64, 30]}, 'multiples of 4'),
        ({'size_wh': [0, 32]}, 'multiples of 4'),
        ({'files': {}}, 'no precision'),
        ({'files': {'int4': {}}}, "lacks the field 'sha256'"),
        ({'files': ['model.onnx']}, 'unusable field'),
        ({'golden': None}, "lacks the field 'golden'"),
        ({'golden': {'path': 'golden.npz', 'sha256': 'abc', 'bytes': 3}}, '64 hexadecimal'),
        ({'fusion': {'centre_threshold': True}}, 'True where a number was expected'),
        ({'scale': 0}, 'scale 0 and head kind'),
        ({'scale': 'double'}, "'double' where a number was expected"),
        ({'metrics': [{'name': 'PQ'}]}, "lacks the field 'value'"),
    ],
)
def test_card_field_that_does_not_fit(own_tiny_model, fields, match):
    edit_card(own_tiny_model, **fields)
    with pytest.raises(ModelError, match=match):
        Model.load(own_tiny_model)


def test_unknown_precision_in_the_card(own_tiny_model):
    edit_card(own_tiny_model, files={'int4': file_entry(own_tiny_model)['float32']})
    with pytest.raises(ModelError, match=r"files for \['int4'\]; expected"):
        Model.load(own_tiny_model)


def test_label_set_in_the_model_folder(own_tiny_model):
    (own_tiny_model / 'labels.yaml').write_text(
        'name: two\nclasses:\n'
        '- {name: floor, thing: false, color: [1, 2, 3], category_id: 1}\n'
        '- {name: box, thing: true, color: [3, 2, 1], category_id: 2}\n'
    )
    edit_card(own_tiny_model, label_set='labels.yaml', classes=['floor', 'box'])
    assert Model.load(own_tiny_model).label_set.name == 'two'


def test_precision_that_is_not_there(own_tiny_model):
    edit_card(own_tiny_model, files=file_entry(own_tiny_model))
    with pytest.raises(ModelError, match='has no float16 file; it has float32'):
        Model.load(own_tiny_model).onnx_path('float16')


def test_missing_file(own_tiny_model):
    (own_tiny_model / 'model.onnx').unlink()
    with pytest.raises(ModelError, match=r'lacks the file .*model\.onnx'):
        Model.load(own_tiny_model).onnx_path()


def test_changed_file_names_both_checksums_shortened(own_tiny_model):
    model = Model.load(own_tiny_model)
    path = model.onnx_path()
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match='damaged or changed') as caught:
        model.onnx_path()
    assert f'the card says {model.card.files["float32"].sha256[:12]}...' in str(caught.value)
    assert model.card.files['float32'].sha256 not in str(caught.value)


@pytest.mark.parametrize('path', ['/etc/hostname', '../tiny/model.onnx', 'x/../../y', 'a\0b'])
def test_path_that_leaves_the_folder(own_tiny_model, path):
    edit_card(own_tiny_model, files=file_entry(own_tiny_model, path=path))
    with pytest.raises(ModelError, match='outside the model folder'):
        Model.load(own_tiny_model).onnx_path()


def test_symbolic_link_that_leaves_the_folder(own_tiny_model, tmp_path):
    inside = own_tiny_model / 'model.onnx'
    outside = tmp_path / 'elsewhere.onnx'
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(ModelError, match='outside the model folder'):
        Model.load(own_tiny_model).onnx_path()


def test_symbolic_link_inside_the_folder(own_tiny_model):
    (own_tiny_model / 'model.onnx').rename(own_tiny_model / 'real.onnx')
    (own_tiny_model / 'model.onnx').symlink_to('real.onnx')
    assert Model.load(own_tiny_model).onnx_path().name == 'real.onnx'


def rewrite_golden(folder: Path, data: bytes) -> None:
    (folder / 'golden.npz').write_bytes(data)
    entry = model_module._entry(folder / 'golden.npz')
    edit_card(folder, golden=vars(entry))


@pytest.mark.parametrize('data', [b'', b'PK\x03\x04 not a zip', b'text'])
def test_corrupt_golden(own_tiny_model, data):
    rewrite_golden(own_tiny_model, data)
    with pytest.raises(ModelError, match=r'not a usable \.npz'):
        Model.load(own_tiny_model).golden()


def test_golden_is_never_unpickled(own_tiny_model, tmp_path):
    np.savez(tmp_path / 'evil.npz', image=np.array([{'a': 1}], object))
    rewrite_golden(own_tiny_model, (tmp_path / 'evil.npz').read_bytes())
    with pytest.raises(ModelError, match='allow_pickle'):
        Model.load(own_tiny_model).golden()


def test_golden_single_array_file(own_tiny_model, tmp_path):
    np.save(tmp_path / 'one.npy', np.zeros(3))
    rewrite_golden(own_tiny_model, (tmp_path / 'one.npy').read_bytes())
    with pytest.raises(ModelError, match=r'not a usable \.npz'):
        Model.load(own_tiny_model).golden()


def test_golden_of_another_head(own_tiny_model, tmp_path):
    np.savez(tmp_path / 'other.npz', image=np.zeros((32, 64, 3), np.uint8), masks=np.zeros(3))
    rewrite_golden(own_tiny_model, (tmp_path / 'other.npz').read_bytes())
    with pytest.raises(ModelError, match=r"array names are \['image', 'masks'\], expected"):
        Model.load(own_tiny_model).golden()


def test_what_is_computed_in_int8_leaves_in_float32(tiny_model):
    card = Model.load(tiny_model).card
    assert card.outputs('int8') == card.outputs('float32') != card.outputs('float16')


def test_adding_a_file_keeps_the_rest(own_tiny_model):
    before = Model.load(own_tiny_model)
    source = before.onnx_path('float32')
    after = add_onnx(before, 'int8', source, {'int8': 'by hand'})
    assert after.onnx_path('int8').read_bytes() == source.read_bytes()
    assert after.onnx_path('int8').name == 'model.int8.onnx'
    assert {**after.card.files, 'int8': None} == {**before.card.files, 'int8': None}
    assert after.card.provenance == {**before.card.provenance, 'int8': 'by hand'}
    assert after.card.metrics == before.card.metrics
    assert Model.load(own_tiny_model) == after


def test_check_io(tiny_model):
    model = Model.load(tiny_model)
    inputs = {'image': TensorSpec('uint8', (1, 32, 64, 3))}
    outputs = {
        'semantic': TensorSpec('uint8', (1, 16, 32)),
        'confidence': TensorSpec('uint8', (1, 8, 16)),
        'centre_score': TensorSpec('float16', (1, 9)),
        'centre_index': TensorSpec('int32', (1, 9)),
        'offset_xy': TensorSpec('float16', (1, 2, 8, 16)),
    }
    model.check_io('float16', inputs, outputs)
    with pytest.raises(ModelError, match=r"'centre_score' is float16 \[1, 9\], expected float32"):
        model.check_io('float32', inputs, outputs)
    for name, spec, match in (
        ('semantic', TensorSpec('int64', (1, 16, 32)), 'is int64'),
        ('semantic', TensorSpec('uint8', (1, '?', 32)), r'\[1, \?, 32\]'),
        ('confidence', TensorSpec('uint8', (1, 8, 17)), r'is uint8 \[1, 8, 17\]'),
        ('confidence', TensorSpec('uint8', (1, 8)), r'is uint8 \[1, 8\]'),
        ('centre_index', TensorSpec('int32', (1, 8)), 'with .*K = 9'),
        ('centre_index', TensorSpec('int32', (1, '?')), r'\[1, \?\]'),
    ):
        with pytest.raises(ModelError, match=f"output '{name}'.*{match}"):
            model.check_io('float16', inputs, outputs | {name: spec})
    with pytest.raises(ModelError, match='input names are'):
        model.check_io('float16', {'x': inputs['image']}, outputs)


def rewrite(folder: Path, **fields: object) -> Model:
    model = Model.load(folder)
    image, outputs = model.golden()
    given = {
        'onnx_by_precision': {'float32': folder / 'model.onnx'},
        'label_set': 'cityscapes',
        'size_wh': (64, 32),
        'golden_image': image,
        'golden_outputs': outputs,
    }
    return write_model(folder, **(given | fields))


def test_the_scale_is_written_and_only_where_there_is_one(own_tiny_model):
    assert rewrite(own_tiny_model, scale=1.5).card.scale == 1.5
    assert 'scale: 1.5' in (own_tiny_model / 'card.yaml').read_text()
    assert rewrite(own_tiny_model).card.scale is None
    assert 'scale' not in (own_tiny_model / 'card.yaml').read_text()


def test_writing_again_keeps_what_people_added(own_tiny_model):
    path = own_tiny_model / 'card.yaml'
    path.write_text('# Ours.\n# Read this.\n' + path.read_text() + 'notes: {by: hand}\n')
    write_metrics(own_tiny_model, [Metric('PQ', 21.5, 'val', 'panoptic score')])
    assert Model.load(own_tiny_model).card.metrics[0].value == 21.5
    assert path.read_text().startswith('# Ours.\n# Read this.\n# Model card of tiny.')

    model = rewrite(
        own_tiny_model,
        licence='Apache-2.0',
        provenance={'commit': 'abc'},
        data=[TrainingData('streets', 'CC BY 4.0')],
    )
    assert path.read_text().startswith('# Ours.\n# Read this.\n')
    assert yaml.safe_load(path.read_text())['notes'] == {'by': 'hand'}
    assert model.card.metrics == ()  # they were of the old weights
    assert model.card.provenance == {'commit': 'abc'}
    assert model.card.data == (TrainingData('streets', 'CC BY 4.0'),)
    assert set(model.card.files) == {'float32'}


def test_write_metrics_changes_nothing_else(own_tiny_model):
    before = Model.load(own_tiny_model).card
    write_metrics(own_tiny_model, [Metric('PQ', 1.0, 'val', 'by hand')])
    after = Model.load(own_tiny_model).card
    assert {k: v for k, v in vars(before).items() if k != 'metrics'} == {
        k: v for k, v in vars(after).items() if k != 'metrics'
    }


def test_entry_counts_and_hashes(tmp_path):
    (tmp_path / 'x').write_bytes(b'abc')
    sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    assert model_module._entry(tmp_path / 'x') == FileEntry('x', sha256, 3)


@pytest.mark.parametrize(
    ('fields', 'match'),
    [
        ({'onnx_by_precision': {}}, 'no precision'),
        ({'onnx_by_precision': {'int4': 'x.onnx'}}, "cannot write a 'int4' file"),
        ({'head': 'queries'}, 'head kind'),
        ({'size_wh': (64, 64)}, "array 'image' is uint8 \\[1, 32, 64, 3\\]"),
        ({'golden_image': np.zeros((32, 64), np.uint8)}, "array 'image'"),
        ({'golden_outputs': {}}, 'array names'),
    ],
)
def test_writing_what_is_no_model(own_tiny_model, fields, match):
    with pytest.raises(ModelError, match=match):
        rewrite(own_tiny_model, **fields)


def test_weights_outside_the_onnx_file_are_refused(own_tiny_model, tmp_path):
    onnx = pytest.importorskip('onnx')
    network = onnx.load(own_tiny_model / 'model.onnx')
    source = tmp_path / 'split.onnx'
    onnx.save(network, source, save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelError, match='weights in another file'):
        rewrite(own_tiny_model, onnx_by_precision={'float32': source})


@given(st.text(st.sampled_from('./\\ab\0~é')))
def test_no_path_leaves_the_folder(path):
    folder = Path('models', 'tiny')
    try:
        found = model_module._inside(folder, path, 'tiny')
    except ModelError:
        return
    assert found.is_relative_to(folder.resolve())
    assert '..' not in found.parts
