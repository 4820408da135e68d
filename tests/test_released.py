"""Checkpoints in the released layout, beside the code that writes them."""

from __future__ import annotations

import csv
import dataclasses
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from lewm_agent import LeWMAgent, ModelConfig
from lewm_agent.checkpoints import released
from lewm_agent.checkpoints.checkpoint import CheckpointError
from lewm_agent.config import AgentConfig
from lewm_agent.models.encoder import IMAGENET_MEAN, IMAGENET_STD
from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning import CEM, Sampling
from lewm_agent.planning.goal_cost import goal_cost
from lewm_agent.planning.presets import planner_preset

TABLE = Path(__file__).parent / "data" / "released_tensors.tsv"
SIDE = 56


def released_table() -> list[dict[str, str]]:
    """All tensors of a released file: name, name since transformers 5, shape."""
    with TABLE.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def in_transformers_4_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    old = {row["transformers5_name"]: row["released_name_tf4"] for row in released_table()}
    return {old[name]: tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def reference() -> Any:
    """stable-worldmodel's LeWM around Hugging Face's ViT, every weight and statistic random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from stable_worldmodel.wm.lewm import module
        from stable_worldmodel.wm.lewm.lewm import LeWM
        from transformers import ViTConfig, ViTModel
    torch.manual_seed(0)
    vit = ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=SIDE,
        patch_size=14,
    )
    heads = (module.MLP(192, 2048, 192, norm_fn=torch.nn.BatchNorm1d) for _ in range(2))
    predictor = module.Predictor(
        num_frames=3, depth=6, heads=16, dim_head=64, mlp_dim=2048, input_dim=192, hidden_dim=192, dropout=0.1
    )
    embedder = module.Embedder(input_dim=10, emb_dim=192)
    model = LeWM(ViTModel(vit, add_pooling_layer=False), predictor, embedder, *heads).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point():
            tensor += 0.03 * torch.randn_like(tensor)
    return model


CONFIG = {
    "_target_": "stable_worldmodel.wm.lewm.LeWM",
    "encoder": {"size": "tiny", "patch_size": 14, "image_size": SIDE},
    "predictor": {"num_frames": 3, "heads": 16, "dim_head": 64, "dropout": 0.1},
    "action_encoder": {"input_dim": 10, "emb_dim": 192},
}


@pytest.fixture
def folder(tmp_path: Path, reference: Any) -> Path:
    torch.save(in_transformers_4_names(reference.state_dict()), tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def frames(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 255, (count, SIDE, SIDE, 3), dtype=np.uint8)


def their_pixels(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    scaled = torch.as_tensor(pixels).float().permute(0, 3, 1, 2) / 255
    return (scaled - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]


@torch.inference_mode()
def test_encodes_and_imagines_as_the_original(folder: Path, reference: Any) -> None:
    model = LeWMAgent.from_pretrained(folder, device="cpu").world_model
    pixels, blocks = frames(2), torch.randn(2, 6, 5, 10)
    theirs = reference.encode({"pixels": their_pixels(pixels)[:, None]})["emb"]
    ours = model.encode(torch.as_tensor(pixels))
    torch.testing.assert_close(ours, theirs[:, 0], rtol=1e-4, atol=1e-5)

    start = theirs[:, :1]
    info = {"pixels": torch.zeros(2, 6, 1, 1), "emb": start[:, None].expand(-1, 6, -1, -1)}
    expected = reference.rollout(info, blocks)["predicted_emb"][:, :, 1:]
    imagined = model.rollout(start, torch.zeros(2, 0, 10), blocks)
    torch.testing.assert_close(imagined, expected, rtol=1e-4, atol=1e-4)
    assert expected.diff(dim=1).abs().mean() > 1e-2, "the imagined futures must depend on the actions"


@torch.inference_mode()
def test_plans_as_the_original(folder: Path, reference: Any) -> None:
    from stable_worldmodel.policy import PlanConfig
    from stable_worldmodel.solver import CEMSolver

    model = LeWMAgent.from_pretrained(folder, device="cpu").world_model
    pixels = frames(2)
    solver = CEMSolver(reference, num_samples=40, n_steps=3, topk=8, seed=5)
    space = gym.spaces.Box(-np.inf, np.inf, (1, 2), np.float32)
    solver.configure(action_space=space, n_envs=1, config=PlanConfig(3, 3, action_block=5))
    known = their_pixels(pixels)[:, None, None]
    problem = {"pixels": known[0], "goal": known[1], "action": torch.zeros(1, 1, 10)}
    theirs = solver.solve(problem)["actions"][0].view(-1, 2)

    start, goal = model.encode(torch.as_tensor(pixels))[:, None]

    def cost(actions: Tensor) -> Tensor:
        return goal_cost(
            model.rollout(start[:, None], torch.zeros(1, 0, 10), model.codec.joined(actions)), goal, "terminal"
        )

    sampling = Sampling(samples=40, elites=8, iterations=3)
    ours = CEM().plan(cost, torch.zeros(1, 1, 15, 2), [torch.Generator().manual_seed(5)], sampling).actions[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_the_released_names_and_shapes_come_out(tmp_path: Path) -> None:
    model = WorldModel(ModelConfig())
    released.write(tmp_path, model.config, model.state_dict())
    written = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert {name: str(list(tensor.shape)) for name, tensor in written.items()} == {
        row["released_name_tf4"]: row["shape"] for row in released_table()
    }
    config, weights = released.read(tmp_path / "weights.pt")
    assert released.split_blocks(config, None) == model.config
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=0)


def test_what_we_write_the_original_loads(tmp_path: Path, folder: Path, reference: Any) -> None:
    LeWMAgent.from_pretrained(folder, device="cpu").save_released(tmp_path / "out")
    written = torch.load(tmp_path / "out" / "weights.pt", weights_only=True)
    back = {row["released_name_tf4"]: row["transformers5_name"] for row in released_table()}
    reference.load_state_dict({back[name]: tensor for name, tensor in written.items()})
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    for part, values in CONFIG.items():
        assert described[part] == values if isinstance(values, str) else values.items() <= described[part].items()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_other_wrappings_namings_and_files(tmp_path: Path, reference: Any, wrap: Any) -> None:
    torch.save(wrap(reference.state_dict()), tmp_path / "lewm_weight.ckpt")  # transformers 5 names, no config.json
    agent = LeWMAgent.from_pretrained(tmp_path, device="cpu")
    assert agent.config.model == ModelConfig(image_size=SIDE)
    same = LeWMAgent.from_pretrained(tmp_path / "lewm_weight.ckpt", device="cpu")
    assert same.config == agent.config


def test_acts_once_it_knows_the_statistics_of_actions(folder: Path) -> None:
    quick = dataclasses.replace(planner_preset("paper"), samples=4, elites=2, iterations=1)
    agent = LeWMAgent.from_pretrained(folder, env="two_room", planner=quick, device="cpu")
    assert agent.env.spec is not None and agent.env.spec.id == "lewm/TwoRoom-v0"
    with pytest.raises(ValueError, match="came without the mean and standard deviation of its actions: give `dataset`"):
        agent.act(frames(1)[0], frames(2)[1])
    with pytest.raises(ValueError, match="must be 2 finite numbers each"):
        agent.set_action_statistics([0.0], [1.0])
    agent.set_action_statistics([0.1, 0.2], [0.5, 0.5])
    action = agent.act(frames(1)[0], frames(2)[1])
    saved = LeWMAgent.from_pretrained(agent.save_pretrained(folder / "ours"), planner=quick, device="cpu")
    assert saved.description.environment == "lewm/TwoRoom-v0"
    np.testing.assert_array_equal(saved.act(frames(1)[0], frames(2)[1]), action)


def test_action_blocks_are_cut_by_the_environment() -> None:
    cube = ModelConfig(frame_skip=1, action_dim=25)
    assert released.split_blocks(cube, None).action_dim == released.split_blocks(cube, 5).action_dim == 5
    assert released.split_blocks(ModelConfig(frame_skip=1, action_dim=8), 2).frame_skip == 4
    with pytest.raises(ValueError, match="blocks of 25 numbers do not divide into actions of 2 components"):
        released.split_blocks(cube, 2)


class Touched:
    """Unpickling one would leave a file behind."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


def test_nothing_is_unpickled_but_tensors(tmp_path: Path) -> None:
    torch.save({"model": Touched(tmp_path / "owned")}, tmp_path / "lewm_weight.ckpt")
    with pytest.raises(CheckpointError, match="Python objects beside tensors, which are never unpickled"):
        LeWMAgent.from_pretrained(tmp_path)
    (tmp_path / "lewm_weight.ckpt").write_bytes(pickle.dumps(Touched(tmp_path / "owned")))
    with pytest.raises(CheckpointError):
        LeWMAgent.from_pretrained(tmp_path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**CONFIG, "_target_": "stable_worldmodel.wm.pldm.PLDM"}, "describes a PLDM, not a LeWM model"),
        ({**CONFIG, "_target_": "jepa.JEPA"}, None),
        ({**CONFIG, "encoder": {"scale": "tiny"}}, None),
        ({**CONFIG, "predictor": {"num_frames": 4}}, "predictor.num_frames is 4, the tensors 3"),
        ("{", "not valid JSON"),
    ],
)
def test_config_json_is_checked_against_the_tensors(folder: Path, config: Any, message: str | None) -> None:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if message is None:
        assert LeWMAgent.from_pretrained(folder, device="cpu").config.model.encoder_heads == 3
    else:
        with pytest.raises(CheckpointError, match=message):
            LeWMAgent.from_pretrained(folder, device="cpu")


def test_foreign_and_broken_weights_are_named(tmp_path: Path, folder: Path) -> None:
    state = torch.load(folder / "weights.pt", weights_only=True)
    state.pop("pred_proj.net.3.bias")
    torch.save(state, folder / "weights.pt")
    with pytest.raises(CheckpointError, match="1 tensors missing"):
        LeWMAgent.from_pretrained(folder)
    torch.save({"layer.weight": torch.zeros(2)}, folder / "weights.pt")
    with pytest.raises(CheckpointError, match="does not hold a LeWM model: it has no tensor"):
        LeWMAgent.from_pretrained(folder)
    torch.save([1, 2], folder / "weights.pt")
    with pytest.raises(CheckpointError, match="does not hold a dictionary of tensors"):
        LeWMAgent.from_pretrained(folder)
    (folder / "weights.pt").write_bytes(b"half a download")
    with pytest.raises(CheckpointError, match="damaged"):
        LeWMAgent.from_pretrained(folder)
    (folder / "other_weight.ckpt").touch()
    with pytest.raises(CheckpointError, match="holds several models"):
        LeWMAgent.from_pretrained(folder)


def test_only_what_the_layout_knows_is_exported(tmp_path: Path, tiny_config: AgentConfig) -> None:
    with pytest.raises(ValueError, match="knows ViTs of width, depth and heads"):
        LeWMAgent("two_room", tiny_config, device="cpu").save_released(tmp_path)
    with pytest.raises(ValueError, match="ViT encoders of ImageNet-normalised frames only"):
        LeWMAgent.from_pretrained("push_t", device="cpu").save_released(tmp_path)
    with pytest.raises(ValueError, match="knows its environment and statistics"):
        LeWMAgent.from_pretrained("two_room", env="two_room")
