import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from mnist_sgd.pixel_similarity import is_3, mnist_distance, pixel_accuracy


@pytest.fixture(scope='module')
def means(train): return train[0].mean(0), train[1].mean(0)


def close(a, b): assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=5e-5)


def test_distances_of_the_notes(train, means):
    a_3 = train[0][1]
    close(mnist_distance(a_3, means[0]), .1114)
    close(mnist_distance(a_3, means[1]), .1586)
    close(F.mse_loss(a_3, means[0]).sqrt(), .2021)
    close(F.mse_loss(a_3, means[1]).sqrt(), .3021)


def test_accuracies(valid, means):
    close(pixel_accuracy(*valid, *means), (.9168, .9854, .9511))


def test_notes_distances_are_among_ours(valid, means):
    distances = mnist_distance(valid[0], means[0])
    assert distances.shape == (1010,)
    for printed in (.1050, .1526, .1186, .1122, .1170, .1086): assert (distances - printed).abs().min() < 5e-5


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(0, 2**31))
def test_distance_is_l1_loss_of_each_image(n, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(n, 28, 28, generator=generator), torch.rand(28, 28, generator=generator)
    assert_close(mnist_distance(a, b), torch.stack([F.l1_loss(x, b) for x in a]))
    assert_close(mnist_distance(a, b), mnist_distance(b, a))
    assert_close(mnist_distance(b, b), torch.tensor(0.))


def test_is_3_of_one_image_and_of_a_stack(train, means):
    assert is_3(train[0][1], *means).item() is True
    assert is_3(train[1][1], *means).item() is False
    assert is_3(train[1][:7], *means).shape == (7,)


@pytest.mark.parametrize('bad', [torch.zeros(28, 28, dtype=torch.uint8), torch.zeros(28, 28).long(), [[0.]*28]*28])
def test_needs_floats(bad):
    with pytest.raises(TypeError, match=r'mnist_distance: a must be (floats, got .*; call .float\(\)/255 on the images|a tensor, got list)'):
        mnist_distance(bad, torch.zeros(28, 28))


@pytest.mark.parametrize('shape', [(28,), (28, 27), (784,), (5, 1, 28)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r'mnist_distance: (a must have the shape \(\*stack, h, w\)|b must have a shape that can be broadcast with a, .* got float32 \(28, 28\))'):
        mnist_distance(torch.zeros(shape), torch.zeros(28, 28))


def test_stacks_that_do_not_fit():
    with pytest.raises(ValueError, match=r'b must have a shape that can be broadcast with a, \(5, 28, 28\), got float32 \(4, 28, 28\)'):
        mnist_distance(torch.zeros(5, 28, 28), torch.zeros(4, 28, 28))


def test_means_are_single_images(train, means):
    with pytest.raises(ValueError, match=r'is_3: mean3 must have the shape \(h, w\).* got float32 \(6131, 28, 28\); call mean3.mean\(0\)'):
        is_3(train[0][1], train[0], means[1])


def test_nan_is_no_distance(train, means):
    with pytest.raises(ValueError, match='the result must be numbers, got NaN; look for NaN in the inputs'):
        is_3(train[0], train[0][:0].mean(0), means[1])


def test_no_images(means):
    with pytest.raises(ValueError, match='threes is empty'):
        pixel_accuracy(torch.zeros(0, 28, 28), torch.zeros(2, 28, 28), *means)


def test_nearest_training_image(train, valid):
    distances = torch.cdist(torch.cat(valid).flatten(1), torch.cat(train).flatten(1))
    right = (distances.argmin(1) < len(train[0])) == (torch.arange(2038) < 1010)
    assert_close(right.float().mean().item(), .994, atol=5e-4, rtol=0)
