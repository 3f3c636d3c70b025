import pytest
import torch

from assay.nn.conv_autoencoder import PRESETS, ConvAutoencoder, DenseAutoencoder, encode_all


@pytest.mark.parametrize(
    ("shape", "preset", "latent"),
    [((1, 32, 32), "coil-20", 15 * 16 * 16), ((1, 32, 32), "orl", 3 * 4 * 4), ((1, 48, 42), "yale-b", 30 * 6 * 6),
     ((3, 9, 7), "coil-20", 15 * 5 * 4)],
)  # fmt: skip
def test_pictures_of_any_size_come_back_in_their_size(shape, preset, latent):
    net = ConvAutoencoder(shape, *PRESETS[preset])
    x = torch.rand(2, *shape)
    assert net.encode(x).shape == (2, latent)
    assert net(x).shape == x.shape


@pytest.mark.parametrize("dense", [True, False])
def test_it_learns_to_reconstruct_and_every_weight_takes_part(dense):
    torch.manual_seed(0)
    net = DenseAutoencoder(64) if dense else ConvAutoencoder((1, 8, 8), (6, 4), (3, 3))
    x = torch.rand(20, 64) if dense else torch.rand(20, 1, 8, 8)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = (net(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
    torch.testing.assert_close(encode_all(net, x, batch=7), net.encode(x).detach())


@pytest.mark.parametrize(("channels", "kernels"), [((), ()), ((4,), (3, 3)), ((4,), (2,))])
def test_bad_layers_are_refused(channels, kernels):
    with pytest.raises(ValueError, match="kernel"):
        ConvAutoencoder((1, 8, 8), channels, kernels)
