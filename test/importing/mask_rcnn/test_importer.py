"""Panoptic FPN from a folder of weights to a model whose files agree."""

from contextlib import closing

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='extra import')
pytest.importorskip('safetensors', reason='extra import')

from importing.mask_rcnn.weights import small_weights, write_checkpoint  # noqa: E402

from panoptic_ros.engines import open_engine  # noqa: E402
from panoptic_ros.errors import PanopticRosError  # noqa: E402
from panoptic_ros.importing.export import LARGE_BYTES  # noqa: E402
from panoptic_ros.importing.importer import import_checkpoint  # noqa: E402
from panoptic_ros.importing.request import Request  # noqa: E402
from panoptic_ros.segmenter import Segmenter  # noqa: E402


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp('panoptic_fpn')
    checkpoint = write_checkpoint(folder / 'checkpoint', small_weights())
    log = []
    return import_checkpoint(Request(str(checkpoint), folder / 'model'), log.append), log


@pytest.mark.slow
def test_the_folder_is_a_model_of_head_kind_masks(imported):
    model, log = imported
    card = model.card
    assert (card.head, card.label_set, card.size_wh) == ('masks', 'coco', (128, 96))
    assert set(card.files) == {'float32', 'float16'}, log
    assert 'stays in float32' not in card.provenance['float16']
    _, golden = model.golden()
    assert golden['mask'].shape == (8, 48, 64)
    assert golden['semantic'].shape == (48, 64)
    names = {model.label_set.names[c] for c in np.unique(golden['semantic'])}
    assert names <= {'person', 'road', 'sky-other-merged'}
    assert {model.label_set.names[c] for c in golden['class_id']} <= {'person', 'car', 'dog'}
    assert (np.diff(golden['score']) <= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize('engine_name', ['onnxruntime', 'openvino'])
def test_engines_give_the_golden_outputs(imported, engine_name):
    pytest.importorskip(engine_name)
    model, _ = imported
    image, golden = model.golden()
    with closing(open_engine(model, engine_name, precision='float32')) as engine:
        found = engine.infer(image)
        panoptic = Segmenter(model, engine).segment(image, 'rgb8').panoptic
    np.testing.assert_allclose(found['score'], golden['score'], atol=1e-4)
    assert (found['mask'] != golden['mask']).mean() < 1e-3
    assert (found['semantic'] != golden['semantic']).mean() < 1e-3
    assert panoptic.size_wh == (128, 96)


@pytest.mark.slow
@pytest.mark.process
def test_tensorrt_builds_the_float16_file_with_float16_layers(imported, rtx):
    model, _ = imported
    result = rtx(model.onnx_path('float16'))
    assert result['parsed'], result['errors']
    assert result['plan_bytes'] > 1000, result['build_errors']
    wide = [
        shape
        for _, dtype, shape in result['tensors']
        if dtype == 'FLOAT' and 4 * np.prod(shape) > LARGE_BYTES
    ]
    assert wide == [[8, 48, 64]]  # the masks before they become bytes


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'thing_id2label': {0: '__background__', 1: 'person'}},
            '5 thing classes and config.json 2',
        ),
        ({'stuff_id2label': {1: 'road'}}, 'expected a name for each class index from 0 on'),
        ({'stuff_id2label': None}, "has stuff_id2label 'None'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, message, tmp_path):
    checkpoint = write_checkpoint(tmp_path / 'checkpoint', small_weights(), **change)
    with pytest.raises(PanopticRosError, match=message) as caught:
        import_checkpoint(Request(str(checkpoint), tmp_path / 'model'), lambda text: None)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('removed', 'added', 'message'),
    [
        ('backbone.fpn.layer_blocks.3.0.weight', '', 'does not have the weights of Mask R-CNN'),
        ('', 'roi_heads.keypoint_head.0.weight', 'has 1 unknown ones'),
    ],
)
def test_weights_of_another_network_are_refused(removed, added, message, tmp_path):
    weights = small_weights()
    weights.pop(removed, None)
    if added:
        weights[added] = torch.zeros(1)
    checkpoint = write_checkpoint(tmp_path / 'checkpoint', weights)
    with pytest.raises(PanopticRosError, match=message):
        import_checkpoint(Request(str(checkpoint), tmp_path / 'model'), lambda text: None)


def test_a_size_and_a_task_that_do_not_fit(tmp_path):
    checkpoint = write_checkpoint(tmp_path / 'checkpoint', small_weights())
    for wrong, message in (
        ({'size_wh': (100, 96)}, 'multiples of 32'),
        ({'task': 'instance'}, 'no'),
    ):
        with pytest.raises(PanopticRosError, match=message):
            import_checkpoint(Request(str(checkpoint), tmp_path / 'model', **wrong))
