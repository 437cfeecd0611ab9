"""A renderer of synthetic streets with exact panoptic truth and depth.

It needs no data and no graphics card, so the demo, the benchmarks and the tests use it, and
training can mix its images in. From the bottom up:

* :mod:`.shape`, :mod:`.vehicles`, :mod:`.people`, :mod:`.scenery`: shapes of convex polygons;
  :mod:`.textures`: their surfaces.
* :mod:`.style`, :mod:`.things`, :mod:`.blocks`, :mod:`.world`: what is where at which time.
* :mod:`.geometry`, :mod:`.polygons`, :mod:`.painting`, :mod:`.appearance`: from the world to a
  frame.
* :mod:`.scene`: :class:`~panoptic_ros.datasets.street.scene.SyntheticStreet`, which renders the
  frame of any number.
"""
