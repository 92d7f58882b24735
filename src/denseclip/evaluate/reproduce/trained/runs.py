"""The runs of a table: each trained once and counted once, whichever tables ask for it."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from denseclip.clip import load_clip
from denseclip.errors import UserError
from denseclip.evaluate.presets import segmenter_for
from denseclip.evaluate.reproduce.bench import Bench
from denseclip.evaluate.reproduce.grid import Row
from denseclip.evaluate.result import Result
from denseclip.evaluate.runner import Progress as Counted
from denseclip.nets.saved import read_saved
from denseclip.recipes import Method, ScaleName
from denseclip.recipes.trained import RowRecipe, TrainedTable
from denseclip.train.checkpoint import FREE, LAST, Progress
from denseclip.train.loop import Told
from denseclip.train.recipe import TrainRecipe, read_recipe
from denseclip.train.run import train

Place = tuple[str, str]  # of a row in its table: name, published data set
Watch = Callable[[str, int, int], None]
"""What is at work, steps or images done, and to do."""


class TimeUpError(Exception):
    """Raised between two images of an evaluation that has to wait for another call."""


@dataclass(frozen=True)
class Run:
    """One figure of a row. name: of the training recipe. seed: of the runs of its row; None for a teacher."""

    row: RowRecipe
    name: str
    recipe: TrainRecipe
    seed: int | None

    @property
    def place(self) -> Place:
        """Where its row is in the table."""
        return self.row.name, self.row.data

    @property
    def title(self) -> str:
        """Such as "stickers20-zeroshot, seed 1"."""
        return f"teacher of {self.name}" if self.seed is None else f"{self.name}, seed {self.seed}"


@dataclass(frozen=True)
class Made:
    """A finished run. seconds: of training. warnings: of drift."""

    run: Run
    result: Result
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


def runs_of(table: TrainedTable, scale: ScaleName, models: Mapping[str, str]) -> list[Run]:
    """All runs of a table at a scale: teachers, then the first seed of every row, then the next.

    models: by a teacher's name, what to load instead.
    """
    found = []
    for row in table.rows:
        name = row.recipe(scale)
        if name is None:
            continue
        recipe = read_recipe(name)
        teacher = recipe.teacher.model_copy(
            update={"model": models.get(recipe.teacher.model, recipe.teacher.model)}
        )
        for seed in range(row.seeds):
            changed = recipe.model_copy(update={"seed": recipe.seed + seed, "teacher": teacher})
            found.append(Run(row, name, changed, None if row.teacher else seed))
    return sorted(found, key=lambda run: -1 if run.seed is None else run.seed)


class Workshop:
    """Where runs are made: trainings in `runs`, counts in `counts`.

    A training lies in a folder named by its recipe and a hash over whatever it depends on, so that tables share it
    and an interrupted one goes on. stop: whether time is up. limit: only the first images are counted.
    """

    def __init__(
        self,
        scale: ScaleName,
        runs: Path,
        counts: Path,
        *,
        root: Path | None = None,
        limit: int | None = None,
        fresh: bool = False,
        device: str = "auto",
        precision: str = "auto",
        stop: Callable[[], bool] = lambda: False,
        watch: Watch = lambda title, done, total: None,
    ) -> None:
        self.scale, self.runs, self.counts, self.root = scale, runs, counts, root
        self.limit, self.fresh, self.device, self.precision = limit, fresh, device, precision
        self.stop, self.watch = stop, watch
        self._fingerprints: dict[str, str] = {}
        self._benches: dict[int | None, Bench] = {}

    def make(self, run: Run, *, training: bool = True) -> Made | None:
        """The run, from what is kept or made now; None if time was up before it was finished.

        training: whether to train if that is not done. Raises UserError for what cannot be used.
        """
        try:
            if run.seed is None:
                return Made(run, self._count_teacher(run))
            if not self.finished(run) and not (training and self._train(run)):
                return None
            done = self.progress(run)
            assert done is not None
            return Made(run, self._count_student(run), done.seconds, tuple(done.warnings))
        except TimeUpError:
            return None

    def folder(self, run: Run) -> Path:
        """Where the training of a run is kept."""
        return self.runs / f"{run.name}-{run.seed}-{digest(run.recipe, self._fingerprint(run))}"

    def progress(self, run: Run) -> Progress | None:
        """How far training is; None if it has not begun. UserError for a checkpoint that cannot be read."""
        path = self.folder(run) / LAST
        return Progress(**read_saved(path)["progress"]) if path.exists() else None

    def finished(self, run: Run) -> bool:
        """Whether training is done (of a teacher, always)."""
        if run.seed is None:
            return True
        progress = self.progress(run)
        return progress is not None and progress.step >= run.recipe.steps

    def _train(self, run: Run) -> bool:
        if self.stop():
            return False

        def tell(told: Told) -> None:
            self.watch(f"training {run.title}", told.step, run.recipe.steps)

        return train(
            run.recipe, self.folder(run), root=self.root, device=self.device, tell=tell, stop=self.stop
        ).finished

    def _count_student(self, run: Run) -> Result:
        bench, data = self._bench(run), run.recipe.data.val
        assert data is not None
        dataset = bench.dataset(data)
        checkpoint = self.folder(run) / LAST
        segmenter = segmenter_for(
            dataset.spec,
            checkpoint,
            protocol=bench.protocol,
            device=self.device,
            precision=self.precision,
        )
        return bench.count(segmenter, dataset, progress=self._counting(run))

    def _count_teacher(self, run: Run) -> Result:
        """The teacher as it labels: its dilation and refinement too."""
        part, data = run.recipe.teacher, run.recipe.data.val
        assert data is not None
        settings = {"preset": part.preset, "refine": part.refine, "ks_norm": part.ks_norm}
        place = (part.model, run.row.data, run.row.method)
        row = Row(part.model, part.model, data, Method(run.row.method, settings), place)
        return self._bench(run).run(row, self._counting(run))

    def _bench(self, run: Run) -> Bench:
        images = self.limit if self.limit is not None else run.recipe.data.val_images
        if images not in self._benches:
            self._benches[images] = Bench(
                "official" if self.scale == "paper" else "ours",
                self.counts,
                root=self.root,
                images=images,
                fresh=self.fresh,
                device=self.device,
                precision=self.precision,
            )
        return self._benches[images]

    def _counting(self, run: Run) -> Counted:
        def report(done: int, total: int) -> None:
            if done < total and self.stop():
                raise TimeUpError
            self.watch(f"counting {run.title}", done, total)

        return report

    def _fingerprint(self, run: Run) -> str:
        """Of the teacher's weights: even without guidance its text vectors are the classifier."""
        source = run.recipe.teacher.model
        if source not in self._fingerprints:
            self._fingerprints[source] = load_clip(source).fingerprint
        return self._fingerprints[source]


def digest(recipe: TrainRecipe, fingerprint: str) -> str:
    """A hash over whatever a training depends on. fingerprint: of its teacher's weights."""
    content = recipe.model_dump(mode="json", exclude=set(FREE))
    return hashlib.sha256((json.dumps(content, sort_keys=True) + fingerprint).encode()).hexdigest()[:16]


def choose(runs: list[Run], only: str | None, seeds: int | None) -> list[Run]:
    """The runs to make in this call: of rows whose title has `only` in it, the first `seeds` of each.

    Raises UserError if that leaves none.
    """
    found = [run for run in runs if seeds is None or run.seed is None or run.seed < seeds]
    if only is not None:
        found = [
            run for run in found if only.lower() in f"{run.name} {run.row.name} {run.row.method}".lower()
        ]
    if not found:
        names = ", ".join(dict.fromkeys(run.name for run in runs))
        raise UserError(f"no row has {only!r} in its name; recipes here are {names}")
    return found
