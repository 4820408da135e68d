"""Watch an agent plan towards goals that you choose with the mouse.

python eval/watch.py --env two_room
python eval/watch.py --env my_module:My-v0 --model runs/mine/model --goals data/mine --success state:0.05

Two pictures, the world now and the goal, and on the first the path of the last plan. The latents that the model
imagines have no picture, so places are read from them: by kernel regression, fitted at the start on 400 known states
that are drawn and encoded. Filled dots are what is read from the latents imagined after each action block, up to the
block that the planner counts; rings are where the same actions lead in a copy of the simulator. Crosses are the places
in the goal. The agent sees none of this, only the two frames, in the size it was trained on.

Of any other environment there are the two pictures, the goals of --goals in turn, and below them what the plan expects
to see: from a decoder, or the recorded frames whose latents are nearest.

Keys: N new goal, R restart elsewhere, space pause, Q or Esc quit. Without a display, or with --record, a GIF instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lewm_agent import LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.envs import environment_id
from lewm_agent.envs.goal_env import Vector
from lewm_agent.eval import command
from lewm_agent.eval.command import bundled, load_model
from lewm_agent.eval.options import Watching as Options
from lewm_agent.eval.playing.suites import any_suite, check_has_record
from lewm_agent.eval.watching import drawing as watch_drawing
from lewm_agent.eval.watching.drawing import pygame
from lewm_agent.eval.watching.frame_decoder import FrameDecoder
from lewm_agent.eval.watching.session import Session, Watched
from lewm_agent.eval.watching.trials import TrialSession, nearest_recorded
from lewm_agent.eval.worlds import world_of
from lewm_agent.evaluation.rollouts import Draws
from lewm_agent.evaluation.videos import save_gif
from lewm_agent.planning.episodes import Frames
from lewm_agent.tools.command import say
from lewm_agent.tools.outputs import reserved

CHOICES = 10
"""Goals of --goals that are taken in turn, at least."""
LINGER = 6
"""Steps that are still recorded after a success."""
TURN = np.pi / 12
"""What one notch of the wheel turns, rad."""
SHADES = np.arange(0, 256, 17, dtype=np.uint8)[np.rint(np.arange(256) / 17).astype(int)]
"""What the 256 shades of a color become in a GIF: with 16 of them it has half the size, and needs no dithering."""


def main(arguments: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, watch, arguments, prog=prog)


def watch(options: Options) -> None:
    """Show the window or record the GIF. Raises ``ValueError`` for what cannot be done."""
    name = environment_id(options.env).rpartition("/")[2].rpartition(":")[2] if options.goals else _world_name(options)
    record = options.record or (None if has_display() else Path(f"watch-{name}.gif"))
    if record is not None and record.suffix != ".gif":
        raise ValueError(f"--record must be a file that ends in .gif, got {record}")
    command.at_least(options, episodes=1, seed=0)
    with reserved(record):
        session = _world_session(options) if options.goals is None else _trial_session(options, options.goals)
        say(session.about)
        if record is None:
            show(session)
            return
        write_gif(record, session, options.episodes)
        say(f"{options.episodes} episodes in {record}")


def _world_name(options: Options) -> str:
    """Short name of a world of this package. Raises ``ValueError`` for other environments, and for their options."""
    check_has_record(options.env)
    if options.success is not None:
        raise ValueError("in a world of this package its rules say what success is; --success goes with --goals")
    return world_of(options.env).name


def _world_session(options: Options) -> Watched:
    world = world_of(options.env)
    agent = load_model(options.model or bundled(world.name), world.environment, options.device, options.planner)
    say("drawing and encoding known states ...")
    decoder = None if options.decoder is None else FrameDecoder.load(options.decoder, agent.world_model)
    return Session(agent, options.seed, decoder=decoder)


def _trial_session(options: Options, goals: str) -> Watched:
    agent = LeWMAgent.from_pretrained(
        options.model or bundled(options.env), planner=options.planner, device=options.device
    )
    asked = {"success": options.success, "episodes": max(options.episodes, CHOICES), "offset": options.offset}
    suite = any_suite(agent, options.env, goals, seed=options.seed, **asked)
    draws: Draws | None = None
    if options.decoder is not None:
        draws = FrameDecoder.load(options.decoder, agent.world_model).drawn
    elif Path(goals).is_dir():
        draws = nearest_recorded(agent, OfflineDataset(goals))
    return TrialSession(agent, suite, options.seed, draws)


def has_display() -> bool:
    """Whether a window can be opened; on Linux that takes a display or a chosen SDL driver."""
    chosen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))
    return chosen or sys.platform != "linux"


class Window:
    """A session on the screen.

    Raises:
        ValueError: a window cannot be opened.
    """

    def __init__(self, session: Watched) -> None:
        self.session = session
        self.paused = False
        self.hints = (session.mouse, "N new goal   R restart elsewhere   space pause   Q quit")
        try:
            pygame.display.init()
            self._screen = pygame.display.set_mode(watch_drawing.size(1 + len(self.hints), imagined=session.decodes))
        except pygame.error as error:
            raise ValueError(f"cannot open a window ({error}); give --record out.gif") from None
        pygame.display.set_caption("lewm-agent")
        self._clock = pygame.time.Clock()

    def tick(self) -> bool:
        """Answer the spectator, act once unless paused, and draw; returns whether to go on."""
        if not self._answer(pygame.event.get()):
            return False
        if not self.paused:
            self.session.step()
        self._screen.blit(watch_drawing.draw(self.session.scene(*self.hints)), (0, 0))
        pygame.display.flip()
        self._clock.tick(self.session.fps)
        return True

    def close(self) -> None:
        """Take the window away."""
        pygame.display.quit()

    def _answer(self, events: Sequence[pygame.event.Event]) -> bool:
        """Do what the spectator asks for; of several places that a drag passed, the last counts."""
        place = None
        for event in events:
            if event.type == pygame.QUIT:
                return False
            if event.type == pygame.KEYDOWN and not self._press(event.key):
                return False
            if event.type == pygame.MOUSEWHEEL:
                self.session.turn(TURN * event.y)
            place = _dragged_to(event, place)
        if place is not None:
            self.session.click(place)
        return True

    def _press(self, key: int) -> bool:
        if key == pygame.K_n:
            self.session.new_goal()
        elif key == pygame.K_r:
            self.session.restart()
        elif key == pygame.K_SPACE:
            self.paused = not self.paused
        elif key in (pygame.K_LEFT, pygame.K_RIGHT):
            self.session.turn(TURN if key == pygame.K_RIGHT else -TURN)
        return key not in (pygame.K_q, pygame.K_ESCAPE)


def _dragged_to(event: pygame.event.Event, otherwise: Vector | None) -> Vector | None:
    """The place that an event of the left mouse button points at."""
    pressed = event.type == pygame.MOUSEBUTTONDOWN and event.button == 1
    dragged = event.type == pygame.MOUSEMOTION and event.buttons[0]
    place = watch_drawing.place_at(event.pos) if pressed or dragged else None
    return otherwise if place is None else place


def show(session: Watched) -> None:
    """Open a window until the spectator quits. Raises ``ValueError`` if there can be none."""
    window = Window(session)
    try:
        while window.tick():
            pass
    finally:
        window.close()


def write_gif(path: Path, session: Watched, episodes: int) -> None:
    """Record episodes of the tasks in turn."""
    milliseconds = 1000 / session.fps
    save_gif(path, [picture for _ in range(episodes) for picture in _recorded(session)], milliseconds)


def _recorded(session: Watched) -> Iterator[Frames]:
    """Pictures (H, W, 3) of an episode, up to some steps after its success; then the next task begins."""
    left = session.most_steps
    while left > 0:
        yield SHADES[watch_drawing.pixels(watch_drawing.draw(session.scene()))]
        session.step()
        left = min(left - 1, LINGER) if session.over else left - 1
    session.restart()


if __name__ == "__main__":
    sys.exit(main())
