"""Topics of one camera, and the subscriptions to them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from panoptic_ros.ros.node_parameters import QOS_OVERRIDES, qos_errors
from panoptic_ros.ros.parameters import ParameterError

Take = Callable[[str, Any], None]
"""Takes a resolved topic and a message."""

LATCHED_QOS = QoSProfile(
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

_COMPRESSED = '/compressed'  # as in image_transport


class CameraTopics:
    """Names of the topics of a camera.

    Parameters
    ----------
    node
        Resolves the names.
    camera
        Name of the camera, the first part of its topics; empty for the only one.
    transport
        The parameter ``image_transport``.
    """

    def __init__(self, node: Node, camera: str, transport: str) -> None:
        self._node = node
        self._prefix = f'{camera}/' if camera else ''
        self._transport = transport

    def resolve(self, name: str) -> str:
        """Return the resolved name of an input such as ``camera_info``."""
        return self._node.resolve_topic_name(self._prefix + name)

    @property
    def image(self) -> tuple[str, type]:
        """Resolved name of the images, and their type."""
        topic = self.resolve('image')
        if topic.endswith(_COMPRESSED):
            return topic, CompressedImage
        if self._transport == 'compressed':
            return topic + _COMPRESSED, CompressedImage
        return topic, Image

    @property
    def hint(self) -> str:
        """Why no image can come: the topic has publishers of the other type only; else empty."""
        topic, message_type = self.image
        raw = topic.removesuffix(_COMPRESSED)
        expected = 'sensor_msgs/msg/' + message_type.__name__
        publishers = self._node.get_publishers_info_by_topic
        if any(info.topic_type == expected for info in publishers(topic)):
            return ''
        for other, type_name, advice in (
            (topic, '', 'remap image to a topic of that type, or set image_transport'),
            (raw, 'sensor_msgs/msg/Image', 'set image_transport to raw'),
            (
                raw + _COMPRESSED,
                'sensor_msgs/msg/CompressedImage',
                'set image_transport to compressed',
            ),
        ):
            for info in publishers(other):
                if info.topic_type != expected and type_name in ('', info.topic_type):
                    return f'{other} has a publisher of {info.topic_type}: {advice}'
        return ''


class Subscriptions:
    """Subscriptions of a node, from :meth:`add` to :meth:`destroy`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._subscriptions: list[Subscription] = []
        self._latched: set[str] = set()

    def add(self, topic: str, message_type: type, take: Take) -> None:
        """Subscribe to the newest message of a topic, best effort.

        Raises ParameterError if the quality of service is overridden with an unusable one.
        """
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        with qos_errors(topic):
            self._subscriptions.append(
                self._node.create_subscription(
                    message_type,
                    topic,
                    partial(take, topic),
                    qos,
                    qos_overriding_options=QOS_OVERRIDES,
                )
            )

    def add_latched(self, topic: str, message_type: type, takes: Sequence[Take]) -> None:
        """Subscribe to a latched topic, once."""
        if topic in self._latched:
            return
        self._latched.add(topic)

        def take(message: Any) -> None:
            for each in takes:
                each(topic, message)

        self._subscriptions.append(
            self._node.create_subscription(message_type, topic, take, LATCHED_QOS)
        )

    def add_if_latched(self, topic: str, message_type: type, take: Take) -> None:
        """Subscribe to a message that was published once, before this node started.

        Only where a publisher is latched: to any other, such a subscription is incompatible, and
        both sides would log a warning.
        """
        if topic in self._latched:
            return
        infos = self._node.get_publishers_info_by_topic(topic)
        if any(i.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for i in infos):
            self.add_latched(topic, message_type, [take])

    def destroy(self) -> None:
        """End all subscriptions."""
        self._latched.clear()
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())


def require_other_publisher(node: Node, topic: str) -> None:
    """Raise ParameterError if an image topic is an output of the node itself."""
    if any(publisher.topic_name == topic for publisher in node.publishers):
        raise ParameterError(
            f"the image topic {topic} is one of this node's own; remap image to a camera's"
        )
