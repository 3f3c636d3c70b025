import numpy as np
import pytest
import torch
from torch import nn

from assay.nn.quant import (
    activation_range,
    affine,
    fixed_point,
    fold_batchnorm,
    quantize_weight,
    rescale,
    round_away,
)


def trained_norm(kind, channels, generator):
    norm = kind(channels)
    for value in (norm.weight, norm.bias, norm.running_mean):
        value.data.normal_(generator=generator)
    norm.running_var.uniform_(0.2, 3.0, generator=generator)
    return norm.eval()


@pytest.mark.parametrize(
    ("conv", "norm", "shape"),
    [
        (nn.Conv1d(3, 5, 3), nn.BatchNorm1d, (2, 3, 9)),
        (nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d, (2, 4, 7, 7)),
        (nn.Linear(4, 3), nn.BatchNorm1d, (5, 4)),
    ],
)
def test_folding_keeps_the_function(conv, norm, shape):
    generator = torch.Generator().manual_seed(0)
    norm = trained_norm(norm, conv.weight.shape[0], generator)
    x = torch.randn(shape, generator=generator)
    before = conv.weight.clone()
    folded = fold_batchnorm(conv, norm)
    torch.testing.assert_close(folded(x), norm(conv(x)), atol=1e-5, rtol=1e-5)
    assert torch.equal(conv.weight, before)


def test_folding_refuses_other_channels_and_missing_statistics():
    with pytest.raises(ValueError, match="5 output channels"):
        fold_batchnorm(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match="running"):
        fold_batchnorm(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5, track_running_stats=False))


def test_weights_come_back_within_half_a_step_and_scale_with_their_row():
    w = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(1))
    w[2] = 0
    codes, scale = quantize_weight(w)
    back = codes * scale[:, None, None]
    assert ((back - w).abs() <= scale[:, None, None] / 2 + 1e-12).all()
    assert codes.abs().max() == 127
    assert scale[2] == 1
    tenfold, scale10 = quantize_weight(w * 10)
    assert torch.equal(tenfold, codes)
    torch.testing.assert_close(scale10[0], scale[0] * 10)


def test_affine_holds_zero_exactly_and_is_onnxruntimes():
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    q = affine(-1.3, 2.9)
    x = torch.linspace(-2, 4, 1001)
    assert q.fake(torch.zeros(1)).item() == 0
    h, kinds = onnx.helper, onnx.TensorProto
    constants = [
        onnx.numpy_helper.from_array(np.float32(q.scale), "s"),
        onnx.numpy_helper.from_array(np.uint8(q.zero_point), "z"),
    ]
    graph = h.make_graph(
        [h.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])], "g",
        [h.make_tensor_value_info("x", kinds.FLOAT, [1001])], [h.make_tensor_value_info("q", kinds.UINT8, [1001])],
        constants,
    )  # fmt: skip
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    theirs = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x.numpy()}
    )[0]
    off = np.abs(theirs.astype(int) - q.quantize(x).numpy())
    assert off.max() <= 1  # halves go to even there, away from zero here
    assert (off == 0).mean() > 0.99


def test_fake_quantisation_passes_gradients_inside_the_range_only():
    x = torch.tensor([-3.0, 0.3, 5.0], requires_grad=True)
    affine(-1, 1).fake(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 0]


@pytest.mark.parametrize(("low", "high"), [(0, float("nan")), (1, -1), (0, float("inf"))])
def test_affine_refuses(low, high):
    with pytest.raises(ValueError, match="finite"):
        affine(low, high)


def test_percentile_ignores_an_outlier_that_the_maximum_keeps():
    x = torch.cat([torch.linspace(-1, 1, 100_000), torch.tensor([1000.0])])
    low, high = activation_range(x)
    assert -1 <= low < -0.99
    assert 0.99 < high < 1.01
    assert activation_range(x, percentile=100)[1] == 1000


def test_entropy_clips_a_long_tail_and_keeps_a_uniform_sample_whole():
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(20_000, generator=generator) * 2 - 1
    assert activation_range(flat, "entropy")[1] > 0.9
    tail = torch.cat([torch.randn(20_000, generator=generator), torch.tensor([60.0])])
    assert activation_range(tail, "entropy")[1] < 20
    with pytest.raises(ValueError, match="at least one"):
        activation_range([], "entropy")


@pytest.mark.parametrize("scale", [1e-9, 0.00037, 0.5, 1.0, 3.7, 1000.0])
def test_fixed_point_rescaling_is_rounding(scale):
    mantissa, shift = fixed_point(scale)
    sums = np.random.default_rng(0).integers(-(2**20), 2**20, 500)
    exact = np.floor(sums * scale + 0.5)
    assert np.abs(rescale(sums, mantissa, shift) - exact).max() <= (1 if scale > 1 else 0)


def test_rounding_is_away_from_zero():
    assert round_away(torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.4])).tolist() == [-2, -1, 1, 2, 2]
