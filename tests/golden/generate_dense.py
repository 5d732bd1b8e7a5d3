#!/usr/bin/env python3
"""Writes tiny random Llama, Qwen3 and MiniCPM-4 checkpoints and the logits transformers gives for them.

Made with Python 3.11.7, torch 2.6.0, transformers 5.23.0, numpy 2.4.6, safetensors 0.8.0 (requirements.txt).
Usage: generate_dense.py [output folder, default: the folder of this script]

The logits are computed with fp64 weights and stored as fp32. transformers keeps RMSNorm's variance, the softmax and
RoPE's tables in fp32 inside an fp64 model, so they are good to about 1e-6.

MiniCPM-4 has no class in transformers. Its dense model is Llama's with scales at four places, which are folded into
the weights of the Llama that makes the logits:
    embed_tokens * scale_emb,   o_proj and down_proj * scale_depth / sqrt(layers),   lm_head * dim_model_base / width.
Its LongRoPE multiplies cos and sin by sqrt(1 + ln(max / original) / ln(original)), max and original being the two
..._max_position_embeddings, and builds its table for max(max, length) positions at once. So the long factors
hold for *every* length as soon as max > original; only a model with max = original (all released ones) changes from
the short to the long factors where the length exceeds original. transformers chooses by the length alone.
"""

import json
import math
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

FP32_SHARD = 48 * 1024  # bytes; small enough that the sharded cases get several files


def normal(generator, shape, std):
    return torch.randn(shape, generator=generator, dtype=torch.float32) * std


def random_weights(config, seed, dtype=torch.float32):
    """Weights under HF's names. Matrices keep activations and logits O(1); norm weights are spread around 1."""
    generator = torch.Generator().manual_seed(seed)
    width, heads, kv_heads = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or width // heads
    intermediate, vocab = config["intermediate_size"], config["vocab_size"]

    def matrix(rows, columns, gain=1.0):
        return normal(generator, (rows, columns), gain / math.sqrt(columns))

    def norm(size):
        return 1.0 + normal(generator, (size,), 0.3)

    scale_emb = config.get("scale_emb", 1.0)
    weights = {"model.embed_tokens.weight": normal(generator, (vocab, width), 1.0 / scale_emb)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        weights[prefix + "input_layernorm.weight"] = norm(width)
        weights[prefix + "self_attn.q_proj.weight"] = matrix(heads * head_dim, width, 1.5)
        weights[prefix + "self_attn.k_proj.weight"] = matrix(kv_heads * head_dim, width, 1.5)
        weights[prefix + "self_attn.v_proj.weight"] = matrix(kv_heads * head_dim, width)
        weights[prefix + "self_attn.o_proj.weight"] = matrix(width, heads * head_dim, 1.5)
        if config["model_type"] == "qwen3":
            weights[prefix + "self_attn.q_norm.weight"] = 1.5 * norm(head_dim)
            weights[prefix + "self_attn.k_norm.weight"] = 1.5 * norm(head_dim)
        weights[prefix + "post_attention_layernorm.weight"] = norm(width)
        weights[prefix + "mlp.gate_proj.weight"] = matrix(intermediate, width, 1.5)
        weights[prefix + "mlp.up_proj.weight"] = matrix(intermediate, width, 1.5)
        weights[prefix + "mlp.down_proj.weight"] = matrix(width, intermediate, 1.5)
    weights["model.norm.weight"] = norm(width)
    if not config["tie_word_embeddings"]:
        head_gain = width / config["dim_model_base"] if "dim_model_base" in config else 1.0
        weights["lm_head.weight"] = matrix(vocab, width, 1.5 * head_gain)
    else:
        weights["model.embed_tokens.weight"] *= 1.5 / math.sqrt(width)
    return {name: value.to(dtype).contiguous() for name, value in weights.items()}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_weights(folder, weights, shard_bytes=None):
    """One model.safetensors, or shards of at most shard_bytes with the index file that HF writes for them."""
    if shard_bytes is None:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    shards, used = [{}], 0
    for name, value in weights.items():
        size = value.numel() * value.element_size()
        if shards[-1] and used + size > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = value
        used += size
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file_name, metadata={"format": "pt"})
        weight_map.update({name: file_name for name in shard})
    total = sum(value.numel() * value.element_size() for value in weights.values())
    write_json(folder / "model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def run_transformers(folder, tokens):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(input_ids=tokens[None].long(), use_cache=False).logits[0]
    return logits, model


def random_tokens(vocab, count, seed):
    return torch.randint(vocab, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def write_expected(path, tokens, logits):
    spread = logits.std().item()
    assert 0.2 < spread < 5.0, f"{path}: logits with standard deviation {spread} are not O(1)"
    save_file({"tokens": tokens, "logits": logits.to(torch.float32).contiguous()}, path)
    print(f"{path.parent.name}/{path.name}: T {len(tokens)}, logits std {spread:.3f}")


def fresh_folder(root, name):
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def generate_plain(root, name, config, *, seed, tokens, dtype=torch.float32, shard_bytes=None):
    """A family transformers knows: it reads the very files that are committed."""
    folder = fresh_folder(root, name)
    write_json(folder / "config.json", config)
    write_weights(folder, random_weights(config, seed, dtype), shard_bytes)
    ids = random_tokens(config["vocab_size"], tokens, seed + 1)
    logits, model = run_transformers(folder, ids)
    write_expected(folder / "expected.safetensors", ids, logits)
    return model


def llama_config(**changes):
    """config.json as transformers 4 writes it, in the shape of Llama 3."""
    config = {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 48, "initializer_range": 0.02,
        "intermediate_size": 64, "max_position_embeddings": 512, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": 6, "num_hidden_layers": 2, "num_key_value_heads": 2, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "torch_dtype": "float32", "transformers_version": "4.43.0", "use_cache": True, "vocab_size": 80,
    }
    config.update(changes)
    return config


def generate_llama(root):
    # Wavelengths at head_dim 8 are 6.3, 63, 630, 6300: one kept, one in the smooth band (16, 64), two divided by 8.
    model = generate_plain(root, "llama_llama3_scaling", llama_config(rope_scaling={
        "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64,
        "rope_type": "llama3"}), seed=11, tokens=70)
    kept, smooth, low, lowest = (model.model.rotary_emb.inv_freq.double()
                                 * 10000.0 ** (torch.arange(4).double() / 4)).tolist()
    assert abs(kept - 1) < 1e-6 and 0.13 < smooth < 0.99 and abs(low - 0.125) < 1e-6 and abs(lowest - 0.125) < 1e-6

    # transformers 5 writes rope_parameters, with theta inside, in place of rope_theta and rope_scaling.
    config = llama_config(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=3,
                          vocab_size=96, dtype="float32", head_dim=8, transformers_version=transformers.__version__,
                          rope_parameters={"rope_theta": 500000.0, "rope_type": "default"})
    for old_key in ("rope_scaling", "rope_theta", "torch_dtype"):
        del config[old_key]
    generate_plain(root, "llama_rope_parameters", config, seed=21, tokens=61, shard_bytes=FP32_SHARD)

    # Tied head, and bf16 as released checkpoints are. rope_scaling null and no key for it are both common.
    config = llama_config(hidden_size=32, num_attention_heads=4, num_key_value_heads=1, intermediate_size=40,
                          vocab_size=64, rms_norm_eps=1e-06, tie_word_embeddings=True, torch_dtype="bfloat16")
    generate_plain(root, "llama_tied", config, seed=31, tokens=49, dtype=torch.bfloat16)


def generate_qwen3(root):
    generate_plain(root, "qwen3", {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "head_dim": 20, "hidden_act": "silu", "hidden_size": 48,
        "initializer_range": 0.02, "intermediate_size": 64, "max_position_embeddings": 40960,
        "max_window_layers": 2, "model_type": "qwen3", "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "float32",
        "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": 72,
    }, seed=41, tokens=67, shard_bytes=FP32_SHARD)


ORIGINAL_LENGTH = 48
SHORT_FACTOR = [1.0, 1.15, 1.6, 2.2]
LONG_FACTOR = [1.05, 1.9, 4.0, 7.5]


def minicpm4_config(max_position_embeddings, type_key):
    return {
        "architectures": ["MiniCPMForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMConfig",
                     "AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM"},
        "bos_token_id": 1, "dim_model_base": 32, "eos_token_id": [2], "hidden_act": "silu", "hidden_size": 128,
        "initializer_range": 0.1, "intermediate_size": 32, "max_position_embeddings": max_position_embeddings,
        "model_type": "minicpm", "mup_denominator": 32, "num_attention_heads": 16, "num_hidden_layers": 2,
        "num_key_value_heads": 1, "pad_token_id": 2, "rms_norm_eps": 1e-06,
        "rope_scaling": {type_key: "longrope", "long_factor": LONG_FACTOR, "short_factor": SHORT_FACTOR,
                         "original_max_position_embeddings": ORIGINAL_LENGTH},
        "rope_theta": 10000.0, "scale_depth": 1.4, "scale_emb": 12, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.46.3", "use_cache": True, "vocab_size": 64,
    }


def fold_minicpm4(config, weights, folder):
    """Writes the fp64 Llama that computes what MiniCPM-4 does."""
    residual = config["scale_depth"] / math.sqrt(config["num_hidden_layers"])
    folded = {}
    for name, value in weights.items():
        value = value.to(torch.float64)
        if name == "model.embed_tokens.weight":
            value = value * config["scale_emb"]
        elif name.endswith(("self_attn.o_proj.weight", "mlp.down_proj.weight")):
            value = value * residual
        elif name == "lm_head.weight":
            value = value * (config["dim_model_base"] / config["hidden_size"])
        folded[name] = value
    scaling = config["rope_scaling"]
    is_extended = config["max_position_embeddings"] > scaling["original_max_position_embeddings"]
    llama = llama_config(**{key: config[key] for key in (
        "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
        "num_key_value_heads", "rms_norm_eps", "rope_theta", "vocab_size")})
    llama["rope_scaling"] = {
        "rope_type": "longrope", "long_factor": scaling["long_factor"],
        "short_factor": scaling["long_factor"] if is_extended else scaling["short_factor"],
        "original_max_position_embeddings": scaling["original_max_position_embeddings"]}
    write_json(folder / "config.json", llama)
    write_weights(folder, folded)


def generate_minicpm4(root):
    for name, longest, type_key in (("minicpm4", ORIGINAL_LENGTH, "rope_type"),
                                    ("minicpm4_extended", 4 * ORIGINAL_LENGTH, "type")):
        folder = fresh_folder(root, name)
        config = minicpm4_config(longest, type_key)
        write_json(folder / "config.json", config)
        weights = random_weights(config, 51, torch.bfloat16)
        if name == "minicpm4":
            write_weights(folder, weights)
        else:
            (folder / "model.safetensors").symlink_to("../minicpm4/model.safetensors")
        with tempfile.TemporaryDirectory() as llama_folder:
            fold_minicpm4(config, load_file(folder / "model.safetensors"), pathlib.Path(llama_folder))
            all_logits = {}
            for kind, count in (("short", 40), ("long", 70)):
                ids = random_tokens(config["vocab_size"], count, 52)
                logits, model = run_transformers(llama_folder, ids)
                ratio = longest / ORIGINAL_LENGTH
                expected_scaling = math.sqrt(1.0 + math.log(ratio) / math.log(ORIGINAL_LENGTH))
                assert abs(model.model.rotary_emb.attention_scaling - expected_scaling) < 1e-9
                factors = LONG_FACTOR if count > ORIGINAL_LENGTH or ratio > 1 else SHORT_FACTOR
                frequencies = 10000.0 ** (-torch.arange(4).double() / 4) / torch.tensor(factors).double()
                assert torch.allclose(model.model.rotary_emb.inv_freq.double(), frequencies, rtol=1e-6)
                write_expected(folder / f"expected_{kind}.safetensors", ids, logits)
                all_logits[kind] = logits
        # The two lengths share a prefix of tokens: only the change of factors tells its logits apart.
        common = (all_logits["short"] - all_logits["long"][:40]).abs().max()
        assert (common < 1e-5) == (longest > ORIGINAL_LENGTH), common


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    generate_llama(root)
    generate_qwen3(root)
    generate_minicpm4(root)


if __name__ == "__main__":
    main()
