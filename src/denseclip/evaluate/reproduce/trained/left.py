"""How much of a table is left to do, in words."""

from collections.abc import Mapping, Sequence

from denseclip.evaluate.reproduce.trained.runs import Made, Place, Run
from denseclip.evaluate.reproduce.trained.workshop import Workshop


def left_to_do(workshop: Workshop, planned: Sequence[Run], made: Mapping[Place, Sequence[Made]]) -> str:
    """A line on what is finished and what is left, with a time by the pace of trainings so far."""
    done = {id(one.run) for several in made.values() for one in several}
    waiting = [run for run in planned if id(run) not in done]
    finished = f"{len(planned) - len(waiting)} of {len(planned)} runs are finished"
    if not waiting:
        return finished
    trainings = {workshop.folder(run): run for run in planned if run.seed is not None}
    steps, seconds, left = 0, 0.0, 0
    for run in trainings.values():
        progress = workshop.progress(run)
        here = progress.step if progress else 0
        left += run.recipe.steps - here
        steps += here
        seconds += progress.seconds if progress else 0.0
    about = f", about {seconds / steps * left / 60:.0f} minutes at the pace so far" if steps else ""
    return f"{finished}; {left} training steps are left{about}; give the same command again to go on"
