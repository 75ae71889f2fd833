#!/usr/bin/env python3
"""Held-out loss per domain and greedy accuracy per kind of question, before and after quantisation.

  evaluate.py [--fp8 DIR] [--f32 DIR] [--n 60] [--seqs 32] [--json FILE]

The losses need the encoded corpus (corpus.py, then tokenizer.py encode).
"""
import argparse, json, os, random, sys, time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import numpy as np, torch, corpus
from reference import Ring
from tokenizer import Tokenizer

F = torch.nn.functional


def windows(dom, n, T=256):
    a = np.load(f"build/train/tok/heldout.{dom}.npz")
    L = len(a["ids"])
    st = (
        [i * T for i in range((L - 1) // T)]
        if dom == "prose"
        else [int(x) for x in a["starts"] if x + T + 1 <= L]
    )
    st = st[:: max(1, len(st) // n)][:n]
    return torch.from_numpy(
        np.stack([a["ids"][s : s + T + 1] for s in st]).astype(np.int64)
    ), torch.from_numpy(np.stack([a["mask"][s : s + T + 1] for s in st]).astype(np.int64))


def loss(m, dom, n):
    ids, mk = windows(dom, n)
    tot = cnt = hit = 0
    load = torch.zeros(m.L, m.E)
    for i in range(0, len(ids), 8):
        tr = []
        lg = m.forward(ids[i : i + 8, :-1], trace=tr)
        sel = mk[i : i + 8, 1:].reshape(-1) > 0
        t = ids[i : i + 8, 1:].reshape(-1)[sel]
        lg = lg.reshape(-1, lg.shape[-1])[sel]
        tot += float(F.cross_entropy(lg, t, reduction="sum"))
        cnt += len(t)
        hit += int((lg.argmax(-1) == t).sum())
        for l, ix, *_ in tr:
            load[l] += torch.bincount(ix.reshape(-1), minlength=m.E)
    return tot / cnt, hit / cnt, cnt, load


def accuracy(m, tk, n, think, seed="eval"):
    res = {}
    stop = (tk.added["<|role_end|>"], tk.added["<|endoftext|>"])
    for kind in corpus.KINDS:
        if not think and kind == "multiply":
            continue
        P, W, Q = [], [], []
        i = 0
        seen = set()
        while len(P) < (n if kind != "talk" else 12):
            r = random.Random(f"{seed}/{kind}/{i}")
            i += 1
            k, q, th, a = corpus.draw(r, "heldout", kind, easy=not think)
            if kind != "talk" and q in seen and i < 50 * n:
                continue
            seen.add(q)
            P.append(
                tk.encode(
                    (corpus.SYS_ON if think else corpus.SYS_OFF)
                    + f"<role>HUMAN</role>{q}<|role_end|><role>ASSISTANT</role>"
                )
            )
            W.append(a)
            Q.append(q)
        ok = 0
        bad = []
        steps = 0
        for b in range(0, len(P), 32):
            for w, q, out in zip(
                W[b : b + 32],
                Q[b : b + 32],
                m.greedy_batch(
                    P[b : b + 32], 150 if think else 40, stop, tk.added["<|endoftext|>"]
                ),
            ):
                t = tk.decode(out)
                steps += len(out)
                g = t.split("</think>")[-1].strip().removesuffix("<|role_end|>").strip()
                ok += g == w
                if g != w and len(bad) < 2:
                    bad.append((q, w, t))
        res[kind] = (ok, len(P))
        print(
            f"  {'think' if think else 'direct'} {kind}: {ok}/{len(P)}",
            f"(mean length {steps / len(P):.0f})",
            *[f"\n      wrong: {b}" for b in bad],
            flush=True,
        )
    return res


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--fp8", default="models/ring-tiny")
    ap.add_argument("--f32")
    ap.add_argument("--n", type=int, default=60)
    ap.add_argument("--seqs", type=int, default=32)
    ap.add_argument("--json", help="where to write the figures")
    o = ap.parse_args()
    t0 = time.time()
    out = {"loss": {}, "accuracy": {}}
    for name, d in (("fp32", o.f32), ("fp8", o.fp8)):
        if not d:
            continue
        m = Ring(d)
        for dom in ("chat", "prose", "code"):
            l, acc, n, load = loss(m, dom, o.seqs)
            out["loss"][f"{name}.{dom}"] = l
            print(f"{name} {dom}: loss {l:.4f} nats/token, top-1 {acc:.3f}, {n} tokens", flush=True)
            if name == "fp8":
                out.setdefault("load", {})[dom] = load.tolist()
    tk = Tokenizer(f"{o.fp8}/tokenizer.json")
    tot = sum(torch.tensor(v) for v in out["load"].values())
    for l in range(m.k0, m.L):
        x = tot[l] / tot[l].sum() * m.E
        print(
            f"layer {l}: load max/mean {float(x.max()):.2f} min/mean {float(x.min()):.2f}",
            "(held-out, three domains)",
        )
    for think in (True, False):
        out["accuracy"]["think" if think else "direct"] = accuracy(m, tk, o.n, think)
    if o.json:
        json.dump(out, open(o.json, "w"))
    print(f"{time.time() - t0:.0f} s")
