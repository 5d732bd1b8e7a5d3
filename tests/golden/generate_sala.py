#!/usr/bin/env python3
"""Writes tiny random MiniCPM-SALA checkpoints and the logits that sala_twin.py gives for them.

Made with Python 3.11.7, numpy 2.4.6, safetensors 0.8.0 (requirements.txt).
Usage: generate_sala.py [output folder, default: the folder of this script]

Block selection is a discrete choice, so a case is only worth keeping where rounding cannot change it: every stream's
smallest relative gap between the last block kept and the first left out must exceed 1e-4 (the seeds were searched
for that; exact ties, where one pooled key gives two blocks their score, are decided by the block's index and stay),
and the twin run in fp32 must choose the same blocks and give the same logits within 2e-5 of their spread.
Both are asserted here and printed.
"""

import json
import math
import pathlib
import shutil
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

import sala_twin

SMALLEST_GAP = 1e-4
TOPIC_TOKENS = 8

# Each the best of dozens for its smallest gap. RAGGED, SIX_HEADS and SMALL_BLOCKS also hold a query that would choose
# other blocks if the coarse pooled key that ends at its own position were hidden from it.
RAGGED_SEED = 102
DENSE_LEN_SEED = 223
PACKED_SEED = 312
BLOCKS_96_SEED = 402
SIX_HEADS_SEED = 527
SMALL_BLOCKS_SEED = 608


def config_json(**changes):
    config = {
        "architectures": ["MiniCPMSALAForCausalLM"],
        "attention_bias": False, "attention_dropout": 0.0, "attn_use_output_gate": True, "attn_use_rope": False,
        "auto_map": {"AutoConfig": "configuration_minicpm_sala.MiniCPMSALAConfig",
                     "AutoModelForCausalLM": "modeling_minicpm_sala.MiniCPMSALAForCausalLM"},
        "bos_token_id": 1, "dim_model_base": 8, "dtype": "float32", "eos_token_id": [2, 63], "head_dim": 8,
        "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.1, "intermediate_size": 48,
        "lightning_head_dim": 8, "lightning_nh": 4, "lightning_nkv": 4, "lightning_scale": "1/sqrt(d)",
        "lightning_use_rope": True, "max_position_embeddings": 8192,
        "mixer_types": ["minicpm4", "lightning-attn", "minicpm4"], "model_type": "minicpm_sala",
        "mup_denominator": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2,
        "pad_token_id": 2, "pretraining_tp": 1, "qk_norm": True, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 10000.0, "scale_depth": 1.4, "scale_emb": 12, "shift_labels": True,
        "sparse_config": sparse_config(), "tie_word_embeddings": False, "use_cache": True,
        "use_output_gate": True, "use_output_norm": True, "vocab_size": 64,
    }
    config.update(changes)
    return config


def sparse_config(**changes):
    """The released model's, except that its budget of 96 blocks is cut to 6, of which 4 are forced."""
    sparse = {"block_size": 64, "dense_len": 0, "init_blocks": 1, "kernel_size": 32, "kernel_stride": 16, "topk": 4,
              "use_nope": False, "window_size": 128}
    sparse.update(changes)
    return sparse


def random_weights(config, seed):
    """fp32 weights under HF's names. Sparse layers' queries and keys are large, so that scores differ clearly."""
    generator = np.random.Generator(np.random.PCG64(seed))
    width, intermediate, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]

    def normal(shape, std):
        return (std * generator.standard_normal(shape)).astype(np.float32)

    def matrix(rows, columns, gain=1.0):
        return normal((rows, columns), gain / math.sqrt(columns))

    def norm(size):
        return (1.0 + 0.3 * generator.standard_normal(size)).astype(np.float32)

    weights = {"model.embed_tokens.weight": normal((vocab, width), 1.0 / config["scale_emb"])}
    for layer, kind in enumerate(config["mixer_types"]):
        prefix = f"model.layers.{layer}."
        weights[prefix + "input_layernorm.weight"] = norm(width)
        attention = prefix + "self_attn."
        if kind == "minicpm4":
            head_dim = config["head_dim"]
            query_width, kv_width = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
            weights[attention + "q_proj.weight"] = matrix(query_width, width, 1.6)
            weights[attention + "k_proj.weight"] = matrix(kv_width, width, 1.6)
            weights[attention + "v_proj.weight"] = matrix(kv_width, width, 2.0)
            weights[attention + "o_gate.weight"] = matrix(query_width, width)
        else:
            head_dim = config["lightning_head_dim"]
            query_width, kv_width = config["lightning_nh"] * head_dim, config["lightning_nkv"] * head_dim
            weights[attention + "q_proj.weight"] = matrix(query_width, width)
            weights[attention + "k_proj.weight"] = matrix(kv_width, width)
            weights[attention + "v_proj.weight"] = matrix(kv_width, width)
            weights[attention + "z_proj.weight"] = matrix(query_width, width)
            weights[attention + "q_norm.weight"] = norm(head_dim)
            weights[attention + "k_norm.weight"] = norm(head_dim)
            weights[attention + "o_norm.weight"] = norm(query_width)
        weights[attention + "o_proj.weight"] = matrix(width, query_width, 1.2)
        weights[prefix + "post_attention_layernorm.weight"] = norm(width)
        weights[prefix + "mlp.gate_proj.weight"] = matrix(intermediate, width, 1.5)
        weights[prefix + "mlp.up_proj.weight"] = matrix(intermediate, width, 1.5)
        weights[prefix + "mlp.down_proj.weight"] = matrix(width, intermediate, 1.5)
    weights["model.norm.weight"] = norm(width)
    weights["lm_head.weight"] = matrix(vocab, width, 1.5 * width / config["dim_model_base"])
    return weights


def topic_tokens(count, seed, vocab=64):
    """A stream whose stretches of 20 to 100 tokens keep to one topic's tokens, so that pooled keys differ."""
    generator = np.random.Generator(np.random.PCG64(seed))
    tokens = []
    while len(tokens) < count:
        first = TOPIC_TOKENS * int(generator.integers(vocab // TOPIC_TOKENS))
        for _ in range(int(generator.integers(20, 100))):
            is_on_topic = generator.random() < 0.8
            tokens.append(first + int(generator.integers(TOPIC_TOKENS)) if is_on_topic
                          else int(generator.integers(vocab)))
    return np.array(tokens[:count], dtype=np.int32)


def fresh_case(root, name, config, weights_seed=None, weights_of=None):
    """Writes a case's config, and its weights or a link to another case's; returns its folder and the weights."""
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    path = folder / "model.safetensors"
    if weights_of is None:
        save_file(random_weights(config, weights_seed), path, metadata={"format": "pt"})
    else:
        path.symlink_to(f"../{weights_of}/model.safetensors")
    return folder, load_file(path)


def padded_blocks(trace, rows, budget):
    kv_heads = len(trace.selected[rows[-1]])
    blocks = np.full((len(rows), kv_heads, budget), -1, dtype=np.int32)
    for index, row in enumerate(rows):
        for head, selected in enumerate(trace.selected[row]):
            blocks[index, head, : len(selected)] = selected
    return blocks


def write_expected(path, config, weights, tokens, *, document_starts=(0,), rows, with_blocks=False):
    """Runs the twin in fp64, checks that fp32 agrees, and stores the chosen rows. Returns all logits."""
    logits, traces = sala_twin.forward(config, weights, tokens, document_starts)
    single, single_traces = sala_twin.forward(config, weights, tokens, document_starts, dtype=np.float32)
    spread = logits.std()
    error = np.abs(single - logits).max() / spread
    gaps = [gap for trace in traces.values() for gap in trace.relative_gaps]
    assert 0.2 < spread < 5.0, f"{path}: logits with standard deviation {spread} are not O(1)"
    assert all(traces[layer].selected == single_traces[layer].selected for layer in traces), f"{path}: fp32 differs"
    assert error < 2e-5, f"{path}: fp32 logits are {error} away"
    assert not gaps or min(gaps) > SMALLEST_GAP, f"{path}: the smallest gap at a cut is {min(gaps)}"
    tensors = {"tokens": tokens, "document_starts": np.array(document_starts, dtype=np.int32),
               "rows": np.array(rows, dtype=np.int32), "logits": logits[rows].astype(np.float32)}
    if with_blocks:
        sparse = config["sparse_config"]
        budget = sparse["topk"] + sparse["window_size"] // sparse["block_size"]
        tensors["model.layers.0.selected_blocks"] = padded_blocks(traces[0], rows, budget)
    save_file(tensors, path)
    print(f"{path.parent.name}/{path.name}: T {len(tokens)}, logits std {spread:.3f}, fp32 error {error:.1e}, "
          f"{len(gaps)} cuts" + (f", smallest gap {min(gaps):.1e}" if gaps else "")
          + f", {sum(trace.ties for trace in traces.values())} ties", flush=True)
    return logits


def some_rows(count, last, others, block=64):
    """The last rows and some before them, each its block's last: there a coarse pooled key has just become visible."""
    ends = np.arange(block - 1, count - last, block)
    chosen = ends[np.unique(np.linspace(0, len(ends) - 1, others).astype(int))]
    return sorted({int(row) for row in chosen} | set(range(count - last, count)))


def as_dense(config):
    return {**config, "sparse_config": {**config["sparse_config"], "dense_len": 1 << 30}}


def assert_differs_from_dense(config, weights, tokens, logits):
    dense, _ = sala_twin.forward(as_dense(config), weights, tokens, (0,))
    difference = np.abs(dense - logits).max() / logits.std()
    assert difference > 0.1, f"selection changes the logits by {difference} only"


def generate_ragged_lengths(root):
    """T mod 64 of 63, 0, 1 and T mod 16 of 15, 0, 1 away from a block's end. One stream: its prefixes must agree."""
    config = config_json()
    folder, weights = fresh_case(root, "sala_ragged_lengths", config, weights_seed=1)
    tokens = topic_tokens(1041, seed=RAGGED_SEED)
    longest = None
    for count in (1041, 1040, 1039, 1025, 1024, 1023):
        logits = write_expected(folder / f"expected_t{count}.safetensors", config, weights, tokens[:count],
                                rows=some_rows(count, 34, 16), with_blocks=count == 1041)
        if longest is None:
            longest = logits
            assert_differs_from_dense(config, weights, tokens, logits)
        assert np.abs(longest[:count] - logits).max() < 1e-9


def generate_dense_len(root):
    """Lengths on both sides of dense_len, alone and as documents of one stream."""
    config = config_json(sparse_config=sparse_config(dense_len=512))
    folder, weights = fresh_case(root, "sala_dense_len", config, weights_of="sala_ragged_lengths")
    tokens = topic_tokens(512, seed=DENSE_LEN_SEED)
    write_expected(folder / "expected_t511.safetensors", config, weights, tokens[:511], rows=some_rows(511, 34, 16))
    logits = write_expected(folder / "expected_t512.safetensors", config, weights, tokens, rows=some_rows(512, 34, 16))
    assert_differs_from_dense(config, weights, tokens, logits)

    lengths = [300, 600, 1, 511, 30, 512]
    starts = [0] + [int(start) for start in np.cumsum(lengths)[:-1]]
    packed = topic_tokens(sum(lengths), seed=PACKED_SEED)
    rows = set()
    for start, length in zip(starts, lengths):
        rows.update(range(start, start + min(2, length)))
        rows.update(range(start + max(0, length - 12), start + length))
    write_expected(folder / "expected_packed.safetensors", config, weights, packed, document_starts=starts,
                   rows=sorted(rows))


def generate_96_blocks(root):
    """The released budget, 96 blocks: streams of 95, 96 and 97 blocks. Only the last block of 97 leaves any out."""
    config = config_json(sparse_config=sparse_config(topk=64, window_size=2048))
    folder, weights = fresh_case(root, "sala_96_blocks", config, weights_of="sala_ragged_lengths")
    tokens = topic_tokens(97 * 64, seed=BLOCKS_96_SEED)
    dense, _ = sala_twin.forward(as_dense(config), weights, tokens, (0,))
    for blocks in (95, 96, 97):
        count = blocks * 64
        logits = write_expected(folder / f"expected_b{blocks}.safetensors", config, weights, tokens[:count],
                                rows=some_rows(count, 70, 10), with_blocks=blocks == 97)
        assert np.abs(logits[: 96 * 64] - dense[: min(count, 96 * 64)]).max() < 1e-9
    assert np.abs(logits[96 * 64:] - dense[96 * 64:]).max() > 1e-3


def generate_six_heads(root):
    """Head counts and widths that are no powers of two, and pooling sizes other than the released ones."""
    shape = {"hidden_size": 32, "num_attention_heads": 6, "num_key_value_heads": 2, "lightning_nh": 6,
             "lightning_nkv": 6, "num_hidden_layers": 2, "mixer_types": ["minicpm4", "lightning-attn"]}
    config = config_json(**shape)
    folder, weights = fresh_case(root, "sala_six_heads", config, weights_seed=2)
    tokens = topic_tokens(815, seed=SIX_HEADS_SEED)
    logits = write_expected(folder / "expected.safetensors", config, weights, tokens, rows=some_rows(815, 34, 16),
                            with_blocks=True)
    assert_differs_from_dense(config, weights, tokens, logits)

    config = config_json(**shape, sparse_config=sparse_config(
        kernel_size=16, kernel_stride=8, block_size=32, window_size=96, topk=5, init_blocks=2))
    folder, weights = fresh_case(root, "sala_small_blocks", config, weights_of="sala_six_heads")
    tokens = topic_tokens(609, seed=SMALL_BLOCKS_SEED)
    logits = write_expected(folder / "expected.safetensors", config, weights, tokens, rows=some_rows(609, 34, 16, 32),
                            with_blocks=True)
    assert_differs_from_dense(config, weights, tokens, logits)


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent
    generate_ragged_lengths(root)
    generate_dense_len(root)
    generate_six_heads(root)
    generate_96_blocks(root)


if __name__ == "__main__":
    main()
