"""PSNR and SSIM against values worked out by hand and a direct, slow SSIM."""
import numpy as np
import pytest

from turbo_engine.compare import aligned, psnr, ssim


def noisy_pair(seed=0, amount=20):
    rng = np.random.default_rng(seed)
    a = np.kron(rng.integers(30, 220, (2, 6, 6, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-amount, amount + 1, a.shape), 0, 255).astype(np.uint8)
    return a, b


def test_equal_frames_are_at_the_top():
    a, _ = noisy_pair()
    assert np.isinf(psnr(a, a)).all()
    np.testing.assert_allclose(ssim(a, a), 1.0, atol=1e-6)


def test_psnr_of_a_known_error():
    a = np.full((2, 8, 8, 3), 100, np.uint8)
    b = a.copy()
    b[1] += 10
    assert np.isinf(psnr(a, b)[0])
    np.testing.assert_allclose(psnr(a, b)[1], 20 * np.log10(25.5))


def test_ssim_equals_the_formula_summed_window_by_window():
    a, b = noisy_pair()
    luma = [0.2126, 0.7152, 0.0722]
    ax = np.arange(-5, 6)
    kernel = np.exp(-(ax[:, None] ** 2 + ax ** 2) / (2 * 1.5 ** 2))
    kernel /= kernel.sum()
    x, y = (np.pad(f[0] @ luma, 5, mode="symmetric") for f in (a, b))
    scores = []
    for i in range(a.shape[1]):
        for j in range(a.shape[2]):
            p, q = x[i:i + 11, j:j + 11], y[i:i + 11, j:j + 11]
            mp, mq = (kernel * p).sum(), (kernel * q).sum()
            vp, vq = (kernel * p * p).sum() - mp ** 2, (kernel * q * q).sum() - mq ** 2
            cov = (kernel * p * q).sum() - mp * mq
            scores.append((2 * mp * mq + 6.5025) * (2 * cov + 58.5225) / ((mp ** 2 + mq ** 2 + 6.5025) * (vp + vq + 58.5225)))
    assert ssim(a, b)[0] == pytest.approx(np.mean(scores), abs=1e-4)


def test_more_noise_is_less_alike():
    scores = [ssim(*noisy_pair(amount=n)).mean() for n in (2, 10, 40)]
    assert scores[0] > scores[1] > scores[2]


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="expected two uint8"):
        ssim(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8))


def test_aligned_leaves_alike_clips_alone_and_brings_others_to_one_clock_and_size():
    a, b = noisy_pair()
    same = aligned(a, b, 16, 16)
    assert same[0] is a and same[1] is b and same[2] == 16
    slow, small = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3), np.full((2, 4, 4, 3), 9, np.uint8)
    one, two, fps = aligned(slow, small, 8, 16)
    assert fps == 16 and one.shape == two.shape == (6, 8, 8, 3)
    assert one[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2] and (two == 9).all()


def test_aligned_refuses_two_shapes_of_picture():
    with pytest.raises(ValueError, match="one is 8 x 8, the other 8 x 4"):
        aligned(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 4, 8, 3), np.uint8), 16, 16)
