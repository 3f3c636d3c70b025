"""MicroBi-ConvLSTM as an ONNX graph, in 32-bit floats or with the 8-bit weights and activations of `quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import require
from assay.methods.adaptation._micro_int8 import HIDDEN_SCALE, QuantModel
from assay.nn.quant import Affine, fold_batchnorm

if TYPE_CHECKING:
    from assay.methods.adaptation.micro_conv_lstm import MicroBiConvLSTM

OPSET = 17


class Graph:
    """Nodes and constants of an ONNX graph in the making."""

    def __init__(self) -> None:
        self.onnx = require("onnx", "adaptation")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: NDArray) -> str:
        """Add a constant tensor; returns its name."""
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, outputs: int = 1, **options: Any) -> str:
        """Add a node; returns the name of its last output."""
        names = [f"{name}_{i}" for i in range(outputs - 1)] + [name]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, names, name=f"n_{name}", **options))
        return name

    def weight(self, name: str, codes: NDArray, scale: NDArray, axis: int = 0) -> str:
        """8-bit weights with one scale per slice of `axis`, dequantised where they are used."""
        zero = self.constant(f"{name}_z", np.zeros(len(scale), np.int8))
        parts = [self.constant(f"{name}_q", codes.astype(np.int8)), self.constant(f"{name}_s", _f32(scale)), zero]
        return self.node("DequantizeLinear", parts, name, axis=axis)

    def through(self, name: str, of: str, quantizer: Affine) -> str:
        """An activation through its 8-bit codes and back."""
        scale = self.constant(f"{name}_s", np.float32(quantizer.scale))
        zero = self.constant(f"{name}_z", np.uint8(quantizer.zero_point))
        codes = self.node("QuantizeLinear", [of, scale, zero], f"{name}_q")
        return self.node("DequantizeLinear", [codes, scale, zero], name)


def to_onnx(model: MicroBiConvLSTM | QuantModel, path: str | Path | None = None) -> bytes:
    """The network as ONNX, input `x` (N, C, T) with free N and T, output `logits` (N, K).

    Of a `QuantModel` the convolutions run on 8-bit codes (QDQ form) and the LSTM keeps 8-bit weights; its gates and
    states are floats in ONNX, which has no other, so logits differ from the integer network by rounding.

    Args:
        path: file to write; None: none.

    Raises:
        ValueError: a network without LSTM. MissingExtra: `onnx` is not installed.
    """
    graph = Graph()
    helper, kinds = graph.onnx.helper, graph.onnx.TensorProto
    quantised = isinstance(model, QuantModel)
    if not quantised and model.lstm is None:
        raise ValueError("only a network with an LSTM is exported here")
    logits, classes = _quantised(graph, model) if quantised else _floats(graph, model)
    given = helper.make_tensor_value_info("x", kinds.FLOAT, ["n", model.channels, "t"])
    wanted = helper.make_tensor_value_info(logits, kinds.FLOAT, ["n", classes])
    made = helper.make_graph(graph.nodes, "micro_conv_lstm", [given], [wanted], graph.constants)
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="assay", ir_version=8)
    graph.onnx.checker.check_model(whole)
    data = whole.SerializeToString()
    if path is not None:
        Path(path).write_bytes(data)
    return data


def _floats(graph: Graph, model: MicroBiConvLSTM) -> tuple[str, int]:
    x = "x"
    for i, (conv, norm, size) in enumerate(zip(model.convs, model.norms, model.pool, strict=True)):
        folded = fold_batchnorm(conv, norm)
        weight = graph.constant(f"w{i}", folded.weight.detach().cpu().numpy())
        bias = graph.constant(f"b{i}", folded.bias.detach().cpu().numpy())
        x = _stage(graph, i, x, weight, bias, conv.kernel_size[0], size)
    lstm = model.lstm
    ways = ("", "_reverse") if lstm.bidirectional else ("",)
    table = {
        part: np.stack([getattr(lstm, f"{part}_l0{way}").detach().cpu().numpy() for way in ways])
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    cells = lstm.hidden_size
    weight = graph.constant("lw", _onnx_gates(table["weight_ih"], cells))
    recurrent = graph.constant("lr", _onnx_gates(table["weight_hh"], cells))
    bias = np.concatenate([_onnx_gates(table["bias_ih"], cells), _onnx_gates(table["bias_hh"], cells)], axis=1)
    x = _lstm(graph, x, weight, recurrent, graph.constant("lb", bias), cells, len(ways), model.readout)
    head = graph.constant("hw", model.head.weight.detach().cpu().numpy())
    return _head(graph, x, head, graph.constant("hb", model.head.bias.detach().cpu().numpy())), model.classes


def _quantised(graph: Graph, model: QuantModel) -> tuple[str, int]:
    x = graph.through("xq", "x", model.stages[0].input)
    for i, stage in enumerate(model.stages):
        unit = stage.weight_scale * stage.input.scale
        weight = graph.weight(f"w{i}", stage.weight, stage.weight_scale)
        parts = [graph.constant(f"b{i}_q", stage.bias.astype(np.int32)), graph.constant(f"b{i}_s", _f32(unit))]
        bias = graph.node("DequantizeLinear", parts, f"b{i}", axis=0)
        x = _stage(graph, i, x, weight, bias, stage.weight.shape[2], stage.pool)
        x = graph.through(f"a{i}", x, stage.output)
    cells, ways = model.directions[0].weight_hidden.shape[1], len(model.directions)
    tensors = []
    for part in ("in", "hidden"):  # directions lie in rows, so that one scale per row serves both
        codes = [_onnx_gates(getattr(d, f"weight_{part}")[None], cells)[0] for d in model.directions]
        scales = [_onnx_gates(getattr(d, f"scale_{part}")[None], cells)[0] for d in model.directions]
        flat = graph.weight(f"l{part}_rows", np.concatenate(codes), np.concatenate(scales))
        shape = graph.constant(f"l{part}_shape", np.array([ways, 4 * cells, codes[0].shape[1]], dtype=np.int64))
        tensors.append(graph.node("Reshape", [flat, shape], f"l{part}"))
    bias = np.stack([_onnx_gates(d.bias[None] / 4096.0, cells)[0] for d in model.directions])
    bias = np.concatenate([bias, np.zeros_like(bias)], axis=1)
    x = _lstm(graph, x, *tensors, graph.constant("lb", _f32(bias)), cells, ways, model.readout)
    head = graph.weight("hw", model.head, model.head_scale / HIDDEN_SCALE)
    return _head(graph, x, head, graph.constant("hb", model.head_bias)), len(model.head)


def _stage(graph: Graph, i: int, x: str, weight: str, bias: str, kernel: int, pool: int) -> str:
    x = graph.node("Conv", [x, weight, bias], f"c{i}", kernel_shape=[kernel], pads=[kernel // 2, kernel // 2])
    x = graph.node("Relu", [x], f"r{i}")
    return graph.node("MaxPool", [x], f"p{i}", kernel_shape=[pool], strides=[pool]) if pool > 1 else x


def _lstm(
    graph: Graph, x: str, weight: str, recurrent: str, bias: str, cells: int, ways: int, readout: str
) -> str:  # fmt: skip
    x = graph.node("Transpose", [x], "seq", perm=[2, 0, 1])
    direction = "bidirectional" if ways == 2 else "forward"
    options = {"hidden_size": cells, "direction": direction}
    if readout == "mean":
        graph.nodes.append(
            graph.onnx.helper.make_node("LSTM", [x, weight, recurrent, bias], ["states"], name="n_lstm", **options)
        )
        last = graph.node("ReduceMean", ["states"], "last", axes=[0], keepdims=0)  # (ways, N, H)
    else:
        last = graph.node("LSTM", [x, weight, recurrent, bias], "last", outputs=2, **options)
    first = graph.node("Transpose", [last], "ways", perm=[1, 0, 2])
    shape = graph.constant("flat", np.array([0, ways * cells], dtype=np.int64))
    return graph.node("Reshape", [first, shape], "feature")


def _head(graph: Graph, x: str, weight: str, bias: str) -> str:
    return graph.node("Gemm", [x, weight, bias], "logits", transB=1)


def _onnx_gates(table: NDArray, cells: int) -> NDArray:
    """Rows from the order input, forget, cell, output to ONNX's input, output, forget, cell; axis 1 holds 4H rows."""
    i, f, g, o = (table[:, k * cells : (k + 1) * cells] for k in range(4))
    return np.concatenate([i, o, f, g], axis=1)


def _f32(x: NDArray) -> NDArray[np.float32]:
    return np.asarray(x, dtype=np.float32)
