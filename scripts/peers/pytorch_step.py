#!/usr/bin/env python3
"""Times one training step of a small softmax + Lightning hybrid in PyTorch on the CPU: the peer of our own step.

The model is the demo's: RMSNorm and SwiGLU blocks; kept layers are causal GQA softmax attention without position
encoding and with a sigmoid output gate; the others are Lightning attention with QK-norm, RoPE, an output norm over the
full width and a sigmoid gate. The step is forward, cross-entropy, backward, clipping and AdamW, in fp32.

It is written as a careful PyTorch user would: fused scaled_dot_product_attention, Lightning in chunks of 64 as batched
matrix products with the scan over chunks as one more product, fused AdamW, gradients set to None. --compile adds
torch.compile. Sequences of one step are a batch; there is no document mask to pay for.

Example: scripts/peers/pytorch_step.py --layers 12 --width 256 --heads 4 --kv-heads 2 --head-dim 64 \\
             --intermediate 768 --vocab 4096 --tokens 2048 --sequence-length 256 --threads 2 --keep 0,3,6,11
Prints one line of JSON. Needs torch only (2.4 or later, for AdamW fused on the CPU).
"""

import argparse
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

CHUNK = 64
ROPE_THETA = 10000.0


def decay_slopes(heads):
    def geometric(count):
        return [2.0 ** (-8.0 * (h + 1) / count) for h in range(count)]

    power = 2 ** int(math.log2(heads))
    return torch.tensor(geometric(power) + geometric(2 * power)[0::2][: heads - power], dtype=torch.float64)


class SoftmaxAttention(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = options.heads, options.kv_heads, options.head_dim
        query_width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        # One product for q, k, v and the gate: they share their input.
        self.widths = [query_width, kv_width, kv_width, query_width]
        self.qkvg = nn.Linear(options.width, sum(self.widths), bias=False)
        self.o_proj = nn.Linear(query_width, options.width, bias=False)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v, gate = self.qkvg(x).split(self.widths, dim=-1)
        q = q.view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k = k.view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        v = v.view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        # Repeated rather than enable_gqa=True, which leaves the CPU's fused kernel for the quadratic-memory fallback.
        k, v = (y.repeat_interleave(self.heads // self.kv_heads, dim=1) for y in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out = out.transpose(1, 2).reshape(batch, length, -1)
        return self.o_proj(out * torch.sigmoid(gate))


class LightningAttention(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.heads, self.head_dim = options.heads, options.head_dim
        inner = self.heads * self.head_dim
        self.qkvz = nn.Linear(options.width, 4 * inner, bias=False)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.k_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.o_norm = nn.RMSNorm(inner, eps=1e-6)
        self.o_proj = nn.Linear(inner, options.width, bias=False)
        self.make_tables(options.sequence_length)

    def make_tables(self, length):
        """Everything that depends on positions alone is computed once."""
        frequencies = ROPE_THETA ** (-2.0 * torch.arange(self.head_dim // 2, dtype=torch.float64) / self.head_dim)
        angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None, :]
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        # The rotation is x * cos + roll(x, D/2) * sin with the first half of sin negated.
        sign = torch.ones(self.head_dim, dtype=torch.float64)
        sign[: self.head_dim // 2] = -1.0
        self.register_buffer("sin", (angles.sin() * sign).float(), persistent=False)

        slopes = decay_slopes(self.heads)[:, None, None]
        chunks = length // CHUNK
        index = torch.arange(CHUNK, dtype=torch.float64)
        distance = index[:, None] - index[None, :]
        inside = torch.where(distance >= 0, torch.exp(-slopes * distance.clamp(min=0)), 0.0)
        between = torch.arange(chunks, dtype=torch.float64)
        gap = between[:, None] - between[None, :] - 1
        scan = torch.where(gap >= 0, torch.exp(-slopes * CHUNK * gap.clamp(min=0)), 0.0)
        scale = 1.0 / math.sqrt(self.head_dim)
        self.register_buffer("inside", (scale * inside)[:, None].float(), persistent=False)  # [H, 1, 64, 64]
        self.register_buffer("scan", scan.float(), persistent=False)  # [H, chunks, chunks]
        query_decay = scale * torch.exp(-slopes * (index + 1)[:, None])
        key_decay = torch.exp(-slopes * (CHUNK - 1 - index)[:, None])
        self.register_buffer("query_decay", query_decay[:, None].float(), persistent=False)  # [H, 1, 64, 1]
        self.register_buffer("key_decay", key_decay[:, None].float(), persistent=False)

    def rotate(self, x):
        return x * self.cos + x.roll(self.head_dim // 2, dims=-1) * self.sin

    def mix(self, q, k, v):
        """[B, H, chunks, 64, D] each: the chunk itself, and the state of all chunks before it."""
        batch, heads, chunks, _, head_dim = q.shape
        out = (q @ k.transpose(-1, -2) * self.inside) @ v
        if chunks > 1:
            added = (k * self.key_decay).transpose(-1, -2) @ v
            states = self.scan @ added.reshape(batch, heads, chunks, head_dim * head_dim)
            out = out + (q * self.query_decay) @ states.view(batch, heads, chunks, head_dim, head_dim)
        return out

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v, z = self.qkvz(x).chunk(4, dim=-1)
        shape = (batch, length, self.heads, self.head_dim)
        q, k = self.rotate(self.q_norm(q.view(shape))), self.rotate(self.k_norm(k.view(shape)))

        def in_chunks(y):
            return y.reshape(batch, length // CHUNK, CHUNK, self.heads, self.head_dim).permute(0, 3, 1, 2, 4)

        out = self.mix(in_chunks(q), in_chunks(k), in_chunks(v))
        out = out.permute(0, 2, 3, 1, 4).reshape(batch, length, -1)
        return self.o_proj(self.o_norm(out) * torch.sigmoid(z))


class Block(nn.Module):
    def __init__(self, options, is_kept):
        super().__init__()
        self.input_norm = nn.RMSNorm(options.width, eps=1e-6)
        self.mixer = SoftmaxAttention(options) if is_kept else LightningAttention(options)
        self.mlp_norm = nn.RMSNorm(options.width, eps=1e-6)
        self.gate_up = nn.Linear(options.width, 2 * options.intermediate, bias=False)
        self.down = nn.Linear(options.intermediate, options.width, bias=False)

    def forward(self, x):
        x = x + self.mixer(self.input_norm(x))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Hybrid(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.embedding = nn.Embedding(options.vocab, options.width)
        self.blocks = nn.ModuleList(Block(options, layer in options.keep) for layer in range(options.layers))
        self.norm = nn.RMSNorm(options.width, eps=1e-6)
        self.head = nn.Linear(options.width, options.vocab, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        if options.tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def check_lightning(options):
    """The chunked form against the recurrence in fp64, so that what is timed is also right."""
    torch.manual_seed(1)
    mixer = LightningAttention(options).double()
    length = options.sequence_length
    q, k, v = (torch.randn(1, options.heads, length, options.head_dim, dtype=torch.float64) for _ in range(3))

    def in_chunks(y):
        return y.view(1, options.heads, length // CHUNK, CHUNK, options.head_dim)

    chunked = mixer.mix(in_chunks(q), in_chunks(k), in_chunks(v)).reshape(q.shape)
    decay = torch.exp(-decay_slopes(options.heads))[None, :, None, None]
    state = torch.zeros(1, options.heads, options.head_dim, options.head_dim, dtype=torch.float64)
    worst = 0.0
    for t in range(min(length, 4 * CHUNK)):
        state = decay * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        step = (q[:, :, t, None, :] @ state)[:, :, 0] / math.sqrt(options.head_dim)
        worst = max(worst, (step - chunked[:, :, t]).abs().max().item())
    if worst > 1e-4:  # the decay tables are fp32
        raise SystemExit(f"chunked Lightning attention is {worst} away from the recurrence")


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("layers", "width", "heads", "kv-heads", "head-dim", "intermediate", "vocab", "sequence-length"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True, help="tokens of one step: whole sequences")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--keep", default="", help="softmax layers, as 0,3,11; the others are Lightning")
    parser.add_argument("--tied", action="store_true", help="the head shares the embedding's matrix")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the timed ones")
    options = parser.parse_args()
    options.keep = {int(layer) for layer in options.keep.split(",") if layer}
    if not options.keep <= set(range(options.layers)):
        parser.error(f"--keep names layers outside 0..{options.layers - 1}: {sorted(options.keep)}")
    if options.sequence_length % CHUNK or options.tokens % options.sequence_length:
        parser.error(f"--sequence-length must be a multiple of {CHUNK}, and --tokens of --sequence-length")
    if options.heads % options.kv_heads or options.head_dim % 2:
        parser.error("--heads must be a multiple of --kv-heads, and --head-dim even")
    return options


def main():
    options = parse_options()
    torch.set_num_threads(options.threads)
    check_lightning(options)
    torch.manual_seed(0)
    model = Hybrid(options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(model) if options.compile else model
    stream = torch.randint(options.vocab, (options.tokens // options.sequence_length, options.sequence_length + 1))
    tokens, targets = stream[:, :-1].contiguous(), stream[:, 1:].contiguous()

    seconds, losses = [], []
    for _ in range(options.warmup + options.steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = forward(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)

    median = statistics.median(seconds[options.warmup:])
    print(json.dumps({
        "torch": torch.__version__, "compiled": options.compile, "threads": options.threads,
        "parameters": sum(parameter.numel() for parameter in model.parameters()), "steps": options.steps,
        "first_loss": round(losses[0], 4), "last_loss": round(losses[-1], 4),
        "median_seconds": round(median, 4), "fastest_seconds": round(min(seconds[options.warmup:]), 4),
        "tokens_per_second": round(options.tokens / median, 1)}))


if __name__ == "__main__":
    main()
