"""The names that others give to CLIP's weights, made open_clip's: `visual.*`, `text.*`, `logit_scale`."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]

# Extras that may stand in a file and are dropped on purpose; everything else must be used.
DROPPED = re.compile(
    r"(input_resolution|context_length|vocab_size"  # OpenAI's archives: numbers, not weights
    r"|logit_bias"  # SigLIP's loss
    r"|attn_mask|text\.attn_mask"  # old open_clip: a constant
    r"|(text|vision)_model\.embeddings\.position_ids)$"  # transformers: 0, 1, 2, ...
)
OPENAI_TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")

HF_RENAMED = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
        (r"^vision_model\.embeddings\.patch_embedding\.weight$", "visual.conv1.weight"),
        (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
        (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
        (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
        (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
        (r"^visual_projection\.weight$", "visual.proj"),
        (r"^text_model\.embeddings\.token_embedding\.", "text.token_embedding."),
        (r"^text_model\.embeddings\.position_embedding\.weight$", "text.positional_embedding"),
        (r"^text_model\.final_layer_norm\.", "text.ln_final."),
        (r"^text_model\.encoder\.layers\.", "text.transformer.resblocks."),
        (r"^text_projection\.weight$", "text.text_projection"),
        (r"\.layer_norm([12])\.", r".ln_\1."),
        (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    )
)
HF_QUERY = re.compile(r"(.*)\.self_attn\.q_proj\.(weight|bias)$")


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of transformers' `CLIPModel`."""
    return any(name.startswith(("vision_model.", "text_model.")) for name in state)


def to_open_clip(state: Mapping[str, Tensor]) -> State:
    """Weights as OpenAI, transformers or either class of open_clip names them -> the latter's newer names.

    Names that fit no rule are kept as they are, so that the check against the model reports them.
    """
    kept = {name: tensor for name, tensor in state.items() if not DROPPED.match(name)}
    if is_hugging_face(kept):
        kept = _from_hugging_face(kept)
    elif not any(name.startswith("text.") for name in kept):
        kept = {f"text.{name}" if name.startswith(OPENAI_TEXT) else name: t for name, t in kept.items()}
    if "logit_scale" in kept and kept["logit_scale"].numel() == 1:  # (1,) in some of open_clip's files
        kept["logit_scale"] = kept["logit_scale"].reshape(())
    return kept


def _from_hugging_face(state: State) -> State:
    state = _stack_projections(state)
    renamed: State = {}
    for old, tensor in state.items():
        name = old
        for pattern, new in HF_RENAMED:
            name = pattern.sub(new, name)
        renamed[name] = tensor.T if old in ("visual_projection.weight", "text_projection.weight") else tensor
    return renamed


def _stack_projections(state: State) -> State:
    """Query, key and value of every block in one matrix, where all three are there."""
    stacked = dict(state)
    for name in state:
        match = HF_QUERY.match(name)
        if match is None:
            continue
        block, part = match.groups()
        parts = [f"{block}.self_attn.{letter}_proj.{part}" for letter in "qkv"]
        if all(p in state for p in parts):
            stacked[f"{block}.attn.in_proj_{part}"] = torch.cat([stacked.pop(p) for p in parts])
    return stacked
