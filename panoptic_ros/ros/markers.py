"""Objects in space as rviz markers: a box and a line of text each, deleted when they are gone."""

import math

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.geometry import GroundPlane, PlacedBy, Placement
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Segments

TEXT_NAMESPACE = 'text'
"""Namespace of the lines of text; boxes have their class's name."""

TEXT_HEIGHT_M = 0.4
BOX_OPACITY = 0.5

_HOW = {PlacedBy.GROUND: 'on the ground', PlacedBy.KNOWN_HEIGHT: 'by its height'}


def object_markers(
    things: Segments,
    placement: Placement,
    ground: GroundPlane,
    label_set: LabelSet,
    header: Header,
    lifetime_s: float,
) -> list[Marker]:
    """Return a box and a line of text for every object that has a place.

    The text says what the object is, how far away (along the optical axis), and what that is
    assumed from, because without depth it is an assumption.

    Parameters
    ----------
    things
        The objects; ``track_id`` is the markers' id.
    placement
        Where they are, row by row.
    ground
        Its direction is the boxes' vertical.
    header
        Goes into the markers as it is: they are in the image's frame, an optical one.
    lifetime_s
        Seconds after which a viewer lets go of a marker, 0 for never.
    """
    whole_s = int(lifetime_s)
    lifetime = Duration(sec=whole_s, nanosec=int((lifetime_s - whole_s) * 1e9))
    # The optical frame, turned about x by the camera's pitch, has y along the vertical.
    upright = Quaternion(x=math.sin(ground.pitch_rad / 2), w=math.cos(ground.pitch_rad / 2))
    markers = []
    for row in np.flatnonzero(placement.method != PlacedBy.NOTHING).tolist():
        class_id, track_id = int(things.class_id[row]), int(things.track_id[row])
        name = label_set.names[class_id]
        position_m, size_m = placement.position_m[row], placement.size_m[row]
        red, green, blue = (label_set.colors_rgb[class_id] / 255).tolist()
        markers.append(
            Marker(
                header=header,
                ns=name,
                id=track_id,
                type=Marker.CUBE,
                action=Marker.ADD,
                pose=Pose(position=_fill(Point(), position_m), orientation=upright),
                scale=_fill(Vector3(), size_m),
                color=ColorRGBA(r=red, g=green, b=blue, a=BOX_OPACITY),
                lifetime=lifetime,
            )
        )
        how = _HOW[PlacedBy(int(placement.method[row]))]
        above_m = position_m - ground.down * (size_m[1] / 2 + TEXT_HEIGHT_M)
        markers.append(
            Marker(
                header=header,
                ns=TEXT_NAMESPACE,
                id=track_id,
                type=Marker.TEXT_VIEW_FACING,
                action=Marker.ADD,
                pose=Pose(position=_fill(Point(), above_m)),
                scale=Vector3(z=TEXT_HEIGHT_M),
                color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
                lifetime=lifetime,
                text=f'{name} {track_id}: {position_m[2]:.1f} m, {how}',
            )
        )
    return markers


class MarkerBoard:
    """Remembers which markers are shown, so that those that are gone can be deleted."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, int]] = set()

    def show(self, markers: list[Marker], header: Header) -> MarkerArray:
        """Return the markers of a frame, and deletions of the last frame's that it lacks."""
        shown = {(marker.ns, marker.id) for marker in markers}
        gone = [
            Marker(header=header, ns=namespace, id=marker_id, action=Marker.DELETE)
            for namespace, marker_id in sorted(self._shown - shown)
        ]
        self._shown = shown
        return MarkerArray(markers=markers + gone)

    def clear(self, header: Header) -> MarkerArray:
        """Return a message that deletes all markers of the topic, whoever made them."""
        self._shown = set()
        return MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])


def _fill(message: Point | Vector3, xyz: np.ndarray) -> Point | Vector3:
    message.x, message.y, message.z = xyz.tolist()
    return message
