"""ProxyCLIP: CLIP's values under the patch similarities of a DINO or DINOv2 tower (Lan et al., ECCV 2024)."""

from dataclasses import dataclass
from functools import partial
from math import lcm
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip import ImageStats
from denseclip.clip.convert import from_dino
from denseclip.clip.towers import to_map, without_values
from denseclip.clip.transformer import Block, Grid, resize_positions
from denseclip.clip.weights import complete, read_checkpoint
from denseclip.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from denseclip.errors import UserError, need
from denseclip.segment.calibration import centered_softmax, similarity

BETA, GAMMA = 1.2, 3.0  # what counts as similar, and how sharply; the paper's for every data set
OFFICIAL_PAD = 56  # inputs are made a multiple of it: 8 x 7 and 14 x 4, but not 16
TIMM = "timm:"


class Dino(nn.Module):
    """A DINO or DINOv2 vision transformer: patch features after the last norm.

    registers: extra tokens behind the class token. layer_scale: DINOv2's. Position tables are resized as the official
    code does: with registers to the size, antialiased; without them by DINO's scale, which is a tenth of a cell off.
    """

    def __init__(
        self, *, width: int, layers: int, heads: int, patch: int, rows: int, registers: int, layer_scale: bool
    ) -> None:
        super().__init__()
        self.patch_size, self.registers, self.layer_scale = patch, registers, layer_scale
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, rows, width))
        if registers:
            self.register_tokens = nn.Parameter(torch.empty(1, registers, width))
        self.proj = nn.Conv2d(3, width, patch, patch)
        block = partial(Block, width, heads, 4 * width, quick_gelu=False, layer_scale=layer_scale, eps=1e-6)
        self.blocks = nn.ModuleList(block() for _ in range(layers))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Images (B, 3, H, W), normalized by ImageNet's statistics -> features (B, hw, C), and (h, w)."""
        height, width = images.shape[2:]
        x = self.proj(images)  # (B, C, h, w)
        grid = (x.shape[2], x.shape[3])
        first = self.cls_token.to(x.dtype).expand(len(x), -1, -1)
        x = torch.cat([first, x.flatten(2).mT], dim=1)  # (B, 1 + hw, C)
        x = x + self._positions(grid, square=height == width).to(x.dtype)
        if self.registers:
            extra = self.register_tokens.to(x.dtype).expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], extra, x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 1 + self.registers :]), grid

    def _positions(self, grid: Grid, *, square: bool) -> Tensor:
        table = self.pos_embed[0]
        if self.registers:
            return resize_positions(table, grid)
        if square and grid[0] * grid[1] == len(table) - 1:
            return table
        return resize_positions(table, grid, antialias=False, scale_offset=0.1, always=True)


def load_proxy(source: str, *, heads: int | None = None) -> Dino:
    """A tower from the published file of DINO or DINOv2, or from "timm:NAME", with every weight in its place.

    heads: of its attention, which the weights do not show; by default each is 64 wide. Raises UserError for what
    cannot be read, for weights that are missing and for any that are left over.
    """
    state = (
        _timm_state(source.removeprefix(TIMM))
        if source.startswith(TIMM)
        else read_checkpoint(Path(source)).state
    )
    state = from_dino(state)
    try:
        patches, cls, table = state["proj.weight"], state["cls_token"], state["pos_embed"]
        width, patch = patches.shape[0], patches.shape[-1]
    except KeyError as error:
        raise UserError(f"{source} is no DINO or DINOv2 tower: it has no {error.args[0]}") from None
    if (
        round(table.shape[1] ** 0.5) ** 2 == table.shape[1]
    ):  # timm's: the class token has its position already
        state["pos_embed"] = torch.cat([torch.zeros_like(cls), table], dim=1)
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    layers = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("blocks.")), default=-1)
    heads = heads or max(1, width // 64)
    if width % heads:
        raise UserError(f"{source} is {width} wide, which {heads} heads do not divide; give proxy_heads")
    tower = without_values(
        lambda: Dino(
            width=width,
            layers=layers,
            heads=heads,
            patch=patch,
            rows=state["pos_embed"].shape[1],
            registers=registers,
            layer_scale="blocks.0.ls_1.gamma" in state,
        )
    )
    full = complete(state, tower.state_dict(), source, "it is no DINO or DINOv2 tower that is known here")
    tower.load_state_dict(full, assign=True)
    return tower.eval().requires_grad_(False)


def _timm_state(name: str) -> dict[str, Tensor]:
    need("timm", f"proxy {TIMM}{name}")
    import timm

    try:
        return dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
    except Exception as error:  # whatever timm and the hub raise
        raise UserError(f"proxy {TIMM}{name} cannot be had: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True)
class Proxy:
    """A tower with the statistics that its pictures are normalized with.

    stats: of the network inputs that are handed over. beta, gamma: see `centered_softmax`.
    """

    tower: Dino
    stats: ImageStats
    beta: float = BETA
    gamma: float = GAMMA

    @torch.no_grad()
    def shares(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Inputs (B, 3, H, W) -> what positions take of each other, (B, n, n) float32, n = h'w', and (h', w')."""
        mean, std = _planes(self.stats.mean, images), _planes(self.stats.std, images)
        images = (images * std + mean - _planes(IMAGENET_MEAN, images)) / _planes(IMAGENET_STD, images)
        features, grid = self.tower(images)
        return centered_softmax(similarity(features), self.gamma, self.beta), grid

    def multiple(self, patch: int, *, official: bool) -> int:
        """What the sides of inputs have to be a multiple of, so that no tower leaves out pixels."""
        return OFFICIAL_PAD if official else lcm(patch, self.tower.patch_size)


def _planes(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return like.new_tensor(values)[:, None, None]


def margins(size: tuple[int, int], multiple: int) -> tuple[int, int, int, int]:
    """Pixels (left, right, top, bottom) that make (H, W) a multiple, half of them before."""
    down, across = -size[0] % multiple, -size[1] % multiple
    return across // 2, across - across // 2, down // 2, down - down // 2


def proxy_mixed(block: Block, x: Tensor, grid: Grid, shares: Tensor, finer: Grid) -> Tensor:
    """CLIP's values of tokens (B, 1 + hw, W), resized to (h', w'), under `shares` (B, n, n): (B, n, W); no more."""
    _, _, v = block.attn.qkv(block.ln_1(x))  # (B, heads, 1 + hw, d)
    batch, heads, _, depth = v.shape
    maps = to_map(v[:, :, 1:].flatten(0, 1), grid)  # (B heads, d, h, w)
    values = F.interpolate(maps.float(), finer, mode="bilinear").flatten(2).mT.unflatten(0, (batch, heads))
    mixed = (shares[:, None] @ values).to(x.dtype).view(batch, heads, -1, depth)
    return block.ls_1(block.attn.project(mixed))
