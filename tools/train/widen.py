#!/usr/bin/env python3
"""widen.py - function-preserving widening (Net2Wider) of a block-FP8 BailingMoeV2 checkpoint.

  widen.py SRC DST --k 4 --m 4 [--shard-gb 2]

hidden size x k, query heads x k (each repeated k times in a row inside its kv group; kv heads and head_dim stay), dense, expert and
shared widths x m. Every hidden vector becomes k copies of the old one, every MLP inner vector m copies, so RMSNorm, attention
and the router see the same numbers: logits are equal up to summation order, the ROUTING IS THE SAME, and an expert has k*m
times the bytes (k=32, m=16 on ring-tiny gives Ring-1T's expert geometry: 2048 x 8192, 48 MiB each).
k and m are powers of two; the factors 1/k and 1/m are folded exactly: into weight_scale_inv for FP8 (bytes are only copied),
into the exponent for BF16. Streams tensor by tensor; memory stays near one tensor.
"""
import argparse, json, os, shutil, sys, time
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ckpt import Reader, bf16_decode, bf16_encode


def plan(c, name, shape, k, m):
    """-> (row index map, column index map or None, power-of-two divisor) for one weight"""
    H = c["hidden_size"]
    nh, kv, hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    tile = lambda n, f: np.tile(np.arange(n), f)
    qrows = np.concatenate([np.tile(np.arange(h * hd, (h + 1) * hd), k) for h in range(nh)])
    same = np.arange(shape[0])
    end = name.split(".", 3)[-1] if name.startswith("model.layers.") else name
    if end == "model.word_embeddings.weight":
        return same, tile(H, k), 1
    if end == "lm_head.weight":
        return same, tile(H, k), k
    if end in ("model.norm.weight", "input_layernorm.weight", "post_attention_layernorm.weight"):
        return tile(H, k), None, 1
    if end in (
        "attention.query_layernorm.weight",
        "attention.key_layernorm.weight",
        "mlp.gate.expert_bias",
    ):
        return same, None, 1
    if end == "attention.query_key_value.weight":
        return np.concatenate([qrows, np.arange(nh * hd, (nh + 2 * kv) * hd)]), tile(H, k), k
    if end == "attention.dense.weight":
        return tile(H, k), qrows, k
    if end == "mlp.gate.weight":
        return same, tile(H, k), k
    if end.endswith(("gate_proj.weight", "up_proj.weight")):
        return tile(shape[0], m), tile(H, k), k
    if end.endswith("down_proj.weight"):
        return tile(H, k), tile(shape[1], m), m
    raise SystemExit("no rule for " + name)


def block_map(idx, old_n, B=128):
    """which old block each new block copies its scale from; fails unless every new block lies inside one old block"""
    b = idx // B
    nb = -(-len(idx) // B)
    out = np.array([b[i * B] for i in range(nb)])
    for i in range(nb):
        if (b[i * B : (i + 1) * B] != out[i]).any():
            raise SystemExit(
                "a widened block would mix two scales: dimensions must be multiples of 128 (and head_dim * k too)"
            )
    return out


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("src")
    ap.add_argument("dst")
    ap.add_argument("--k", type=int, default=4)
    ap.add_argument("--m", type=int, default=4)
    ap.add_argument("--shard-gb", type=float, default=2)
    o = ap.parse_args()
    k, m = o.k, o.m
    assert k & (k - 1) == 0 and m & (m - 1) == 0
    r = Reader(o.src)
    c = r.config
    os.makedirs(o.dst, exist_ok=True)
    order = sorted(
        r.at,
        key=lambda n: (
            int(n.split(".")[2])
            if n.startswith("model.layers.")
            else (-1 if "embed" in n else 1 << 30),
            r.at[n][0],
            r.at[n][3],
        ),
    )
    todo = []
    for n in order:
        if n.endswith("_scale_inv"):
            continue
        dt, sh = r.at[n][1], r.at[n][2]
        rows, cols, div = plan(c, n, sh, k, m)
        new = [len(rows)] + ([len(cols)] if cols is not None else [])
        todo.append((n, dt, new, rows, cols, div, None))
        if n + "_scale_inv" in r:
            rb, cb = block_map(rows, sh[0]), block_map(cols, sh[1])
            todo.append((n + "_scale_inv", "F32", [len(rb), len(cb)], rb, cb, div, n))
    size = {"F8_E4M3": 1, "BF16": 2, "F32": 4}
    shards, cur, acc = [], [], 0
    for t in todo:
        b = size[t[1]] * int(np.prod(t[2]))
        cur.append((t, b))
        acc += b
        if acc >= o.shard_gb * 1e9 and t[0].endswith(
            ("_scale_inv", "gate.weight", "layernorm.weight")
        ):
            shards.append(cur)
            cur, acc = [], 0
    if cur:
        shards.append(cur)
    wm, total, t0 = {}, 0, time.time()
    for si, s in enumerate(shards):
        f = f"model-{si + 1:05d}-of-{len(shards):05d}.safetensors"
        head = {"__metadata__": {"format": "pt"}}
        at = 0
        for (n, dt, new, *_), b in s:
            head[n] = {"dtype": dt, "shape": new, "data_offsets": [at, at + b]}
            at += b
            wm[n] = f
        h = json.dumps(head, separators=(",", ":")).encode()
        h += b" " * (-len(h) % 8)
        total += at
        with open(f"{o.dst}/{f}", "wb") as fh:
            fh.write(len(h).to_bytes(8, "little"))
            fh.write(h)
            for (n, dt, new, rows, cols, div, parent), b in s:
                a = r.raw(n)[1]
                if div > 1:
                    if dt == "BF16":
                        d = bf16_decode(a) / np.float32(div)
                        a = bf16_encode(d)
                        assert (bf16_decode(a) == d).all(), n
                    elif dt == "F32":
                        q = a / np.float32(div)
                        assert (q * np.float32(div) == a).all()
                        a = q
                if cols is not None:
                    a = a[:, cols]
                for i in range(0, len(rows), 1024):
                    fh.write(np.ascontiguousarray(a[rows[i : i + 1024]]).tobytes())
        print(f, f"{at / 1e9:.3f} GB", f"{time.time() - t0:.0f} s", flush=True)
    json.dump(
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(wm.items()))},
        open(f"{o.dst}/model.safetensors.index.json", "w"),
        indent=1,
    )
    c = dict(c)
    c["hidden_size"] *= k
    c["num_attention_heads"] *= k
    c["intermediate_size"] *= m
    c["moe_intermediate_size"] *= m
    if "moe_shared_expert_intermediate_size" in c:
        c["moe_shared_expert_intermediate_size"] *= m
    json.dump(c, open(f"{o.dst}/config.json", "w"), indent=2)
    for f in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if os.path.exists(f"{o.src}/{f}"):
            shutil.copy(f"{o.src}/{f}", o.dst)


if __name__ == "__main__":
    main()
