"""``python -m panoptic_ros`` is the command ``panoptic``."""

import sys

from panoptic_ros.cli import main

sys.exit(main())
