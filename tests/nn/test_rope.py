import pytest
import torch

from assay.nn.rope import grid_positions, rotary_angles, rotate


def turned(x, positions, base=100.0):
    return rotate(x, rotary_angles(positions, x.shape[-1], base))


def test_scores_depend_on_the_difference_of_positions_only():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 16, generator=g), torch.randn(1, 16, generator=g)
    near, far = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 0.0]])
    shift = torch.tensor([[7.0, -3.0]])
    score = turned(q, near) @ turned(k, far).T
    torch.testing.assert_close(score, turned(q, near + shift) @ turned(k, far + shift).T, atol=1e-4, rtol=1e-4)
    assert abs(score - turned(q, near) @ turned(k, near).T) > 1e-3


def test_a_rotation_keeps_length_and_is_complex_multiplication():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(5, 8, generator=g)
    positions = torch.arange(5.0)[:, None]
    cosine, sine = rotary_angles(positions, 8)
    y = rotate(x, (cosine, sine))
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    expected = torch.view_as_complex(x.reshape(5, 4, 2)) * torch.complex(cosine[:, ::2], sine[:, ::2])
    torch.testing.assert_close(torch.view_as_complex(y.reshape(5, 4, 2)), expected)


def test_position_zero_and_no_rotation_leave_tokens_as_they_are():
    x = torch.randn(1, 12)
    torch.testing.assert_close(turned(x, torch.zeros(1, 3)), x)
    assert rotate(x, None) is x


def test_grid_runs_row_by_row():
    assert grid_positions((2, 3), (0, 10)).tolist() == [[0, 10], [0, 11], [0, 12], [1, 10], [1, 11], [1, 12]]


def test_head_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        rotary_angles(torch.zeros(3, 2), 10)
