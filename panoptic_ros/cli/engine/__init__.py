"""Commands around engines: build, verify, inspect, benchmark, fuse and the GPU report."""
