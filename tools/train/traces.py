#!/usr/bin/env python3
"""Which experts real text is routed to: text is generated, then read in one pass with the router watched.

  traces.py [--model DIR] [--out DIR] [--set dev|heldout] [--tokens N]

Half of each raw sequence is a held-out prompt and half is sampled; chat sequences are held-out questions with
the model's own greedy answers. The two sets share no question. Needs the corpus and its encoding; stats.py
reads the result.
"""
import argparse, json, os, random, sys, zlib

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import jinja2, numpy as np, torch
import corpus
from reference import Ring
from tokenizer import Tokenizer


def traces(o):
    tk = Tokenizer(f"{o.model}/tokenizer.json")
    m = Ring(o.model)
    g = torch.Generator().manual_seed(101)
    stop = (tk.added["<|role_end|>"], tk.added["<|endoftext|>"])
    tpl = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        json.load(open(f"{o.model}/tokenizer_config.json"))["chat_template"]
    )
    seqs = []
    want = o.tokens // 3
    n = 0
    i = 0
    while n < want:  # chat: a held-out question, the model's own answer (greedy)
        P = []
        while (
            len(P) < 48
        ):  # one set takes the questions with an even checksum, the other the odd ones
            r = random.Random(f"trace/{o.set}/{i}")
            i += 1
            k, q, th, a = corpus.draw(r, "heldout")
            if (zlib.crc32(q.encode()) >> 8) % 2 == (o.set == "heldout"):
                P.append(
                    tk.encode(
                        tpl.render(
                            messages=[{"role": "user", "content": q}],
                            add_generation_prompt=True,
                            enable_thinking=r.random() < 0.85,
                        )
                    )
                )
        for p, out in zip(P, m.greedy_batch(P, 120, stop, tk.added["<|endoftext|>"])):
            if n < want:
                seqs.append(("chat", p + out, len(p)))
                n += len(p) + len(out)
    for dom in ("prose", "code"):
        a = np.load(f"build/train/tok/heldout.{dom}.npz")["ids"].astype(int)
        half = len(a) // 2
        lo, hi = (0, half - 400) if o.set == "dev" else (half, len(a) - 400)
        n = 0
        rs = np.random.default_rng(5)
        while n < want:
            P = [a[s : s + 64].tolist() for s in rs.integers(lo, hi, 12)]
            for p, out in zip(
                P, m.greedy_batch(P, 320, (), tk.added["<|endoftext|>"], sample=(0.8, g))
            ):
                if n < want:
                    seqs.append((dom, p + out, len(p)))
                    n += len(p) + len(out)
    random.Random(1).shuffle(seqs)
    parts, meta, at = [], [], 0
    layers = None
    ids_all = []
    for dom, ids, pl in seqs:
        tr = []
        m.forward(torch.tensor([ids]), trace=tr)
        layers = [t[0] for t in tr]
        parts.append(torch.stack([t[1][0] for t in tr], 1).numpy())
        ids_all += ids
        meta.append({"start": at, "length": len(ids), "prompt": pl, "domain": dom})
        at += len(ids)
    x = np.concatenate(parts)
    os.makedirs(o.out, exist_ok=True)
    dt = np.uint8 if m.E <= 256 else np.uint16
    b = f"{o.out}/{o.set}"
    x.astype(dt).tofile(b + ".bin")
    np.array(ids_all, "<u2").tofile(b + ".tokens.bin")
    json.dump(
        {
            "what": "router choices x[token][moe layer][k] by falling choice score; sequences are "
            "independent, and the first `prompt` tokens of each are prefill",
            "file": f"{o.set}.bin",
            "dtype": np.dtype(dt).name,
            "tokens_file": f"{o.set}.tokens.bin",
            "tokens_dtype": "uint16 little-endian",
            "tokens": at,
            "layers": layers,
            "topk": m.K,
            "experts": m.E,
            "model": os.path.basename(o.model),
            "sequences": meta,
        },
        open(b + ".json", "w"),
    )
    print(o.set, "trace", x.shape, "sequences", len(meta))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", default="models/ring-tiny")
    ap.add_argument("--out", default="build/train/traces")
    ap.add_argument("--set", default="dev", choices=("dev", "heldout"))
    ap.add_argument("--tokens", type=int, default=20000)
    traces(ap.parse_args())


if __name__ == "__main__":
    main()
