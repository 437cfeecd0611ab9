"""Results of a large picture: label raster, polygons, tables, written whole or not at all."""
