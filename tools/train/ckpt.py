#!/usr/bin/env python3
"""The checkpoint formats by hand: safetensors in and out, e4m3 tables, the two FP8 layouts.

It needs numpy only, because the torch of many distributions has no 8-bit float type.
  e4m3fn       sign, 4 exponent bits (bias 7), 3 mantissa bits; no infinities; 0x7F and 0xFF are NaN;
               the largest finite value is 448 (0x7E)
  block FP8    NAME.weight is F8_E4M3 [out, in], NAME.weight_scale_inv is F32 [ceil(out/128), ceil(in/128)];
               a weight is its decoded byte times the scale of its block
  channel FP8  NAME.weight_scale is BF16 [out, 1] (compressed-tensors); times the scale of its row

  ckpt.py      runs a self test of the conversions
"""
import json, os
import numpy as np


def _table():
    t = np.zeros(256, np.float32)
    for b in range(256):
        e, m = (b >> 3) & 15, b & 7
        v = m * 2.0**-9 if e == 0 else (8 + m) * 2.0 ** (e - 10)
        if b & 127 == 127:
            v = np.nan
        t[b] = -v if b & 128 else v
    return t


E4M3 = _table()


def fp8_decode(b):
    return E4M3[b]


def fp8_encode(x):
    """fp32 -> e4m3fn bytes; nearest, ties to even, saturating at 448."""
    x = np.asarray(x, np.float32)
    a = np.minimum(np.abs(x), np.float32(448)).astype(np.float64)
    e = np.maximum(np.frexp(a)[1] - 1, -6)  # a = 1.f * 2^e, or subnormal (e = -6)
    q = np.rint(np.ldexp(a, 3 - e)).astype(
        np.int64
    )  # a in units of 2^(e-3): 0..16 ; np.rint rounds half to even
    code = np.where(q < 8, q, ((e + 7) << 3) + q - 8)  # q = 16 carries into the exponent by itself
    return (np.minimum(code, 0x7E) | (np.signbit(x).astype(np.int64) << 7)).astype(np.uint8)


def bf16_encode(x):
    u = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_decode(u):
    return (u.astype(np.uint32) << 16).view(np.float32)


def quant_block(w, pow2=False, block=128):
    """[out, in] fp32 -> (bytes, scales). A scale is max(amax, 1e-4) / 448; pow2 rounds it up to a power of two."""
    o, i = w.shape
    bo, bi = -(-o // block), -(-i // block)
    p = np.zeros((bo * block, bi * block), np.float32)
    p[:o, :i] = w
    am = np.abs(p.reshape(bo, block, bi, block)).max((1, 3))
    s = (np.maximum(am, 1e-4) / 448).astype(np.float32)
    if pow2:
        s = np.exp2(np.ceil(np.log2(s))).astype(np.float32)
    full = np.repeat(np.repeat(s, block, 0), block, 1)[:o, :i]
    return fp8_encode(w / full), s


def dequant_block(b, s, block=128):
    o, i = b.shape
    return fp8_decode(b) * np.repeat(np.repeat(s, block, 0), block, 1)[:o, :i]


def quant_channel(w):
    s = bf16_decode(
        bf16_encode(np.maximum(np.abs(w).max(1, keepdims=True), 1e-4) / 448 * 1.004)
    )  # a little up: BF16 may round down
    return fp8_encode(w / s), s


NP = {"F8_E4M3": np.uint8, "BF16": np.uint16, "F32": np.float32, "F16": np.float16, "I64": np.int64}


def st_write(path, tensors, meta=None):
    """tensors: {name: (dtype, array of raw storage)}. Body order: by dtype size falling, then by name."""
    names = sorted(tensors, key=lambda n: (-tensors[n][1].itemsize, n))
    head = {"__metadata__": meta or {"format": "pt"}}
    at = 0
    for n in names:
        d, a = tensors[n]
        head[n] = {"dtype": d, "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    h = json.dumps(head, separators=(",", ":")).encode()
    h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(len(h).to_bytes(8, "little"))
        f.write(h)
        for n in names:
            f.write(np.ascontiguousarray(tensors[n][1]).tobytes())
    return at


class Reader:
    """A checkpoint folder. get(name) returns fp32, dequantised; raw(name) the stored bits."""

    def __init__(self, d):
        self.dir = d
        self.config = json.load(open(f"{d}/config.json"))
        ix = f"{d}/model.safetensors.index.json"
        files = (
            sorted(set(json.load(open(ix))["weight_map"].values()))
            if os.path.exists(ix)
            else ["model.safetensors"]
        )
        self.at = {}
        self.mm = {}
        for f in files:
            with open(f"{d}/{f}", "rb") as fh:
                n = int.from_bytes(fh.read(8), "little")
                h = json.loads(fh.read(n))
            self.mm[f] = np.memmap(f"{d}/{f}", np.uint8, "r")
            for k, v in h.items():
                if k != "__metadata__":
                    self.at[k] = (
                        f,
                        v["dtype"],
                        v["shape"],
                        8 + n + v["data_offsets"][0],
                        8 + n + v["data_offsets"][1],
                    )

    def __contains__(self, n):
        return n in self.at

    def raw(self, n):
        f, dt, sh, a, b = self.at[n]
        return dt, np.frombuffer(self.mm[f][a:b].tobytes(), NP[dt]).reshape(sh)

    def get(self, n):
        dt, a = self.raw(n)
        if dt == "F8_E4M3":
            if n + "_scale_inv" in self.at:
                return dequant_block(a, self.get(n + "_scale_inv"))
            return fp8_decode(a) * self.get(n + "_scale")
        return bf16_decode(a) if dt == "BF16" else a.astype(np.float32)


def save_folder(d, config, tensors, shards=1, extra=()):
    """Tensors in writing order, in `shards` files of about equal size, with an index unless it is one."""
    os.makedirs(d, exist_ok=True)
    json.dump(config, open(f"{d}/config.json", "w"), indent=2)
    for f in os.listdir(d):
        if f.endswith(".safetensors") or f.endswith(".index.json"):
            os.remove(f"{d}/{f}")
    total = sum(a.nbytes for _, a in tensors.values())
    if shards == 1:
        st_write(f"{d}/model.safetensors", tensors)
        return total
    wm, cur, size, k = {}, {}, 0, 1

    def flush():
        nonlocal cur, size, k
        f = f"model-{k:05d}-of-{shards:05d}.safetensors"
        st_write(f"{d}/{f}", cur)
        for n in cur:
            wm[n] = f
        cur, size, k = {}, 0, k + 1

    for n, t in tensors.items():
        if cur and size + t[1].nbytes / 2 > total / shards and k < shards:
            flush()
        cur[n] = t
        size += t[1].nbytes
    flush()
    assert k == shards + 1, k
    json.dump(
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(wm.items()))},
        open(f"{d}/model.safetensors.index.json", "w"),
        indent=1,
    )
    return total


if (
    __name__ == "__main__"
):  # self test: every code round-trips; encoding agrees with a brute-force nearest-even search
    c = np.array([b for b in range(256) if b & 127 != 127], np.uint8)
    v = fp8_decode(c)
    assert (fp8_encode(v) == c).all()
    pos = E4M3[:127].astype(np.float64)
    r = np.random.default_rng(0)
    x = np.concatenate(
        [
            r.uniform(-500, 500, 20000),
            r.normal(0, 0.01, 20000),
            (pos[1:] + pos[:-1]) / 2,
            [0.0, 1e-9, 2.0**-10, 3 * 2.0**-10, 1e9, -1e9],
        ]
    ).astype(np.float32)
    for xi, ci in zip(x, fp8_encode(x)):
        a = min(abs(float(xi)), 448.0)
        dd = np.abs(pos - a)
        best = np.flatnonzero(dd == dd.min())
        want = best[0] if len(best) == 1 else next(k for k in best if k % 2 == 0)
        assert ci & 127 == want, (xi, ci, want)
    print("fp8 self test: ok", len(x))
