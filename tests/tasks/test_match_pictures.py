"""Games of Match as animated pictures."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from gatecore.tasks.environments import scripted_policies
from gatecore.tasks.environments.animation import film, save_gif
from gatecore.tasks.environments.match import Match


def test_a_film_shows_one_game_from_its_first_sight_to_its_last():
    world = Match(3, "active", phases=(4, 5, 15), apple_reward=1.0)
    pictures = film(world, scripted_policies.perfect, rng=2, scale=3)
    assert len(pictures) == 4 + 5 + 15 + 1
    assert {(picture.shape, picture.dtype) for picture in pictures} == {
        ((21, 33, 3), np.dtype(np.uint8))
    }
    target = next(
        colour for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))
        if (pictures[0] == colour).all(-1).any()
    )  # fmt: skip
    shown = [bool((picture == target).all(-1).any()) for picture in pictures]
    assert shown[:9] == [True] * 4 + [False] * 5
    assert shown[9]
    assert not shown[-1]  # it was chosen


def test_a_gif_has_every_picture_in_its_colours(tmp_path):
    pictures = film(Match(1, phases=(2, 6, 8), pads=4), scripted_policies.walker, rng=3, scale=2)
    path = tmp_path / "game.gif"
    save_gif(path, pictures, seconds=0.1)
    with Image.open(path) as image:
        shown = []
        for frame in ImageSequence.Iterator(image):
            times = round(frame.info["duration"] / 100)  # equal pictures are one, for longer
            shown += [np.asarray(frame.convert("RGB"))] * times
        assert image.info["loop"] == 0
    np.testing.assert_array_equal(np.stack(shown), np.stack(pictures))


def test_pictures_that_cannot_be_a_gif_are_refused(tmp_path):
    path = tmp_path / "game.gif"
    with pytest.raises(ValueError, match="at least one, got none"):
        save_gif(path, [])
    with pytest.raises(ValueError, match="must have one shape"):
        save_gif(path, [np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)])
    many = np.random.default_rng(0).integers(256, size=(20, 20, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="at most 256 colours, got 400"):
        save_gif(path, [many])
    assert not path.exists()
