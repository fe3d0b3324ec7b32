"The images as tensors and as pictures; where they are kept is tested in test_storage.py."
import io

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from mnist_sgd.data import load_digit, load_pair, moving_picture, show_image, show_images, show_mistakes


def test_counts_of_the_notes(train, valid):
    assert [tuple(x.shape) for x in (*train, *valid)] == [
        (6131, 28, 28), (6265, 28, 28), (1010, 28, 28), (1028, 28, 28)]


def test_all_seventy_thousand_images():
    counts = [sum(len(load_digit(d, split, torch.uint8)) for d in range(10)) for split in ('train', 'valid')]
    assert counts == [60000, 10000]


def test_second_three_is_the_one_of_the_notes():
    im3 = load_digit(3, dtype=torch.uint8)[1]
    assert im3[9, 4:10].tolist() == [0, 3, 20, 20, 15, 0]
    assert im3[5, 9] == 29


@pytest.mark.parametrize('split', ['train', 'valid'])
@pytest.mark.parametrize('digit', range(10))
def test_float_is_uint8_over_255(digit, split):
    whole, real = load_digit(digit, split, torch.uint8), load_digit(digit, split)
    assert (whole.dtype, real.dtype) == (torch.uint8, torch.float32)
    assert_close(real, whole.float()/255, rtol=0, atol=0)
    assert 0 <= real.min() and real.max() <= 1


def test_pair_is_two_digits():
    four, nine = load_pair(4, 9, 'valid', torch.uint8)
    assert_close(four, load_digit(4, 'valid', torch.uint8))
    assert_close(nine, load_digit(9, 'valid', torch.uint8))


def test_test_is_another_word_for_valid():
    assert_close(load_pair(4, 9, 'test', torch.uint8), load_pair(4, 9, 'valid', torch.uint8))
    assert_close(load_digit(4, 'test'), load_digit(4, 'valid'))


def test_every_call_gives_its_own_memory():
    first = load_digit(1, 'valid')
    first.zero_()
    assert load_digit(1, 'valid').any()


@pytest.mark.parametrize('digit', [10, -1, 3.0, '3', None, True])
def test_unknown_digit(digit):
    with pytest.raises(ValueError, match='digit must be a whole number from 0 to 9, got'): load_digit(digit)


def test_bad_arguments():
    for split in ('tests', None, ['train'], 1):
        with pytest.raises(ValueError, match="split must be 'train', 'valid' or 'test' .the last two are the same., got"): load_digit(3, split)
    with pytest.raises(ValueError, match='dtype must be torch.float32 or torch.uint8'): load_digit(3, dtype=torch.int64)
    with pytest.raises(ValueError, match='two different digits, got 3 twice'): load_pair(3, 3)


def test_pictures():
    import matplotlib.pyplot as plt
    images = load_digit(3, 'valid')[:5]
    ax = show_image(images[0], title='a 3')
    assert ax.get_title() == 'a 3' and ax.images[0].get_cmap().name == 'Greys'
    assert_close(torch.tensor(ax.images[0].get_array()), images[0])
    assert show_image(images[1], ax, vmax=9) is ax and ax.images[-1].get_clim() == (0, 9)
    figure = show_images(images, ncols=3, titles=list('abcde'), title='five')
    assert [ax.get_title() for ax in figure.axes if ax.images] == list('abcde')
    plt.close('all')
    with pytest.raises(ValueError, match=r'one image \(28, 28\), got \(5, 28, 28\)'): show_image(images)
    with pytest.raises(ValueError, match='no image to draw'): show_images([])
    with pytest.raises(ValueError, match='5 images need as many titles, got 1'): show_images(images, titles=['a'])
    assert show_image(Image.fromarray(load_digit(3, dtype=torch.uint8)[0].numpy())).images[0].get_array().shape == (28, 28)
    plt.close('all')


def test_wall_of_mistakes():
    import matplotlib.pyplot as plt
    figure = show_mistakes(torch.rand(100, 28, 28), torch.full((100,), 7), torch.tensor([3]*30 + [7]*70), title='A model')
    ax, = figure.axes
    assert ax.get_title(loc='left') == 'A model: 30 of 100 wrong'
    assert [text.get_text() for text in ax.texts] == ['3s called 7: 30']
    assert ax.images[0].get_array().shape == (22 + 2*28, 25*30) # a heading, two rows; a pixel of an image is a pixel of the figure
    plt.close('all')


@pytest.mark.parametrize('wrong, words', [(200, 200), (201, 0), (0, 0)])
def test_wall_of_ten_digits_has_words_up_to_two_hundred_images(wrong, words):
    import matplotlib.pyplot as plt
    truth = torch.arange(300) % 10
    said = torch.where(torch.arange(300) < wrong, (truth + 1) % 10, truth)
    texts = show_mistakes(torch.rand(300, 28, 28), said, truth).axes[0].texts
    assert [text.get_text() for text in texts[:2]] == ['0 as 1', '1 as 2'][:words] and len(texts) == words
    plt.close('all')


def test_wall_draws_the_wrong_images_in_their_order(train):
    import matplotlib.pyplot as plt
    images, said, truth = train[0][:5].flatten(1), torch.tensor([3, 7, 3, 7, 3])[:, None], torch.full((5, 1), 3)
    drawn = show_mistakes(images, said, truth).axes[0].images[0].get_array()
    for place, i in enumerate((1, 3)): assert_close(torch.tensor(drawn[22:50, 30*place:30*place + 28]), 1 - train[0][i]/train[0][i].max())
    assert (drawn[:, 60:] == 1).all()
    plt.close('all')
    with pytest.raises(ValueError, match='an answer and a label for each image, got 4 and 5 for 5'): show_mistakes(images, said[:4], truth)


def test_moving_picture_rests_on_its_last_frame():
    shown = moving_picture(lambda fig, frame: fig.subplots().set_title(f'frame {frame}'), 3, size=(2, 1), ms=100)
    image = Image.open(io.BytesIO(shown.data))
    assert image.default_image and image.n_frames == 4 and image.size == (200, 100)
