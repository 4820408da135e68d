"""LeWorldModel (arXiv 2603.19312) on one screen: encoder, predictor, SIGReg, loss, CEM and MPC, without the package.

Two-Room alone comes from lewm_agent. ``python examples/lewm_minimal.py`` gathers episodes, learns and reaches goals.
"""

import argparse
import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lewm_agent.envs import make_pixel_env

SIDE, LATENT, WIDTH, HISTORY, SKIP, ACTION = 64, 32, 128, 3, 5, 2  # a block is SKIP actions, with one frame before it
HEADS, HORIZON, SAMPLES, ELITES, ITERATIONS = 4, 5, 64, 8, 4


def head(inputs):
    """Linear, BatchNorm, GELU, Linear: BatchNorm makes the Gaussian that SIGReg asks for reachable."""
    return nn.Sequential(nn.Linear(inputs, 1024), nn.BatchNorm1d(1024), nn.GELU(), nn.Linear(1024, LATENT))


class Encoder(nn.Module):
    """Frames (N, 64, 64, 3) uint8 to latents (N, 32); the paper has a ViT here."""

    def __init__(self):
        super().__init__()
        sizes, layers = [3, 8, 16, 32, 64], []
        for i, o in itertools.pairwise(sizes):
            layers += [nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
        self.cnn = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 256))
        self.projector = head(256)
        self.register_buffer("pixel_mean", torch.tensor([0.485, 0.456, 0.406]) * 255)
        self.register_buffer("pixel_std", torch.tensor([0.229, 0.224, 0.225]) * 255)

    def forward(self, frames):
        return self.projector(self.cnn(((frames - self.pixel_mean) / self.pixel_std).permute(0, 3, 1, 2)))


class Block(nn.Module):
    """A causal transformer block; the action shifts, scales and gates both branches (AdaLN-zero)."""

    def __init__(self):
        super().__init__()
        qkv, out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1))
        self.attention = nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "to_qkv": qkv, "to_out": out})
        wide = [nn.Linear(WIDTH, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, WIDTH), nn.Dropout(0.1)]
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), *wide)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))
        nn.init.zeros_(self.modulation[1].weight), nn.init.zeros_(self.modulation[1].bias)

    def forward(self, x, action):
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(action).chunk(6, dim=-1)
        h = self.attention["norm"](F.layer_norm(x, [WIDTH], eps=1e-6) * (1 + scale) + shift)
        q, k, v = self.attention["to_qkv"](h).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        p = 0.1 if self.training else 0.0
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p).transpose(1, 2).flatten(2)
        x = x + gate * self.attention["to_out"](h)
        return x + gate2 * self.mlp(F.layer_norm(x, [WIDTH], eps=1e-6) * (1 + scale2) + shift2)


class Predictor(nn.Module):
    """Latents and embedded action blocks (B, T, 32), T <= 3, to the next latents (B, T, 32), before the head."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, HISTORY, LATENT))
        self.latent_projection, self.condition_projection = nn.Linear(LATENT, WIDTH), nn.Linear(LATENT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm, self.output_projection = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, LATENT)

    def forward(self, latents, actions):
        x, actions = latents + self.position[:, : latents.shape[1]], self.condition_projection(actions)
        x = self.latent_projection(x)
        for block in self.blocks:
            x = block(x, actions)
        return self.output_projection(self.norm(x))


class LeWM(nn.Module):
    """Encoder and predictor, trained together: no stop-gradient, no target network, no reconstruction."""

    def __init__(self):
        super().__init__()
        self.encoder, self.predictor, self.prediction_head = Encoder(), Predictor(), head(LATENT)
        embed = nn.Sequential(nn.Linear(10, 4 * LATENT), nn.SiLU(), nn.Linear(4 * LATENT, LATENT))
        self.action_encoder = nn.ModuleDict({"smooth": nn.Linear(SKIP * ACTION, 10), "embed": embed})

    def encode(self, frames):
        return self.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def predict(self, latents, blocks):
        tokens = self.predictor(latents, self.action_encoder["embed"](self.action_encoder["smooth"](blocks)))
        return self.prediction_head(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])

    def loss(self, frames, blocks):
        """Equation 3: error of the next latent + 0.09 x SIGReg, on frames (B, 4, 64, 64, 3) and blocks (B, 3, 10)."""
        latents = self.encode(frames)
        error = (self.predict(latents[:, :-1], blocks) - latents[:, 1:]).square().mean()
        return error + 0.09 * sigreg(latents.transpose(0, 1))

    def rollout(self, latents, blocks):
        """From real latents (S, H, 32) and blocks (S, H - 1 + P, 10), those executed first, to P imagined latents."""
        known = latents.shape[1]
        for end in range(known, blocks.shape[1] + 1):
            window = slice(max(0, end - HISTORY), end)
            latents = torch.cat([latents, self.predict(latents[:, window], blocks[:, window])[:, -1:]], dim=1)
        return latents[:, known:]


def sigreg(latents, projections=256, knots=17):
    """How far random projections of latents (T, B, 32) are from a standard normal: an Epps-Pulley test each."""
    directions = torch.randn(latents.shape[-1], projections)
    samples = latents @ (directions / directions.norm(dim=0))
    t = torch.linspace(0, 3, knots)
    normal = torch.exp(-(t**2) / 2)
    angles = samples.unsqueeze(-1) * t
    gap = (angles.cos().mean(-3) - normal) ** 2 + angles.sin().mean(-3) ** 2
    return latents.shape[1] * 2 * torch.trapezoid(gap * normal, t).mean()


@torch.no_grad()
def plan(model, latents, past, goal, generator):
    """CEM: the mean of the cheapest action sequences, (25, 2) in z-scores, from latents (1, H, 32) and past blocks."""
    mean, std = torch.zeros(HORIZON * SKIP, ACTION), torch.ones(HORIZON * SKIP, ACTION)
    for _ in range(ITERATIONS):
        noise = torch.randn(SAMPLES, *mean.shape, generator=generator)
        noise[0] = 0
        candidates = mean + std * noise
        blocks = torch.cat([past.expand(SAMPLES, -1, -1), candidates.reshape(SAMPLES, HORIZON, -1)], dim=1)
        distance = (model.rollout(latents.expand(SAMPLES, -1, -1), blocks) - goal).square().sum(-1)
        cost = distance.amin(-1) + 1e-3 * distance.mean(-1)  # at the best step; of equally close plans the sooner
        elites = candidates[cost.topk(ELITES, largest=False).indices]
        mean, std = elites.mean(0), elites.std(0)
    return mean


def gather(env, episodes, rng):
    """Walks in directions that are kept for a while: frames (E, 100, 64, 64, 3) and actions (E, 100, 2)."""
    frames, actions = np.empty((episodes, 100, SIDE, SIDE, 3), np.uint8), np.empty((episodes, 100, ACTION), np.float32)
    for episode in range(episodes):
        obs, _ = env.reset(seed=int(rng.integers(2**31)))
        for step in range(100):
            if step % 15 == 0:
                direction = rng.uniform(-1, 1, ACTION)
            action = np.clip(direction + 0.3 * rng.normal(size=ACTION), -1, 1).astype(np.float32)
            frames[episode, step], actions[episode, step] = obs["pixels"], action
            obs = env.step(action)[0]
    return frames, actions


def train(model, frames, actions, steps, rng, batch=64):
    """Clips of 4 frames, 5 steps apart, of any episode and start."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-4, steps, pct_start=0.05)
    for step in range(steps):
        episode = rng.integers(len(frames), size=batch)[:, None]
        start = rng.integers(frames.shape[1] - HISTORY * SKIP, size=batch)[:, None]
        blocks = actions[episode, start + np.arange(HISTORY * SKIP)].reshape(batch, HISTORY, -1)
        clips = frames[episode, start + SKIP * np.arange(HISTORY + 1)]
        loss = model.loss(torch.from_numpy(clips), torch.from_numpy(blocks))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def reach(model, env, mean, std, seed):
    """Model-predictive control: plan, execute one block, look again. Whether the goal was reached in 100 steps."""
    obs, _ = env.reset(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    frames, past = [obs["pixels"]], []
    goal = model.encode(torch.from_numpy(obs["goal"])[None, None])[0]
    for _ in range(100 // SKIP):
        latents = model.encode(torch.from_numpy(np.stack(frames[-HISTORY:]))[None])
        blocks = torch.stack(past[1 - HISTORY :])[None] if past else torch.zeros(1, 0, SKIP * ACTION)
        actions = np.clip(plan(model, latents, blocks, goal, generator)[:SKIP].numpy() * std + mean, -1, 1)
        for action in actions.astype(np.float32):
            obs, _, _, _, info = env.step(action)
            if info["is_success"]:
                return True
        frames.append(obs["pixels"])
        past.append(torch.from_numpy((actions - mean) / std).flatten().float())
    return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, default, meaning in (
        ("episodes", 300, "to learn from"),
        ("steps", 3000, "of optimisation"),
        ("goals", 20, "to reach afterwards"),
        ("seed", 0, "of everything"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=meaning)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    env = make_pixel_env("two_room", image_size=SIDE, terminate_on_success=False)
    rng, model = np.random.default_rng(options.seed), LeWM()
    frames, actions = gather(env, options.episodes, rng)
    mean, std = actions.mean((0, 1)), actions.std((0, 1))
    train(model, frames, (actions - mean) / std, options.steps, rng)
    model.eval()
    reached = [reach(model, env, mean, std, 10**6 + goal) for goal in range(options.goals)]
    print(f"reached {sum(reached)} of {options.goals} goals")
