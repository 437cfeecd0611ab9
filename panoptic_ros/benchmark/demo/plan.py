"""Parameters of the camera and of the node in a demo."""

import argparse
from dataclasses import dataclass
from typing import Any

from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.sources import open_pictures

STREET = 'street'
RATE_HZ = 15.0
GRID_M = 30.0

PREFETCH_BYTES = 512 << 20
BYTES_PER_PIXEL = 10  # all messages of one street image: image, truth, depth


@dataclass(frozen=True)
class Plan:
    """Parameters of the camera and of the node, and the number of images expected."""

    camera: dict[str, Any]
    node: dict[str, Any]
    frames: int
    rate_hz: float


def make_plan(args: argparse.Namespace) -> Plan:
    """Return the plan; raises SourceError or DatasetError if the source cannot be used."""
    camera = {'source': args.source, 'wait_for_subscribers': 2, 'seed': args.seed}
    # The reports after the last image must not complain about its absence.
    node = {'model': args.model, 'engine': args.engine, 'image_timeout_s': 60.0}
    node['depth'] = args.source == STREET
    node |= {'grid_length_m': GRID_M, 'grid_width_m': GRID_M}
    width, height = args.size or (0, 0)
    camera |= {'width': width, 'height': height}
    is_video = False
    if args.source == STREET:
        rate_hz = args.rate or RATE_HZ
        street = SyntheticStreet(args.seed, args.size or (640, 320), rate_hz).frame(0)
        mounting = {
            'camera_height_m': street.camera_height_m,
            'camera_pitch_rad': street.camera_pitch_rad,
        }
        camera |= mounting
        node |= mounting
        node['turn_boxes'] = True
        frames = args.frames or round(args.seconds * rate_hz)
        width, height = street.size_wh
        ahead = PREFETCH_BYTES // (width * height * BYTES_PER_PIXEL)
        camera['prefetch'] = max(1, min(frames, ahead))
    else:
        pictures = open_pictures(args.source)
        rate_hz = args.rate or pictures.rate_hz or RATE_HZ
        frames = args.frames or round(args.seconds * rate_hz)
        is_video = pictures.is_video and not pictures.is_live
        if is_video and pictures.count and not args.frames:
            frames = min(frames, pictures.count)  # an estimate: a shorter video starts again
        camera |= {'loop': True, 'horizontal_fov_deg': args.fov}
        node['camera_height_m'] = args.camera_height
        node['camera_pitch_rad'] = args.camera_pitch
    # Without a rate a video is played with the stamps of its container.
    camera |= {'rate_hz': 0.0 if is_video and not args.rate else float(rate_hz), 'frames': frames}
    return Plan(camera, node, frames, rate_hz)
