"""Where runs are made: each trained once and counted once, whichever tables ask for it."""

from collections.abc import Callable
from pathlib import Path

from denseclip.clip import load_clip
from denseclip.clip.device import pick_device
from denseclip.data.open_things import open_things
from denseclip.evaluate.detection import kept_evaluation
from denseclip.evaluate.presets import segmenter_for
from denseclip.evaluate.reproduce.bench import Bench
from denseclip.evaluate.reproduce.evaluated import Evaluated
from denseclip.evaluate.reproduce.grid import Row
from denseclip.evaluate.reproduce.trained.runs import Made, Run
from denseclip.evaluate.runner import Progress as Counted
from denseclip.nets.saved import load_detector, read_saved
from denseclip.recipes import Method, ScaleName
from denseclip.train.checkpoint import LAST, Progress
from denseclip.train.loop import Told
from denseclip.train.run import train

Watch = Callable[[str, int, int], None]
"""What is at work, steps or images done, and to do."""


class TimeUpError(Exception):
    """Raised between two images of an evaluation that has to wait for another call."""


class Workshop:
    """Trainings are kept in `runs`, counts in `counts`.

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
        precision: str = "fp32",
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
            return Made(run, self._count_trained(run), done.seconds, tuple(done.warnings))
        except TimeUpError:
            return None

    def folder(self, run: Run) -> Path:
        """Where the training of a run is kept."""
        return self.runs / run.folder("".join(self._fingerprint(clip) for clip in run.recipe.clips))

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

    def _fingerprint(self, clip: str) -> str:
        if clip not in self._fingerprints:
            self._fingerprints[clip] = load_clip(clip).fingerprint
        return self._fingerprints[clip]

    def _train(self, run: Run) -> bool:
        if self.stop():
            return False

        def tell(told: Told) -> None:
            self.watch(f"training {run.title}", told.step, run.recipe.steps)

        folder = self.folder(run)
        return train(
            run.training, folder, root=self.root, device=self.device, tell=tell, stop=self.stop
        ).finished

    def _count_trained(self, run: Run) -> Evaluated:
        bench, recipe = self._bench(run), run.recipe
        assert recipe.data.val is not None
        if recipe.system == "detection":
            return self._count_detector(run)
        dataset = bench.dataset(recipe.data.val)
        settings = recipe.evaluation.model_dump(exclude_none=True)
        segmenter = segmenter_for(
            dataset.spec,
            self.folder(run) / LAST,
            protocol=bench.protocol,
            device=self.device,
            precision=self.precision,
            **settings,
        )
        return bench.count(segmenter, dataset, progress=self._counting(run))

    def _count_detector(self, run: Run) -> Evaluated:
        data, images = run.recipe.data, self.limit if self.limit is not None else run.recipe.data.val_images
        assert data.val is not None
        things = open_things(data.val, self.root, data.val_split).first(images)
        detector = load_detector(self.folder(run) / LAST, pick_device(self.device))
        return kept_evaluation(detector, things, self.counts, fresh=self.fresh, progress=self._counting(run))

    def _count_teacher(self, run: Run) -> Evaluated:
        """The teacher as it labels: its dilation and refinement too; otherwise run like its student."""
        part, data = run.recipe.teacher, run.recipe.data.val
        assert data is not None
        settings = {
            **run.recipe.evaluation.model_dump(exclude_none=True),
            **{"preset": part.preset, "refine": part.refine, "ks_norm": part.ks_norm},
        }
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
                by_code=False,
            )
        return self._benches[images]

    def _counting(self, run: Run) -> Counted:
        def report(done: int, total: int) -> None:
            if done < total and self.stop():
                raise TimeUpError
            self.watch(f"counting {run.title}", done, total)

        return report
