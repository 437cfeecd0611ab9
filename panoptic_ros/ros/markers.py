"""Objects in space as rviz markers: a box and a line of text each, deleted when they are gone."""

import numpy as np
from builtin_interfaces.msg import Duration
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.geometry import GroundPlane, PlacedBy, Placement
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Segments
from panoptic_ros.ros.cdr import NOT_TURNED_XYZW, MarkerRow, marker_array_cdr

TEXT_NAMESPACE = 'text'
"""Namespace of the lines of text; boxes have their class's name."""

TEXT_HEIGHT_M = 0.4
BOX_OPACITY = 0.5
WHITE_RGBA = (1.0, 1.0, 1.0, 1.0)

_HOW = {
    PlacedBy.GROUND: 'on the ground',
    PlacedBy.KNOWN_HEIGHT: 'by its height',
    PlacedBy.DEPTH: 'measured',
}


def object_markers(
    things: Segments, placement: Placement, ground: GroundPlane, label_set: LabelSet
) -> list[MarkerRow]:
    """Return a box and a line of text for every object that has a place.

    The text says what the object is, how far away (along the optical axis), and whether that is
    measured or what it is assumed from.

    Parameters
    ----------
    things
        The objects; ``track_id`` is the markers' id.
    placement
        Where they are, row by row, in an optical frame.
    ground
        Its direction is the boxes' vertical.
    """
    placed = np.flatnonzero(placement.method != PlacedBy.NOTHING)
    class_id = things.class_id[placed]
    color_rgba = np.full((len(placed), 4), BOX_OPACITY)
    color_rgba[:, :3] = label_set.colors_rgb[class_id] / 255
    position_m, size_m = placement.position_m[placed], placement.size_m[placed]
    above_m = position_m - ground.down * (size_m[:, 1:2] / 2 + TEXT_HEIGHT_M)
    markers = []
    for class_number, track_id, color, position, turn, size, above, method in zip(
        class_id.tolist(),
        things.track_id[placed].tolist(),
        color_rgba.tolist(),
        position_m.tolist(),
        placement.orientation_xyzw[placed].tolist(),
        size_m.tolist(),
        above_m.tolist(),
        placement.method[placed].tolist(),
        strict=True,
    ):
        name = label_set.names[class_number]
        text = f'{name} {track_id}: {position[2]:.1f} m, {_HOW[method]}'
        markers += (
            MarkerRow(name, track_id, Marker.CUBE, position, turn, size, color),
            MarkerRow(
                TEXT_NAMESPACE,
                track_id,
                Marker.TEXT_VIEW_FACING,
                above,
                NOT_TURNED_XYZW,
                (0.0, 0.0, TEXT_HEIGHT_M),
                WHITE_RGBA,
                text,
            ),
        )
    return markers


class MarkerBoard:
    """Remembers which markers are shown, so that those that are gone can be deleted."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, int]] = set()

    def show(self, markers: list[MarkerRow], header: bytes, lifetime_s: float) -> bytes:
        """Return the markers of a frame, and deletions of the last frame's that it lacks.

        Parameters
        ----------
        markers
            In the frame of the header.
        header
            Of all markers, from :func:`cdr.header_cdr`.
        lifetime_s
            Seconds after which a viewer lets go of a marker, 0 for never.

        Returns
        -------
        A MarkerArray, serialised.
        """
        shown = {(marker.namespace, marker.number) for marker in markers}
        gone = sorted(self._shown - shown)
        self._shown = shown
        whole_s = int(lifetime_s)
        lifetime = Duration(sec=whole_s, nanosec=int((lifetime_s - whole_s) * 1e9))
        return marker_array_cdr(header, lifetime, markers, gone)

    def clear(self, header: Header) -> MarkerArray:
        """Return a message that deletes all markers of the topic, whoever made them."""
        self._shown = set()
        return MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
