"""Large pictures as input: files of many kinds, at the resolution asked for."""
