"""Inputs besides the image: depth images and transforms."""
