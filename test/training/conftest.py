"""A network with random weights, exported once for the tests of export and of what follows it."""

import pytest
import torch

from panoptic_ros.model import Model
from panoptic_ros.training.export import export_model
from panoptic_ros.training.golden_image import golden_image
from panoptic_ros.training.network.centre_network import CentreNetwork
from panoptic_ros.training.network.efficientnet_lite import EfficientNetLite


@pytest.fixture(scope='session')
def exported(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    network = CentreNetwork(EfficientNetLite(0, pretrained=False), 19)
    # Statistics of a real batch, so that folding the normalisation has something to fold.
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, 3, 64, 128) * 255)
    folder = tmp_path_factory.mktemp('models') / 'random'
    return export_model(
        network,
        folder,
        golden_image=golden_image('cityscapes', (128, 64)),
        label_set='cityscapes',
        peaks=16,
    )
