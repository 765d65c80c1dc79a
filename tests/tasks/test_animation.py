"""Episodes of Match as animated GIFs."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from gatecore.tasks.environments import scripted_policies
from gatecore.tasks.environments.animation import film, save_gif
from gatecore.tasks.environments.match import Match


def test_film_returns_the_frames_of_one_episode():
    environment = Match(3, "active", phases=(4, 5, 15), apple_reward=1.0)
    pictures = film(environment, scripted_policies.perfect, rng=2, scale=3)
    assert len(pictures) == 4 + 5 + 15 + 1
    assert {(picture.shape, picture.dtype) for picture in pictures} == {
        ((21, 33, 3), np.dtype(np.uint8))
    }
    target = next(
        colour for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))
        if (pictures[0] == colour).all(-1).any()
    )  # fmt: skip
    visible = [bool((picture == target).all(-1).any()) for picture in pictures]
    assert visible[:9] == [True] * 4 + [False] * 5
    assert visible[9]
    assert not visible[-1]  # the pads vanished


def test_a_gif_has_every_frame_in_its_exact_colours(tmp_path):
    pictures = film(
        Match(1, phases=(2, 6, 8), pads=4), scripted_policies.random_walk, rng=3, scale=2
    )
    path = tmp_path / "game.gif"
    save_gif(path, pictures, seconds=0.1)
    with Image.open(path) as image:
        frames = []
        for frame in ImageSequence.Iterator(image):
            times = round(frame.info["duration"] / 100)  # equal frames are merged into a longer one
            frames += [np.asarray(frame.convert("RGB"))] * times
        assert image.info["loop"] == 0
    np.testing.assert_array_equal(np.stack(frames), np.stack(pictures))


def test_invalid_frames_are_refused(tmp_path):
    path = tmp_path / "game.gif"
    with pytest.raises(ValueError, match="at least one, got none"):
        save_gif(path, [])
    with pytest.raises(ValueError, match="must have one shape"):
        save_gif(path, [np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)])
    many = np.random.default_rng(0).integers(256, size=(20, 20, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="at most 256 colours, got 400"):
        save_gif(path, [many])
    assert not path.exists()
