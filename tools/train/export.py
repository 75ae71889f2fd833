#!/usr/bin/env python3
"""A training state becomes a folder in Hugging Face layout.

  export.py [--state FILE --tok DIR --out DIR --format fp8|channel|bf16|f32 --shards N]

fp8 follows the public converter: blocks of 128 x 128, scale = max(amax, 1e-4) / 448, rounded up to a power of
two for attention.dense and the experts' gate and up. Embeddings, head, norms and router weights are BF16,
expert_bias is F32.
"""
import argparse, json, os, shutil, sys
import numpy as np, torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ckpt import bf16_encode, quant_block, quant_channel, save_folder


def hf_config(c, fmt, **over):
    """the keys of the published 1T config, which has rotary_dim and lacks partial_rotary_factor and
    moe_shared_expert_intermediate_size"""
    r = {
        "architectures": ["BailingMoeV2ForCausalLM"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_bailing_moe_v2.BailingMoeV2Config",
            "AutoModel": "modeling_bailing_moe_v2.BailingMoeV2Model",
            "AutoModelForCausalLM": "modeling_bailing_moe_v2.BailingMoeV2ForCausalLM",
        },
        "num_hidden_layers": c["num_hidden_layers"],
        "hidden_size": c["hidden_size"],
        "intermediate_size": c["intermediate_size"],
        "eos_token_id": c["vocab_size"] - 6,
        "pad_token_id": c["vocab_size"] - 6,
        "first_k_dense_replace": c["first_k_dense_replace"],
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "max_window_layers": c["num_hidden_layers"],
        "model_type": "bailing_moe",
        "moe_intermediate_size": c["moe_intermediate_size"],
        "norm_topk_prob": True,
        "num_experts": c["num_experts"],
        "num_experts_per_tok": c["num_experts_per_tok"],
        "num_attention_heads": c["num_attention_heads"],
        "num_key_value_heads": c["num_key_value_heads"],
        "num_shared_experts": c["num_shared_experts"],
        "rope_theta": c["rope_theta"],
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_bias": False,
        "use_rmsnorm": True,
        "rms_norm_eps": c["rms_norm_eps"],
        "head_dim": c["head_dim"],
        "use_cache": True,
        "use_qkv_bias": False,
        "embedding_dropout": 0.0,
        "output_dropout": 0.0,
        "vocab_size": c["vocab_size"],
        "rotary_dim": int(c["head_dim"] * c["partial_rotary_factor"]),
        "use_qk_norm": True,
        "router_dtype": "fp32",
        "moe_router_enable_expert_bias": True,
        "routed_scaling_factor": c["routed_scaling_factor"],
        "n_group": c["n_group"],
        "topk_group": c["topk_group"],
        "score_function": "sigmoid",
        "norm_head": False,
        "norm_softmax": False,
        "num_nextn_predict_layers": 0,
        "mtp_loss_scaling_factor": 0,
        "initializer_range": 0.02,
        "output_router_logits": False,
    }
    if fmt == "fp8":
        r["quantization_config"] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        }
    if fmt == "channel":
        r["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "kv_cache_scheme": None,
            "ignore": ["lm_head"],
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 8,
                        "type": "float",
                        "strategy": "channel",
                        "symmetric": True,
                        "dynamic": False,
                        "group_size": None,
                        "block_structure": None,
                    },
                    "input_activations": {
                        "num_bits": 8,
                        "type": "float",
                        "strategy": "token",
                        "symmetric": True,
                        "dynamic": True,
                    },
                    "output_activations": None,
                }
            },
        }
    r.update(over)
    return r


def named(c, get, biases=None):
    """yields (tensor name, kind, fp32 array). Kind q: quantised matrix, qp: with power-of-two scales, b: bf16,
    f: fp32. get(key) gives the tensors as network.py names them."""
    yield "model.word_embeddings.weight", "b", get("emb")
    I = c["moe_intermediate_size"]
    for l in range(c["num_hidden_layers"]):
        p = f"model.layers.{l}."
        k = f"{l}."
        yield p + "input_layernorm.weight", "b", get(k + "ln1")
        yield p + "attention.query_key_value.weight", "q", get(k + "qkv")
        yield p + "attention.query_layernorm.weight", "b", get(k + "qn")
        yield p + "attention.key_layernorm.weight", "b", get(k + "kn")
        yield p + "attention.dense.weight", "qp", get(k + "o")
        yield p + "post_attention_layernorm.weight", "b", get(k + "ln2")
        if l < c["first_k_dense_replace"]:
            g = get(k + "gu")
            D = len(g) // 2
            yield p + "mlp.gate_proj.weight", "q", g[:D]
            yield p + "mlp.up_proj.weight", "q", g[D:]
            yield p + "mlp.down_proj.weight", "q", get(k + "d")
        else:
            yield p + "mlp.gate.weight", "b", get(k + "gate")
            yield p + "mlp.gate.expert_bias", "f", get(k + "bias")
            gu, dn = get(k + "egu"), get(k + "ed")
            for e in range(c["num_experts"]):
                q = p + f"mlp.experts.{e}."
                yield q + "gate_proj.weight", "qp", gu[e][:I]
                yield q + "up_proj.weight", "qp", gu[e][I:]
                yield q + "down_proj.weight", "q", dn[e]
            if c["num_shared_experts"]:
                g = get(k + "sgu")
                S = len(g) // 2
                q = p + "mlp.shared_experts."
                yield q + "gate_proj.weight", "q", g[:S]
                yield q + "up_proj.weight", "q", g[S:]
                yield q + "down_proj.weight", "q", get(k + "sd")
    yield "model.norm.weight", "b", get("norm")
    yield "lm_head.weight", "b", get("head")


def store(items, fmt):
    out = {}
    for n, kind, a in items:
        a = np.ascontiguousarray(a, np.float32)
        if kind == "f" or fmt == "f32":
            out[n] = ("F32", a)
        elif kind == "b" or fmt == "bf16":
            out[n] = ("BF16", bf16_encode(a))
        elif fmt == "channel":
            b, s = quant_channel(a)
            out[n] = ("F8_E4M3", b)
            out[n + "_scale"] = ("BF16", bf16_encode(s))
        else:
            b, s = quant_block(a, kind == "qp")
            out[n] = ("F8_E4M3", b)
            out[n + "_scale_inv"] = ("F32", s)
    return out


def state_get(z):
    from network import Model

    m = Model(z["cfg"])
    m.flat.copy_(z["flat"])
    return (
        lambda k: z["bias"][int(k.split(".")[0])].numpy()
        if k.endswith(".bias")
        else m.p[k].detach().numpy()
    )


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--state", default="build/train/run/state.pt")
    ap.add_argument("--tok", default="build/train/tok")
    ap.add_argument("--out", default="build/train/ring-tiny")
    ap.add_argument("--format", default="fp8")
    ap.add_argument("--shards", type=int, default=4)
    o = ap.parse_args()
    z = torch.load(o.state)
    c = z["cfg"]
    n = save_folder(
        o.out, hf_config(c, o.format), store(named(c, state_get(z)), o.format), o.shards
    )
    V = c["vocab_size"]
    for f in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{o.tok}/{f}", f"{o.out}/{f}")
    json.dump(
        {
            "bos_token_id": V - 7,
            "eos_token_id": [V - 6, V - 3],
            "pad_token_id": V - 6,
            "transformers_version": "4.56.1",
        },
        open(f"{o.out}/generation_config.json", "w"),
        indent=2,
    )
    print(o.out, o.format, "step", z["step"], "bytes", n)


if __name__ == "__main__":
    main()
