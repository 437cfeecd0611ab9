"""Imported checkpoints of every family, made once a run."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='extra import')
pytest.importorskip('transformers', reason='extra import')

from importing.checkpoints import RECIPES, family_of, write_checkpoint  # noqa: E402

from panoptic_ros.importing.checkpoint import open_checkpoint  # noqa: E402
from panoptic_ros.importing.importer import import_checkpoint  # noqa: E402
from panoptic_ros.importing.request import Request  # noqa: E402
from panoptic_ros.model import Model  # noqa: E402


@dataclass(frozen=True)
class Imported:
    """A checkpoint, transformers' network of it, the model it became, and what was said."""

    model_type: str
    checkpoint: Path
    network: 'torch.nn.Module'
    model: Model
    log: list[str]


def scenery(size_wh: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return a smooth picture with edges, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    width, height = size_wh
    picture = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), size_wh)
    box = picture[height // 3 :, width // 4 : width // 2]
    box[:] = 255 - box
    return picture


def import_small(model_type: str, folder: Path, published: bool = False) -> Imported:
    """Make a checkpoint of a family's small, or published, configuration and import it."""
    family = family_of(model_type)
    checkpoint, picture = folder / 'checkpoint', folder / 'picture.png'
    cv2.imwrite(str(picture), scenery((160, 120)))
    size_wh = RECIPES[model_type].size_wh[published]
    fitted_to = cv2.resize(scenery((160, 120))[..., ::-1], size_wh)
    network = write_checkpoint(model_type, checkpoint, fitted_to, published)
    log: list[str] = []
    request = Request(str(checkpoint), folder / 'model', pictures=(picture,), licence='made here')
    model = import_checkpoint(request, log.append)
    assert family.size_wh(open_checkpoint(str(checkpoint)), None) == size_wh
    return Imported(model_type, checkpoint, network, model, log)


@pytest.fixture(scope='session', params=list(RECIPES))
def imported(request, tmp_path_factory) -> Imported:
    """Return an imported checkpoint, of every family in turn."""
    return import_small(request.param, tmp_path_factory.mktemp(request.param))
