#!/usr/bin/env python3
"""What the routing in a trace looks like, and what caches would make of it.

  stats.py TRACE.json ...      (a file that traces.py wrote)

Caches hold (layer, expert) pairs; ratio = capacity / (layers * experts). Accesses are replayed token by token
and layer by layer; the K experts of a layer are requested together, and hits are judged before any of them is
inserted. "global" is one cache over all layers, "layer" one per layer of the same total size, at least one
entry each. Belady knows the future of the whole trace.
"""
import json, os, sys
from collections import OrderedDict, defaultdict
import numpy as np


def lru(stream, cap):
    c, hit, n = OrderedDict(), 0, 0
    for group in stream:
        for k in group:
            n += 1
            if k in c:
                hit += 1
        for k in group:
            if k in c:
                c.move_to_end(k)
            else:
                c[k] = 1
                if len(c) > cap:
                    c.popitem(last=False)
    return hit / n


def belady(stream, cap):
    import heapq

    nxt = defaultdict(list)
    for t, g in enumerate(stream):
        for k in g:
            nxt[k].append(t)
    INF = 1 << 60
    c, heap, hit, n = {}, [], 0, 0
    ptr = defaultdict(int)
    for t, g in enumerate(stream):
        for k in g:
            n += 1
            hit += k in c
        for k in g:
            p = ptr[k] = ptr[k] + 1
            f = nxt[k][p] if p < len(nxt[k]) else INF
            if k in c or len(c) < cap:
                c[k] = f
                heapq.heappush(heap, (-f, k))
                continue
            while heap and (heap[0][1] not in c or c[heap[0][1]] != -heap[0][0]):
                heapq.heappop(heap)
            if heap and -heap[0][0] > f:
                _, v = heapq.heappop(heap)
                del c[v]
                c[k] = f
                heapq.heappush(heap, (-f, k))  # else: bypass, the newcomer is used last
    return hit / n


def main(path):
    h = json.load(open(path))
    d = os.path.dirname(path)
    x = (
        np.fromfile(f"{d}/{h['file']}", h["dtype"])
        .reshape(h["tokens"], len(h["layers"]), h["topk"])
        .astype(int)
    )
    T, L, K = x.shape
    E = h["experts"]
    S = h["sequences"]
    dom = np.concatenate([[s["domain"]] * s["length"] for s in S])
    first = np.zeros(T, bool)
    first[[s["start"] for s in S]] = True
    doms = sorted(set(dom))
    out = {"tokens": T, "sequences": len(S)}
    print(
        f"{path}: {T} tokens, {len(S)} sequences, "
        + ", ".join(f"{q} {int((dom == q).sum())}" for q in doms)
    )
    oh = np.zeros((T, L, E), np.float32)
    np.put_along_axis(oh, x, 1, 2)
    H = lambda p: float(-(p[p > 0] * np.log2(p[p > 0])).sum())

    def js(p, q):
        m = (p + q) / 2
        return H(m) - (H(p) + H(q)) / 2

    print(
        "layer  entropy(bits of %.0f)  eff.experts  max/mean  min/mean  overlap(prev)  same-domain pair  cross-domain pair  JS between domains (bits)"
        % np.log2(E)
    )
    rng = np.random.default_rng(0)
    for l in range(L):
        p = oh[:, l].sum(0) / (T * K)
        ov = (oh[1:, l] * oh[:-1, l]).sum(1)[~first[1:]].mean() / K
        a, b = rng.integers(0, T, 40000), rng.integers(0, T, 40000)
        pr = (oh[a, l] * oh[b, l]).sum(1) / K
        same = dom[a] == dom[b]
        pd = {q: oh[dom == q][:, l].sum(0) / oh[dom == q][:, l].sum() for q in doms}
        J = {
            f"{u}-{v}": round(js(pd[u], pd[v]), 3)
            for i, u in enumerate(doms)
            for v in doms[i + 1 :]
        }
        row = dict(
            layer=h["layers"][l],
            entropy=H(p),
            max_mean=float(p.max() * E),
            min_mean=float(p.min() * E),
            overlap_prev=float(ov),
            pair_same=float(pr[same].mean()),
            pair_cross=float(pr[~same].mean()),
            js=J,
            per_domain_entropy={q: round(H(v), 2) for q, v in pd.items()},
        )
        out.setdefault("layers", []).append(row)
        print(
            f"{row['layer']:>5}  {row['entropy']:.3f}  {2 ** row['entropy']:.1f}  {row['max_mean']:.2f}  {row['min_mean']:.2f}  {ov:.3f}  {row['pair_same']:.3f}  {row['pair_cross']:.3f}  {J}  per-domain entropy {row['per_domain_entropy']}"
        )
    print(f"random choice would give pair overlap {K / E:.3f}")
    # can the domain be told from 8 tokens' experts? nearest class centroid; whole sequences are either for fitting or for testing
    fe, la, sq = [], [], []
    for si, s in enumerate(S):
        for t in range(s["start"], s["start"] + s["length"] - 8, 8):
            fe.append(oh[t : t + 8].mean(0).ravel())
            la.append(s["domain"])
            sq.append(si)
    fe, la = np.array(fe), np.array(la)
    tr = np.array(sq) % 2 == 0
    cen = np.stack([fe[tr & (la == q)].mean(0) for q in doms])
    pred = np.array(doms)[((fe[~tr][:, None] - cen) ** 2).sum(-1).argmin(1)]
    out["domain_from_8_tokens"] = float((pred == la[~tr]).mean())
    print(
        f"domain told from the experts of 8 tokens (nearest centroid): {out['domain_from_8_tokens']:.3f}"
    )
    g = [[l * E + int(e) for e in x[t, l]] for t in range(T) for l in range(L)]
    out["cache"] = {}

    def static(stream, cap):
        cnt = defaultdict(int)
        for q in stream:
            for k in q:
                cnt[k] += 1
        return sum(sorted(cnt.values(), reverse=True)[:cap]) / sum(cnt.values())

    for r in (0.05, 0.1, 0.2, 0.4, 0.6):
        cap = round(r * L * E)
        cl = max(1, round(r * E))
        per = [[g[t * L + l] for t in range(T)] for l in range(L)]
        out["cache"][r] = dict(
            capacity=cap,
            lru_global=lru(g, cap),
            lru_layer=float(np.mean([lru(q, cl) for q in per])),
            belady_global=belady(g, cap),
            belady_layer=float(np.mean([belady(q, cl) for q in per])),
            static_most_used=static(g, cap),
            random_expectation=r,
        )
        print(
            f"cache {r:.0%} ({cap} of {L * E}): "
            + "  ".join(f"{k} {v:.3f}" for k, v in out["cache"][r].items() if k != "capacity")
        )
    # within one domain, and per domain sequences in a row (a user who stays in one domain)
    for q in doms:
        gq = [
            [l * E + int(e) for e in x[t, l]]
            for s in S
            if s["domain"] == q
            for t in range(s["start"], s["start"] + s["length"])
            for l in range(L)
        ]
        out.setdefault("cache_domain", {})[q] = {
            r: (lru(gq, round(r * L * E)), belady(gq, round(r * L * E))) for r in (0.1, 0.2, 0.4)
        }
        print(
            f"  only {q}: "
            + "  ".join(
                f"{r:.0%} LRU {a:.3f} Belady {b:.3f}"
                for r, (a, b) in out["cache_domain"][q].items()
            )
        )
    json.dump(out, open(path.replace(".json", ".stats.json"), "w"), indent=1)


for p in sys.argv[1:]:
    main(p)
