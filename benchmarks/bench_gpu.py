"""Inference on a GPU: 512 x 512, 171 words, random weights of RN50 and ViT-B/16; nothing is measured without a GPU.

For each tower and batch, side by side in one run, images/s of: plain PyTorch in fp32 and under bf16 autocast (encode,
interpolate, argmax), the bare encoder, the tower in a CUDA graph, and the whole pipeline from pictures in memory to
masks in memory (`Segmenter.segment` of a list). Then decoding by itself, and masks of the CPU against the GPU's.
"""

import json
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import denseclip
from benchmarks.bench_segment import CLASSES, SIDE, embeddings_near, plain_features, smooth_picture
from denseclip.clip import load_clip
from denseclip.data.opening import open_dataset
from denseclip.loading import make_settings
from denseclip.segment.decode import decode
from denseclip.segment.segmenter import Segmenter
from denseclip.text import ClassEmbeddings, ClassPrompts

SECONDS = float(os.environ.get("DENSECLIP_BENCH_SECONDS", "1.5"))  # for each figure


def run() -> dict[str, float]:
    """{"gpu_NAME_bB_over_encoder", "..._over_graph", "..._over_plain_bf16", "gpu_decode_over_plain"}."""
    if not torch.cuda.is_available():
        print("  no GPU: left out")
        return {}
    device = torch.device("cuda")
    print(f"  {torch.cuda.get_device_name()}, torch {torch.__version__}, {os.cpu_count()} CPU cores")
    rate, bandwidth = ceilings(device)
    print(f"  matrix product {rate / 1e12:.0f} TFLOP/s in bf16, copy {bandwidth / 1e12:.2f} TB/s")
    ratios: dict[str, float] = {}
    for name in ("RN50", "ViT-B-16"):
        for batch in (1, 16):
            ratios |= pipeline(name, batch, device, rate)
    ratios |= decoding(device)
    agreement(device)
    return ratios


def pipeline(name: str, batch: int, device: torch.device, rate: float) -> dict[str, float]:
    """Images/s of all ways, and the ratios of ours."""
    model, segmenter = prepared(name, device)
    picture, words = smooth_picture(), segmenter.embeddings.matrix
    stats = segmenter.encoder.stats
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (stats.mean, stats.std))
    pixels = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None]
    inputs = ((pixels / 255 - mean) / std).repeat(batch, 1, 1, 1)  # (B, 3, H, W)
    features = plain_vit if name.startswith("ViT") else plain_features

    def plain() -> Tensor:
        scores = torch.einsum("bdhw,kd->bkhw", features(model, inputs).float(), words)
        return F.interpolate(scores, (SIDE, SIDE), mode="bilinear").argmax(1)

    def autocast() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return plain()

    half = inputs.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    bare = lambda: segmenter.encoder.encode(half)  # noqa: E731
    graph = graphed(bare)
    many = [picture] * (batch * (32 if batch > 1 else 192))
    speeds: dict[str, float] = {}
    with torch.inference_mode():
        speeds["plain fp32"] = batch / seconds(plain)
        speeds["plain bf16"] = batch / seconds(autocast)
        speeds["bare encoder"] = batch / seconds(bare)
        speeds["graph"] = batch / seconds(graph)
    for _ in range(2):
        last = list(segmenter.segment(many, batch_size=batch))[-1]
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        last = deque(segmenter.segment(many, batch_size=batch), maxlen=1)[0]
        times.append(time.perf_counter() - start)
    speeds["ours"] = len(many) / statistics.median(times)
    with torch.inference_mode():
        same = float((last.mask == plain()[0].cpu().numpy()).mean())
        with FlopCounterMode(display=False) as counter:
            bare()
    share = counter.get_total_flops() / batch * speeds["ours"] / rate
    peak = torch.cuda.max_memory_allocated() / 2**30
    shown = ", ".join(f"{key} {value:.0f}" for key, value in speeds.items())
    print(
        f"  {name}, batch {batch}: {shown} images/s; {share:.0%} of the matrix rate, {peak:.2f} GiB, "
        f"{same:.2%} of pixels as plain fp32",
        flush=True,
    )
    key = f"gpu_{name.lower().replace('-', '')}_b{batch}"
    return {
        f"{key}_over_encoder": speeds["ours"] / speeds["bare encoder"],
        f"{key}_over_graph": speeds["ours"] / speeds["graph"],
        f"{key}_over_plain_bf16": speeds["ours"] / speeds["plain bf16"],
    }


def prepared(name: str, device: torch.device) -> tuple[torch.nn.Module, Segmenter]:
    """open_clip's model with random weights, and the same through our loading path, in bf16, under 171 words."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained=None).eval()
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder) / "clip.pt")
        clip = load_clip(Path(folder) / "clip.pt", config={"quick_gelu": True})
    model = model.to(device)
    clip = clip.folded().to(device=device, dtype=torch.bfloat16)
    segmenter = Segmenter(clip, None, make_settings(resize="none", templates="1"))
    features = segmenter.encode(smooth_picture()).features[0].map
    rows = embeddings_near(features.float().cpu())
    embeddings = ClassEmbeddings(rows.matrix.to(device), rows.class_of_prompt.to(device), rows.classes)
    segmenter._embeddings = embeddings  # what set_classes would have computed
    segmenter._class_prompts = ClassPrompts(rows.classes, tuple((word,) for word in rows.classes))
    return model, segmenter


@torch.inference_mode()
def plain_vit(model: torch.nn.Module, images: Tensor) -> Tensor:
    """Value path features (B, D, h, w) of a ViT, unit vectors, written down plainly."""
    visual = model.visual
    grid = images.shape[-1] // visual.patch_size[0]
    x = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, hw, W)
    table, side = visual.positional_embedding, visual.grid_size[0]
    places = F.interpolate(table[1:].T.reshape(1, -1, side, side), (grid, grid), mode="bicubic")
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1)
    x = visual.ln_pre(x + torch.cat([table[:1], places.flatten(2)[0].T]))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    h, width = last.ln_1(x), x.shape[-1]
    v = F.linear(h, last.attn.in_proj_weight[2 * width :], last.attn.in_proj_bias[2 * width :])
    y = x + last.attn.out_proj(v)
    y = visual.ln_post(y + last.mlp(last.ln_2(y)))[:, 1:] @ visual.proj
    return F.normalize(y, dim=-1).transpose(1, 2).unflatten(2, (grid, grid))


def decoding(device: torch.device) -> dict[str, float]:
    """The decoder against interpolate + argmax, over several inputs in turn, so that no cache holds them."""
    ratios = {}
    for batch, cells in ((1, 32), (16, 32), (16, 16)):
        torch.manual_seed(0)
        smooth = F.interpolate(
            torch.randn(4 * batch, CLASSES, 8, 8, device=device), (cells, cells), mode="bicubic"
        )
        scores = (smooth + 0.02 * torch.randn_like(smooth)).mul_(0.05)
        turns = [part.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for part in scores.split(batch)]
        size, count = (SIDE, SIDE), [0]

        def following(turns: list[Tensor] = turns, count: list[int] = count) -> Tensor:
            count[0] += 1
            return turns[count[0] % len(turns)]

        plain = seconds(lambda: F.interpolate(following(), size, mode="bilinear").argmax(1))  # noqa: B023
        ours = seconds(lambda: decode(following(), size, wait=False))  # noqa: B023
        kernel = seconds(graphed(lambda: decode(turns[0], size, wait=False)))  # noqa: B023
        sure = seconds(lambda: decode(following(), size, wait=False, confidence="probability"))  # noqa: B023
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        mask = decode(turns[0], size).mask
        extra = torch.cuda.max_memory_allocated() - before
        differ = int((mask != F.interpolate(turns[0], size, mode="bilinear").argmax(1)).sum())
        print(
            f"  decoding {batch} x {CLASSES} x {cells} x {cells}: ours {ours * 1e3:.3f} ms (in a graph "
            f"{kernel * 1e3:.3f}, with probabilities {sure * 1e3:.3f}), plain {plain * 1e3:.3f} ms; "
            f"{extra / 2**20:.1f} MiB; {differ} pixels differ",
            flush=True,
        )
        ratios[f"gpu_decode_b{batch}_{cells}_over_plain"] = plain / ours
    return ratios


def agreement(device: torch.device) -> None:
    """Masks of the embedded models in fp32, CPU against GPU."""
    dataset = open_dataset("stickers59")
    words = list(dataset.spec.classes)[1:40]
    cases: dict[str, dict[str, Any]] = {
        "maskclip": {},
        "pd+ks": {"refine": "pd+ks"},
        "slide": {"slide": "192/96"},
        "scales": {"scales": (1, 1.25), "flip": True},
        "threshold": {"background": "usual", "threshold": 0.3},
        "vit-naclip": {"model": "tiny-vit", "preset": "naclip"},
        "vit-sclip": {"model": "tiny-vit", "preset": "sclip"},
    }
    for name, given in cases.items():
        options = dict(given)
        model = options.pop("model", "tiny-rn")
        here, there = (
            denseclip.load(model, classes=words, device=place, precision="fp32", **options)
            for place in ("cpu", device.type)
        )
        same = []
        for index in range(6):
            image = dataset[index].image
            same.append(float((here.segment(image).mask == there.segment(image).mask).mean()))
        print(f"  masks, CPU against GPU, fp32, {name}: at least {min(same):.3%} of pixels equal", flush=True)


def ceilings(device: torch.device) -> tuple[float, float]:
    """Measured: floating-point operations a second of a bf16 product, bytes a second of a copy (read + written)."""
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * 8192**3 / seconds(lambda: a @ b)
    block = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    return rate, 2 * block.numel() / seconds(lambda: other.copy_(block))


def graphed(work: Callable[[], object]) -> Callable[[], None]:
    """The work as a CUDA graph."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
    return graph.replay


def seconds(work: Callable[[], object]) -> float:
    """Of one call, the median of groups of calls that are waited for."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    each = max(1, int(0.02 / (time.perf_counter() - start)))
    found: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(found) < 3:
        start = time.perf_counter()
        for _ in range(each):
            work()
        torch.cuda.synchronize()
        found.append((time.perf_counter() - start) / each)
    return statistics.median(found)


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
