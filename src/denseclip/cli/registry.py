"""Every option of every command, once: a name has one meaning, one default and one place in the help."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import typer

WORDS, MODEL, SIZE, REFINEMENT = "Words", "Model", "Size and windows", "Refinement"
OUTPUT, MACHINE, ADVANCED = "Output", "Machine", "Advanced"
PANELS = (WORDS, MODEL, SIZE, REFINEMENT, OUTPUT, MACHINE, ADVANCED)
"""In the order of the help. What most people need first has its subject's panel, all the rest is under Advanced."""


def _(panel: str, text: str, *names: str, **more: Any) -> Any:  # noqa: ANN401
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


class Options(TypedDict, total=False):
    """What can be written after a command; one that is left out has its value of `DEFAULTS`, or is off."""

    # Words
    classes: Annotated[
        str | None,
        _(
            WORDS,
            '"cat|kitten, red car", a class set such as voc, or a .json or .txt file.',
            "--classes",
            "-c",
        ),
    ]
    background: Annotated[
        str | None,
        _(WORDS, 'Class 0: auto (where no word fits), none, words, or "usual" for a list of them.'),
    ]
    threshold: Annotated[
        float | None,
        _(WORDS, "What is less sure is background: a pixel's best word, or a detector's find (0..1)."),
    ]
    templates: Annotated[
        str, _(ADVANCED, 'Sentences around the words: 85, 80, 1, or your own "a map of {}.".')
    ]
    # Model
    model: Annotated[
        str,
        _(MODEL, "tiny-rn, tiny-vit, a name such as ViT-B-16 or RN50, NAME:TAG, or a path.", "--model", "-m"),
    ]
    preset: Annotated[
        str,
        _(
            ADVANCED,
            "The last block: auto (the model's choice, else maskclip), maskclip, maskclip-reduced, sclip, clearclip, "
            "naclip, vanilla, sc-clip, resclip, resclip-sclip, resclip-clearclip, proxyclip; for ResNets also "
            "maskclip-dilated.",
        ),
    ]
    proxy: Annotated[
        str | None, _(ADVANCED, "For proxyclip: a file of DINO or DINOv2 weights, or timm:NAME.")
    ]
    activation: Annotated[str | None, _(ADVANCED, "quick-gelu or gelu, for weights that do not say it.")]
    compat: Annotated[
        str | None,
        _(ADVANCED, "As code of published numbers does it: official (MaskCLIP), sclip, naclip, sc-clip, proxyclip, "
          "resclip."),
    ]  # fmt: skip
    weights: Annotated[
        list[str] | None, _(MODEL, "NAME=PATH: load this for a model of the table; repeatable.")
    ]
    compare: Annotated[str | None, _(MODEL, "A second model, for a table side by side.")]
    # Size and windows
    resize: Annotated[
        str,
        _(SIZE, "auto (the model's choice, else 2048x512, long x short side), short:512, long:520, exact:224x224, "
          "none."),
    ]  # fmt: skip
    slide: Annotated[
        str | None,
        _(ADVANCED, "Windows: crop/stride in pixels, such as 224/112; none; auto: the model's choice."),
    ]
    fusion: Annotated[
        str, _(ADVANCED, "Windows meet in their scores, or, before the last norm, in features.")
    ]
    scales: Annotated[str, _(ADVANCED, "Factors on that size, averaged: 0.75,1,1.5.")]
    flip: Annotated[bool, _(ADVANCED, "Average with the mirrored picture.", "--flip")]
    size: Annotated[str | None, _(SIZE, "Height x width in pixels, such as 512x683; default: the paper's.")]
    # Refinement
    refine: Annotated[
        str | None,
        _(
            REFINEMENT,
            "guided or pamr (outlines follow the picture), pd, ks, none; pd=0.3+ks=0.9+guided puts them together. "
            "auto: guided, but for trained models and published figures.",
        ),
    ]
    ks_norm: Annotated[
        str,
        _(
            ADVANCED,
            "Keys normalized over channels (paper), positions (official); auto: channels, or compat's.",
        ),
    ]
    min_confidence: Annotated[float | None, _(ADVANCED, "Pixels of a lower probability get no label (void).")]
    min_area: Annotated[int, _(ADVANCED, "Regions of fewer pixels get no label.")]
    # Data
    data_root: Annotated[Path | None, _(MODEL, "Folder that holds the data set's own, such as VOCdevkit.")]
    split: Annotated[str | None, _(ADVANCED, "Which images; default: the ones to evaluate.")]
    limit: Annotated[int | None, _(ADVANCED, "Only the first pictures, of each data set.", min=1)]
    images: Annotated[
        str | None, _(ADVANCED, "Where a list's or COCO file's pictures lie, if not beside it.")
    ]
    kinds: Annotated[str, _(ADVANCED, "Corruptions with commas, such as gaussian_noise,spatter; or all.")]
    levels: Annotated[str, _(ADVANCED, "Levels of corruption with commas, 1 to 5.")]
    scenes: Annotated[str, _(ADVANCED, "Numbers of the example scenes, with commas.")]
    protocol: Annotated[
        str, _(SIZE, "recommended (by the model), ours, official or slide; other options go before.")
    ]
    # Output
    out: Annotated[
        Path | None, _(OUTPUT, "Folder or file for results; default: as said above.", "--out", "-o")
    ]
    format: Annotated[
        str | None,
        _(OUTPUT, "label: png, coco, coco-polygons, yolo, voc, cvat, label-studio, several with commas; export: onnx "
          "or torch-export. Default: the first.", "--format", "-f"),
    ]  # fmt: skip
    heatmaps: Annotated[bool, _(OUTPUT, "Also a heat map per class.", "--heatmaps")]
    overlays: Annotated[bool, _(ADVANCED, "Also each picture with its labels painted on.", "--overlays")]
    confidence: Annotated[
        str | None, _(ADVANCED, "regions: a score in each annotation; pixels: a map per picture as well.")
    ]
    labels_only: Annotated[bool, _(ADVANCED, "No pictures in yolo/ and voc/.", "--labels-only")]
    image_prefix: Annotated[str, _(ADVANCED, "What Label Studio finds pictures by, before their names.")]
    scores: Annotated[bool, _(OUTPUT, "Scores of all classes instead of a mask.", "--scores")]
    uint8: Annotated[bool, _(ADVANCED, "Take (B, H, W, 3) uint8, as image files give it.", "--uint8")]
    overwrite: Annotated[bool, _(OUTPUT, "Replace results that are there.", "--overwrite")]
    resume: Annotated[bool, _(OUTPUT, "Go on with the interrupted work in --out.", "--resume")]
    skip_bad: Annotated[bool, _(ADVANCED, "List images that cannot be used, and go on.", "--skip-bad")]
    all: Annotated[bool, _(OUTPUT, "Every model there is.", "--all")]
    local: Annotated[bool, _(OUTPUT, "Only what is on this machine.", "--local")]
    per_module: Annotated[bool, _(OUTPUT, "Also each part of the model.", "--per-module")]
    quick: Annotated[bool, _(OUTPUT, "Only whether files are there, not whether they open.", "--quick")]
    # Training and tables
    steps: Annotated[int | None, _(MODEL, "Optimizer steps; default by machine.", min=1)]
    from_scratch: Annotated[bool, _(ADVANCED, "A student without weights to start from.", "--from-scratch")]
    set: Annotated[list[str] | None, _(ADVANCED, "key=value of the recipe, such as batch=4; repeatable.")]
    time_limit: Annotated[
        float | None, _(MACHINE, "Stop after so many minutes, to go on another time.", min=0)
    ]
    no_evaluation: Annotated[bool, _(ADVANCED, "Leave out the evaluation at the end.", "--no-evaluation")]
    strategy: Annotated[
        Literal["auto", "ddp", "fsdp"], _(ADVANCED, "For several processes, started by torchrun.")
    ]
    dry_run: Annotated[
        bool, _(OUTPUT, "Tell what would be done and how long it takes; make nothing.", "--dry-run")
    ]
    scale: Annotated[
        Literal["mini", "paper"],
        _(MODEL, "mini: tiny CLIPs on sticker scenes; paper: as published, on real data."),
    ]
    rows: Annotated[Literal["training-free", "trained", "all"], _(MODEL, "Which rows of the table.")]
    filter: Annotated[str | None, _(ADVANCED, "Make only rows with this in their name or recipe.")]
    seeds: Annotated[int | None, _(ADVANCED, "Train only the first seeds of each row.", min=1)]
    runs: Annotated[Path | None, _(ADVANCED, "Folder that keeps trainings; default: with the other caches.")]
    no_cache: Annotated[bool, _(ADVANCED, "Count anew what was counted before.", "--no-cache")]
    # Machine
    device: Annotated[str, _(MACHINE, "auto, cpu, cuda, cuda:1, ...")]
    devices: Annotated[
        str | None,
        _(ADVANCED, "Several, a process each: a number of GPUs, or cuda:0,cuda:1.", show_default=False),
    ]
    precision: Annotated[str, _(ADVANCED, "auto, fp32, bf16, fp16; tables are made in fp32 unless you say.")]
    engine: Annotated[str, _(ADVANCED, "local, or ray: a cluster.")]
    address: Annotated[str | None, _(ADVANCED, "Of the Ray cluster; default: RAY_ADDRESS, or this machine.")]
    workers: Annotated[int | None, _(ADVANCED, "How many at once; default: by machine.", min=1)]
    # The page
    host: Annotated[str, _(MACHINE, "Address to listen on; 0.0.0.0 lets other machines in.")]
    port: Annotated[int, _(MACHINE, "0 for any free one.", min=0, max=65535)]
    browser: Annotated[bool, _(OUTPUT, "Open the page in the browser.", "--browser")]
    max_pixels: Annotated[int, _(ADVANCED, "Of a picture.", min=1)]
    max_upload: Annotated[int, _(ADVANCED, "MiB of a picture's file.", min=1)]
    max_words: Annotated[int, _(ADVANCED, "Of one question, with synonyms.", min=1)]
    label_studio: Annotated[
        bool, _(OUTPUT, "Also be an ML backend of Label Studio, on the same address.", "--label-studio")
    ]
    label_studio_url: Annotated[
        str, _(ADVANCED, "Where it is; pictures are fetched from there.", envvar="LABEL_STUDIO_URL")
    ]
    picture_host: Annotated[
        list[str] | None, _(ADVANCED, "Another address that its tasks may have pictures from; repeatable.")
    ]


class Loudness(TypedDict):
    """What the shell alone has, of every command."""

    json: Annotated[bool, _(ADVANCED, "One JSON object on stdout: files, classes, areas, figures.", "--json")]
    quiet: Annotated[bool, _(ADVANCED, "Print nothing but what went wrong.", "--quiet", "-q")]
    verbose: Annotated[bool, _(ADVANCED, "Also tell every option and what libraries log.", "--verbose")]


DEFAULTS: dict[str, Any] = {
    "background": "auto", "templates": "85", "model": "tiny-rn", "preset": "auto", "resize": "auto", "slide": "auto",
    "fusion": "scores", "scales": "1", "refine": "auto", "ks_norm": "auto", "min_area": 0, "kinds": "all",
    "levels": "1,2,3,4,5", "scenes": "0,1,2,3", "protocol": "recommended", "image_prefix": "/data/local-files/?d=",
    "strategy": "auto", "scale": "mini", "rows": "all", "device": "auto", "precision": "auto", "engine": "local",
    "host": "127.0.0.1", "port": 7860, "max_pixels": 25_000_000, "max_upload": 32, "max_words": 500,
    "label_studio_url": "http://localhost:8080",
}  # fmt: skip

METHOD = (
    "background", "threshold", "preset", "proxy", "resize", "slide", "fusion", "scales", "flip", "refine", "ks_norm",
    "templates", "compat", "activation",
)  # fmt: skip
"""How a model is run: the keywords of `denseclip.load`."""
