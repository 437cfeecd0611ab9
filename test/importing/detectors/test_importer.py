"""ONNX files of detectors, built by hand with the layout of their packages, as model folders."""

from contextlib import closing

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='extra import')
onnx = pytest.importorskip('onnx', reason='extra import')
pytest.importorskip('onnxscript', reason='extra import')

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from panoptic_ros.engines import open_engine  # noqa: E402
from panoptic_ros.errors import PanopticRosError  # noqa: E402
from panoptic_ros.fusion import QueryHeads  # noqa: E402
from panoptic_ros.importing.agreement import OnnxFile  # noqa: E402
from panoptic_ros.importing.detectors.halving import halved  # noqa: E402
from panoptic_ros.importing.detectors.importer import import_onnx, open_detector, read_names  # noqa: E402
from panoptic_ros.importing.request import Request  # noqa: E402
from panoptic_ros.labels import VOID  # noqa: E402
from panoptic_ros.segmenter import Segmenter, card_fusion  # noqa: E402

SIDE = 64


def write_detector(path, outputs, names=None, opset=17, dtype=TensorProto.FLOAT, side=SIDE):
    """Write a file that adds the mean brightness, times zero, to constant outputs."""
    nodes = [
        helper.make_node('ReduceMean', ['images'], ['mean'], keepdims=0),
        helper.make_node('Constant', [], ['nought'], value_float=0.0),
        helper.make_node('Mul', ['mean', 'nought'], ['nothing']),
    ]
    values, constants = [], []
    for name, array in outputs.items():
        constants.append(numpy_helper.from_array(array.astype(np.float32), f'{name}.value'))
        nodes.append(helper.make_node('Add', [f'{name}.value', 'nothing'], [name]))
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    image = helper.make_tensor_value_info('images', dtype, [1, 3, side, side])
    graph = helper.make_graph(nodes, 'detector', [image], values, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)], ir_version=8)
    if names:
        helper.set_model_props(model, {'names': str(names), 'task': 'segment'})
    onnx.save(model, path)
    return path


def yolo_outputs():
    """Return outputs of three persons, one of them found twice, and a bicycle under one."""
    candidates = np.array(
        [
            (16, 16, 24, 24, 0.9, 0.1, 1),
            (17, 16, 24, 24, 0.8, 0.1, 1),
            (16, 16, 24, 24, 0.1, 0.7, 1),
            (48, 16, 16, 24, 0.6, 0.2, 1),
            (48, 56, 16, 8, 0.1, 0.0, 1),
        ]
    )
    return {'output0': candidates.T[None], 'output1': np.full((1, 1, 16, 16), 4.0)}


NAMES = {0: 'person', 1: 'bicycle'}


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp('yolo')
    path = write_detector(folder / 'yolo.onnx', yolo_outputs(), NAMES)
    log = []
    return import_onnx(Request(str(path), folder / 'model'), log.append), log


def test_the_folder_is_a_model_of_both_precisions(imported):
    model, log = imported
    card = model.card
    assert set(card.files) == {'float32', 'float16'}, log
    assert (card.head, card.label_set, card.size_wh) == ('queries', 'coco', (SIDE, SIDE))
    assert card.fusion == {'rule': 'rf_detr', 'score_threshold': 0.25}
    assert (card.resize.mode, card.resize.pad_value) == ('letterbox', 114)
    assert log[1].startswith("labels: 2 of the 133 classes of label set 'coco'")
    assert 'PQ 100.0 over 2 segments' in log[2]


# Masks are 4 times coarser and enlarged bilinearly, so they reach half a cell over the box.
BOXES = np.array([[4, 4, 28, 28], [40, 4, 56, 28]])


@pytest.mark.parametrize('precision', ['float32', 'float16'])
def test_both_files_give_the_boxes_and_the_rest_is_void(imported, precision):
    model, _ = imported
    file = OnnxFile(model.onnx_path(precision))
    heads = QueryHeads(**file.infer(np.zeros((SIDE, SIDE, 3), np.uint8)))
    found = card_fusion(model)(heads, model.label_set, (SIDE, SIDE)).panoptic
    names = [model.label_set.names[c] for c in found.segments.class_id]
    assert names == ['person', 'person']
    np.testing.assert_allclose(found.segments.score, [0.9, 0.6], atol=2e-3)
    assert np.abs(found.segments.box_xyxy - BOXES).max() <= 3
    assert found.semantic[40:].min() == VOID


def test_the_node_letterboxes(imported):
    model, _ = imported
    with closing(open_engine(model, 'onnxruntime')) as engine:
        wide = Segmenter(model, engine).segment(np.zeros((96, 192, 3), np.uint8)).panoptic
    # The network sees three pixels of the picture as one.
    assert np.abs(wide.segments.box_xyxy - 3 * BOXES).max() <= 9


def test_rf_detr_needs_the_names_and_takes_category_ids(tmp_path):
    labels = np.full((1, 3, 91), -8.0)
    labels[0, 0, 1] = labels[0, 1, 3] = 2.0  # person and car
    masks = np.full((1, 3, 16, 16), -6.0)
    masks[0, 0, :8], masks[0, 1, 8:] = 6, 6
    outputs = {'dets': np.zeros((1, 3, 4)), 'labels': labels, 'masks': masks}
    path = write_detector(tmp_path / 'rf.onnx', outputs)
    with pytest.raises(PanopticRosError, match='91 classes and 0 names; give the names with --n'):
        open_detector(path, None)
    picture = tmp_path / 'p.png'
    cv2.imwrite(str(picture), np.zeros((48, 64, 3), np.uint8))
    request = Request(str(path), tmp_path / 'model', pictures=(picture,), names='coco-ids')
    model = import_onnx(request, lambda text: None)
    with closing(open_engine(model, 'onnxruntime')) as engine:
        found = Segmenter(model, engine).segment(np.zeros((48, 64, 3), np.uint8)).panoptic
    assert [model.label_set.names[c] for c in found.segments.class_id] == ['person', 'car']
    assert (found.segments.area == 24 * 64).all()


def test_names_are_read_from_lines_and_from_yaml(tmp_path):
    (tmp_path / 'names.txt').write_text('person\nbicycle\n')
    (tmp_path / 'data.yaml').write_text('names:\n  0: person\n  1: bicycle\n')
    for name in ('names.txt', 'data.yaml'):
        assert read_names(str(tmp_path / name)) == NAMES
    coco = read_names('coco-ids')
    assert (coco[0], coco[1], coco[90], len(coco)) == ('N/A', 'person', 'toothbrush', 91)
    (tmp_path / 'empty.yaml').write_text('train: images\n')
    with pytest.raises(PanopticRosError, match='has no names; expected one a line'):
        read_names(str(tmp_path / 'empty.yaml'))
    with pytest.raises(PanopticRosError, match='cannot be read'):
        read_names(str(tmp_path / 'absent.txt'))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'outputs': {'boxes': np.zeros((1, 5, 4))}}, 'are not those of a YOLO segmentation'),
        ({'dtype': TensorProto.FLOAT16}, 'expected float32'),
        ({'names': {0: 'person'}}, '2 classes and 1 names'),
        ({'side': 'side'}, "no fixed size of 'images'; export it with one"),
    ],
)
def test_what_is_not_a_usable_file(change, message, tmp_path):
    settings = {'outputs': yolo_outputs(), 'names': NAMES, **change}
    path = write_detector(tmp_path / 'x.onnx', settings.pop('outputs'), **settings)
    with pytest.raises(PanopticRosError, match=message) as caught:
        open_detector(path, None)
    assert '\n' not in str(caught.value)


def test_what_is_no_onnx(tmp_path):
    (tmp_path / 'x.onnx').write_bytes(b'no ONNX')
    with pytest.raises(PanopticRosError, match='is not an ONNX file'):
        open_detector(tmp_path / 'x.onnx', None)
    with pytest.raises(PanopticRosError, match='does not exist'):
        open_detector(tmp_path / 'y.onnx', None)


def test_size_and_task_are_those_of_the_file(tmp_path):
    path = write_detector(tmp_path / 'x.onnx', yolo_outputs(), NAMES)
    for wrong, message in (
        ({'size_wh': (32, 32)}, 'takes 64x64 only'),
        ({'task': 'panoptic'}, 'i'),
    ):
        with pytest.raises(PanopticRosError, match=message):
            import_onnx(Request(str(path), tmp_path / 'model', **wrong))


def test_scales_of_resize_stay_float32():
    float32 = TensorProto.FLOAT
    nodes = [
        helper.make_node('Resize', ['x', '', 'scales'], ['large'], mode='nearest'),
        helper.make_node('Cast', ['large'], ['wide'], to=float32),
        helper.make_node('Mul', ['wide', 'huge'], ['y']),
    ]
    graph = helper.make_graph(
        nodes,
        'g',
        [helper.make_tensor_value_info('x', float32, [1, 1, 2, 2])],
        [helper.make_tensor_value_info('y', float32, [1, 1, 4, 4])],
        [
            numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), 'scales'),
            numpy_helper.from_array(np.array(1e9, np.float32), 'huge'),
        ],
    )
    opset = [helper.make_opsetid('', 18)]
    half = halved(helper.make_model(graph, opset_imports=opset, ir_version=10))
    onnx.checker.check_model(half, full_check=True)
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    assert kinds == {'scales': float32, 'huge': TensorProto.FLOAT16}
    assert numpy_helper.to_array(half.graph.initializer[1]) == 65504
