"""Append the fusion to an ONNX file, so that a GPU returns final maps and no masks.

The outputs of the result are the fields of :class:`~panoptic_ros.fusion.QueryMaps` or
:class:`~panoptic_ros.fusion.CentreMaps`, at the size of the network's input. The class map of
centres is the argmax of logits that are enlarged to this size first.

The thresholds that decide about pixels become constants of the graph: ``score_threshold``,
``mask_threshold``, ``logit_grid`` and ``rule`` of queries, ``centre_threshold`` and
``max_centre_distance_fraction`` of centres. The others still apply on the CPU.

The graph computes in the type of the heads. These tensors are float32 in a float16 file:

- class probabilities [Q, C + 1]: a score is compared with a threshold;
- areas [Q, H]: float16 counts to 2048 only;
- positions of cells [2, h2, w2]: float16 cells are 1/8 apart beyond cell 128;
- distances to centres [K, h4 * w4]: their squares overflow float16.

Only this module needs the package ``onnx``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from panoptic_ros.errors import ModelError
from panoptic_ros.fusion.centres import CentreFusion, cell_centres
from panoptic_ros.fusion.ownership import Assignment
from panoptic_ros.fusion.queries import NOBODY, RULES, QueryFusion
from panoptic_ros.labels import LabelSet

_OPSET = 18
_BILINEAR = {'mode': 'linear', 'coordinate_transformation_mode': 'half_pixel'}
_MAX_WIDTH = 2048  # float16 counts the pixels of a row exactly up to here


def fuse_onnx(
    source: str | Path,
    target: str | Path,
    fusion: CentreFusion | QueryFusion,
    label_set: LabelSet,
) -> None:
    """Write a copy of an ONNX file that ends in the fusion.

    Parameters
    ----------
    source
        Inputs and outputs of head kind ``centres`` or ``queries``, all sizes fixed.
    target
        The file to write.
    fusion
        The thresholds.
    label_set
        Tells which classes are things.

    Raises ModelError if the file has other outputs, free sizes, or too many queries or centres.
    """
    model = onnx.load(source)
    opset = next(entry.version for entry in model.opset_import if entry.domain == '')
    if opset < _OPSET:
        raise ModelError(f'{source} has opset {opset}; expected {_OPSET} or newer')
    shapes = {value.name: _shape(value, source) for value in model.graph.output}
    height, width = _shape(model.graph.input[0], source)[1:3]
    tail = _Tail(model.graph)
    if isinstance(fusion, QueryFusion):
        _require(shapes, ('class_logits', 'mask_logits'), source)
        outputs = _append_queries(tail, shapes, (height, width), fusion)
    else:
        names = ('semantic', 'confidence', 'centre_score', 'centre_index', 'offset_xy')
        _require(shapes, names, source)
        if enlarge_class_map(model, (height, width)):
            shapes['semantic'] = [1, height, width]
        outputs = _append_centres(tail, shapes, fusion, label_set)
    kept = [value for value in model.graph.output if value.name in outputs]
    made = [
        helper.make_tensor_value_info(name, dtype, shape)
        for name, (dtype, shape) in outputs.items()
        if name not in shapes
    ]
    del model.graph.output[:]
    model.graph.output.extend([*kept, *made])
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def enlarge_class_map(model: onnx.ModelProto, size_hw: tuple[int, int]) -> bool:
    """Enlarge the class logits to ``size_hw`` before their argmax, in place.

    Returns False, and changes nothing, if ``semantic`` is not the argmax of logits.
    """
    graph = model.graph
    maker = {name: node for node in graph.node for name in node.output}
    argmax = maker.get('semantic')
    while argmax is not None and argmax.op_type == 'Cast':
        argmax = maker.get(argmax.input[0])
    if argmax is None or argmax.op_type != 'ArgMax':
        return False
    logits = argmax.input[0]
    if logits in maker and maker[logits].op_type == 'Resize':
        logits = maker[logits].input[0]
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input)
    shape = next(value for value in values if value.name == logits).type.tensor_type.shape
    sizes = np.array([1, shape.dim[1].dim_value, *size_hw], np.int64)
    graph.initializer.append(numpy_helper.from_array(sizes, 'class_map/sizes'))
    node = helper.make_node(
        'Resize',
        [logits, '', '', 'class_map/sizes'],
        ['class_map/logits'],
        'class_map/resize',
        **_BILINEAR,
    )
    argmax.input[0] = 'class_map/logits'
    graph.node.insert(list(graph.node).index(argmax), node)
    semantic = next(value for value in graph.output if value.name == 'semantic')
    for dim, side in zip(semantic.type.tensor_type.shape.dim, (1, *size_hw), strict=True):
        dim.dim_value = side
    del graph.value_info[:]  # shapes of the coarser grid
    return True


def _require(shapes: dict[str, list[int]], names: Sequence[str], source: str | Path) -> None:
    if set(shapes) != set(names):
        raise ModelError(f'{source} has outputs {sorted(shapes)}; expected {sorted(names)}')


def _shape(value: onnx.ValueInfoProto, source: str | Path) -> list[int]:
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if not all(shape):
        raise ModelError(f'{source} has a free size in {value.name}; export it with fixed sizes')
    return shape


class _Tail:
    """Appends nodes to a graph; every method returns the name of its result."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        types = {value.name: value.type.tensor_type.elem_type for value in graph.output}
        float_output = next(name for name in ('mask_logits', 'offset_xy', *types) if name in types)
        self.dtype = types[float_output]
        self.types = types
        self._count = 0

    def __call__(self, kind: str, *inputs: str, out: str = '', **attributes: Any) -> str:
        name = out or self._name(kind)
        self.graph.node.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def constant(self, value: Any, dtype: Any = None) -> str:
        name = self._name('constant')
        array = np.asarray(value, dtype or helper.tensor_dtype_to_np_dtype(self.dtype))
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def floats(self, name: str) -> str:
        return self('Cast', name, to=TensorProto.FLOAT)

    def cast(self, name: str, dtype: int, out: str = '') -> str:
        return self('Cast', name, out=out, to=dtype)

    def before_cast(self, name: str) -> str:
        """Return what is cast to ``name``: TensorRT has uint8 tensors at its ends only."""
        for node in self.graph.node:
            if name in node.output and node.op_type == 'Cast':
                return str(node.input[0])
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def resize(self, name: str, channels: int, size_hw: tuple[int, int]) -> str:
        """Enlarge [1, C, h, w] bilinearly, ``align_corners=False``."""
        sizes = self.integers(1, channels, *size_hw)
        return self('Resize', name, '', '', sizes, **_BILINEAR)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f'fusion/{kind}_{self._count}'


def _append_queries(
    tail: _Tail,
    shapes: dict[str, list[int]],
    size_hw: tuple[int, int],
    fusion: QueryFusion,
) -> dict[str, tuple[int, list[int]]]:
    """Append the assignment of pixels to queries; return type and shape of each output."""
    _, queries, classes = shapes['class_logits']
    height, width = size_hw
    if queries > NOBODY or width > _MAX_WIDTH:
        raise ModelError(
            f'{queries} queries at width {width} cannot be fused in the graph; expected '
            f'{NOBODY} queries and {_MAX_WIDTH} pixels at most'
        )
    assignment = RULES[fusion.rule]
    probability = tail('Softmax', tail.floats('class_logits'), axis=2)
    score = tail('ReduceMax', probability, tail.integers(2), keepdims=0)
    class_id = tail('ArgMax', probability, axis=2, keepdims=0)
    is_object = tail('Less', class_id, tail.constant(classes - 1, np.int64))
    is_scored = tail('Greater', score, tail.constant(fusion.score_threshold, np.float32))
    is_valid = tail('And', is_object, is_scored)
    per_plane = tail.integers(1, queries, 1, 1)
    weight = tail('Reshape', tail.cast(score, tail.dtype), per_plane)
    valid_plane = tail('Reshape', is_valid, per_plane)
    below_all = tail.constant(-1)

    logit = 'mask_logits'
    coarse_probability = tail('Sigmoid', logit)
    coarse = tail('Where', valid_plane, tail('Mul', coarse_probability, weight), below_all)
    is_above = ''
    if assignment is Assignment.RAW:
        value = _enlarge_logits(tail, queries, size_hw, fusion.grid_side)
        coarse = tail('Softmax', logit, axis=1) if fusion.rule == 'semantic' else logit
    elif assignment is Assignment.PROBABILITY:
        if fusion.grid_side:
            between = tail('Sigmoid', tail.resize(logit, queries, (fusion.grid_side,) * 2))
            between = tail('Mul', between, weight)
        else:
            between = coarse
        value = tail.resize(between, queries, size_hw)
        is_above = tail('GreaterOrEqual', value, tail.constant(fusion.mask_threshold))
        value = tail('Where', valid_plane, value, below_all)
    else:
        enlarged = _enlarge_logits(tail, queries, size_hw, fusion.grid_side)
        likely = tail('Sigmoid', enlarged)
        if assignment is Assignment.FIRST:
            is_above = tail('Greater', enlarged, tail.constant(0))
            value = tail('Where', is_above, weight, below_all)
        else:
            is_above = tail('GreaterOrEqual', likely, tail.constant(fusion.mask_threshold))
            value = tail('Mul', likely, weight)
        value = tail('Where', valid_plane, value, below_all)

    owner = tail('ArgMax', value, axis=1, keepdims=0)
    owner = tail.cast(owner, tail.dtype)
    if assignment is not Assignment.RAW:
        highest = tail('ReduceMax', value, tail.integers(1), keepdims=0)
        if assignment is Assignment.PROBABILITY:
            is_owned = tail('GreaterOrEqual', highest, tail.constant(0))
        else:
            # The owner is above the threshold if the best of those above it is the best of all.
            above_value = tail('Where', is_above, value, below_all)
            best_above = tail('ReduceMax', above_value, tail.integers(1), keepdims=0)
            positive = tail('GreaterOrEqual', best_above, tail.constant(0))
            is_owned = tail('And', tail('GreaterOrEqual', best_above, highest), positive)
        owner = tail('Where', is_owned, owner, tail.constant(NOBODY))
    tail.cast(owner, TensorProto.UINT8, 'owner')

    largest = tail('ReduceMax', coarse, tail.integers(1), keepdims=0)
    largest = tail('Max', largest, tail.constant(0))
    if fusion.rule == 'mask_sum':
        largest = tail('Min', largest, tail.constant(1))
    grey = tail('Round', tail('Mul', largest, tail.constant(255)))
    tail.cast(grey, TensorProto.UINT8, 'confidence')
    no_object = tail.constant(classes - 1, np.int64)
    tail.cast(tail('Where', is_valid, class_id, no_object), TensorProto.INT32, 'class_id')
    tail('Identity', score, out='score')
    highest_plane = tail('ReduceMax', value, tail.integers(1), keepdims=1)
    is_highest = tail('GreaterOrEqual', value, highest_plane)
    _count_pixels(tail, is_highest, 'owned_area')
    _count_pixels(tail, is_above or is_highest, 'mask_area')
    return {
        'owner': (TensorProto.UINT8, [1, height, width]),
        'confidence': (TensorProto.UINT8, [1, *shapes['mask_logits'][2:]]),
        'class_id': (TensorProto.INT32, [1, queries]),
        'score': (TensorProto.FLOAT, [1, queries]),
        'owned_area': (TensorProto.INT32, [1, queries]),
        'mask_area': (TensorProto.INT32, [1, queries]),
    }


def _count_pixels(tail: _Tail, condition: str, out: str) -> None:
    """Count where bool [1, Q, H, W] is true, int32 [1, Q]."""
    # Row by row, then over the rows: float16 counts a row exactly.
    in_row = tail('ReduceSum', tail.cast(condition, tail.dtype), tail.integers(3), keepdims=0)
    area = tail('ReduceSum', tail.floats(in_row), tail.integers(2), keepdims=0)
    tail.cast(area, TensorProto.INT32, out)


def _enlarge_logits(tail: _Tail, queries: int, size_hw: tuple[int, int], grid_side: int) -> str:
    logit = 'mask_logits'
    if grid_side:
        logit = tail.resize(logit, queries, (grid_side, grid_side))
    return tail.resize(logit, queries, size_hw)


def _append_centres(
    tail: _Tail,
    shapes: dict[str, list[int]],
    fusion: CentreFusion,
    label_set: LabelSet,
) -> dict[str, tuple[int, list[int]]]:
    """Append the assignment of cells to centres; return type and shape of each output.

    The arithmetic is that of :mod:`~panoptic_ros.fusion.centres`.
    """
    height, width = shapes['semantic'][1:]
    coarse_height, coarse_width = shapes['confidence'][1:]
    centres = shapes['centre_score'][1]
    stride, rest = divmod(width, coarse_width)
    if centres > 255 or rest or height != stride * coarse_height:
        raise ModelError(
            f'{centres} centres and a class map of {width}x{height} on a grid of '
            f'{coarse_width}x{coarse_height} cannot be fused in the graph; expected 255 centres '
            'at most and a multiple of the grid'
        )
    float32 = np.float32
    table = tail.constant(label_set.is_thing, float32)
    is_thing = tail('Gather', table, tail.cast(tail.before_cast('semantic'), TensorProto.INT32))
    is_thing = tail('Reshape', is_thing, tail.integers(1, 1, height, width))

    # Where each cell points to, see pointed_positions.
    weight = tail('AveragePool', is_thing, kernel_shape=[stride] * 2, strides=[stride] * 2)
    total = tail('Max', tail.resize(weight, 1, (height, width)), tail.constant(1e-6, float32))
    offset = tail.resize(tail('Mul', tail.floats('offset_xy'), weight), 2, (height, width))
    offset = tail('Div', offset, total)
    x, y = cell_centres(width, coarse_width), cell_centres(height, coarse_height)
    position = np.stack(np.broadcast_arrays(x[None, :], y[:, None]))[None].astype(float32)
    cell = tail('Round', tail('Add', offset, tail.constant(position, float32)))
    last = np.array([coarse_width - 1, coarse_height - 1], float32).reshape(1, 2, 1, 1)
    cell = tail('Max', tail('Min', cell, tail.constant(last, float32)), tail.constant(0, float32))
    stride_xy = np.array([1, coarse_width], float32).reshape(1, 2, 1, 1)
    flat = tail('Mul', cell, tail.constant(stride_xy, float32))
    flat = tail('ReduceSum', flat, tail.integers(1), keepdims=0)
    flat = tail.cast(flat, TensorProto.INT32)

    # The centre nearest to each cell of the coarser grid.
    score = tail.floats('centre_score')
    is_chosen = tail(
        'And',
        *(
            tail(kind, score, tail.constant(limit, float32))
            for kind, limit in (('GreaterOrEqual', fusion.centre_threshold), ('Greater', 0.0))
        ),
    )
    index = tail.floats('centre_index')
    row_length = tail.constant(coarse_width, float32)
    middle = tail('Add', index, tail.constant(0.5, float32))
    row = tail('Floor', tail('Div', middle, row_length))
    column = tail('Sub', index, tail('Mul', row, row_length))
    flat_cells = np.arange(coarse_width * coarse_height)
    squares = []
    for of_centre, of_cell in zip(
        (column, row), (flat_cells % coarse_width, flat_cells // coarse_width), strict=True
    ):
        plane = tail('Reshape', of_centre, tail.integers(centres, 1))
        difference = tail('Sub', plane, tail.constant(of_cell[None], float32))
        squares.append(tail('Mul', difference, difference))
    square = tail('Add', *squares)
    chosen = tail('Reshape', is_chosen, tail.integers(centres, 1))
    far = tail.constant(1e9, float32)
    square = tail('Where', chosen, square, far)
    shortest = tail('ReduceMin', square, tail.integers(0), keepdims=1)
    # Of equally near centres the leftmost, then the topmost, as in nearest_centre.
    rank = tail('Add', tail('Mul', column, tail.constant(coarse_height, float32)), row)
    rank = tail('Reshape', rank, tail.integers(centres, 1))
    rank = tail('Where', tail('LessOrEqual', square, shortest), rank, far)
    nearest = tail('ArgMin', rank, axis=0, keepdims=0)
    nearest = tail('Add', tail.cast(nearest, TensorProto.FLOAT), tail.constant(1, float32))
    reach = fusion.max_centre_distance_fraction * np.hypot(coarse_width, coarse_height)
    is_near = tail('LessOrEqual', shortest, tail.constant(min(reach**2, 1e8), float32))
    is_near = tail('Reshape', is_near, tail.integers(coarse_width * coarse_height))
    nearest = tail('Where', is_near, nearest, tail.constant(0, float32))

    owner = tail('Gather', nearest, flat)
    flat_thing = tail('Reshape', is_thing, tail.integers(1, height, width))
    tail.cast(tail('Mul', owner, flat_thing), TensorProto.UINT8, 'owner')
    return {
        'semantic': (TensorProto.UINT8, shapes['semantic']),
        'confidence': (TensorProto.UINT8, shapes['confidence']),
        'centre_score': (tail.dtype, shapes['centre_score']),
        'owner': (TensorProto.UINT8, [1, height, width]),
    }
