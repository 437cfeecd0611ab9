"""Panoptic maps of pictures far larger than a network's input: slides, aerial pictures, volumes.

The picture is cut into overlapping windows (``windows``); a row of windows is one band
(``bands``). Each window is segmented, and the maps of the windows are stitched into one map with
instance ids that hold across the whole picture (``stitching``). Only one band is in memory.
"""
