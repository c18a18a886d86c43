"""A policy at work: what a film shows, how long, of whom, and what cannot be shown."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image, ImageSequence

import policypress as pp
from policypress.errors import ConfigError, RunError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Layer
from policypress.policy.policy import Policy
from policypress.rl.film import Film, check_out
from policypress.rl.watch import _Stage, watch
from rl.toys import PICK, Lit, chooser

WIDTH, HEIGHT, EPISODE = Lit.WIDTH, Lit.HEIGHT, Lit.EPISODE


class Broken(Lit):
    def render(self) -> Any:
        raise OSError("no canvas")


class Blank(Lit):
    def render(self) -> Any:
        return None


def frames(path: Path) -> list[np.ndarray[Any, Any]]:
    """Gray pictures; as many of one as its time says."""
    with Image.open(path) as image:
        found = []
        for frame in ImageSequence.Iterator(image):
            found += [np.asarray(frame.convert("L"))] * (frame.info["duration"] // 50)
        return found


def lit(frame: np.ndarray[Any, Any], left: int = 0, width: int = 320) -> int:
    """How many columns of the environment's picture are light."""
    row = frame[10, left : left + width]
    return round(np.count_nonzero(row > 128) / (width / WIDTH))


def test_a_film_shows_every_step(tmp_path: Path) -> None:
    out = tmp_path / "a.gif"
    (result,) = watch(chooser(0), Lit, out=out)
    assert (result.returns, result.lengths, result.terminated) == ((float(EPISODE),), (EPISODE,), (False,))
    shown = frames(out)
    assert [lit(frame) for frame in shown] == list(range(EPISODE + 1))
    assert shown[0].shape == (240 + 18, 320)
    assert os.listdir(tmp_path) == ["a.gif"]


def test_captions_say_bytes_and_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []
    monkeypatch.setattr(Film, "add", lambda self, pictures: said.append([caption for _, caption in pictures]))
    monkeypatch.setattr(Film, "write", lambda *_: None)
    watch(chooser(0), Lit, out=tmp_path / "a.gif", beside=chooser(1))
    size = pp.size(chooser(0)).payload_bytes
    assert said[3][0] == f"{size} bytes   return 3.0"
    assert said[-1] == [f"{size} bytes   return 12.0", f"{size} bytes   return 5.0  ended early"]


def test_captions_can_be_read() -> None:
    film = Film((320, 240))
    for caption in ("12 bytes   return 3", "12 bytes   return 4"):
        film.add([(np.zeros((HEIGHT, WIDTH, 3), np.uint8), caption)])
    first, second = (np.asarray(frame)[240:] for frame in film.frames)
    assert first.max() > 200  # light on dark
    assert (first != second).any()


def test_two_side_by_side(tmp_path: Path) -> None:
    out = tmp_path / "a.gif"
    results = watch(chooser(0), Lit, out=out, beside=chooser(1))
    assert [result.lengths for result in results] == [(EPISODE,), (5,)]
    assert [result.terminated for result in results] == [(False,), (True,)]
    shown = frames(out)
    assert shown[0].shape == (180 + 18, 480)
    assert [lit(frame, 0, 240) for frame in shown] == list(range(EPISODE + 1))
    # who has ended stays as he was
    assert [lit(frame, 240, 240) for frame in shown] == [min(step, 5) for step in range(EPISODE + 1)]


def test_steps_cut_and_episodes_follow(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    (result,) = watch(
        chooser(1), Lit, out=tmp_path / "a.gif", episodes=2, steps=3, progress=lambda *at: done.append(at)
    )
    assert (result.lengths, result.terminated) == ((3, 3), (False, False))
    assert [lit(frame) for frame in frames(tmp_path / "a.gif")] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert done[-1] == (6, 6)


def test_a_film_is_of_ten_seconds_at_most_and_of_twenty_pictures_each(tmp_path: Path) -> None:
    class Fast(Lit):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 100}  # noqa: RUF012

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self.steps += 1
            return np.ones(2, np.float32), 1.0, False, False, {}

    (result,) = watch(chooser(0), Fast, out=tmp_path / "a.gif")
    assert result.lengths == (1000,)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["duration"] % 50 == 0
        seconds = sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) / 1000
    assert seconds == pytest.approx(201 / 20)


def test_an_episode_is_that_of_evaluate(tmp_path: Path) -> None:
    policy = chooser(1)
    (watched,) = watch(policy, Lit, out=tmp_path / "a.gif", episodes=2, seed=7)
    assert watched == pp.evaluate(policy, Lit, episodes=2, seed=7)


@pytest.mark.parametrize(("name", "form"), [("a.png", "PNG"), ("a.jpg", "JPEG")])
def test_a_picture_of_moments(name: str, form: str, tmp_path: Path) -> None:
    watch(chooser(0), Lit, out=tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.format == form
        assert image.size == (3 * 320, 2 * 258)
        picture = np.asarray(image.convert("L"))
    moments = [lit(picture[row * 258 :], column * 320) for row in range(2) for column in range(3)]
    assert moments[0] == 0
    assert moments[-1] == EPISODE
    assert moments == sorted(set(moments))


def test_mp4_has_every_picture(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    watch(chooser(0), Lit, out=tmp_path / "a.mp4")
    shown = imageio.mimread(tmp_path / "a.mp4", format="mp4", memtest=False)
    assert [lit(frame.mean(2)) for frame in shown] == list(range(EPISODE + 1))


def test_mp4_without_ffmpeg_says_what_to_install_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ModuleNotFoundError, match="imageio_ffmpeg"):
        watch(chooser(0), Broken, out=tmp_path / "a.mp4")


def test_large_pictures_shrink_and_small_ones_keep_their_pixels() -> None:
    film = Film((320, 240))
    film.add([(np.full((480, 480, 3), 255, np.uint8), "")])
    film.add([(np.full((210, 160, 3), 255, np.uint8), "")])
    film.add([(np.eye(2, dtype=np.uint8)[..., None].repeat(3, 2) * 255, "")])
    square, tall, tiny = (np.asarray(frame.convert("L"))[:240] for frame in film.frames)
    assert square.shape == (240, 240)
    assert square.min() == 255
    assert (tall.shape, (tall == 255).sum()) == ((240, 240), 240 * 183)
    assert np.array_equal(tiny, np.eye(2, dtype=np.uint8).repeat(120, 0).repeat(120, 1) * 255)


def test_an_environment_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no render mode 'rgb_array' \(it has none\)"):
        watch(chooser(0), PICK, out=tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_a_registered_environment_without_pictures_is_refused_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    class Text(Lit):
        metadata = {"render_modes": ["ansi"]}  # noqa: RUF012

    gym.register("WatchText-v0", Text)
    gym.register("WatchNone-v0", lambda: Lit())
    for env, has in (("WatchText-v0", "it has ansi"), ("WatchNone-v0", "it has none")):
        with pytest.raises(ConfigError, match=rf"has no render mode 'rgb_array' \({has}\)"):
            watch(chooser(0), env, out=tmp_path / "a.gif")
    assert not [warning for warning in recwarn if "render_mode" in str(warning.message)]


@pytest.mark.parametrize(
    ("env", "sentence"), [(Broken, r"fails in render\(\) \(OSError: no canvas\)"), (Blank, "gives no picture")]
)
def test_a_render_that_fails_is_one_sentence(env: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=sentence):
        watch(chooser(0), env, out=tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"episodes": 0}, "at least 1"),
        ({"steps": 0}, "at least 1"),
        ({"seed": -1}, "not negative"),
        ({"out": None, "beside": chooser(1)}, "--out beside.gif"),
        ({"out": "a.avi"}, r"must end in \.gif, \.mp4, \.png, \.jpg: .* a\.gif"),
        ({"out": "nowhere/a.gif"}, "no folder nowhere"),
    ],
)
def test_what_cannot_be_asked(
    given: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        watch(chooser(0), Lit, **{"out": "a.gif", **given})


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"no display for a window: name a file, for example --out walk\.gif"):
        watch(chooser(0), Lit)


def test_a_window_is_drawn_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Window(Lit):
        metadata = {"render_modes": ["human"]}  # noqa: RUF012

        def render(self) -> Any:
            raise AssertionError("nobody asks for pictures")

    monkeypatch.setenv("DISPLAY", ":0")
    (result,) = watch(chooser(1), Window)
    assert result.lengths == (5,)


def test_what_draws_is_chosen_where_nobody_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asks(Lit):
        def render(self) -> Any:
            found.append(os.environ.get("MUJOCO_GL"))
            return super().render()

    found: list[str | None] = []
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    watch(chooser(0), Asks, out=tmp_path / "a.gif", steps=1)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    watch(chooser(0), Asks, out=tmp_path / "a.gif", steps=1)
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setenv("DISPLAY", ":0")
    watch(chooser(0), Asks, out=tmp_path / "a.gif", steps=1)
    assert found == ["egl", "egl", "osmesa", "osmesa", None, None]
    assert "MUJOCO_GL" not in os.environ


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.gif").mkdir()
    with pytest.raises(RunError, match=r"a\.gif cannot be written"):
        watch(chooser(0), Lit, out=tmp_path / "a.gif", steps=1)


def test_endings_are_told_apart(tmp_path: Path) -> None:
    for name in ("a.GIF", "a.Png"):
        check_out(tmp_path / name)
    with pytest.raises(ConfigError):
        check_out(tmp_path / "a")


def test_classic_control(tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    weight = np.zeros((2, 4), np.float32)
    weight[1] = 1.0
    policy = replace(
        chooser(0, {"env": "CartPole-v1"}),
        ops=(Layer(weight, np.zeros(2, np.float32), 32, np.ones(1, np.float32), False),),
        observation=ObservationTransform((4,), "float32"),
    )
    (result,) = watch(policy, out=tmp_path / "a.gif", steps=20)
    assert result.lengths[0] <= 20
    with Image.open(tmp_path / "a.gif") as image:
        assert image.size == (320, 214 + 18)
        assert len(np.unique(np.asarray(image.convert("L")))) > 3


def hopper() -> Policy:
    """Never moves."""
    layer = Layer(np.zeros((3, 11), np.float32), np.zeros(3, np.float32), 32, np.ones(1, np.float32), False)
    one = np.ones(3, np.float32)
    action = ActionTransform("box", (3,), low=-one, high=one)
    return Policy((layer,), ObservationTransform((11,), "float64"), action, None, 144, {"env": "Hopper-v5"})


def test_mujoco_draws_off_screen(tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    try:
        watch(hopper(), out=out, steps=12)
    except RunError as error:
        pytest.skip(str(error))
    with Image.open(out) as image:
        assert np.asarray(image)[:240, :320].std() > 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Gymnasium's, of what it never opened
def test_mujoco_that_cannot_draw_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nothing")
    with pytest.raises(RunError, match=r"apt install libegl1 libgl1-mesa-dri\) and set MUJOCO_GL=egl"):
        watch(hopper(), out=tmp_path / "a.gif", steps=1)


def test_mujoco_draws_small_from_the_camera_that_follows() -> None:
    stage = _Stage(hopper(), "Hopper-v5", "rgb_array")
    stage.frame((240, 180))
    renderer = stage.env.unwrapped.mujoco_renderer
    assert (renderer.width, renderer.height) == (240, 180)
    assert renderer.model.camera(renderer.camera_id).name == "track"
    assert stage.rate == pytest.approx(125)
    stage.env.close()
