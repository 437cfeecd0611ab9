"""Networks whose sampling ONNX Runtime's CUDA provider can run."""

from pathlib import Path


def widen_grid_samples(network: str | Path | bytes) -> bytes | None:
    """Return an ONNX file whose float16 GridSample nodes compute in float32.

    The CUDA provider has a float32 kernel only (ONNX Runtime 1.31). A float16 node runs on the
    CPU, with copies to and from the GPU, and makes a CUDA graph impossible: 18 nodes in
    Mask2Former. The file itself keeps float16, which TensorRT runs.

    Returns None if the file has no such node, or the package onnx is missing.
    """
    try:
        import onnx
    except ImportError:
        return None
    from onnx import TensorProto, helper

    loaded = onnx.load_from_string(network) if isinstance(network, bytes) else onnx.load(network)
    graph = onnx.shape_inference.infer_shapes(loaded).graph
    halves = {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    halves |= {i.name for i in graph.initializer if i.data_type == TensorProto.FLOAT16}
    nodes = []
    for node in loaded.graph.node:
        if node.op_type != 'GridSample' or not halves.issuperset(node.input):
            nodes.append(node)
            continue
        (result,) = node.output
        for position, name in enumerate(node.input):
            node.input[position] = f'{result}_float32_{position}'
            nodes.append(
                helper.make_node('Cast', [name], [node.input[position]], to=TensorProto.FLOAT)
            )
        node.output[0] = f'{result}_float32'
        nodes += [
            node,
            helper.make_node('Cast', [node.output[0]], [result], to=TensorProto.FLOAT16),
        ]
    if len(nodes) == len(loaded.graph.node):
        return None
    del loaded.graph.node[:]
    loaded.graph.node.extend(nodes)
    del loaded.graph.value_info[:]
    return bytes(loaded.SerializeToString())
