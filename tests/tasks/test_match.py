"""Match, frame by frame: phases, rewards, apples."""

import numpy as np
import pytest

from gatecore.tasks.environments import maps
from gatecore.tasks.environments.maps import NAMED
from gatecore.tasks.environments.match import Match

NORTH, SOUTH, WEST, EAST = range(4)
DELTAS = [(-1, 0), (1, 0), (0, -1), (0, 1)]
EXPLORE, DISTRACTOR, REWARD = range(3)
PLAYER, WALL, FLOOR, APPLE = (229, 149, 110), (25, 25, 25), (204, 204, 204), (140, 178, 0)


def cell(row, column):
    """The index of a cell of the 7 by 11 map, in a board with its margin of 2."""
    return (row + 2) * 15 + column + 2


def one(level="passive", phase=EXPLORE, seed=0, **settings):
    """One episode at the start of a phase; the phases before it have one frame."""
    lengths = [1] * phase + list(settings.pop("phases", (15, 90, 15)))[phase:]
    environment = Match(1, level, phases=tuple(lengths), **settings)
    environment.reset(seed)
    for _ in range(phase):
        environment.step(np.array([NORTH]))
    return environment


def walk(environment, directions):
    """The rewards of a single episode's steps, and whether it ended at each."""
    results = [environment.step(np.array([direction])) for direction in directions]
    return [float(result.reward[0]) for result in results], [
        bool(result.ended[0]) for result in results
    ]


def at(environment):
    """Row and column of the single episode's player, read from its text."""
    lines = environment.text().split("\n")
    return next((i, line.index("+")) for i, line in enumerate(lines) if "+" in line)


def lay(environment, apples):
    """Place apples at these cells only."""
    environment.board[0][environment.board[0] == maps.APPLE] = maps.FLOOR
    for row, column in apples:
        environment.board[0, cell(row, column)] = maps.APPLE


def test_a_passive_player_sees_the_colour_and_cannot_move():
    for seed in range(20):
        environment = one(seed=seed)
        observation = environment.observe()[0]
        colours = [tuple(colour) for colour in observation.reshape(-1, 3).tolist()]
        assert colours[12] == PLAYER
        ring = [colours[k] for k in (6, 7, 8, 11, 13, 16, 17, 18)]
        assert ring.count(WALL) == 7
        assert tuple(environment.palette[0, maps.PADS].tolist()) in ring
        assert {colours[k] for k in range(25) if k not in (6, 7, 8, 11, 12, 13, 16, 17, 18)} == {
            FLOOR
        }
        for direction in range(4):
            rewards, _ = walk(environment, [direction])
            assert (at(environment), rewards) == ((3, 5), [0])
            np.testing.assert_array_equal(environment.observe()[0], observation)


def test_active_starts_and_targets_are_uniform_over_their_cells():
    environment = Match(6000, "active")
    starts, targets = [], []
    for game in range(environment.size):
        rows = environment.text(game).split("\n")
        places = [
            (row, i, line.index(row)) for i, line in enumerate(rows) for row in "+0" if row in line
        ]
        starts += [(i, j) for symbol, i, j in places if symbol == "+"]
        targets += [(i, j) for symbol, i, j in places if symbol == "0"]
    assert set(starts) == {(i, j) for i in (4, 5) for j in range(3, 8)}
    ring = {(i, j) for i, row in enumerate(maps.ACTIVE) for j, at in enumerate(row) if at == "p"}
    assert (set(targets), len(ring), len(targets)) == (ring, 26, 6000)
    for places, number in ((starts, 10), (targets, 26)):
        counts = np.unique(places, axis=0, return_counts=True)[1]
        np.testing.assert_allclose(counts, 6000 / number, atol=5 * (6000 / number) ** 0.5)


def test_walls_and_the_coloured_cell_stop_an_active_player():
    environment = one("active")
    environment.board[0, cell(3, 3)] = maps.PADS  # in the wall between the rooms
    environment.position[0] = cell(4, 3)
    assert walk(environment, [NORTH])[0] == [0]
    assert at(environment) == (4, 3)
    walk(environment, [WEST])
    assert at(environment) == (4, 3)
    walk(environment, [EAST, NORTH, NORTH, NORTH, NORTH])
    assert at(environment) == (1, 4)


def test_each_phase_has_its_frames_and_its_last_action_starts_the_next():
    environment = Match(1, "active", phases=(3, 4, 2))
    environment.reset(7)
    contents = [(environment.text().count("a"), environment.text().count("\n"))]
    phases = []
    for _ in range(18):
        result = environment.step(np.array([SOUTH]))
        phases.append((int(environment.phase[0]), bool(result.ended[0])))
        contents.append((environment.text().count("a"), environment.text().count("\n")))
    game = [(0, False)] * 2 + [(1, False)] * 4 + [(2, False)] * 2 + [(0, True)]
    assert phases == game * 2
    assert [apples > 0 for apples, _ in contents[:10]] == [False] * 3 + [True] * 4 + [False] * 3


def test_a_second_phase_of_no_frames_is_skipped():
    environment = Match(3, phases=(2, 0, 2))
    phases = [environment.step(np.zeros(3, int)) and environment.phase.tolist() for _ in range(4)]
    assert phases == [[0] * 3, [2] * 3, [2] * 3, [0] * 3]


def test_ten_of_twenty_two_cells_have_an_apple_uniformly():
    environment = Match(3000, phases=(1, 90, 15))
    environment.step(np.zeros(3000, int))
    apples = environment.board == maps.APPLE
    assert set(apples.sum(axis=1).tolist()) == {10}
    share = apples.mean(axis=0)
    assert (share > 0).sum() == 22
    np.testing.assert_allclose(share[share > 0], 10 / 22, atol=0.05)
    rows, columns = np.divmod(np.flatnonzero(share) - cell(0, 0), 15)
    assert {(int(i), int(j)) for i, j in zip(rows, columns, strict=True)} == {
        (i, j) for i in range(1, 6) for j in range(1, 10) if (i + j) % 2 == 0
    } - {(5, 5)}


def test_an_apple_pays_once_and_returns_20_frames_after_it_was_eaten():
    environment = one(phase=DISTRACTOR, apple_reward=5.0)
    lay(environment, [(5, 3)])
    assert walk(environment, [WEST, WEST]) == ([0, 5], [False] * 2)  # eaten in the second frame
    for frame in range(3, 22):
        rewards, _ = walk(environment, [EAST if frame % 2 else WEST])
        assert (rewards, environment.text().count("a")) == ([0], 0)
    assert at(environment) == (5, 4)
    walk(environment, [EAST])  # frame 22
    assert environment.text().split("\n")[5][3] == "a"
    assert walk(environment, [WEST, WEST])[0] == [0, 5]


def test_a_player_where_an_apple_returns_eats_it_one_frame_later():
    environment = one(phase=DISTRACTOR, apple_reward=1.0)
    lay(environment, [(5, 3)])
    rewards, _ = walk(environment, [WEST, WEST] + [SOUTH] * 42)  # there is a wall in the south
    assert [frame for frame, reward in enumerate(rewards, 1) if reward] == [2, 23, 44]


def test_the_score_counts_pads_and_not_apples():
    environment = one(phase=DISTRACTOR, phases=(1, 2, 15), apple_reward=5.0, wrong_reward=3.0)
    lay(environment, [(4, 4)])
    results = [environment.step(np.array([a])) for a in (WEST, NORTH, *[NORTH] * 4)]
    assert [float(result.reward[0]) for result in results[:5]] == [0, 5, 0, 0, 0]
    assert [float(result.score[0]) for result in results[:5]] == [0] * 5
    assert results[5].score[0] == results[5].reward[0] in (3, 10)


WAYS = {
    2: [NORTH] * 3 + [WEST] * 3 + [NORTH],
    5: [NORTH] * 4,
    8: [NORTH] * 3 + [EAST] * 3 + [NORTH],
}  # by the pad's column


@pytest.mark.parametrize("column", WAYS)
@pytest.mark.parametrize("right", [2, 5, 8])
def test_the_first_pad_pays_by_its_colour_and_all_vanish(column, right):
    environment = one(phase=REWARD, wrong_reward=-1.0, right_reward=7.0)
    others = iter([maps.PADS + 1, maps.PADS + 2])
    for place in WAYS:
        environment.board[0, cell(1, place)] = maps.PADS if place == right else next(others)
    rewards, _ = walk(environment, WAYS[column])
    assert rewards == [0] * (len(rewards) - 1) + [7 if column == right else -1]
    assert not set("012") & set(environment.text())
    assert walk(environment, [WEST] * 8)[0] == [0] * 8  # along what were pads


def test_an_episode_continues_after_the_choice_unless_ends_at_choice():
    rewards, ended = walk(one(phase=REWARD, wrong_reward=1.0), [*WAYS[5], *[SOUTH] * 11])
    assert [k for k, reward in enumerate(rewards) if reward] == [3]
    assert ended == [False] * 14 + [True]
    environment = one(phase=REWARD, wrong_reward=1.0, ends_at_choice=True)
    rewards, ended = walk(environment, WAYS[5])
    assert ended == [False] * 3 + [True]
    assert rewards[3] in (1, 10)
    assert (int(environment.phase[0]), int(environment.frame[0])) == (0, 0)


def test_an_episode_without_a_choice_ends_after_its_last_frame():
    rewards, ended = walk(one(phase=REWARD, ends_at_choice=True), [SOUTH] * 15)
    assert rewards == [0] * 15
    assert ended == [False] * 14 + [True]


@pytest.mark.parametrize("pads", [2, 3, 4])
def test_pads_have_every_order_and_one_has_the_observed_colour(pads):
    environment = Match(4000, phases=(1, 0, 1), pads=pads)
    first = environment.observe()
    targets = environment.palette[:, maps.PADS].copy()
    contents = (first == targets[:, None, None]).all(-1)
    assert (contents.sum(axis=(1, 2)) == 1).all()  # it is seen, in the passive level
    environment.step(np.zeros(4000, int))
    orders, counts = np.unique(
        environment.board[:, maps.cells(maps.REWARD[pads], "p")], axis=0, return_counts=True
    )
    ways = int(np.prod(np.arange(1, pads + 1)))
    assert len(orders) == ways
    np.testing.assert_allclose(counts, 4000 / ways, atol=5 * (4000 / ways) ** 0.5)
    np.testing.assert_array_equal(environment.palette[:, maps.PADS], targets)


def test_colours_are_redrawn_for_every_episode_and_differ_within_it():
    environment = Match(4000, phases=(1, 0, 1), pads=4)
    before = environment.palette.copy()
    for _ in range(2):
        result = environment.step(np.zeros(4000, int))
    assert result.ended.all()
    assert (before != environment.palette).any(axis=(1, 2)).mean() > 0.9
    for game in range(200):
        assert len(np.unique(environment.palette[game], axis=0)) == maps.PADS + 4
    colours, counts = np.unique(environment.palette[:, maps.PADS], axis=0, return_counts=True)
    assert sorted(map(tuple, colours.tolist())) == sorted(NAMED["palette"])
    np.testing.assert_allclose(counts, 250, atol=5 * 250**0.5)


def test_colours_can_be_a_list():
    environment = Match(50, pads=2, colours=[(1, 2, 3), (4, 5, 6)])
    assert set(map(tuple, environment.palette[:, maps.PADS :].reshape(-1, 3).tolist())) == {
        (1, 2, 3),
        (4, 5, 6),
    }


class Reference:
    """A reference of one episode, on the text of a map: symbols by row and column."""

    def __init__(self, phases, apple):
        self.phases, self.apple, self.phase, self.frame = phases, apple, 0, 0

    def begin(self, text):
        """Start a phase from a map's text."""
        lines = text.split("\n")
        self.map = {(i, j): at for i, line in enumerate(lines) for j, at in enumerate(line)}
        self.player = next(place for place, at in self.map.items() if at == "+")
        self.map[self.player] = " "
        self.eaten = {}

    def step(self, action):
        """Reward, and whether the phase is over."""
        self.frame += 1
        there = tuple(a + b for a, b in zip(self.player, DELTAS[action], strict=True))
        stops = "#0123" if self.phase == EXPLORE else "#"
        if self.map[there] not in stops:
            self.player = there
        symbol, reward = self.map[self.player], 0
        if symbol == "a":
            self.map[self.player], self.eaten[self.player] = " ", self.frame
            reward = self.apple
        elif symbol in "0123":
            reward = 10 if symbol == "0" else 1
            self.map = {place: " " if at in "0123" else at for place, at in self.map.items()}
        for place, frame in self.eaten.items():
            if self.frame == frame + 20:
                self.map[place] = "a"
        return reward, self.frame == self.phases[self.phase]

    def next_phase(self):
        self.phase, self.frame = (self.phase + 1) % 3, 0

    def text(self):
        contents = {**self.map, self.player: "+"}
        return "\n".join("".join(contents[i, j] for j in range(11)) for i in range(7))


@pytest.mark.parametrize("level", ["passive", "active"])
def test_every_step_equals_the_slow_reference(level):
    phases, size = (9, 90, 40), 8
    environment = Match(size, level, phases=phases, apple_reward=2.0, wrong_reward=1.0, pads=4)
    environment.reset(3)
    games = [Reference(phases, 2) for _ in range(size)]
    for k, game in enumerate(games):
        game.begin(environment.text(k))
    rng, paid = np.random.default_rng(4), []
    for _ in range(2 * sum(phases)):
        actions = rng.choice(4, size=size, p=[0.4, 0.2, 0.2, 0.2])
        result = environment.step(actions)
        for k, game in enumerate(games):
            phase, (reward, over) = game.phase, game.step(int(actions[k]))
            assert result.reward[k] == reward
            assert result.score[k] == (reward if phase == REWARD else 0)
            assert result.ended[k] == (over and phase == REWARD)
            paid.append((phase, reward))
            if over:
                game.next_phase()
                game.begin(environment.text(k))
            assert environment.text(k) == game.text()
    assert {(1, 2), (2, 1), (2, 10)} <= set(paid)


@pytest.mark.parametrize("level", ["passive", "active"])
def test_an_observation_is_the_part_of_the_picture_around_the_player(level):
    environment = Match(5, level, phases=(10, 30, 10), pads=4)
    rng = np.random.default_rng(5)
    for _ in range(100):
        views = environment.step(rng.integers(4, size=5)).observation
        assert (views.shape, views.dtype) == ((5, 5, 5, 3), np.uint8)
        for game in range(5):
            picture = environment.render(game, scale=1)
            assert picture.shape == (7, 11, 3)
            wide = np.full((11, 15, 3), FLOOR, np.uint8)
            wide[2:-2, 2:-2] = picture
            (row, column), *more = np.argwhere((picture == PLAYER).all(-1))
            assert not more
            np.testing.assert_array_equal(views[game], wide[row : row + 5, column : column + 5])


def test_render_scales_each_cell():
    environment = Match(2, "active")
    small, large = environment.render(1, scale=1), environment.render(1, scale=3)
    assert large.shape == (21, 33, 3)
    for row, column in ((0, 0), (3, 5), (6, 10)):
        block = large[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        assert (block == small[row, column]).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(size=0), "size must be at least 1, got 0"),
        (dict(level="activ"), "did you mean 'active'"),
        (dict(phases=(0, 1, 1)), r"phases\[0\] must be at least 1, got 0"),
        (dict(phases=(1, -1, 1)), r"phases\[1\] must be at least 0, got -1"),
        (dict(phases=(1, 1)), "phases must have 3 entries, got 2"),
        (dict(pads=5), r"pads must be one of \[2, 3, 4\], got 5"),
        (dict(apple_reward=float("nan")), "apple_reward must be finite"),
        (dict(colours="pastel"), "colours='pastel' is unknown"),
        (dict(pads=4, colours="primary"), "at least 4, one for each pad, got 3"),
        (dict(colours=[(1, 2, 3)] * 3), "must differ from each other"),
        (dict(colours=[WALL, (1, 1, 1), (2, 2, 2)]), "must differ from each other and from"),
        (dict(colours=[(1, 2), (3, 4), (5, 6)]), "triples of integers 0..255"),
        (dict(colours=[(1, 2, 256), (3, 4, 5), (6, 7, 8)]), "triples of integers 0..255"),
    ],
)
def test_invalid_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Match(**{"size": 2, **settings})
