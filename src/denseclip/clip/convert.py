"""Names of weights as others have them, made ours: OpenAI's, transformers', timm's, mmsegmentation's, DINO's."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]

# Extras that may stand in a file and are dropped on purpose; everything else must be used.
DROPPED = re.compile(
    r"(input_resolution|context_length|vocab_size"  # OpenAI's archives: numbers, not weights
    r"|attn_mask|text\.attn_mask"  # old open_clip: a constant
    r"|(text|vision)_model\.embeddings\.position_ids)$"  # transformers: 0, 1, 2, ...
)
OPENAI_TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")

HF_RENAMED = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.head\.attention\.", "visual.head.attn."),
    (r"^vision_model\.head\.layernorm\.", "visual.head.ln."),
    (r"^vision_model\.head\.", "visual.head."),
    (r"^text_model\.head\.", "text.text_projection."),
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
SIGLIP_POOL = "visual.trunk.attn_pool."
SIGLIP = (  # timm's tower in open_clip
    (r"^visual\.trunk\.patch_embed\.proj\.", "visual.conv1."),
    (r"^visual\.trunk\.pos_embed$", "visual.positional_embedding"),
    (r"^visual\.trunk\.norm\.", "visual.ln_post."),
    (r"^visual\.trunk\.attn_pool\.latent$", "visual.head.probe"),
    (r"^visual\.trunk\.attn_pool\.norm\.", "visual.head.ln."),
    (r"^visual\.trunk\.attn_pool\.(qkv|proj)\.", r"visual.head.attn.\1."),
    (r"^visual\.trunk\.attn_pool\.", "visual.head."),
    (r"^visual\.trunk\.blocks\.", "visual.transformer.resblocks."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".attn.in_proj_"),
    (r"\.attn\.proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
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
    elif f"{SIGLIP_POOL}latent" in kept:
        kept = _from_timm_siglip(kept)
    elif not any(name.startswith("text.") for name in kept):
        kept = {f"text.{name}" if name.startswith(OPENAI_TEXT) else name: t for name, t in kept.items()}
    if "logit_scale" in kept and kept["logit_scale"].numel() == 1:  # (1,) in some of open_clip's files
        kept["logit_scale"] = kept["logit_scale"].reshape(())
    return kept


def _from_hugging_face(state: State) -> State:
    state = _stack_projections(state)
    renamed: State = {}
    for old, tensor in state.items():
        name = _renamed(old, HF_RENAMED)
        renamed[name] = tensor.T if old in ("visual_projection.weight", "text_projection.weight") else tensor
    return renamed


def _from_timm_siglip(state: State) -> State:
    for part in ("weight", "bias"):
        own = [f"{SIGLIP_POOL}{name}.{part}" for name in ("q", "kv")]
        if all(name in state for name in own):
            state[f"{SIGLIP_POOL}qkv.{part}"] = torch.cat([state.pop(name) for name in own])
    renamed = {_renamed(name, SIGLIP) if name.startswith("visual.") else name: t for name, t in state.items()}
    table = renamed.get("visual.positional_embedding")
    return renamed | ({} if table is None else {"visual.positional_embedding": table.flatten(0, -2)})


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


DINO = (  # of the official repositories, and of timm, to those of our blocks
    (r"^patch_embed\.", ""),
    (r"norm([12])", r"ln_\1"),
    (r"attn\.qkv\.", "attn.in_proj_"),
    (r"attn\.proj", "attn.out_proj"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"ls([12])", r"ls_\1"),
    (r"reg_token", "register_tokens"),
)
TIMM_STEM = {f"conv1.{i}": f"stem.{i}" for i in (0, 1, 3, 4, 6)} | {"bn1": "stem.7"}
ROI = "head.roi_heads."
MMDET = (
    (r"^bbox_head\.cls_convs\.(\d+)\.conv\.", r"head.head.classification_head.conv.\1.0."),
    (r"^bbox_head\.reg_convs\.(\d+)\.conv\.", r"head.head.regression_head.conv.\1.0."),
    (r"^bbox_head\.retina_cls\.", "head.head.classification_head.cls_logits."),
    (r"^bbox_head\.retina_reg\.", "head.head.regression_head.bbox_reg."),
    (r"^rpn_head\.rpn_conv\.", "head.rpn.head.conv.0.0."),
    (r"^rpn_head\.rpn_cls\.", "head.rpn.head.cls_logits."),
    (r"^rpn_head\.rpn_reg\.", "head.rpn.head.bbox_pred."),
    (r"^roi_head\.bbox_head\.shared_fcs\.0\.", f"{ROI}box_head.fc6."),
    (r"^roi_head\.bbox_head\.shared_fcs\.1\.", f"{ROI}box_head.fc7."),
    (r"^roi_head\.bbox_head\.fc_cls\.", f"{ROI}box_predictor.cls_score."),
    (r"^roi_head\.bbox_head\.fc_reg\.", f"{ROI}box_predictor.bbox_pred."),
    (r"^roi_head\.mask_head\.convs\.(\d+)\.conv\.", rf"{ROI}mask_head.\1.0."),
    (r"^roi_head\.mask_head\.upsample\.", f"{ROI}mask_predictor.conv5_mask."),
    (r"^roi_head\.mask_head\.conv_logits\.", f"{ROI}mask_predictor.mask_fcn_logits."),
)


def _renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for theirs, ours in rules:
        name = re.sub(theirs, ours, name)
    return name


def from_dino(state: Mapping[str, Tensor]) -> State:
    """Weights of DINO or DINOv2 under the names of `segment.proxy.Dino`."""
    return {_renamed(name, DINO): tensor for name, tensor in state.items() if name != "mask_token"}


def from_timm(state: Mapping[str, Tensor]) -> State:
    """Weights of timm's `resnet*c` under the names of our ResNetV1c; ImageNet's classifier is left out."""
    renamed = {}
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        if owner != "fc":
            renamed[f"{TIMM_STEM.get(owner, owner)}.{leaf}"] = tensor
    return renamed


def from_mmdet(state: Mapping[str, Tensor]) -> State:
    """A detector's tensors under our names, the background first, which mmdetection has last, without box and mask.

    KeyError for a missing tensor.
    """
    found = {_renamed(name, MMDET): tensor for name, tensor in state.items()}
    if f"{ROI}box_predictor.cls_score.bias" not in found:
        return found
    for part in ("weight", "bias"):
        key = f"{ROI}box_predictor.cls_score.{part}"
        found[key] = found[key].roll(1, dims=0)
        for name, rows in (("box_predictor.bbox_pred", 4), ("mask_predictor.mask_fcn_logits", 1)):
            tensor = found[f"{ROI}{name}.{part}"]
            found[f"{ROI}{name}.{part}"] = torch.cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor])
    return found
