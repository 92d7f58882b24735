"""The frozen training-free model that labels what no annotation does."""

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.clip import load_clip
from denseclip.clip.clip import ImageStats
from denseclip.clip.device import pick_precision
from denseclip.data.datasets import SegmentationDataset
from denseclip.segment.attention import DenseEncoder, DenseFeatures
from denseclip.segment.load import make_settings, set_dataset_classes
from denseclip.segment.refine import key_smoothing, prompt_denoising
from denseclip.segment.segmenter import Segmenter
from denseclip.text import ClassEmbeddings, EmbeddingCache
from denseclip.train.recipe import TeacherPart
from denseclip.train.samples import Batch, normalised

CHUNK = 1 << 24  # scores at crop size held together


class Teacher:
    """A CLIP made dense, with the words of a data set. Nothing in it is trained."""

    def __init__(
        self, part: TeacherPart, dataset: SegmentationDataset, device: torch.device, precision: str = "auto"
    ) -> None:
        """precision: see `pick_precision`. Raises UserError for a model that cannot be loaded, see `load_clip`."""
        settings = make_settings(
            part.preset,
            refine=part.refine,
            ks_norm=part.ks_norm,
            compat="official" if part.official else None,
            resize=dataset.spec.resize,
        )
        self.whole = load_clip(part.model, device=device)
        clip = copy.deepcopy(self.whole).folded().to(dtype=pick_precision(precision, device).dtype)
        self.encoder = DenseEncoder(clip, settings.dense, settings.compat)
        self.segmenter = Segmenter(clip, settings=settings, cache=EmbeddingCache())
        set_dataset_classes(self.segmenter, dataset.spec)
        self.refine = settings.refine
        self.temperature = 100.0 if part.official else clip.logit_scale
        self.dataset = dataset
        self._kept: dict[int, Tensor] = {}

    @property
    def stats(self) -> ImageStats:
        """How its pixels are normalised."""
        return self.segmenter.encoder.stats

    @property
    def embeddings(self) -> ClassEmbeddings:
        """Unit vectors of the data set's words."""
        return self.segmenter.embeddings

    @property
    def source(self) -> dict[str, str]:
        """Which CLIP it is, for a checkpoint: as it was named, and a hash of its weights."""
        clip = self.segmenter.clip
        path = Path(clip.name)
        return {
            "clip": str(path.resolve()) if path.exists() else clip.name,
            "fingerprint": clip.fingerprint,
        }

    @torch.inference_mode()
    def features(self, batch: Batch, *, unit: bool = True) -> DenseFeatures:
        """Dense features of the crops, of norm 1 or as the tower made them."""
        images = normalised(batch, self.stats)
        return self.encoder.encode(images, keys=self.refine.ks > 0, unit=unit)

    @torch.inference_mode()
    def kept_labels(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Labels (B, S, T) from scores of the whole images, made once for each and cut like the crops.

        candidates: (K',) int64, the classes to choose from, which alone compete in the refinement too.
        """
        size = (batch.labels.shape[1], batch.labels.shape[2])
        labels = [
            _cut_argmax(self._scores(index, candidates), geometry, extent, size)
            for index, geometry, extent in zip(
                batch.index.tolist(), batch.geometry.tolist(), batch.extent.tolist(), strict=True
            )
        ]
        return candidates[torch.stack(labels)]

    def _scores(self, index: int, candidates: Tensor) -> Tensor:
        """Refined scores (K', h, w) of a whole image, in half precision."""
        if index not in self._kept:
            image = self.dataset[index].image
            encoded = self.segmenter.encode(image)
            dense = encoded.features[0]
            scores = self.segmenter.encoder.scores(dense, self.embeddings.matrix)
            scores = self.embeddings.reduce(scores)[:, candidates]  # (1, K', h, w)
            if self.refine.pd:
                scores = prompt_denoising(scores, self.refine.pd, temperature=self.temperature)
            if self.refine.ks:
                assert dense.keys is not None
                scores = key_smoothing(
                    scores,
                    dense.keys,
                    self.refine.ks,
                    norm=self.refine.ks_norm,
                    temperature=self.temperature,
                )
            self._kept[index] = scores[0].half()
        return self._kept[index].float()


def _cut_argmax(scores: Tensor, geometry: list[int], extent: list[int], size: tuple[int, int]) -> Tensor:
    """Best of the scores (K, h, w) of a whole image at every pixel of a crop of it, (S, T) int64.

    Bilinear as `F.interpolate(scores, frame)`, of which only the crop's pixels are computed; padding gets the
    values at the edge.
    """
    height, width, top, left, mirrored = geometry
    rows = (torch.arange(size[0], device=scores.device) + top + 0.5) * 2 / height - 1  # (S,)
    columns = torch.arange(size[1], device=scores.device)
    if mirrored:
        columns = extent[1] - 1 - columns
    columns = (columns + left + 0.5) * 2 / width - 1  # (T,)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)[None]  # (1, S, T, 2): x, y
    best = scores.new_full(size, float("-inf"))
    label = torch.zeros(size, dtype=torch.int64, device=scores.device)
    step = max(1, CHUNK // (size[0] * size[1]))
    for start in range(0, len(scores), step):
        some = scores[None, start : start + step]
        values = F.grid_sample(some, grid, "bilinear", "border", align_corners=False)[0]  # (k, S, T)
        top_value, which = values.max(0)
        better = top_value > best
        best = torch.where(better, top_value, best)
        label = torch.where(better, which + start, label)
    return label
