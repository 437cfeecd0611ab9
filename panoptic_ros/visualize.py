"""Draw panoptic maps for people: colours, overlay, labels and panels, all uint8 BGR."""

from collections.abc import Sequence

import cv2
import numpy as np

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic, Segments

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LABEL_SCALE = 0.4
_TITLE_SCALE = 0.6
_TITLE_HEIGHT = 28
_MIN_LABELLED_HEIGHT = 16  # pixels; text would hide anything lower


def semantic_color(semantic: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Return the class colours of a map uint8 [H, W] as uint8 [H, W, 3] BGR; void is black."""
    return _paint(semantic, label_set.colors_rgb[:, ::-1])


def instance_color(panoptic: Panoptic, label_set: LabelSet) -> np.ndarray:
    """Return each thing in a shade of its class colour, uint8 [H, W, 3] BGR.

    Stuff and void are black. The shade is a function of the track id, so an object keeps it from
    frame to frame.
    """
    segments = panoptic.segments
    colors = np.where(segments.is_thing, _segment_colors(segments, label_set), np.uint32(0))
    return _unpacked(panoptic.paint(colors, 0))


def overlay(
    image_bgr: np.ndarray,
    panoptic: Panoptic,
    label_set: LabelSet,
    opacity: float = 0.5,
    labels: bool = False,
) -> np.ndarray:
    """Blend the colours of a panoptic map into its image.

    Stuff has its class colour, a thing a shade of it and a white edge. Void pixels keep the image.

    Parameters
    ----------
    image_bgr
        uint8 [H, W, 3], of the map's size.
    panoptic
        The map.
    label_set
        Colours and names of the classes.
    opacity
        0..1, weight of the colours.
    labels
        Write class name and track id on things that are high enough.

    Returns
    -------
    np.ndarray
        uint8 [H, W, 3] BGR, a new picture.

    Raises ValueError for another size or dtype, or an opacity outside 0..1.
    """
    expected = (*panoptic.size_wh[::-1], 3)
    if image_bgr.dtype != np.uint8 or image_bgr.shape != expected:
        raise ValueError(
            f'image_bgr is {image_bgr.dtype} {image_bgr.shape}; expected uint8 {expected}, the '
            "map's size"
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f'opacity is {opacity}; expected a number from 0 to 1')
    color = _unpacked(panoptic.paint(_segment_colors(panoptic.segments, label_set), 0))
    picture = cv2.addWeighted(image_bgr, 1 - opacity, color, opacity, 0, dst=color)
    is_void = panoptic.segment < 0
    if is_void.any():
        cv2.copyTo(image_bgr, panoptic.runs.expand(is_void.astype(np.uint8)), picture)
    picture.reshape(-1, 3)[np.flatnonzero(_edges(panoptic.instance))] = 255
    if labels:
        _write_labels(picture, panoptic.segments.things, label_set)
    return picture


def free_space_picture(occupancy: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Draw a grid of the ground as it is seen from above, uint8 [H, W, 3] BGR.

    Its x axis points up and its y axis to the left, as on a map with the camera at the lower
    edge. Free is green, occupied red, what costs something between them yellow, unknown grey.

    Parameters
    ----------
    occupancy
        int8 [size y, size x]: 0 free .. 100 occupied, -1 unknown.
    size_wh
        Of the picture in pixels; cells stay square, around them it is black.
    """
    cells = occupancy.T[::-1, ::-1]
    colors = np.zeros((256, 3), np.uint8)
    cost = np.arange(101)
    colors[:101, 1] = np.interp(cost, [0, 50, 100], [170, 190, 40])
    colors[:101, 2] = np.interp(cost, [0, 50, 100], [60, 200, 220])
    colors[:101, 0] = 50
    colors[255] = 70
    drawn = _paint(cells.astype(np.uint8), colors)
    scale = min(size_wh[0] / cells.shape[1], size_wh[1] / cells.shape[0])
    width, height = (max(1, int(scale * count)) for count in cells.shape[::-1])
    picture = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    x, y = (size_wh[0] - width) // 2, (size_wh[1] - height) // 2
    nearest = cv2.INTER_NEAREST
    picture[y : y + height, x : x + width] = cv2.resize(
        drawn, (width, height), interpolation=nearest
    )
    return picture


def panel(
    images: Sequence[np.ndarray], titles: Sequence[str], columns: int | None = None
) -> np.ndarray:
    """Put pictures side by side, each under its title.

    Parameters
    ----------
    images
        At least one picture, uint8 [h, w, 3] BGR or [h, w] grey; all are stretched to the size
        of the first.
    titles
        One line each.
    columns
        Pictures in a row; all of them if None. A last row that is not full ends in black.

    Returns
    -------
    np.ndarray
        uint8 [H, W, 3] BGR.

    Raises ValueError for no images, or another number of titles.
    """
    if not images or len(images) != len(titles):
        raise ValueError(
            f'panel got {len(images)} images and {len(titles)} titles; expected at least one '
            'image and a title for each'
        )
    columns = columns or len(images)
    height, width = images[0].shape[:2]
    tile_height = height + _TITLE_HEIGHT
    rows = -(-len(images) // columns)
    canvas = np.zeros((rows * tile_height, columns * width, 3), np.uint8)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(number, columns)
        tile = canvas[row * tile_height :][:tile_height, column * width :][:, :width]
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        tile[_TITLE_HEIGHT:] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        # Written on a picture of its own: a long title must not run into the next one's place.
        head = np.zeros((_TITLE_HEIGHT, width, 3), np.uint8)
        cv2.putText(head, title, (6, 19), _FONT, _TITLE_SCALE, (255, 255, 255), 1, cv2.LINE_AA)
        tile[:_TITLE_HEIGHT] = head
    return canvas


def _paint(key: np.ndarray, colors_bgr: np.ndarray) -> np.ndarray:
    """Look up the colour, uint8 [n, 3], of each key [H, W]; uint8 [H, W, 3]."""
    return _unpacked(np.take(_packed(colors_bgr), key))


def _packed(colors_bgr: np.ndarray) -> np.ndarray:
    """Return colours uint8 [n, 3] as uint32 [n]: one integer moves faster than three bytes."""
    colors = np.zeros((len(colors_bgr), 4), np.uint8)
    colors[:, :3] = colors_bgr
    return colors.view(np.uint32)[:, 0]


def _unpacked(colors: np.ndarray) -> np.ndarray:
    """Return what was packed, [H, W], as uint8 [H, W, 3]."""
    return cv2.cvtColor(colors.view(np.uint8).reshape(*colors.shape, 4), cv2.COLOR_BGRA2BGR)


def _segment_colors(segments: Segments, label_set: LabelSet) -> np.ndarray:
    """Return the colour of each segment, packed uint32 [n]."""
    colors_bgr = label_set.colors_rgb[segments.class_id, ::-1]
    things = segments.things
    if len(things):
        colors_bgr[segments.is_thing] = _shade(
            label_set.colors_rgb[things.class_id], things.track_id
        )
    return _packed(colors_bgr)


def _shade(color_rgb: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Vary colours uint8 [n, 3] RGB by integers [n]; returns uint8 [n, 3] BGR.

    Hue and lightness step through the two-dimensional golden-ratio sequence: neighbouring
    numbers get shades far apart, and no shade returns soon.
    """
    plastic = 1.32471795724474602596
    hue, lightness = (number[:, None] * [1 / plastic, 1 / plastic**2] % 1).T
    hls = cv2.cvtColor(color_rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2HLS)[0]
    hls[:, 0] = (hls[:, 0] + 40 * (hue - 0.5)) % 360
    hls[:, 1] = 0.3 + 0.45 * lightness
    return np.round(cv2.cvtColor(hls[None], cv2.COLOR_HLS2BGR)[0] * 255).astype(np.uint8)


def _edges(instance: np.ndarray) -> np.ndarray:
    """Return where the right or lower neighbour has another instance id, bool [H, W]."""
    edges = np.zeros(instance.shape, bool)
    edges[:, :-1] = instance[:, 1:] != instance[:, :-1]
    edges[:-1] |= instance[1:] != instance[:-1]
    return edges


def _write_labels(picture: np.ndarray, things: Segments, label_set: LabelSet) -> None:
    """Write class name and track id above each box, the largest thing last."""
    names = label_set.names
    high = things.box_xyxy[:, 3] - things.box_xyxy[:, 1] >= _MIN_LABELLED_HEIGHT
    things = things.where(high)
    for row in np.argsort(things.area, kind='stable'):
        x, y = things.box_xyxy[row, :2].tolist()
        text = f'{names[things.class_id[row]]} {things.track_id[row]}'
        (width, height), _ = cv2.getTextSize(text, _FONT, _LABEL_SCALE, 1)
        x = max(min(x, picture.shape[1] - width - 4), 0)
        y = max(y, height + 6)
        cv2.rectangle(picture, (x, y - height - 6), (x + width + 3, y - 1), (0, 0, 0), cv2.FILLED)
        at = (x + 2, y - 4)
        cv2.putText(picture, text, at, _FONT, _LABEL_SCALE, (255, 255, 255), 1, cv2.LINE_AA)
