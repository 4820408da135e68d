"""Checkpoints in the layout of the released LeWM models: ``weights.pt`` + ``config.json``, or a lone ``*_weight.ckpt``.

Source of names and shapes: the models under ``quentinll/`` on the Hugging Face Hub and stable-worldmodel ``wm/lewm``.
Weights are read as tensors only; the ``_target_`` entries of ``config.json`` name classes and are never imported.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lewm_agent.checkpoints.checkpoint import CONFIG, CheckpointError, check_model, read_object, saving
from lewm_agent.checkpoints.wrappings import released_tensors
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.models.world_model import WorldModel
from lewm_agent.tools.replacing import replacing

WEIGHTS = "weights.pt"
FRAME_SKIP = 5
"""Actions per block of all released models; no file says so."""
ACTION_BOUNDS = -1.0, 1.0
"""Of every action component in the environments of the released models."""
MODEL_CLASSES = ("LeWM", "JEPA")
_VIT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_OWN_BUFFERS = ("metric", "action_mean", "action_std", "encoder.pixel_mean", "encoder.pixel_std")
_NAMES = (
    ("encoder.vit.cls_token", "encoder.embeddings.cls_token"),
    ("encoder.vit.pos_embed", "encoder.embeddings.position_embeddings"),
    ("encoder.vit.patch_embed.proj", "encoder.embeddings.patch_embeddings.projection"),
    ("encoder.vit.blocks.", "encoder.encoder.layer."),
    ("encoder.vit.norm", "encoder.layernorm"),
    ("encoder.projector.", "projector.net."),
    ("prediction_head.", "pred_proj.net."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    ("action_encoder.smooth", "action_encoder.patch_embed"),
    ("predictor.position", "predictor.pos_embedding"),
    ("predictor.latent_projection", "predictor.transformer.input_proj"),
    ("predictor.condition_projection", "predictor.transformer.cond_proj"),
    ("predictor.output_projection", "predictor.transformer.output_proj"),
    ("predictor.norm", "predictor.transformer.norm"),
    ("predictor.blocks", "predictor.transformer.layers"),
    (".attention.norm", ".attn.norm"),
    (".attention.to_", ".attn.to_"),
    (".modulation.", ".adaLN_modulation."),
)
"""Parts of our names and of the released ones, which are those of transformers 4."""
_TRANSFORMERS_5 = (
    ("encoder.layers.", "encoder.encoder.layer."),
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)


def read(file: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Sizes and weights under our names; the statistics of actions are not among them, for no released file has them.

    Nor does a file say of how many actions a block consists: the sizes are those of one long action, to be cut by
    :func:`split_blocks`.

    Args:
        file: as from :func:`lewm_agent.checkpoints.wrappings.find`; ``config.json`` is looked for beside it.

    Raises:
        CheckpointError: damaged, more than tensors, of another architecture, or not as its ``config.json`` says.
    """
    declared = _declared(file.parent / CONFIG)
    state = {_as_transformers_4(name): tensor for name, tensor in released_tensors(file).items()}
    try:
        config = _sizes(state, declared)
    except KeyError as error:
        raise CheckpointError(f"{file} does not hold a LeWM model: it has no tensor {error}") from error
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise CheckpointError(f"{file} and its {CONFIG} describe no LeWM model: {error}") from error
    _compare(config, declared, file)
    check_model(lambda: released_weights(_expected(config)), {}, state, file)
    return config, {name: _joined(name, state) for name in _expected(config)}


def split_blocks(config: ModelConfig, action_dim: int | None) -> ModelConfig:
    """The same model with its blocks cut into actions of ``action_dim`` components; None: into 5 actions.

    Raises:
        ValueError: that leaves a rest.
    """
    count = config.block_dim // action_dim if action_dim else FRAME_SKIP
    if count == 0 or config.block_dim % count or (action_dim and config.block_dim % action_dim):
        wanted = f"actions of {action_dim} components" if action_dim else f"{FRAME_SKIP} actions"
        raise ValueError(f"the model's action blocks of {config.block_dim} numbers do not divide into {wanted}")
    return dataclasses.replace(config, frame_skip=count, action_dim=config.block_dim // count)


def write(folder: Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Write ``weights.pt`` and ``config.json`` as stable-worldmodel saves and loads them.

    The layout holds no statistics of actions: who loads it computes them from the dataset again. Inverse-dynamics
    head, decoder and slow metric are left out too.

    Raises:
        ValueError: the layout has no room for such an encoder.
    """
    size = _vit_size(config)
    state = released_weights({name: weights[name].detach().cpu() for name in _expected(config)})
    content = io.BytesIO()
    torch.save(state, content)  # into a file, a full disk would be a RuntimeError of the C++ library
    with saving(folder), replacing(folder / CONFIG) as config_part, replacing(folder / WEIGHTS) as weights_part:
        config_part.write_text(json.dumps(_description(config, size), indent=2) + "\n")
        weights_part.write_bytes(content.getbuffer())


def released_names(name: str) -> list[str]:
    """What the released files call our tensor ``name``: three names for the joint queries, keys and values of the ViT.

    >>> released_names("prediction_head.1.bias")
    ['pred_proj.net.1.bias']
    """
    mlp_of_predictor = name.startswith("predictor.") and ".mlp." in name
    for ours, theirs in _NAMES:
        name = name.replace(ours, theirs)
    if mlp_of_predictor:
        name = name.replace(".mlp.", ".mlp.net.")
    if ".attn.qkv." not in name:
        return [name]
    return [name.replace(".attn.qkv.", f".attention.attention.{part}.") for part in ("query", "key", "value")]


def _expected(config: ModelConfig) -> dict[str, Tensor]:
    """Our tensors that a released file has as well, without their values."""
    with torch.device("meta"):
        state = WorldModel(config).state_dict()
    return {name: tensor for name, tensor in state.items() if name not in _OWN_BUFFERS}


def released_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of our tensors under the released names and in the released shapes."""
    renamed = dict[str, Tensor]()
    for name, tensor in weights.items():
        names = released_names(name)
        tensor = tensor[..., None] if name == "action_encoder.smooth.weight" else tensor
        parts = [tensor] if len(names) == 1 else tensor.chunk(len(names))
        renamed.update(zip(names, (part.clone() for part in parts), strict=True))
    return renamed


def _joined(name: str, state: Mapping[str, Tensor]) -> Tensor:
    parts = [state[name] for name in released_names(name)]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    return joined.squeeze(-1) if name == "action_encoder.smooth.weight" else joined


def _as_transformers_4(name: str) -> str:
    if name.startswith("encoder."):
        for new, old in _TRANSFORMERS_5:
            name = name.replace(new, old)
    return name


def _declared(file: Path) -> dict[str, Any]:
    """What ``config.json`` says, empty if there is none."""
    if not file.exists():
        return {}
    content = read_object(file)
    target = str(content.get("_target_", MODEL_CLASSES[0])).rsplit(".", 1)[-1]
    if target not in MODEL_CLASSES:
        raise CheckpointError(f"{file} describes a {target}, not a LeWM model")
    return content


def _sizes(state: Mapping[str, Tensor], declared: Mapping[str, Any]) -> ModelConfig:
    """Read off the tensors' shapes; only the numbers of heads and the dropout leave no trace there."""
    encoder, predictor = _part(declared, "encoder"), _part(declared, "predictor")
    patches = state["encoder.embeddings.patch_embeddings.projection.weight"].shape
    grid = math.isqrt(state["encoder.embeddings.position_embeddings"].shape[1] - 1)
    size = _VIT_SIZES.get(str(encoder.get("size", encoder.get("scale"))))
    attention = state["predictor.transformer.layers.0.attn.to_qkv.weight"].shape[0] // 3
    head_dim = int(predictor.get("dim_head", 64))
    latent_dim, projector_width = state["projector.net.3.weight"].shape
    return ModelConfig(
        image_size=grid * patches[-1],
        patch_size=patches[-1],
        encoder_width=patches[0],
        encoder_depth=_layers(state, "encoder.encoder.layer"),
        encoder_heads=size[2] if size else patches[0] // 64,
        latent_dim=latent_dim,
        projector_width=projector_width,
        predictor_width=state["predictor.transformer.norm.weight"].shape[0],
        predictor_depth=_layers(state, "predictor.transformer.layers"),
        predictor_heads=attention // head_dim,
        predictor_head_dim=head_dim,
        predictor_mlp_width=state["predictor.transformer.layers.0.mlp.net.1.weight"].shape[0],
        predictor_dropout=float(predictor.get("dropout", 0.1)),
        history=state["predictor.pos_embedding"].shape[1],
        frame_skip=1,
        action_dim=state["action_encoder.patch_embed.weight"].shape[1],
    )


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({match[1] for name in state if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))})


def _part(declared: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = declared.get(name)
    return part if isinstance(part, dict) else {}


def _compare(config: ModelConfig, declared: Mapping[str, Any], file: Path) -> None:
    """Raise unless the shapes agree with what ``config.json`` declares."""
    for part, values in _parts(config).items():
        given = _part(declared, part)
        for name, value in values.items():
            if isinstance(value, int) and name in given and given[name] != value:
                raise CheckpointError(f"{file}: {CONFIG} says {part}.{name} is {given[name]!r}, the tensors {value}")


def _vit_size(config: ModelConfig) -> str:
    if config.encoder != "vit" or config.pixel_normalization != "imagenet":
        raise ValueError("the released layout holds ViT encoders of ImageNet-normalised frames only")
    if config.predictor != "autoregressive":
        raise ValueError("the released layout holds autoregressive predictors only")
    shape = config.encoder_width, config.encoder_depth, config.encoder_heads
    for size, (width, depth, heads) in _VIT_SIZES.items():
        if shape == (width, depth, heads):
            return size
    raise ValueError(
        "the released layout knows ViTs of width, depth and heads "
        f"{', '.join(map(str, _VIT_SIZES.values()))}; this one has {shape}"
    )


def _description(config: ModelConfig, size: str) -> dict[str, Any]:
    """``config.json`` as stable-worldmodel instantiates it."""
    vit = {"_target_": "stable_pretraining.backbone.utils.vit_hf", "size": size}
    parts = _parts(config)
    encoder = {**vit, **parts.pop("encoder"), "pretrained": False, "use_mask_token": False}
    module = "stable_worldmodel.wm.lewm.module"
    classes = {"predictor": "Predictor", "action_encoder": "Embedder", "projector": "MLP", "pred_proj": "MLP"}
    described = {name: {"_target_": f"{module}.{classes[name]}", **values} for name, values in parts.items()}
    for head in ("projector", "pred_proj"):
        described[head]["norm_fn"] = {"_target_": "torch.nn.BatchNorm1d", "_partial_": True}
    return {"_target_": "stable_worldmodel.wm.lewm.LeWM", "encoder": encoder, **described}


def _parts(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """The numbers in ``config.json``."""
    head = {"output_dim": config.latent_dim, "hidden_dim": config.projector_width}
    return {
        "encoder": {"patch_size": config.patch_size, "image_size": config.image_size},
        "predictor": {
            "num_frames": config.history,
            "input_dim": config.latent_dim,
            "hidden_dim": config.predictor_width,
            "output_dim": config.latent_dim,
            "depth": config.predictor_depth,
            "heads": config.predictor_heads,
            "mlp_dim": config.predictor_mlp_width,
            "dim_head": config.predictor_head_dim,
            "dropout": config.predictor_dropout,
            "emb_dropout": 0.0,
        },
        "action_encoder": {"input_dim": config.block_dim, "emb_dim": config.latent_dim},
        "projector": {"input_dim": config.encoder_width, **head},
        "pred_proj": {"input_dim": config.latent_dim, **head},
    }
