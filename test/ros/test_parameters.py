from collections.abc import Iterator
from dataclasses import fields

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

import rclpy
import yaml
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from panoptic_ros.fusion import CentreFusion, QueryFusion
from panoptic_ros.labels import LabelSet
from panoptic_ros.ros.node import load_segmenter
from panoptic_ros.ros.node_parameters import NodeParameters
from panoptic_ros.ros.parameters import ParameterError, Structure, Tuning


@pytest.fixture(scope='module', autouse=True)
def context() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def make_node() -> Iterator[callable]:
    nodes = []

    def make(**given: object) -> Node:
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        nodes.append(
            Node(f'parameters_{len(nodes)}', parameter_overrides=overrides, enable_rosout=False)
        )
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()


def set_one(node: Node, name: str, value: object) -> SetParametersResult:
    return node.set_parameters([Parameter(name, value=value)])[0]


def test_defaults_are_the_dataclasses_own(make_node: callable) -> None:
    settings = NodeParameters(make_node())
    assert settings.structure == Structure()
    assert settings.tuning == Tuning()
    assert settings.unknown == []


def test_parameters_change_with_the_callbacks_of_humble(
    make_node: callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Node, 'add_post_set_parameters_callback')
    node = make_node()
    settings = NodeParameters(node)
    assert set_one(node, 'overlay_opacity', 0.25).successful
    assert settings.tuning.overlay_opacity == 0.25
    assert not set_one(node, 'overlay_opacity', 2.0).successful
    assert settings.tuning.overlay_opacity == 0.25


def test_cameras_have_parameters_of_their_own(make_node: callable) -> None:
    given = {'cameras': 'front, left', 'camera_height_m': 1.2, 'left.camera_height_m': 0.4}
    node = make_node(**given, **{'left.roi': '0, 0, 8, 8'})
    settings = NodeParameters(node)
    assert settings.unknown == []
    assert settings.structure.camera_names == ('front', 'left')
    assert settings.tuning_of('front') == Tuning(camera_height_m=1.2)
    assert settings.tuning_of('left') == Tuning(camera_height_m=0.4, roi='0, 0, 8, 8')
    assert set_one(node, 'front.camera_pitch_rad', 0.25).successful
    assert set_one(node, 'camera_height_m', 3.0).successful  # is the default at start only
    assert set_one(node, 'overlay_opacity', 0.75).successful
    assert settings.tuning_of('front') == Tuning(
        camera_height_m=1.2, camera_pitch_rad=0.25, overlay_opacity=0.75
    )
    assert settings.tuning_of('left').overlay_opacity == 0.75
    for name, value, reason in (
        ('left.roi', 'here', 'roi'),
        ('left.camera_matrix', 'Q', "parameter left.camera_matrix is 'Q'; expected one of"),
        ('left.camera_height_m', 0.0, 'left.camera_height_m'),
        ('cameras', 'rear', 'parameter cameras can be set at start only'),
    ):
        refused = set_one(node, name, value)
        assert not refused.successful
        assert reason in refused.reason


def test_one_camera_has_the_common_parameters(make_node: callable) -> None:
    settings = NodeParameters(make_node(camera_height_m=1.2, **{'front.roi': '0, 0, 8, 8'}))
    assert settings.structure.camera_names == ('',)
    assert settings.tuning_of('') == Tuning(camera_height_m=1.2)
    assert settings.unknown == ['front.roi']


@pytest.mark.parametrize('cameras', ['front, front', 'front left', '/front', 'a/b', '2nd', 'f-1'])
def test_names_of_cameras_are_parts_of_topics(make_node: callable, cameras: str) -> None:
    with pytest.raises(ParameterError, match=r'parameter cameras is .*; expected names'):
        NodeParameters(make_node(cameras=cameras))


def test_a_value_of_a_camera_that_cannot_be_used_is_named(make_node: callable) -> None:
    with pytest.raises(ParameterError, match=r"parameter left\.camera_matrix is 'Q'"):
        NodeParameters(make_node(cameras='left', **{'left.camera_matrix': 'Q'}))
    with pytest.raises(ParameterError, match=r'parameter left\.roi'):
        NodeParameters(make_node(cameras='left', **{'left.roi': 'here'}))


def test_every_parameter_is_described(make_node: callable) -> None:
    node = make_node()
    NodeParameters(node)
    for group in (Structure, Tuning):
        for declared in fields(group):
            descriptor = node.describe_parameter(declared.name)
            assert len(descriptor.description) > 10
            if isinstance(declared.default, float):
                (limits,) = descriptor.floating_point_range
                assert limits.from_value <= declared.default <= limits.to_value
            elif isinstance(declared.default, int) and not isinstance(declared.default, bool):
                (limits,) = descriptor.integer_range
                assert limits.from_value <= declared.default <= limits.to_value
    assert node.describe_parameter('camera_height_m').description.endswith('[m]')
    assert node.describe_parameter('autostart').description.endswith('(fixed at start)')
    assert 'openvino' in node.describe_parameter('engine').additional_constraints


def test_values_given_at_start(make_node: callable) -> None:
    settings = NodeParameters(make_node(model='mine', engine_threads=2, camera_height_m=0.4))
    assert settings.structure == Structure(model='mine', engine_threads=2)
    assert settings.tuning == Tuning(camera_height_m=0.4)


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('engine', 'fast', 'one of auto, tensorrt'),
        ('image_transport', 'theora', 'one of raw, compressed'),
        ('model', 3, 'a text'),
        ('autostart', 'yes', 'true or false'),
        ('engine_threads', -1, 'a whole number, 0 to 256 threads'),
        ('engine_threads', 1.5, 'a whole number'),
        ('camera_height_m', 0.0, 'a number with a decimal point, 0.05 to 100.0 m'),
        ('camera_height_m', 2, 'a number with a decimal point'),
        ('camera_pitch_rad', float('nan'), '-1.5 to 1.5 rad'),
        ('centre_threshold', 1.5, '-1.0 to 1.0'),
        ('panoptic_packing', 'coco', 'one of class_instance, thing_instance, segment_id'),
        ('mask_role', 'people', 'one of drivable, dynamic_agent'),
    ],
)
def test_unusable_values_given_at_start(
    make_node: callable, name: str, value: object, expected: str
) -> None:
    node = make_node(**{name: value})
    with pytest.raises(ParameterError) as caught:
        NodeParameters(node)
    assert str(caught.value).startswith(f'parameter {name} is {value!r}; expected ')
    assert expected in str(caught.value)


def test_unknown_names_are_found(make_node: callable) -> None:
    given = {'modle': 'x', 'qos_overrides./image.subscription.depth': 3, 'model': 'y'}
    assert NodeParameters(make_node(**given)).unknown == ['modle']


def test_tuning_changes_while_running(make_node: callable) -> None:
    node = make_node()
    settings = NodeParameters(node)
    settings.is_structure_fixed = True
    before = settings.tuning
    assert set_one(node, 'overlay_opacity', 0.25).successful
    assert settings.tuning == Tuning(overlay_opacity=0.25)
    assert before == Tuning()


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('overlay_opacity', 1.5, ['overlay_opacity', '1.5', '0.0', '1.0']),
        ('overlay_opacity', float('nan'), ['overlay_opacity', 'nan']),
        ('overlay_opacity', 'much', ['type']),
    ],
)
def test_tuning_out_of_range_is_refused(
    make_node: callable, name: str, value: object, words: list[str]
) -> None:
    node = make_node()
    settings = NodeParameters(node)
    result = set_one(node, name, value)
    assert not result.successful
    for word in words:
        assert word in result.reason
    assert settings.tuning == Tuning()


def test_structure_is_fixed_while_configured(make_node: callable) -> None:
    node = make_node()
    settings = NodeParameters(node)
    assert set_one(node, 'model', 'a').successful
    settings.is_structure_fixed = True
    result = set_one(node, 'model', 'b')
    assert not result.successful
    assert 'parameter model is fixed' in result.reason
    assert 'clean the node up' in result.reason
    assert settings.structure.model == 'a'
    settings.is_structure_fixed = False
    assert set_one(node, 'model', 'b').successful
    assert settings.structure.model == 'b'


def test_autostart_cannot_be_changed_at_all(make_node: callable) -> None:
    node = make_node()
    NodeParameters(node)
    assert (
        set_one(node, 'autostart', False).reason == 'parameter autostart can be set at start only'
    )


def test_the_values_a_node_has_can_be_loaded_again(make_node: callable) -> None:
    node = make_node(model='mine', centre_threshold=0.25)
    settings = NodeParameters(node)
    settings.is_structure_fixed = True
    dumped = node.get_parameters([f.name for g in (Structure, Tuning) for f in fields(g)])
    assert all(result.successful for result in node.set_parameters(dumped))
    assert settings.structure == Structure(model='mine')
    assert settings.tuning == Tuning(centre_threshold=0.25)


def test_unknown_choices_are_refused_while_running(make_node: callable) -> None:
    node = make_node()
    settings = NodeParameters(node)
    result = set_one(node, 'engine', 'fast')
    assert result.reason.startswith("parameter engine is 'fast'; expected one of auto, ")
    assert settings.structure.engine == 'auto'
    result = set_one(node, 'mask_role', 'fast')
    assert result.reason.startswith("parameter mask_role is 'fast'; expected one of drivable, ")
    assert settings.tuning.mask_role == 'dynamic_agent'
    assert set_one(node, 'mask_role', 'drivable').successful
    assert settings.tuning.mask_role == 'drivable'


def test_a_set_of_changes_counts_as_a_whole_or_not(make_node: callable) -> None:
    node = make_node()
    settings = NodeParameters(node)
    settings.is_structure_fixed = True
    changes = [Parameter('overlay_opacity', value=0.1), Parameter('model', value='b')]
    assert not node.set_parameters_atomically(changes).successful
    assert settings.tuning == Tuning()
    assert node.get_parameter('overlay_opacity').value == 0.5


def test_other_parameters_pass(make_node: callable) -> None:
    node = make_node()
    settings = NodeParameters(node)
    settings.is_structure_fixed = True
    assert set_one(node, 'use_sim_time', True).successful


def test_rounding_at_the_edge_of_a_range(make_node: callable) -> None:
    node = make_node()
    settings = NodeParameters(node)
    assert set_one(node, 'centre_threshold', 1.0000001).successful  # rclpy's tolerance
    assert settings.tuning.centre_threshold == 1.0
    assert settings.tuning.override(CentreFusion()).centre_threshold == 1.0


def test_thresholds_of_the_card_stay_unless_set() -> None:
    card = CentreFusion(centre_threshold=0.3, min_stuff_area_fraction=0.2, max_instances=9)
    assert Tuning().override(card) == card
    tuned = Tuning(centre_threshold=0.0, min_thing_area_fraction=0.5).override(card)
    assert tuned == CentreFusion(
        centre_threshold=0.0,
        min_stuff_area_fraction=0.2,
        max_instances=9,
        min_thing_area_fraction=0.5,
    )


def test_every_threshold_of_the_fusion_can_be_tuned() -> None:
    thresholds = {f.name for f in fields(CentreFusion)} - {'max_instances'}
    thresholds |= {f.name for f in fields(QueryFusion)} - {
        'max_instances',
        'mask_threshold',
        'logit_grid',
        'rule',
    }
    assert thresholds <= {f.name for f in fields(Tuning)}


def test_queries_are_tuned_by_thresholds_of_their_own() -> None:
    card = QueryFusion(score_threshold=0.3, logit_grid=384)
    assert Tuning(centre_threshold=0.9).override(card) == card
    tuned = Tuning(score_threshold=0.0, min_kept_fraction=1.0).override(card)
    assert tuned == QueryFusion(score_threshold=0.0, min_kept_fraction=1.0, logit_grid=384)


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('roi', '1, 2, 3', 'parameter roi: region is '),
        ('roi', '0, 0, -1, 5', 'width and height of 1 or more'),
        ('image_white_level', 1, ''),
        ('image_black_level', 65534, ''),
    ],
)
def test_selections_and_levels(make_node: callable, name: str, value: object, words: str) -> None:
    result = set_one(make_node_with_parameters(make_node)[0], name, value)
    assert result.successful == (not words)
    assert words in result.reason


def make_node_with_parameters(make_node: callable) -> tuple[Node, NodeParameters]:
    node = make_node()
    return node, NodeParameters(node)


def test_levels_that_contradict_each_other_are_refused(make_node: callable) -> None:
    node, settings = make_node_with_parameters(make_node)
    assert set_one(node, 'image_white_level', 100).successful
    result = set_one(node, 'image_black_level', 100)
    assert result.reason == (
        'parameter image_white_level is 100; expected more than image_black_level, 100'
    )
    assert settings.tuning.image_levels == (0, 100)
    with pytest.raises(ParameterError, match='expected more than image_black_level, 500'):
        NodeParameters(make_node(image_black_level=500, image_white_level=400))


def test_classes_are_those_of_the_model(make_node: callable) -> None:
    node, settings = make_node_with_parameters(make_node)
    assert set_one(node, 'classes', 'dog').successful  # no model is loaded
    assert set_one(node, 'classes', '').successful
    settings.label_set = LabelSet.load('cityscapes')
    result = set_one(node, 'classes', 'car, dog')
    assert result.reason.startswith("parameter classes has 'dog'; expected names of the label set")
    assert set_one(node, 'classes', 'car, traffic light').successful
    assert settings.tuning.classes == 'car, traffic light'


@pytest.mark.parametrize('is_fast', [False, True])
def test_fast_resize_replaces_the_filter_of_the_card(own_tiny_model, is_fast):
    card = own_tiny_model / 'card.yaml'
    fields_of_card = yaml.safe_load(card.read_text())
    fields_of_card['resize'] = {'mode': 'stretch', 'antialias': True, 'pad_value': 0}
    card.write_text(yaml.safe_dump(fields_of_card))
    structure = Structure(model=str(own_tiny_model), engine='onnxruntime', fast_resize=is_fast)
    segmenter = load_segmenter(structure)
    segmenter.engine.close()
    assert segmenter.resize.antialias is not is_fast
