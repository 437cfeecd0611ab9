"""Objects in space as rviz markers: a box and a text each."""

import math
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Segments
from panoptic_ros.ros.messages.cdr import IDENTITY_XYZW, MarkerRow, marker_array_cdr
from panoptic_ros.scene.geometry import GroundPlane, PlacedBy, Placement, quaternion_xyzw
from panoptic_ros.scene.occlusion import Planes

TEXT_NAMESPACE = 'text'
"""Namespace of the texts; that of a box is the name of its class."""

TEXT_HEIGHT_M = 0.4
BOX_OPACITY = 0.5
SLAB_M = 0.01
WHITE_RGBA = (1.0, 1.0, 1.0, 1.0)

_HOW = {
    PlacedBy.GROUND: 'on the ground',
    PlacedBy.KNOWN_HEIGHT: 'by its height',
    PlacedBy.DEPTH: 'measured',
}


def object_markers(
    things: Segments,
    placement: Placement,
    ground: GroundPlane,
    label_set: LabelSet,
    velocity_m_s: np.ndarray | None = None,
    carried_by: Sequence[str] = (),
) -> list[MarkerRow]:
    """Return a box and a text for every object that was placed.

    The lines of the text give the class and the track id; the distance along the optical axis and
    how the object was placed; and, if known, its speed relative to the camera and its support.

    Parameters
    ----------
    things
        Objects; ``track_id`` is the id of the markers.
    placement
        Their places in an optical frame, row by row.
    ground
        Gives the vertical direction.
    velocity_m_s
        float [n, 3], relative to the camera, NaN where unknown; None if all are unknown.
    carried_by
        Support of each object, '' where unknown.
    """
    placed = np.flatnonzero(placement.method != PlacedBy.NOTHING)
    class_id = things.class_id[placed]
    color_rgba = np.full((len(placed), 4), BOX_OPACITY)
    color_rgba[:, :3] = label_set.colors_rgb[class_id] / 255
    position_m, size_m = placement.position_m[placed], placement.size_m[placed]
    above_m = position_m - ground.down * (size_m[:, 1:2] / 2 + 1.5 * TEXT_HEIGHT_M)
    endings = _endings(len(things), velocity_m_s, carried_by)
    markers = []
    for class_number, track_id, color, position, turn, size, above, method, row in zip(
        class_id.tolist(),
        things.track_id[placed].tolist(),
        color_rgba.tolist(),
        position_m.tolist(),
        placement.orientation_xyzw[placed].tolist(),
        size_m.tolist(),
        above_m.tolist(),
        placement.method[placed].tolist(),
        placed.tolist(),
        strict=True,
    ):
        name = label_set.names[class_number]
        text = f'{name} {track_id}\n{position[2]:.1f} m, {_HOW[method]}{endings[row]}'
        markers += (
            MarkerRow(name, track_id, Marker.CUBE, position, turn, size, color),
            MarkerRow(
                TEXT_NAMESPACE,
                track_id,
                Marker.TEXT_VIEW_FACING,
                above,
                IDENTITY_XYZW,
                (0.0, 0.0, TEXT_HEIGHT_M),
                WHITE_RGBA,
                text,
            ),
        )
    return markers


def _endings(count: int, velocity_m_s: np.ndarray | None, carried_by: Sequence[str]) -> list[str]:
    """Return the last lines of the texts: speed and support."""
    endings = [''] * count
    if velocity_m_s is not None:
        speeds_m_s = np.linalg.norm(velocity_m_s, axis=1).tolist()
        endings = ['' if math.isnan(speed) else f'\n{speed:.1f} m/s' for speed in speeds_m_s]
    if carried_by:
        names = [f'\non {name}' if name else '' for name in carried_by]
        endings = [ending + name for ending, name in zip(endings, names, strict=True)]
    return endings


def surface_markers(planes: Planes, segments: Segments, label_set: LabelSet) -> list[MarkerRow]:
    """Return a thin slab for every surface, with z along its normal.

    Parameters
    ----------
    planes
        Surfaces in an optical frame.
    segments
        Their segments, row by row. The namespace of a marker is the class, its id the track id, 0
        for stuff.
    """
    axes = np.stack([planes.across, np.cross(planes.normal, planes.across), planes.normal], 1)
    color_rgba = np.full((len(planes), 4), BOX_OPACITY)
    color_rgba[:, :3] = label_set.colors_rgb[segments.class_id] / 255
    return [
        MarkerRow(
            label_set.names[class_id],
            track_id,
            Marker.CUBE,
            centre,
            quaternion_xyzw(turn),
            (*size, SLAB_M),
            color,
        )
        for class_id, track_id, centre, turn, size, color in zip(
            segments.class_id.tolist(),
            segments.track_id.tolist(),
            planes.centre_m.tolist(),
            axes,
            planes.size_m.tolist(),
            color_rgba.tolist(),
            strict=True,
        )
    ]


class MarkerBoard:
    """Remembers the markers of a topic, so that markers of vanished objects can be deleted."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, int]] = set()

    def show(self, markers: list[MarkerRow], header: bytes, lifetime_s: float) -> bytes:
        """Return the markers of a frame, and deletions of those of the last frame it lacks.

        Parameters
        ----------
        markers
            Markers of the frame.
        header
            Header of all markers, from :func:`cdr.header_cdr`.
        lifetime_s
            Seconds after which a viewer removes a marker, 0 for never.

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
        """Return a message that deletes all markers of the topic."""
        self._shown = set()
        return MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
