"""From panoptic maps to objects in space and time.

* :mod:`.tracking`: ids that objects keep from frame to frame, and their motion.
* :mod:`.geometry`: pinhole camera, ground plane, boxes without depth; :mod:`.depth`: boxes from a
  depth image.
* :mod:`.ground_view`, :mod:`.free_space`: the occupancy grid.
* :mod:`.collision`: time to collision.
* :mod:`.supports`, :mod:`.occlusion`: relations and surfaces for manipulation and augmented
  reality.

All functions are pure; only the tracker has state. Units are metres, seconds and pixels.
"""
