"""Pictures on the page of a run: the images themselves, each in its place."""

import base64
import io

import matplotlib.image
import numpy as np
import pytest
from pages import Page, records
from runs import small_config

from gs_modules.train import data, models
from gs_modules.train.loop import Trainer
from gs_modules.train.pictures import pairs, take, wall
from gs_modules.train.report import run_page

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


@pytest.fixture
def trainer_of_codes():
    """A model whose images are its codes: every pixel is a class of a latent, lit or not."""
    config = small_config(model__num_latents=16)
    images = data.load("digits")
    built = models.build(config, 64)

    def decode(params, sample):
        return 200.0 * sample.reshape(*sample.shape[:-2], -1) - 100.0

    model = models.Model(**{**vars(built), "decode": decode})
    return Trainer(config, images, model)


def test_a_walk_changes_one_latent_at_a_time(trainer_of_codes):
    params = trainer_of_codes.init().best.params
    shown = take(trainer_of_codes, params)
    likeliest = trainer_of_codes.model.encode(params, shown.originals[0, :1]).logits.argmax(-1)[0]
    codes = shown.walk.reshape(16, 5, 16, 4).argmax(-1)
    for row in range(16):
        for column in range(5):
            expected = np.array(likeliest)
            if column:
                expected[row] = column - 1
            assert np.array_equal(codes[row, column], expected)
    assert shown.counts.sum() == 16 * 360
    assert set(np.unique(shown.sampled)) <= {0.0, 1.0}


def test_pictures_on_the_page_are_the_images(trainer_of_codes):
    shown = take(trainer_of_codes, trainer_of_codes.init().best.params)
    config = trainer_of_codes.config
    page = Page(run_page("run", config, records([10]), shown, step=0, sha256="0" * 64))
    address = page.attributes("img")[0]["src"]
    png = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    pixels = matplotlib.image.imread(io.BytesIO(png))
    expected = pairs(shown.originals, shown.reconstructed, (8, 8))
    assert np.array_equal(pixels[..., 3] == 0, np.isnan(expected))
    is_image = ~np.isnan(expected)
    assert np.abs(pixels[..., 0] - expected)[is_image].max() <= 1 / 255


def test_a_wall_puts_images_in_their_places():
    images = np.arange(2 * 3 * 4, dtype=float).reshape(2, 3, 4)
    joined = wall(images, (2, 2))
    assert joined.shape == (5, 8)
    assert np.array_equal(joined[3:5, 6:8], images[1, 2].reshape(2, 2))
    assert np.isnan(joined[2]).all() and np.isnan(joined[:, [2, 5]]).all()
