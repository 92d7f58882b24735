"""Train an embedded tiny CLIP.

    python -m denseclip.train.tiny tiny-rn --run runs/tiny-rn

Run it again to go on after an interruption. The finished weights are written to RUN/model.safetensors (fp16)
and RUN/config.json; copy both to src/denseclip/assets/NAME to embed them.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from denseclip.clip.clip import OPENAI_STATS
from denseclip.files import atomic_path, write_text
from denseclip.train.tiny.loop import Trainee, train
from denseclip.train.tiny.recipes import RECIPES, TinyRecipe


def export(trainee: Trainee, recipe: TinyRecipe, folder: Path) -> None:
    """Write the weights as fp16 safetensors with open_clip's names, and their config."""
    state = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in trainee.model.state_dict().items()
    }
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(state, temporary)
    config = {
        "model_cfg": recipe.config,
        "preprocess_cfg": {"mean": list(OPENAI_STATS.mean), "std": list(OPENAI_STATS.std)},
    }
    write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")


def main() -> None:
    """Train, then export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint and the result")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    parser.add_argument("--threads", type=int, help="CPU threads of the training itself")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = RECIPES[options.name]
    options.run.mkdir(parents=True, exist_ok=True)
    trainee = train(recipe, options.run, workers=options.workers, report=lambda line: print(line, flush=True))
    export(trainee, recipe, options.run)


if __name__ == "__main__":
    main()
