"""What training-free methods cost over plain encoding, time and memory: ViT-B/16, a window of 224 px, random weights.

Reference: the same tower as CLIP runs it (preset vanilla), one after the other in every round, with the threads there
are. Memory: what the process needs beyond what it held before, at most, weights not counted. ResCLIP's second pass
(PAMR and the last block again, for 20 words) is in its figures, the proxy tower (a DINO ViT-B/16) in proxyclip's.
"""

import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from denseclip.clip import Clip, load_clip
from denseclip.segment.attention import DenseEncoder
from denseclip.segment.proxy import Dino
from denseclip.segment.settings import PRESETS

SIDE, WORDS, ROUNDS = 224, 20, 7
METHODS = [name for name in PRESETS if name not in ("vanilla", "maskclip-dilated")]


def random_vit(folder: Path) -> Clip:
    """A ViT-B/16 with random values through the loading path: cost does not depend on them."""
    import open_clip

    torch.manual_seed(0)
    torch.save(open_clip.create_model("ViT-B-16", pretrained=None).state_dict(), folder / "vit.pt")
    return load_clip(folder / "vit.pt", activation="quick-gelu")


def random_dino(folder: Path) -> Path:
    """A DINO ViT-B/16 with random values, as a file."""
    torch.manual_seed(0)
    tower = Dino(width=768, layers=12, heads=12, patch=16, rows=197, registers=0, layer_scale=False)
    state = {name: torch.randn(value.shape) * 0.02 for name, value in tower.state_dict().items()}
    ours = {"ln_": "norm", "attn.in_proj_": "attn.qkv.", "attn.out_proj": "attn.proj", "mlp.c_fc": "mlp.fc1"}
    ours |= {"mlp.c_proj": "mlp.fc2"}
    published = {}
    for name, value in state.items():
        for mine, theirs in ours.items():
            name = name.replace(mine, theirs)
        published[f"patch_embed.{name}" if name.startswith("proj.") else name] = value
    torch.save(published, folder / "dino.pth")
    return folder / "dino.pth"


def peak(work: Callable[[], object]) -> int:
    """Bytes that the process needs while it works beyond what it had (Linux)."""
    status = Path("/proc/self/status")

    def kilobytes(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))

    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    work()
    return 1024 * (kilobytes("VmHWM") - before)


@torch.inference_mode()
def run() -> dict[str, float]:
    """Ratios, each method over plain encoding: median of rounds side by side; memory once."""
    words = F.normalize(torch.randn(WORDS, 512), dim=1)
    images = torch.randn(1, 3, SIDE, SIDE)
    with tempfile.TemporaryDirectory() as folder:
        clip, dino = random_vit(Path(folder)), random_dino(Path(folder))
        proxied = replace(PRESETS["proxyclip"], proxy=str(dino))
        encoders = {
            name: DenseEncoder(clip, proxied if name == "proxyclip" else PRESETS[name])
            for name in ("vanilla", *METHODS)
        }
    work = {name: lambda one=one: one.scores(one.encode(images), words) for name, one in encoders.items()}
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS + 1):
        for name, way in work.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    memory = {name: peak(way) for name, way in work.items()}
    ratios = {}
    for name in METHODS:
        pairs = zip(times[name][1:], times["vanilla"][1:], strict=True)
        ratios[f"method_{name}_time"] = statistics.median(mine / plain for mine, plain in pairs)
        ratios[f"method_{name}_memory"] = memory[name] / memory["vanilla"]
        print(f"  {name}: {ratios[f'method_{name}_time']:.2f} x time, {memory[name] / 2**20:.0f} MiB")
    return ratios


if __name__ == "__main__":
    print(run())
