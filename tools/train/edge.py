#!/usr/bin/env python3
"""Small checkpoints with random weights that exercise a loader's corners, each with its golden.json.

  edge.py [OUT]

  bf16         BF16, one file, no index; has partial_rotary_factor and moe_shared_expert_intermediate_size
  partial-fp8  block FP8, no dimension a multiple of 128 (scales for part blocks), an odd vocabulary, 2 shards
  tied-bias    tied embeddings (no lm_head), use_qkv_bias and use_bias, 2 shared experts, n_group 1
  dense2-hd    2 dense layers first, head_dim other than hidden / heads, a single kv head, rotary_dim
  yarn         YaRN by a factor of 4, with a prompt longer than the original window
  channel-fp8  FP8 with a scale per row (BF16 [out, 1]) and expert_bias in BF16, as the FP8 releases of 1T
  mtp-extra    a further layer of MTP tensors that must be skipped; model_type bailing_moe_v2; 3 shards
"""
import json, math, os, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import numpy as np, torch
from ckpt import bf16_encode, save_folder
from export import hf_config, store
from goldens import golden
from reference import Ring


def tensors(c, r, qkv_bias=False, bias=False, tie=False, extra=False):
    """yields (name, kind, array) like export.named, for any geometry"""
    H, hd, nh, kv, E, I, D = (
        c["hidden_size"],
        c["head_dim"],
        c["num_attention_heads"],
        c["num_key_value_heads"],
        c["num_experts"],
        c["moe_intermediate_size"],
        c["intermediate_size"],
    )
    S = I * c["num_shared_experts"]
    w = lambda o, i, g=1.0: (r.standard_normal((o, i)) * g / math.sqrt(i)).astype(np.float32)
    nv = lambda n: (1 + 0.3 * r.standard_normal(n)).astype(np.float32)
    bv = lambda n: (0.2 * r.standard_normal(n)).astype(np.float32)
    yield "model.word_embeddings.weight", "b", r.standard_normal((c["vocab_size"], H)).astype(
        np.float32
    )
    L = c["num_hidden_layers"]
    for l in range(L + (1 if extra else 0)):
        p = f"model.layers.{l}."
        yield p + "input_layernorm.weight", "b", nv(H)
        yield p + "attention.query_key_value.weight", "q", w((nh + 2 * kv) * hd, H, 1.3)
        if qkv_bias:
            yield p + "attention.query_key_value.bias", "b", bv((nh + 2 * kv) * hd)
        yield p + "attention.query_layernorm.weight", "b", nv(hd)
        yield p + "attention.key_layernorm.weight", "b", nv(hd)
        yield p + "attention.dense.weight", "qp", w(H, nh * hd)
        if bias:
            yield p + "attention.dense.bias", "b", bv(H)
        yield p + "post_attention_layernorm.weight", "b", nv(H)

        def mlp(q, n, k):
            yield p + q + "gate_proj.weight", k, w(n, H, 1.5)
            yield p + q + "up_proj.weight", k, w(n, H, 1.5)
            yield p + q + "down_proj.weight", "q", w(H, n)

        if l < c["first_k_dense_replace"]:
            yield from mlp("mlp.", D, "q")
        else:
            yield p + "mlp.gate.weight", "b", w(E, H, 1.5)
            yield p + "mlp.gate.expert_bias", "f", (0.1 * r.standard_normal(E)).astype(np.float32)
            for e in range(E):
                yield from mlp(f"mlp.experts.{e}.", I, "qp")
            if S:
                yield from mlp("mlp.shared_experts.", S, "q")
        if l >= L:
            for n in ("enorm", "hnorm", "final_layernorm"):
                yield p + n + ".weight", "b", nv(H)
            yield p + "eh_proj.weight", "b", w(H, 2 * H)
    yield "model.norm.weight", "b", nv(H)
    if not tie:
        yield "lm_head.weight", "b", w(c["vocab_size"], H, 3.0)


B = dict(
    vocab_size=512,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=96,
    moe_intermediate_size=32,
    num_experts=16,
    num_experts_per_tok=4,
    num_shared_experts=1,
    n_group=4,
    topk_group=2,
    first_k_dense_replace=1,
    routed_scaling_factor=2.5,
    rms_norm_eps=1e-6,
    rope_theta=600000.0,
    partial_rotary_factor=0.5,
)
YARN = {"rope_type": "yarn", "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
# name: (geometry, tensor options, format, shards, config overrides, config keys to drop, prompt length)
CASES = {
    "bf16": (
        dict(B),
        {},
        "bf16",
        1,
        {"partial_rotary_factor": 0.5, "moe_shared_expert_intermediate_size": 32},
        ["rotary_dim"],
        40,
    ),
    "partial-fp8": (
        dict(
            B,
            vocab_size=331,
            hidden_size=200,
            head_dim=40,
            num_attention_heads=6,
            num_key_value_heads=3,
            intermediate_size=328,
            moe_intermediate_size=72,
            num_experts=12,
            num_experts_per_tok=3,
            n_group=3,
            topk_group=2,
            partial_rotary_factor=0.6,
            num_hidden_layers=2,
        ),
        {},
        "fp8",
        2,
        {},
        [],
        40,
    ),
    "tied-bias": (
        dict(B, num_shared_experts=2, n_group=1, topk_group=1, num_experts_per_tok=2),
        dict(qkv_bias=True, bias=True, tie=True),
        "bf16",
        1,
        {
            "tie_word_embeddings": True,
            "use_qkv_bias": True,
            "use_bias": True,
            "partial_rotary_factor": 0.5,
            "moe_shared_expert_intermediate_size": 32,
        },
        ["rotary_dim"],
        40,
    ),
    "dense2-hd": (
        dict(
            B,
            num_hidden_layers=4,
            first_k_dense_replace=2,
            head_dim=48,
            num_attention_heads=8,
            num_key_value_heads=1,
            partial_rotary_factor=1 / 3,
            num_experts=8,
            n_group=2,
            topk_group=1,
            num_experts_per_tok=3,
        ),
        {},
        "fp8",
        1,
        {},
        [],
        40,
    ),
    "yarn": (
        dict(B),
        {},
        "bf16",
        1,
        {"rope_scaling": YARN, "max_position_embeddings": 128},
        [],
        90,
    ),
    "channel-fp8": (
        dict(B, hidden_size=96, moe_intermediate_size=48),
        {},
        "channel",
        2,
        {},
        [],
        40,
    ),
    "mtp-extra": (
        dict(B, num_hidden_layers=2),
        dict(extra=True),
        "fp8",
        3,
        {"model_type": "bailing_moe_v2", "num_nextn_predict_layers": 1},
        [],
        40,
    ),
}


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else "build/train/edge"
    for n, (c, opt, fmt, sh, over, drop, T) in CASES.items():
        r = np.random.default_rng(sum(map(ord, n)))
        t = store(tensors(c, r, **opt), fmt)
        d = f"{out}/{n}"
        if n == "channel-fp8":
            for k in list(t):
                if k.endswith("expert_bias"):
                    t[k] = ("BF16", bf16_encode(t[k][1]))
        cf = hf_config(c, fmt, **over)
        cf.update(eos_token_id=2, pad_token_id=0)
        for k in drop:
            cf.pop(k)
        size = save_folder(d, cf, t, sh)
        json.dump(
            {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0},
            open(d + "/generation_config.json", "w"),
        )
        ids = r.integers(4, c["vocab_size"], T).tolist()
        m = Ring(d)
        j, mm = golden(m, Ring(d, torch.float64), ids, 16, d + "/golden", name=n)
        json.dump(j, open(d + "/golden.json", "w"))
        used = len({e for l in j["router"] for row in l["ids"] for e in row})
        print(
            f"{n}: {size / 1e6:.2f} MB, {len(t)} tensors, noise {j['noise']:.1e},",
            f"least router margin {mm:.1e}, experts used {used}/{c['num_experts']},",
            f"least greedy margin {min(j['greedy']['margin']):.1e},",
            f"logits up to {max(p['values'][0] for p in j['top20']):.1f}",
        )


if __name__ == "__main__":
    main()
