"""Instance segmentation networks as ONNX files that their own packages exported."""
