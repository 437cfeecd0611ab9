"""Fixtures that many tests share: tiny models whose outputs can be read off the image."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from panoptic_ros.model import Model, add_onnx, write_model

# Property tests need hypothesis, for which rosdep has no key on some platforms.
if importlib.util.find_spec('hypothesis') is None:
    collect_ignore = [
        str(path)
        for path in Path(__file__).parent.rglob('test_*.py')
        if 'from hypothesis import' in path.read_text(encoding='utf-8')
    ]
else:
    from hypothesis import HealthCheck, settings

    # No test may fail because the machine is slow.
    settings.register_profile(
        'any_machine', deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile('any_machine')

pytest_plugins = ['support.ros', 'support.processes', 'support.rtx']

TINY_SIZE_WH = (64, 32)
TINY_CENTRES = 16
RED_PER_CLASS = 13  # 19 classes in 0..255; a class is painted in the middle of its reds


def build_tiny_onnx(path: Path, precision: str = 'float32') -> None:
    """Write a network of head kind ``centres`` made of slices, for tests without torch.

    ``semantic`` is red // 13 at every second pixel, ``confidence`` is green and the centre
    heatmap blue / 255 at every fourth, and every offset is 0.
    """
    onnx = pytest.importorskip('onnx', reason='onnx builds the model of this test')
    from onnx import TensorProto, helper, numpy_helper

    width, height = TINY_SIZE_WH
    h4, w4 = height // 4, width // 4
    float_type = {'float32': TensorProto.FLOAT, 'float16': TensorProto.FLOAT16}[precision]
    float_dtype = np.dtype(precision)
    constants = {
        'starts': np.array([0, 0], np.int64),
        'ends': np.array([height, width], np.int64),
        'axes': np.array([1, 2], np.int64),
        'two': np.array([2, 2], np.int64),
        'four': np.array([4, 4], np.int64),
        'red': np.array(0, np.int64),
        'green': np.array(1, np.int64),
        'blue': np.array(2, np.int64),
        'red_per_class': np.array(RED_PER_CLASS, float_dtype),
        'last_class': np.array(18, float_dtype),
        'full': np.array(255, float_dtype),
        'zero': np.array(0, float_dtype),
        'k': np.array([TINY_CENTRES], np.int64),
        'heat_shape': np.array([1, 1, h4, w4], np.int64),
        'flat_shape': np.array([1, h4 * w4], np.int64),
        'twice': np.array([1, 2, 1, 1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node('Cast', ['image'], ['pixels'], to=float_type),
        node('Slice', ['pixels', 'starts', 'ends', 'axes', 'two'], ['half']),
        node('Slice', ['pixels', 'starts', 'ends', 'axes', 'four'], ['quarter']),
        node('Gather', ['half', 'red'], ['red_half'], axis=3),
        node('Div', ['red_half', 'red_per_class'], ['class_real']),
        node('Floor', ['class_real'], ['class_whole']),
        node('Min', ['class_whole', 'last_class'], ['class_id']),
        node('Cast', ['class_id'], ['semantic'], to=TensorProto.UINT8),
        node('Gather', ['quarter', 'green'], ['green_quarter'], axis=3),
        node('Cast', ['green_quarter'], ['confidence'], to=TensorProto.UINT8),
        node('Gather', ['quarter', 'blue'], ['blue_quarter'], axis=3),
        node('Div', ['blue_quarter', 'full'], ['heat_flat']),
        node('Reshape', ['heat_flat', 'heat_shape'], ['heat']),
        node('MaxPool', ['heat'], ['best'], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node('Equal', ['heat', 'best'], ['is_peak']),
        node('Where', ['is_peak', 'heat', 'zero'], ['peaks']),
        node('Reshape', ['peaks', 'flat_shape'], ['peaks_flat']),
        node('TopK', ['peaks_flat', 'k'], ['centre_score', 'index'], axis=1),
        node('Cast', ['index'], ['centre_index'], to=TensorProto.INT32),
        node('Mul', ['heat', 'zero'], ['no_offset']),
        node('Tile', ['no_offset', 'twice'], ['offset_xy']),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        'tiny',
        [value('image', TensorProto.UINT8, [1, height, width, 3])],
        [
            value('semantic', TensorProto.UINT8, [1, height // 2, width // 2]),
            value('confidence', TensorProto.UINT8, [1, h4, w4]),
            value('centre_score', float_type, [1, TINY_CENTRES]),
            value('centre_index', TensorProto.INT32, [1, TINY_CENTRES]),
            value('offset_xy', float_type, [1, 2, h4, w4]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def paint_tiny_scene(size_wh: tuple[int, int] = TINY_SIZE_WH) -> np.ndarray:
    """Return uint8 [H, W, 3] RGB: sky above road, two cars side by side, a centre in each."""
    width, height = TINY_SIZE_WH
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 1] = 200
    for rows, columns, class_id in (
        (slice(0, 12), slice(0, 64), 10),  # sky
        (slice(12, 32), slice(0, 64), 0),  # road
        (slice(8, 24), slice(8, 24), 13),  # a car
        (slice(8, 24), slice(40, 56), 13),  # another
    ):
        image[rows, columns, 0] = class_id * RED_PER_CLASS + RED_PER_CLASS // 2
    image[16:20, 16:20, 2] = 255
    image[16:20, 48:52, 2] = 204
    return image.repeat(size_wh[1] // height, axis=0).repeat(size_wh[0] // width, axis=1)


def tiny_outputs(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the tiny network gives for a tiny scene, computed in numpy."""
    heat = image[::4, ::4, 2].astype(np.float32) / 255
    order = np.argsort(-heat.ravel(), kind='stable')[:TINY_CENTRES].astype(np.int32)
    return {
        'semantic': np.minimum(image[::2, ::2, 0] // RED_PER_CLASS, 18),
        'confidence': image[::4, ::4, 1].copy(),
        'centre_score': heat.ravel()[order],
        'centre_index': order,
        'offset_xy': np.zeros((2, *heat.shape), np.float32),
    }


@pytest.fixture(scope='session')
def tiny_scene() -> Callable[..., np.ndarray]:
    """Return a function: size_wh (a multiple of 64x32) -> an RGB picture for the tiny model."""
    return paint_tiny_scene


def write_tiny_model(folder: Path) -> Path:
    """Write a tiny model in both precisions into a new folder and return the folder."""
    folder.mkdir(parents=True)
    sources = {}
    for precision in ('float32', 'float16'):
        sources[precision] = folder / f'source.{precision}.onnx'
        build_tiny_onnx(sources[precision], precision)
    image = paint_tiny_scene()
    write_model(
        folder,
        onnx_by_precision=sources,
        label_set='cityscapes',
        size_wh=TINY_SIZE_WH,
        golden_image=image,
        golden_outputs=tiny_outputs(image),
        fusion={'centre_threshold': 0.3},
        provenance={'made_by': 'test/conftest.py'},
    )
    for source in sources.values():
        source.unlink()
    return folder


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model of head kind ``centres``, 64x32, without training.

    Read only: it is shared by all tests of a run. Paint images with ``tiny_scene``.
    """
    return write_tiny_model(tmp_path_factory.mktemp('models') / 'tiny')


@pytest.fixture
def own_tiny_model(tmp_path: Path) -> Path:
    """Return the folder of a tiny model that this one test may damage."""
    return write_tiny_model(tmp_path / 'tiny')


TINY_QUERY_COLOURS = ((0, 0), (1, 10), (2, 13))  # channel of the picture, class id it stands for


def build_tiny_query_onnx(path: Path, precision: str = 'float32') -> None:
    """Write a network of head kind ``queries`` whose masks are the picture's three channels.

    The mask logits are (channel - 127.5) / 16 at every fourth pixel; red is road, green sky, blue
    a car, each with the class logit 5 where all others have 0.
    """
    onnx = pytest.importorskip('onnx', reason='onnx builds the model of this test')
    from onnx import TensorProto, helper, numpy_helper

    width, height = TINY_SIZE_WH
    float_type = {'float32': TensorProto.FLOAT, 'float16': TensorProto.FLOAT16}[precision]
    constants = {
        'starts': np.array([2, 2], np.int64),
        'ends': np.array([height, width], np.int64),
        'axes': np.array([1, 2], np.int64),
        'steps': np.array([4, 4], np.int64),
        'middle': np.array(127.5, precision),
        'scale': np.array(16, precision),
        'zero': np.array(0, precision),
        'classes': tiny_query_outputs(paint_tiny_query_scene())['class_logits'][None].astype(
            precision
        ),
        'first': np.array([0, 0, 0], np.int64),
        'one': np.array([1, 1, 1], np.int64),
        'all_axes': np.array([1, 2, 3], np.int64),
    }
    node = helper.make_node
    nodes = [
        node('Cast', ['image'], ['pixels'], to=float_type),
        node('Slice', ['pixels', 'starts', 'ends', 'axes', 'steps'], ['quarter']),
        node('Transpose', ['quarter'], ['planes'], perm=[0, 3, 1, 2]),
        node('Sub', ['planes', 'middle'], ['shifted']),
        node('Div', ['shifted', 'scale'], ['mask_logits']),
        # The classes hang on the picture too, or an engine may call them no output.
        node('Slice', ['planes', 'first', 'one', 'all_axes'], ['corner']),
        node('Mul', ['corner', 'zero'], ['nought']),
        node('Squeeze', ['nought', 'starts_axis'], ['nought_3d']),
        node('Add', ['classes', 'nought_3d'], ['class_logits']),
    ]
    constants['starts_axis'] = np.array([3], np.int64)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        'tiny_queries',
        [value('image', TensorProto.UINT8, [1, height, width, 3])],
        [
            value('class_logits', float_type, [1, 3, 20]),
            value('mask_logits', float_type, [1, 3, height // 4, width // 4]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def paint_tiny_query_scene() -> np.ndarray:
    """Return uint8 [32, 64, 3] RGB: green (sky) above red (road), a blue car in the middle."""
    width, height = TINY_SIZE_WH
    image = np.zeros((height, width, 3), np.uint8)
    image[:12, :, 1] = 255
    image[12:, :, 0] = 255
    image[8:24, 24:40] = 0, 0, 255
    return image


def tiny_query_outputs(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the tiny network of queries gives, computed in numpy."""
    class_logits = np.zeros((3, 20), np.float32)
    for channel, class_id in TINY_QUERY_COLOURS:
        class_logits[channel, class_id] = 5
    planes = image[2::4, 2::4].astype(np.float32).transpose(2, 0, 1)
    return {'class_logits': class_logits, 'mask_logits': (planes - 127.5) / 16}


@pytest.fixture
def own_tiny_query_model(tmp_path: Path) -> Path:
    """Return the folder of a model of head kind ``queries``, 64x32, without training."""
    source = tmp_path / 'source.onnx'
    build_tiny_query_onnx(source)
    image = paint_tiny_query_scene()
    write_model(
        tmp_path / 'tiny_queries',
        onnx_by_precision={'float32': source},
        head='queries',
        label_set='cityscapes',
        size_wh=TINY_SIZE_WH,
        golden_image=image,
        golden_outputs=tiny_query_outputs(image),
        fusion={'score_threshold': 0.4, 'logit_grid': 48},
    )
    return tmp_path / 'tiny_queries'


@pytest.fixture
def own_tiny_query_model_float16(own_tiny_query_model: Path) -> Path:
    """Return the same folder with a float16 file."""
    source = own_tiny_query_model.with_name('float16.onnx')
    build_tiny_query_onnx(source, 'float16')
    add_onnx(Model.load(own_tiny_query_model), 'float16', source)
    return own_tiny_query_model


def build_tiny_mask_onnx(path: Path) -> None:
    """Write a network of head kind ``masks``: two masks that are thresholds of the blue channel.

    At every fourth pixel ``semantic`` is red // 13 and ``confidence`` green; the first mask, a
    car with score 0.9, is where blue is above 100, the second, a person with score 0.8, above 50.
    """
    onnx = pytest.importorskip('onnx', reason='onnx builds the model of this test')
    from onnx import TensorProto, helper, numpy_helper

    width, height = TINY_SIZE_WH
    h4, w4 = height // 4, width // 4
    constants = {
        'starts': np.array([2, 2], np.int64),
        'ends': np.array([height, width], np.int64),
        'axes': np.array([1, 2], np.int64),
        'steps': np.array([4, 4], np.int64),
        'red': np.array(0, np.int64),
        'green': np.array(1, np.int64),
        'blue': np.array([2], np.int64),
        'red_per_class': np.array(RED_PER_CLASS, np.float32),
        'last_class': np.array(18, np.float32),
        'limits': np.array([100, 50], np.float32).reshape(1, 2, 1, 1),
        'zero': np.array(0, np.float32),
        'all_axes': np.array([1, 2, 3], np.int64),
        'class_ids': np.array([[13, 11]], np.float32),
        'scores': np.array([[0.9, 0.8]], np.float32),
    }
    node = helper.make_node
    nodes = [
        node('Cast', ['image'], ['pixels'], to=TensorProto.FLOAT),
        node('Slice', ['pixels', 'starts', 'ends', 'axes', 'steps'], ['quarter']),
        node('Gather', ['quarter', 'red'], ['red_quarter'], axis=3),
        node('Div', ['red_quarter', 'red_per_class'], ['class_real']),
        node('Floor', ['class_real'], ['class_whole']),
        node('Min', ['class_whole', 'last_class'], ['class_float']),
        node('Cast', ['class_float'], ['semantic'], to=TensorProto.UINT8),
        node('Gather', ['quarter', 'green'], ['green_quarter'], axis=3),
        node('Cast', ['green_quarter'], ['confidence'], to=TensorProto.UINT8),
        node('Gather', ['quarter', 'blue'], ['blue_last'], axis=3),
        node('Transpose', ['blue_last'], ['blue_plane'], perm=[0, 3, 1, 2]),
        node('Greater', ['blue_plane', 'limits'], ['is_inside']),
        node('Cast', ['is_inside'], ['inside'], to=TensorProto.FLOAT),
        node('Cast', ['inside'], ['mask'], to=TensorProto.UINT8),
        # The columns depend on the picture too, or an engine may drop them.
        node('ReduceMax', ['pixels', 'all_axes'], ['brightest'], keepdims=0),
        node('Mul', ['brightest', 'zero'], ['nought']),
        node('Add', ['class_ids', 'nought'], ['class_id_float']),
        node('Cast', ['class_id_float'], ['class_id'], to=TensorProto.INT32),
        node('Add', ['scores', 'nought'], ['score']),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        'tiny_masks',
        [value('image', TensorProto.UINT8, [1, height, width, 3])],
        [
            value('semantic', TensorProto.UINT8, [1, h4, w4]),
            value('confidence', TensorProto.UINT8, [1, h4, w4]),
            value('mask', TensorProto.UINT8, [1, 2, h4, w4]),
            value('class_id', TensorProto.INT32, [1, 2]),
            value('score', TensorProto.FLOAT, [1, 2]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def paint_tiny_mask_scene() -> np.ndarray:
    """Return uint8 [32, 64, 3] RGB: a tiny scene with a car in a person's box."""
    image = paint_tiny_scene()
    image[..., 2] = 0
    image[8:24, 24:56, 2] = 60
    image[8:24, 24:40, 2] = 120
    return image


def tiny_mask_outputs(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the tiny network of masks gives, computed in numpy."""
    quarter = image[2::4, 2::4]
    blue = quarter[..., 2].astype(int)
    return {
        'semantic': np.minimum(quarter[..., 0] // RED_PER_CLASS, 18),
        'confidence': quarter[..., 1].copy(),
        'mask': np.stack([blue > 100, blue > 50]).astype(np.uint8),
        'class_id': np.array([13, 11], np.int32),
        'score': np.array([0.9, 0.8], np.float32),
    }


@pytest.fixture
def own_tiny_mask_model(tmp_path: Path) -> Path:
    """Return the folder of a model of head kind ``masks``, 64x32, without training."""
    source = tmp_path / 'source.onnx'
    build_tiny_mask_onnx(source)
    image = paint_tiny_mask_scene()
    write_model(
        tmp_path / 'tiny_masks',
        onnx_by_precision={'float32': source},
        head='masks',
        label_set='cityscapes',
        size_wh=TINY_SIZE_WH,
        golden_image=image,
        golden_outputs=tiny_mask_outputs(image),
        fusion={'min_stuff_area_fraction': 0.0},
    )
    return tmp_path / 'tiny_masks'
