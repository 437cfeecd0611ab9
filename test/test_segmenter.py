from contextlib import closing
from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml

from panoptic_ros.engines import EngineDescription, open_engine
from panoptic_ros.errors import EngineError, FrameError, ModelError
from panoptic_ros.fusion import HEAD_KINDS, CentreFusion, MaskFusion, QueryFusion
from panoptic_ros.model import Model, add_onnx
from panoptic_ros.model.card import HEADS
from panoptic_ros.panoptic import check_maps
from panoptic_ros.segmenter import Segmenter, card_fusion, check_frame, prepare_all

SKY, ROAD, PERSON, CAR = 10, 0, 11, 13


class FakeEngine:
    """Remembers the picture it was given and answers with fixed outputs."""

    description = EngineDescription('fake', 'none', 'float32', '0', '')

    def __init__(self, outputs):
        self.outputs = outputs
        self.image = None

    def infer(self, image):
        self.image = image
        return self.outputs

    def close(self):
        pass


@pytest.fixture
def model(tiny_model):
    return Model.load(tiny_model)


@pytest.fixture
def fake(model):
    return FakeEngine(model.golden()[1])


@pytest.fixture(scope='module')
def segmenter(tiny_model):
    model = Model.load(tiny_model)
    engine = open_engine(model, 'onnxruntime')
    yield Segmenter(model, engine)
    engine.close()


def test_scene_comes_back_as_it_was_painted(segmenter, tiny_scene):
    result = segmenter.segment(tiny_scene(), 'rgb8')
    panoptic = result.panoptic
    assert panoptic.size_wh == (64, 32)
    assert panoptic.semantic[2, 2] == SKY
    assert panoptic.semantic[30, 2] == ROAD
    assert panoptic.semantic[16, 16] == panoptic.semantic[16, 48] == CAR
    assert panoptic.instance[16, 16] != panoptic.instance[16, 48]
    assert panoptic.segments.class_id.tolist() == [ROAD, SKY, CAR, CAR]
    np.testing.assert_array_equal(result.confidence, np.full((32, 64), 200))
    check_maps(panoptic.semantic, panoptic.instance, segmenter.model.label_set)


@pytest.mark.parametrize('size_wh', [(128, 64), (320, 160), (640, 480), (65, 33), (7, 5)])
def test_result_has_the_size_of_the_frame(segmenter, tiny_scene, size_wh):
    frame = cv2.resize(tiny_scene(), size_wh, interpolation=cv2.INTER_NEAREST)
    result = segmenter.segment(frame, 'rgb8')
    assert result.panoptic.size_wh == size_wh
    assert result.confidence.shape == size_wh[::-1]
    check_maps(result.panoptic.semantic, result.panoptic.instance, segmenter.model.label_set)


@pytest.mark.parametrize('scale', [1.0, 2.0])
@pytest.mark.parametrize('repeats', [(1, 1), (1, 2), (3, 2)])
def test_a_model_with_a_scale_sees_large_frames_in_windows(tiny_model, tiny_scene, scale, repeats):
    model = Model.load(tiny_model)
    model = replace(model, card=replace(model.card, scale=scale))
    frame = np.tile(tiny_scene(), (*repeats, 1))
    # As many network pixels as the scale says show the frame, whatever its size.
    frame = cv2.resize(frame, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_NEAREST)
    with closing(open_engine(model, 'onnxruntime')) as engine:
        panoptic = Segmenter(model, engine).segment(frame, 'rgb8').panoptic
    assert panoptic.size_wh == frame.shape[1::-1]
    things = panoptic.segments.things
    assert len(things) == 2 * repeats[0] * repeats[1]
    np.testing.assert_allclose(things.area, 256 / scale**2, rtol=0.5)


def test_a_window_beyond_the_frame_is_filled_with_its_mirror_image(model, tiny_scene):
    card = replace(model.card, scale=1.0)
    frame = tiny_scene()[:20, :40]
    (network_image,) = prepare_all(frame, 'rgb8', card)
    assert network_image.shape == (32, 64, 3)
    np.testing.assert_array_equal(network_image[:20, :40], frame)
    np.testing.assert_array_equal(network_image[20:, :40], frame[7:19][::-1])
    np.testing.assert_array_equal(network_image[:20, 40:], frame[:, 15:39][:, ::-1])


def test_larger_frame_has_the_same_segments(segmenter, tiny_scene):
    panoptic = segmenter.segment(tiny_scene((256, 128)), 'rgb8').panoptic
    assert panoptic.segments.class_id.tolist() == [ROAD, SKY, CAR, CAR]
    x0, y0, x1, y1 = panoptic.segments.things.box_xyxy[0]
    np.testing.assert_allclose([x0, y0, x1, y1], [32, 32, 96, 96], atol=8)


def test_bgr_and_rgb_give_the_same(segmenter, tiny_scene):
    image = tiny_scene()
    rgb = segmenter.segment(image, 'rgb8').panoptic
    bgr = segmenter.segment(np.ascontiguousarray(image[..., ::-1]), 'bgr8').panoptic
    np.testing.assert_array_equal(rgb.semantic, bgr.semantic)
    np.testing.assert_array_equal(rgb.instance, bgr.instance)


@pytest.mark.parametrize('size_wh', [(64, 32), (128, 64)])
@pytest.mark.parametrize('encoding', ['bgr8', 'rgb8', 'mono8'])
def test_engine_gets_rgb_at_its_own_size(model, fake, encoding, size_wh):
    colour_rgb = {'bgr8': [30, 20, 10], 'rgb8': [10, 20, 30], 'mono8': [10, 10, 10]}[encoding]
    frame = np.empty((size_wh[1], size_wh[0], 3), np.uint8)
    frame[:] = [10, 20, 30]
    if encoding == 'mono8':
        frame = frame[..., 0]
    Segmenter(model, fake).segment(frame, encoding)
    assert fake.image.flags.c_contiguous
    np.testing.assert_array_equal(fake.image, np.tile(np.uint8(colour_rgb), (32, 64, 1)))


def test_rgb_frame_of_the_right_size_is_not_copied(model, fake, tiny_scene):
    frame = tiny_scene()
    Segmenter(model, fake).segment(frame, 'rgb8')
    assert fake.image is frame


def test_frame_with_padded_rows(segmenter, tiny_scene):
    image = tiny_scene()
    padded = np.zeros((32, 80, 3), np.uint8)
    padded[:, :64] = image
    expected = segmenter.segment(image, 'rgb8').panoptic.semantic
    np.testing.assert_array_equal(
        segmenter.segment(padded[:, :64], 'rgb8').panoptic.semantic, expected
    )


def test_frame_is_left_as_it_was(segmenter, tiny_scene):
    frame = tiny_scene()
    frame.flags.writeable = False
    segmenter.segment(frame, 'bgr8')


@pytest.mark.parametrize(
    ('image', 'encoding', 'match'),
    [
        (np.zeros((4, 4, 3), np.uint8), 'yuv422', "encoding 'yuv422'; expected one of bgr8"),
        (np.zeros((4, 4, 3), np.uint16), 'bgr8', 'is uint16'),
        (np.zeros((4, 4, 4), np.uint8), 'bgr8', r'needs uint8 \[H, W, 3\]'),
        (np.zeros((4, 4), np.uint8), 'rgb8', r'is uint8 \(4, 4\)'),
        (np.zeros((4, 4, 3), np.uint8), 'mono8', r'needs uint8 \[H, W\]'),
        (np.zeros((0, 4, 3), np.uint8), 'bgr8', 'not empty'),
        (np.zeros((4, 0), np.uint8), 'mono8', 'not empty'),
        (np.zeros(4, np.uint8), 'bgr8', r'\(4,\)'),
    ],
)
def test_frame_that_cannot_be_used(model, fake, image, encoding, match):
    with pytest.raises(FrameError, match=match):
        Segmenter(model, fake).segment(image, encoding)
    assert fake.image is None


def test_check_frame_returns_width_and_height():
    assert check_frame(np.zeros((2, 5, 3), np.uint8), 'bgr8') == (5, 2)


def test_thresholds_come_from_the_card_and_may_change(segmenter, tiny_scene):
    assert segmenter.fusion == CentreFusion(centre_threshold=0.3)
    segmenter.fusion = CentreFusion(centre_threshold=0.9, min_orphan_area_fraction=1)
    try:
        panoptic = segmenter.segment(tiny_scene(), 'rgb8').panoptic
        assert len(panoptic.segments.things) == 1  # the other centre has 0.8
    finally:
        segmenter.fusion = CentreFusion(centre_threshold=0.3)


@pytest.mark.parametrize('fusion', [{'no_such_threshold': 1}, {'centre_threshold': 7}])
def test_thresholds_of_the_card_that_do_not_fit(model, fake, fusion):
    wrong = replace(model, card=replace(model.card, fusion=fusion))
    with pytest.raises(ModelError, match="card of model 'tiny' has unusable fusion thresholds"):
        Segmenter(wrong, fake)


def test_unusable_outputs_are_the_engines_error(model, fake, tiny_scene):
    fake.outputs['centre_index'] = np.full(16, 9999, np.int32)
    with pytest.raises(EngineError, match='engine fake gave unusable outputs'):
        Segmenter(model, fake).segment(tiny_scene())


def test_stage_times_add_up(segmenter, tiny_scene):
    stages = segmenter.segment(tiny_scene(), 'rgb8').stages_ns
    assert min(vars(stages).values()) > 0
    assert stages.total_ns == stages.preprocess_ns + stages.inference_ns + stages.fusion_ns


def test_every_head_kind_of_a_card_can_be_fused():
    assert set(HEAD_KINDS) == set(HEADS)


@pytest.mark.parametrize('engine_name', ['onnxruntime', 'openvino'])
def test_a_model_with_queries(own_tiny_query_model, engine_name):
    model = Model.load(own_tiny_query_model)
    image, _ = model.golden()
    engine = open_engine(model, engine_name)
    segmenter = Segmenter(model, engine)
    assert segmenter.fusion == QueryFusion(score_threshold=0.4, logit_grid=48)
    panoptic = segmenter.segment(cv2.resize(image, (128, 64)), 'rgb8').panoptic
    engine.close()
    assert panoptic.segments.class_id.tolist() == [ROAD, SKY, CAR]
    assert panoptic.semantic[2, 2] == SKY
    assert panoptic.semantic[60, 2] == ROAD
    assert panoptic.semantic[32, 64] == CAR
    np.testing.assert_allclose(panoptic.segments.things.box_xyxy, [[48, 16, 80, 48]], atol=4)
    check_maps(panoptic.semantic, panoptic.instance, model.label_set)


def test_unusable_queries_name_the_engine(own_tiny_query_model):
    model = Model.load(own_tiny_query_model)
    image, outputs = model.golden()
    engine = FakeEngine(outputs | {'mask_logits': outputs['mask_logits'][:2]})
    with pytest.raises(EngineError, match=r'fake gave unusable outputs \(QueryHeads.mask_logits'):
        Segmenter(model, engine).segment(image, 'rgb8')


@pytest.mark.parametrize('engine_name', ['onnxruntime', 'openvino'])
def test_a_model_with_masks(own_tiny_mask_model, engine_name):
    model = Model.load(own_tiny_mask_model)
    image, golden = model.golden()
    engine = open_engine(model, engine_name)
    outputs = engine.infer(image)
    for name, array in golden.items():
        assert np.array_equal(outputs[name], array), name
    segmenter = Segmenter(model, engine)
    assert segmenter.fusion == MaskFusion(min_stuff_area_fraction=0.0)
    panoptic = segmenter.segment(cv2.resize(image, (128, 64)), 'rgb8').panoptic
    engine.close()
    # The car has claimed half of the person's mask, which is just enough for both.
    assert panoptic.segments.class_id.tolist() == [ROAD, SKY, CAR, PERSON]
    assert panoptic.segments.things.box_xyxy.tolist() == [[48, 16, 80, 48], [80, 16, 112, 48]]
    check_maps(panoptic.semantic, panoptic.instance, model.label_set)


@pytest.mark.parametrize('engine_name', ['onnxruntime', 'openvino'])
def test_a_file_that_ends_in_the_fusion(own_tiny_query_model, tmp_path, engine_name):
    from panoptic_ros.fusion.graph import fuse_onnx

    model = Model.load(own_tiny_query_model)
    image, _ = model.golden()
    engine = open_engine(model, engine_name)
    expected = Segmenter(model, engine).segment(image, 'rgb8').panoptic
    engine.close()
    fuse_onnx(model.onnx_path(), tmp_path / 'fused.onnx', card_fusion(model), model.label_set)
    fused = add_onnx(model, 'float32', tmp_path / 'fused.onnx', is_fused=True)
    assert fused.card.fused == ('float32',)
    engine = open_engine(fused, engine_name)
    assert set(engine.infer(image)) == set(fused.card.outputs('float32'))
    found = Segmenter(fused, engine).segment(image, 'rgb8').panoptic
    engine.close()
    assert np.count_nonzero(found.semantic != expected.semantic) <= 2
    assert np.count_nonzero(found.instance != expected.instance) <= 2


def test_nan_in_an_output_is_the_engines_error(own_tiny_query_model):
    model = Model.load(own_tiny_query_model)
    image, outputs = model.golden()
    outputs['mask_logits'][1, 2, 3] = np.nan
    with pytest.raises(EngineError, match="engine fake gave NaN in output 'mask_logits'"):
        Segmenter(model, FakeEngine(outputs)).segment(image, 'rgb8')


def letterboxed(folder, **resize):
    card = yaml.safe_load((folder / 'card.yaml').read_text())
    card['resize'] = {'mode': 'letterbox', **resize}
    (folder / 'card.yaml').write_text(yaml.safe_dump(card))
    return Model.load(folder)


def test_a_letterboxed_picture_fills_its_map(own_tiny_query_model):
    model = letterboxed(own_tiny_query_model, pad_value=255)
    square = np.full((32, 32, 3), (255, 0, 0), np.uint8)  # road, for this network
    with closing(open_engine(model, 'onnxruntime')) as engine:
        segmenter = Segmenter(model, engine)
        panoptic = segmenter.segment(square, 'rgb8').panoptic
    assert panoptic.size_wh == (32, 32)
    assert (panoptic.semantic == 0).all()


def test_the_fast_way_leaves_the_filter_out(own_tiny_query_model):
    model = letterboxed(own_tiny_query_model, antialias=True)
    assert Segmenter(model, None).resize.antialias
    assert not Segmenter(model, None, fast_resize=True).resize.antialias
