import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from assay.methods.adaptation import _micro_int8 as int8
from assay.methods.adaptation.micro_conv_lstm import (
    DeepConvLSTM,
    Fit,
    MicroBiConvLSTM,
    RandomKernels,
    TinierHAR,
    fit,
    flash_bytes,
    macs,
    predict,
    quantize,
    ram_bytes,
    to_onnx,
)
from assay.metrics.cost import parameter_count


def windows(n, channels, steps, seed=0):
    """Two classes: slow and fast waves."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    t = torch.arange(steps) / steps
    phase = 6.28 * torch.rand(n, channels, 1, generator=generator)
    x = torch.sin(6.28 * (2 + 4 * y)[:, None, None] * t + phase)
    return x + 0.3 * torch.randn(x.shape, generator=generator), y


@pytest.fixture(scope="module")
def trained():
    x, y = windows(120, 3, 48)
    torch.manual_seed(0)
    net = MicroBiConvLSTM(3, 2)
    how = Fit(updates=40, batch=24, lr=1e-2)
    return fit(net, x, y, how, generator=torch.Generator().manual_seed(0)), x, y


@pytest.mark.parametrize("channels", [1, 6, 9, 77])
@pytest.mark.parametrize("classes", [2, 6, 18])
def test_parameter_formula(channels, classes):
    assert parameter_count(MicroBiConvLSTM(channels, classes)) == 80 * channels + 33 * classes + 9104


def test_parameters_of_known_sets():
    assert parameter_count(MicroBiConvLSTM(9, 6)) == 10_022
    assert parameter_count(MicroBiConvLSTM(6, 4)) == 9_716
    uni = MicroBiConvLSTM(6, 4, hidden=25, bidirectional=False)
    assert parameter_count(uni.lstm) == 5_900


def test_macs_are_linear_and_what_the_counter_sees():
    net = MicroBiConvLSTM(9, 6).eval()
    head = 32 * 6
    assert macs(net, 128) == 80 * 9 * 128 + 2560 * 64 + 6144 * 32 + head
    assert macs(net, 256) - head == 2 * (macs(net, 128) - head)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.sequence(torch.zeros(1, 9, 128))
    assert counter.get_total_flops() == 2 * (macs(net, 128) - head - 6144 * 32)


@pytest.mark.parametrize("steps", [4, 5, 127, 128])
def test_pooled_length_and_too_short_windows(steps):
    net = MicroBiConvLSTM(2, 2).eval()
    assert net.sequence(torch.zeros(1, 2, steps)).shape[1] == net.length(steps) == steps // 4
    with pytest.raises(ValueError, match="at least 4"):
        net(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="expected windows"):
        net(torch.zeros(1, 3, steps))


@pytest.mark.parametrize("readout", ["last", "mean"])
def test_rows_of_a_batch_do_not_meet(readout):
    net = MicroBiConvLSTM(3, 4, readout=readout).eval()
    x = torch.randn(5, 3, 40, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([net(row[None]) for row in x])
    torch.testing.assert_close(net(x), alone, atol=1e-6, rtol=1e-5)


def test_forward_only_is_the_forward_half():
    both, one = MicroBiConvLSTM(3, 4).eval(), MicroBiConvLSTM(3, 4, bidirectional=False).eval()
    state = both.state_dict()
    own = {k: v for k, v in state.items() if "_reverse" not in k and not k.startswith("head")}
    one.load_state_dict(own, strict=False)
    x = torch.randn(4, 3, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one.features(x), both.features(x)[:, :16])
    last = both.features(x)[:, 16:]  # the backward half read the whole window too
    changed = x.clone()
    changed[:, :, -8:] += 1
    assert (both.features(changed)[:, 16:] - last).abs().max() > 1e-4


def test_gradients_reach_every_parameter():
    net = MicroBiConvLSTM(3, 2)
    x, y = windows(8, 3, 32)
    torch.nn.functional.cross_entropy(net(x), y).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in net.named_parameters() if "convs" not in n)
    assert all(net.convs[i].weight.grad.abs().sum() > 0 for i in range(2))


@pytest.mark.parametrize("bad", [{"channels": 0}, {"kernel": 4}, {"pool": (2,)}, {"readout": "max"}, {"hidden": -1}])
def test_bad_sizes(bad):
    with pytest.raises(ValueError):
        MicroBiConvLSTM(**{"channels": 3, "classes": 2, **bad})


def test_training_learns_and_is_repeatable(trained):
    net, x, y = trained
    assert (predict(net, x).argmax(1) == y).float().mean() > 0.9
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        small = MicroBiConvLSTM(3, 2, widths=(4, 4), hidden=4)
        fit(small, x, y, Fit(updates=3), generator=torch.Generator().manual_seed(3))
        made.append(predict(small, x))
    assert torch.equal(*made)
    with pytest.raises(ValueError, match="as many labels"):
        fit(net, x, y[:5], generator=torch.Generator())


def test_peers_learn_too():
    x, y = windows(60, 2, 40)
    for make in (TinierHAR,):
        torch.manual_seed(0)
        net = fit(make(2, 2), x, y, Fit(updates=30, batch=30, lr=1e-2), generator=torch.Generator().manual_seed(0))
        assert (predict(net, x).argmax(1) == y).float().mean() > 0.8
    deep = DeepConvLSTM(2, 2, filters=4, hidden=8)
    torch.nn.functional.cross_entropy(deep(x), y).backward()
    assert all(p.grad.abs().sum() > 0 for n, p in deep.named_parameters() if "weight" in n)
    bank = RandomKernels(500, generator=torch.Generator().manual_seed(0)).fit(x, y)
    fresh, truth = windows(60, 2, 40, seed=1)
    assert (bank.predict(fresh) == truth).float().mean() > 0.9


@pytest.mark.parametrize(("rows", "features"), [(40, 90), (200, 30)])
def test_ridge_picks_the_penalty_that_scikit_learn_picks(rows, features):
    linear = pytest.importorskip("sklearn.linear_model")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, features, generator=generator).double()
    x = x - x.mean(0)
    y = x[:, :2] + torch.randn(rows, 2, generator=generator)
    bank = RandomKernels(generator=generator)
    bank._ridge(x, y)
    theirs = linear.RidgeCV(np.logspace(-1, 5, 13)).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(bank.weight.numpy(), theirs.coef_.T, atol=1e-8)
    np.testing.assert_allclose(bank.bias.numpy(), theirs.intercept_, atol=1e-8)


def test_integer_sums_are_the_float_convolution_of_the_dequantised(trained):
    net, x, _ = trained
    small = quantize(net, x)
    stage = small.stages[0]
    codes = stage.input.quantize(x[:5])
    real = torch.nn.functional.conv1d(
        (codes - stage.input.zero_point).double(), torch.from_numpy(stage.weight).double(), padding=2
    )
    np.testing.assert_array_equal(int8.accumulate(stage, codes.numpy()), real.numpy() + stage.bias[:, None])
    assert np.abs(int8.accumulate(stage, codes.numpy())).max() < 2**24


def test_table_functions_are_close():
    z = np.arange(-32768, 32768)
    real = z / 4096
    assert np.abs(int8.sigmoid(z) / 32768 - 1 / (1 + np.exp(-real))).max() < 1e-4
    assert np.abs(int8.tanh(z) / 32768 - np.tanh(real)).max() < 1e-3


@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": False, "hidden": 10}, {"readout": "mean"}, {"widths": (8,), "pool": (3,)}],
    ids=["paper", "forward", "mean", "one stage"],
)
def test_eight_bits_follow_the_float_network(options):
    x, y = windows(80, 3, 45)
    torch.manual_seed(0)
    net = MicroBiConvLSTM(3, 2, **options)
    fit(net, x, y, Fit(updates=15, batch=40, lr=1e-2), generator=torch.Generator().manual_seed(0))
    real, small = predict(net, x), quantize(net, x)(x)
    assert (real - small).abs().mean() < 0.05 * real.std()
    sure = (real[:, 0] - real[:, 1]).abs() > 0.1
    assert torch.equal(real[sure].argmax(1), small[sure].argmax(1))


def test_zero_weights_give_the_bias():
    net = MicroBiConvLSTM(3, 4).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.head.bias.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    x, _ = windows(6, 3, 32)
    torch.testing.assert_close(quantize(net, x)(x), net.head.bias.detach().expand(6, 4))


def test_state_is_what_flash_counts(trained):
    net, x, _ = trained
    small = quantize(net, x)
    state = small.state()
    assert flash_bytes(net) == small.flash_bytes() == sum(a.nbytes for a in state.values())
    assert state["conv0.weight"].dtype == np.int8
    assert flash_bytes(net, 32) == 4 * (parameter_count(net) - 2 * 48 - 2 * 64)  # norms and second biases folded in
    assert ram_bytes(net, 48) == 24 * 16 + 12 * 32
    assert ram_bytes(net, 48, bits=32) == 4 * ram_bytes(net, 48)
    with pytest.raises(ValueError, match="8 or 32"):
        flash_bytes(net, 4)
    with pytest.raises(ValueError, match="LSTM"):
        quantize(MicroBiConvLSTM(3, 2, hidden=0), x)


@pytest.mark.parametrize(
    "options", [{}, {"readout": "mean"}, {"bidirectional": False}], ids=["last", "mean", "forward"]
)
def test_onnxruntime_agrees(options):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    x, y = windows(100, 3, 44)
    torch.manual_seed(0)
    net = MicroBiConvLSTM(3, 2, **options)
    fit(net, x, y, Fit(updates=20, batch=50, lr=1e-2), generator=torch.Generator().manual_seed(0))
    small = quantize(net, x)
    for model, ours, most in ((net, predict(net, x), 1e-4), (small, small(x), 0.1)):
        session = runtime.InferenceSession(to_onnx(model), providers=["CPUExecutionProvider"])
        theirs = session.run(None, {"x": x.numpy()})[0]
        assert np.abs(theirs - ours.numpy()).max() < most
        assert (theirs.argmax(1) == ours.numpy().argmax(1)).mean() >= 0.98


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) here")
@pytest.mark.parametrize("options", [{}, {"readout": "mean", "bidirectional": False}], ids=["paper", "mean forward"])
def test_c_header_compiles_and_gives_the_same_logits(options, tmp_path):
    x, y = windows(60, 3, 47)
    torch.manual_seed(0)
    net = MicroBiConvLSTM(3, 2, **options)
    fit(net, x, y, Fit(updates=10, batch=30, lr=1e-2), generator=torch.Generator().manual_seed(0))
    small = quantize(net, x[20:])
    header = small.to_c(tmp_path / "micro.h")
    assert not re.search(r"#include <(?!stdint)", header.read_text())
    (tmp_path / "main.c").write_text(
        '#include "micro.h"\n#include <stdio.h>\n'
        "int main(void) {\n  static float x[micro_WINDOW * micro_CHANNELS]; float logits[micro_CLASSES];\n"
        "  while (fread(x, sizeof x, 1, stdin) == 1) {\n    int best = micro_run(x, logits);\n"
        '    for (int k = 0; k < micro_CLASSES; k++) printf("%.9g ", logits[k]);\n    printf("%d\\n", best);\n  }\n'
        "  return 0;\n}\n"
    )
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-ffp-contract=off"]
    subprocess.run(["cc", *flags, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    loud = torch.cat([x[:19], 40 * x[19:20]])  # the last saturates
    given = loud.transpose(1, 2).contiguous().numpy().tobytes()
    out = subprocess.run([tmp_path / "main"], input=given, capture_output=True, check=True).stdout.decode()
    table = np.array([[float(v) for v in line.split()] for line in out.splitlines()])
    ours = small(loud).numpy()
    np.testing.assert_allclose(table[:, :-1], ours, atol=1e-4)
    np.testing.assert_array_equal(table[:, -1], ours.argmax(1))


def test_c_names_are_checked(trained, tmp_path):
    net, x, _ = trained
    with pytest.raises(ValueError, match="identifier"):
        quantize(net, x).to_c(tmp_path / "m.h", name="a b; system(")
