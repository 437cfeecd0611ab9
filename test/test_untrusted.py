"""Files that mean harm are refused with a sentence, and cost little."""

import hashlib
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from panoptic_ros.errors import LabelSetError, ModelError
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model, _entry
from panoptic_ros.untrusted import file_sha256, has_external_data, read_npz, read_yaml

LAUGHS = 'a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n' + ''.join(
    f'{x}: &{x} [{", ".join(["*" + y] * 9)}]\n'
    for x, y in zip('bcdefghi', 'abcdefgh', strict=True)
)


@pytest.fixture
def folder(own_tiny_model: Path) -> Path:
    return own_tiny_model


def edit_card(folder: Path, **fields: object) -> None:
    path = folder / 'card.yaml'
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields))


def replace_golden(folder: Path, data: bytes) -> Model:
    (folder / 'golden.npz').write_bytes(data)
    edit_card(folder, golden=vars(_entry(folder / 'golden.npz')))
    return Model.load(folder)


def replace_onnx(folder: Path, data: bytes) -> Model:
    (folder / 'model.onnx').write_bytes(data)
    edit_card(folder, files={'float32': vars(_entry(folder / 'model.onnx'))})
    return Model.load(folder)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (LAUGHS, 'alias'),
        ('a: ' + '[' * 1_000, 'recursion'),
        ('x' * (1 << 21), 'more than 1048576 bytes'),
        ('a: 2001-99-99', 'month'),
        ('a: ' + '9' * 5000, 'digits'),
        ('a: !!python/object/apply:os.system [true]', 'could not determine a constructor'),
        ('a: !!python/name:os.system', 'could not determine a constructor'),
        ('a: \x00', 'special characters'),
        ('? [a]\n: b', 'unhashable'),
    ],
    ids=range(9),
)
def test_yaml_that_is_not_plain(folder: Path, text: str, words: str) -> None:
    (folder / 'card.yaml').write_text(text)
    with pytest.raises(yaml.YAMLError, match=words):
        read_yaml(folder / 'card.yaml')
    with pytest.raises(ModelError, match='is not valid YAML'):
        Model.load(folder)
    (folder / 'labels.yaml').write_text(text)
    with pytest.raises(LabelSetError, match='is not valid YAML'):
        LabelSet.load(folder / 'labels.yaml')


@pytest.mark.parametrize(
    ('fields', 'match'),
    [
        ({'name': '../../evil'}, 'no slash'),
        ({'name': 'a\nb'}, 'no slash'),
        ({'name': 'x' * 101}, '1 to 100 characters'),
        (
            {'golden': {'path': 'golden.npz', 'sha256': 'a' * 64, 'bytes': float('inf')}},
            'infinity',
        ),
        ({'label_set': '/etc/passwd.yaml'}, 'outside the model folder'),
    ],
)
def test_card_that_means_harm(folder: Path, fields: dict[str, object], match: str) -> None:
    edit_card(folder, **fields)
    with pytest.raises(ModelError, match=match):
        Model.load(folder)


def test_card_that_is_a_folder(folder: Path) -> None:
    (folder / 'labels.yaml').mkdir()
    edit_card(folder, label_set='labels.yaml')
    with pytest.raises(ModelError, match=r'labels\.yaml does not exist'):
        Model.load(folder)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(packed: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', packed) as archive:
        for name, data in members.items():
            archive.writestr(name.replace('_npy', '.npy'), data)
    return file.getvalue()


def bomb() -> bytes:
    """Return 300 MB of zeros as a small archive."""
    return npz(image_npy=npy(np.zeros(300 << 20, np.uint8)))


def huge_npy() -> bytes:
    """An array that says it has 10**12 bytes."""
    data = npy(np.zeros(10, np.uint8))
    return data.replace(b'(10,), }' + b' ' * 11, b'(1000000000000,), }')


class Evil:
    def __reduce__(self) -> tuple:
        return pytest.fail, ('unpickled',)


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (npz(image_npy=npy(np.array([{'a': 1}], object))), 'allow_pickle'),
        (bomb, 'bytes unpacked'),
        (npz(image_npy=huge_npy()), 'says it is uint8 (1000000000000,), and is not'),
        (npz(image_npy=npy(np.zeros(9))[:-1]), 'and is not'),
        (npz(read_me=b'hello'), 'is not an array'),
        (npz(image_npy=b'hello, this is not an array'), 'magic string'),
        (npz(image_npy=b'\x93NUMPY\x09\x00' + bytes(99)), 'version'),
        (npz()[:-4], 'not a zip file'),
    ],
)
def test_golden_that_means_harm(
    folder: Path, data: bytes | Callable[[], bytes], words: str
) -> None:
    model = replace_golden(folder, data() if callable(data) else data)
    tracemalloc.start()
    with pytest.raises(ModelError, match=r'is not a usable \.npz') as caught:
        model.golden()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)
    assert peak < 20 << 20


def test_an_object_in_a_golden_file_is_not_made(folder: Path) -> None:
    evil = np.empty(1, object)
    evil[0] = Evil()
    model = replace_golden(folder, npz(image_npy=npy(evil)))
    with pytest.raises(ModelError, match='Python objects'):
        model.golden()


def test_damaged_golden_in_every_byte(folder: Path) -> None:
    path = folder / 'golden.npz'
    good = path.read_bytes()
    for at in range(0, len(good), max(1, len(good) // 300)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        try:
            arrays = read_npz(path)
        except (ValueError, OSError):
            continue
        assert all(isinstance(array, np.ndarray) for array in arrays.values())


def external(onnx_path: Path, target: str = '/etc/passwd') -> bytes:
    """Return the network with its first constant's data in another file."""
    onnx = pytest.importorskip('onnx')
    network = onnx.load(onnx_path)
    (tensor, *_) = network.graph.initializer
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = 'location', target
    return network.SerializeToString()


@pytest.mark.parametrize('target', ['/etc/passwd', '../weights', 'weights.bin'])
def test_weights_in_another_file_are_not_read(folder: Path, target: str) -> None:
    model = replace_onnx(folder, external(folder / 'model.onnx', target))
    with pytest.raises(ModelError, match='keeps its weights in another file'):
        model.onnx_path()


def test_weights_in_another_file_wherever_a_network_has_tensors() -> None:
    onnx = pytest.importorskip('onnx')
    from onnx import TensorProto, helper

    tensor = helper.make_tensor('t', TensorProto.FLOAT, [1], [1.0])
    outside = onnx.TensorProto()
    outside.CopyFrom(tensor)
    outside.data_location = TensorProto.EXTERNAL

    def graph(inside: onnx.TensorProto, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([*nodes], 'g', [], [], [inside])

    def model(g: onnx.GraphProto, **options: object) -> bytes:
        return helper.make_model(g, **options).SerializeToString()

    for it, found in ((tensor, False), (outside, True)):
        constant = helper.make_node('Constant', [], ['c'], value=it)
        inner = helper.make_node('If', ['c'], ['d'], then_branch=graph(it))
        several = helper.make_node('X', [], ['e'], tensors=[tensor, it])
        sparse = onnx.SparseTensorProto(values=it)
        holder = graph(tensor)
        holder.sparse_initializer.append(sparse)
        function = helper.make_function('d', 'f', [], ['c'], [constant], [])
        for data in (
            model(graph(it)),
            model(graph(tensor, constant)),
            model(graph(tensor, inner)),
            model(graph(tensor, several)),
            model(holder),
            model(graph(tensor), functions=[function]),
        ):
            assert has_external_data(data) is found


@pytest.mark.parametrize('data', [b'', b'hello', b'\x3a', b'\xff' * 30, b'\x3a\xff\xff\xff\x0f'])
def test_what_is_no_network(folder: Path, data: bytes) -> None:
    with pytest.raises(ModelError, match='is not ONNX'):
        replace_onnx(folder, data).onnx_path()


@given(st.binary(max_size=60))
def test_any_bytes_are_a_network_or_a_value_error(data: bytes) -> None:
    for whole in (data, b'\x3a' + struct.pack('B', len(data)) + data):
        try:
            assert has_external_data(whole) in (True, False)
        except ValueError:
            continue


def test_the_embedded_model_passes() -> None:
    model = Model.load('street-lite')
    for precision in model.card.files:
        model.onnx_path(precision)
    assert model.golden()[0].dtype == np.uint8


@pytest.mark.parametrize('size', [0, 3, (1 << 20) + 1])
def test_checksum_of_a_file(tmp_path: Path, size: int) -> None:
    (tmp_path / 'file').write_bytes(b'x' * size)
    assert file_sha256(tmp_path / 'file') == hashlib.sha256(b'x' * size).hexdigest()
