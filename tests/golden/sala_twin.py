"""MiniCPM-SALA's forward pass, written straight down from its specification: a slow twin in numpy.

Made with Python 3.11.7, numpy 2.4.6 (requirements.txt). Nothing here is optimised: the recurrence goes token by token,
and sparse attention query by query. It shares no code and no layout with the C++ it checks.

Rules where the public code is vague or has quirks:
  * A pooled key is visible to query i if its last token's position in the document is <= i:
    16 j + 31 <= i for the fine ones, 64 c + 127 <= i for the coarse.
  * Blocks that begin after the query are no candidates. Equal scores go to the lower block. They are common: the pooled
    key that straddles two blocks gives both the same score, to the bit, where it is the largest of each.
  * Forced blocks are the first init_blocks, the query's own and the window_size / block_size before it; the budget,
    forced blocks included, is topk + window_size / block_size.
  * A document shorter than dense_len takes dense attention, any other sparse attention, in all its queries.
  * No rounding to bf16 anywhere. Documents of one stream see nothing of each other, and positions begin anew in each.

Arrays: hidden [T, C], queries and keys [T, H, D], weights [out, in]; T is one document's tokens.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass
class SparseTrace:
    """What one sparse layer chose."""
    layer: int
    selected: list = dataclasses.field(default_factory=list)  # [T of the stream][KV head] -> ascending block indices
    relative_gaps: list = dataclasses.field(default_factory=list)  # per cut: 1 - first score left out / last kept
    ties: int = 0  # cuts between two blocks of equal score


def rms_norm(x, weight, epsilon):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def decay_slopes(heads):
    """ALiBi's slopes: geometric for a power of two, else that of the power below and every other one of twice it."""
    def geometric(count):
        ratio = 2.0 ** (-8.0 / count)
        return [ratio ** (h + 1) for h in range(count)]

    power = 2 ** int(math.floor(math.log2(heads)))
    return np.array(geometric(power) + geometric(2 * power)[0::2][: heads - power])


def rope(x, theta):
    """Rotates dimension d with d + D/2, by position * theta^(-2d/D)."""
    tokens, _, head_dim = x.shape
    half = head_dim // 2
    frequencies = theta ** (-2.0 * np.arange(half) / head_dim)
    angles = np.arange(tokens)[:, None] * frequencies[None, :]
    cos, sin = np.cos(angles)[:, None, :].astype(x.dtype), np.sin(angles)[:, None, :].astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def lightning_mixer(config, weights, prefix, u):
    heads, kv_heads, head_dim = config["lightning_nh"], config["lightning_nkv"], config["lightning_head_dim"]
    tokens = u.shape[0]
    q = (u @ weights[prefix + "q_proj.weight"].T).reshape(tokens, heads, head_dim)
    k = (u @ weights[prefix + "k_proj.weight"].T).reshape(tokens, kv_heads, head_dim)
    v = (u @ weights[prefix + "v_proj.weight"].T).reshape(tokens, kv_heads, head_dim)
    if config["qk_norm"]:
        q = rms_norm(q, weights[prefix + "q_norm.weight"], config["rms_norm_eps"])
        k = rms_norm(k, weights[prefix + "k_norm.weight"], config["rms_norm_eps"])
    if config["lightning_use_rope"]:
        q, k = rope(q, config["rope_theta"]), rope(k, config["rope_theta"])
    k, v = np.repeat(k, heads // kv_heads, axis=1), np.repeat(v, heads // kv_heads, axis=1)

    scale = {"1/sqrt(d)": 1.0 / math.sqrt(head_dim), "1/d": 1.0 / head_dim}.get(config["lightning_scale"], 1.0)
    decay = np.exp(-decay_slopes(heads)).astype(u.dtype)[:, None, None]
    state = np.zeros((heads, head_dim, head_dim), dtype=u.dtype)  # [H, D of k, D of v]
    out = np.zeros_like(q)
    for t in range(tokens):
        state = decay * state + k[t][:, :, None] * v[t][:, None, :]
        for h in range(heads):
            out[t, h] = scale * (q[t, h] @ state[h])

    out = out.reshape(tokens, heads * head_dim)
    if config["use_output_norm"]:
        out = rms_norm(out, weights[prefix + "o_norm.weight"], config["rms_norm_eps"])
    if config["use_output_gate"]:
        out = out * sigmoid(u @ weights[prefix + "z_proj.weight"].T)
    return out @ weights[prefix + "o_proj.weight"].T


def pooled_keys(k, size, stride):
    """Means over full windows only: [n, KV heads, D]."""
    count = max(0, (k.shape[0] - size) // stride + 1)
    means = [k[stride * j: stride * j + size].mean(axis=0) for j in range(count)]
    return np.array(means, dtype=k.dtype).reshape(count, *k.shape[1:])


def pooled_scores(sparse, q, k):
    """[KV heads, T, fine pooled keys]: fine weights under the coarse normaliser, summed over a group's query heads."""
    tokens, heads, head_dim = q.shape
    group = heads // k.shape[1]
    size, stride = sparse["kernel_size"], sparse["kernel_stride"]
    fine, coarse = pooled_keys(k, size, stride), pooled_keys(k, 4 * size, 4 * stride)
    position = np.arange(tokens)[:, None]
    fine_visible = stride * np.arange(len(fine))[None, :] + size - 1 <= position
    coarse_visible = 4 * stride * np.arange(len(coarse))[None, :] + 4 * size - 1 <= position
    scores = np.zeros((k.shape[1], tokens, len(fine)), dtype=q.dtype)
    has_coarse = coarse_visible.any(axis=1)
    if not has_coarse.any():
        return scores
    for h in range(heads):
        coarse_logits = q[:, h] @ coarse[:, h // group].T / math.sqrt(head_dim)
        fine_logits = q[:, h] @ fine[:, h // group].T / math.sqrt(head_dim)
        coarse_logits = np.where(coarse_visible, coarse_logits, -np.inf)[has_coarse]
        largest = coarse_logits.max(axis=1, keepdims=True)
        normaliser = np.exp(coarse_logits - largest).sum(axis=1, keepdims=True)
        weight = np.exp(np.where(fine_visible, fine_logits, -np.inf)[has_coarse] - largest) / normaliser
        scores[h // group, has_coarse] += weight
    return scores


def select_blocks(sparse, pooled, position, trace):
    """The ascending blocks that the query at `position` sees; pooled [fine pooled keys] are its scores."""
    block = sparse["block_size"]
    size, stride = sparse["kernel_size"], sparse["kernel_stride"]
    local = sparse["window_size"] // block
    budget = sparse["topk"] + local
    own = position // block
    candidates = []
    for b in range(own + 1):
        if b < sparse["init_blocks"] or own - b <= local:
            candidates.append((-math.inf, b))
            continue
        overlapping = [j for j in range(len(pooled))[max(0, (b * block - size) // stride): (b + 1) * block // stride]
                       if stride * j + size > b * block and stride * j < (b + 1) * block]
        candidates.append((-max(float(pooled[j]) for j in overlapping), b))
    candidates.sort()  # by falling score, then by rising block
    if len(candidates) > budget:
        kept, left = -candidates[budget - 1][0], -candidates[budget][0]
        if kept == left:
            trace.ties += 1
        elif math.isfinite(kept):
            trace.relative_gaps.append(1.0 - left / kept)
    return sorted(b for _, b in candidates[:budget])


def softmax_mixer(config, weights, prefix, u, trace):
    heads, kv_heads, head_dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    sparse = config["sparse_config"]
    tokens, group, block = u.shape[0], heads // kv_heads, sparse["block_size"]
    q = (u @ weights[prefix + "q_proj.weight"].T).reshape(tokens, heads, head_dim)
    k = (u @ weights[prefix + "k_proj.weight"].T).reshape(tokens, kv_heads, head_dim)
    v = (u @ weights[prefix + "v_proj.weight"].T).reshape(tokens, kv_heads, head_dim)
    if config["attn_use_rope"]:
        q, k = rope(q, config["rope_theta"]), rope(k, config["rope_theta"])
    is_sparse = tokens >= sparse["dense_len"]
    pooled = pooled_scores(sparse, q, k) if is_sparse else None
    out = np.zeros_like(q)
    for i in range(tokens):
        selected = []
        for g in range(kv_heads):
            visible = np.arange(i + 1)
            if is_sparse:
                blocks = select_blocks(sparse, pooled[g, i], i, trace)
                selected.append(blocks)
                visible = np.concatenate([np.arange(b * block, min((b + 1) * block, i + 1)) for b in blocks])
            logits = q[i, g * group: (g + 1) * group] @ k[visible, g].T / math.sqrt(head_dim)
            weight = np.exp(logits - logits.max(axis=1, keepdims=True))
            out[i, g * group: (g + 1) * group] = (weight / weight.sum(axis=1, keepdims=True)) @ v[visible, g]
        trace.selected.append(selected)
    out = out.reshape(tokens, heads * head_dim)
    if config["attn_use_output_gate"]:
        out = out * sigmoid(u @ weights[prefix + "o_gate.weight"].T)
    return out @ weights[prefix + "o_proj.weight"].T


def mlp(weights, prefix, u):
    gate = u @ weights[prefix + "gate_proj.weight"].T
    return (gate * sigmoid(gate) * (u @ weights[prefix + "up_proj.weight"].T)) @ weights[prefix + "down_proj.weight"].T


def forward_document(config, weights, tokens, traces):
    layers = config["num_hidden_layers"]
    residual_scale = config["scale_depth"] / math.sqrt(layers)
    epsilon = config["rms_norm_eps"]
    hidden = weights["model.embed_tokens.weight"][tokens] * config["scale_emb"]
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        u = rms_norm(hidden, weights[prefix + "input_layernorm.weight"], epsilon)
        if config["mixer_types"][layer] == "minicpm4":
            trace = traces.setdefault(layer, SparseTrace(layer))
            mixed = softmax_mixer(config, weights, prefix + "self_attn.", u, trace)
        else:
            mixed = lightning_mixer(config, weights, prefix + "self_attn.", u)
        hidden = hidden + residual_scale * mixed
        u = rms_norm(hidden, weights[prefix + "post_attention_layernorm.weight"], epsilon)
        hidden = hidden + residual_scale * mlp(weights, prefix + "mlp.", u)
    hidden = rms_norm(hidden, weights["model.norm.weight"], epsilon)
    return hidden / (config["hidden_size"] / config["dim_model_base"]) @ weights["lm_head.weight"].T


def forward(config, weights, tokens, document_starts, dtype=np.float64):
    """Returns logits [T, V] and {sparse layer: SparseTrace}. document_starts begins with 0."""
    weights = {name: value.astype(dtype) for name, value in weights.items()}
    traces = {}
    ends = list(document_starts[1:]) + [len(tokens)]
    logits = [forward_document(config, weights, tokens[start:end], traces)
              for start, end in zip(document_starts, ends)]
    return np.concatenate(logits), traces
