"""Publishing frames: each output is built only if its topic has a subscriber."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, Protocol

from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from panoptic_ros.ros.frame import Frame, Needs
from panoptic_ros.ros.messages.markers import MarkerBoard
from panoptic_ros.ros.outputs import OUTPUTS, Output
from panoptic_ros.ros.parameters import Structure


class Publisher(Protocol):
    """The part of ``rclpy.publisher.Publisher`` that is used."""

    def get_subscription_count(self) -> int:
        """Return the number of subscribers."""

    def publish(self, message: Any) -> None:
        """Publish a message, or the bytes of a serialised one."""


@dataclass(frozen=True)
class _Topic:
    output: Output
    publisher: Publisher
    board: MarkerBoard | None


class FramePublisher:
    """Publishes frames on the topics of :data:`~panoptic_ros.ros.outputs.OUTPUTS`.

    Parameters
    ----------
    structure
        Offers or withholds some of the topics.
    advertise
        Creates the publisher of an output.
    """

    def __init__(self, structure: Structure, advertise: Callable[[Output], Publisher]) -> None:
        self._topics = tuple(
            _Topic(
                output,
                advertise(output),
                MarkerBoard() if output.message_type is MarkerArray else None,
            )
            for output in offered(structure)
        )

    @property
    def is_subscribed(self) -> bool:
        """Whether any topic has a subscriber."""
        return any(topic.publisher.get_subscription_count() for topic in self._topics)

    @property
    def needs(self) -> Needs:
        """Parts of the scene that the subscribed topics are built from."""
        return reduce(or_, (topic.output.needs for topic in self._subscribed()), Needs.NOTHING)

    @property
    def all_needs(self) -> Needs:
        """Parts of the scene that all topics are built from."""
        return reduce(or_, (topic.output.needs for topic in self._topics), Needs.NOTHING)

    def publish_maps(self, frame: Frame, *, to_all: bool = False) -> None:
        """Publish what needs no scene, apart from pictures for people.

        ``to_all`` publishes on all topics, also those without a subscriber.
        """
        self._publish(frame, to_all, lambda o: not (o.needs or o.is_for_people))

    def publish_rest(self, frame: Frame, *, to_all: bool = False) -> None:
        """Publish what is built from the scene, then pictures for people."""
        self._publish(frame, to_all, lambda o: bool(o.needs) or o.is_for_people)

    def clear_markers(self, header: Header) -> None:
        """Delete the markers of all marker topics."""
        for topic in self._topics:
            if topic.board is not None:
                topic.publisher.publish(topic.board.clear(header))

    def _subscribed(self) -> Iterable[_Topic]:
        return (topic for topic in self._topics if topic.publisher.get_subscription_count())

    def _publish(self, frame: Frame, to_all: bool, is_chosen: Callable[[Output], bool]) -> None:
        for topic in self._topics if to_all else self._subscribed():
            if not is_chosen(topic.output):
                continue
            message = topic.output.build(frame)
            if topic.board is not None:
                lifetime_s = frame.tuning.marker_lifetime_s
                message = topic.board.show(message, frame.header_cdr, lifetime_s)
            if message is not None:
                topic.publisher.publish(message)


def offered(structure: Structure) -> list[Output]:
    """Return the outputs that the parameters and the installed packages allow."""
    return [
        output
        for output in OUTPUTS
        if output.message_type is not None
        and (not output.parameter or getattr(structure, output.parameter))
    ]
