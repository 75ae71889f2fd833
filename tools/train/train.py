#!/usr/bin/env python3
"""Trains ring-tiny on two CPU cores. Resumable: state in OUT/state.pt, log in OUT/log.txt.

Master weights, residual stream, norms, router and loss in fp32; the large matrix products in bf16. Two
processes of one thread each train on halves of the batch; weights, optimiser state and gradients lie in shared
memory. There is no balance loss: after each step expert_bias += rate * sign(mean load - load). The schedule can
be fitted to the clock (--deadline), so a run is not reproducible to the bit.
"""
import argparse, json, math, os, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import multiprocessing as mp
import numpy as np, torch
from layers import F_, L_, P, ops
from network import CFG, Model


class Data:
    """Sequences of T+1 tokens. chat and code: whole documents packed from a document start; prose: a random window."""

    def __init__(self, d, split):
        self.a = {k: dict(np.load(f"{d}/{split}.{k}.npz")) for k in ("chat", "prose", "code")}

    def batch(self, r, mix, T):
        I, M = [], []
        for dom, m in mix.items():
            a = self.a[dom]
            n = len(a["ids"])
            for _ in range(m):
                s = (
                    int(r.integers(0, n - T - 1))
                    if dom == "prose"
                    else int(a["starts"][r.integers(0, np.searchsorted(a["starts"], n - T - 1))])
                )
                I.append(a["ids"][s : s + T + 1])
                M.append(a["mask"][s : s + T + 1])
        ids = torch.from_numpy(np.stack(I).astype(np.int64))
        m = torch.from_numpy(np.stack(M).astype(np.int64))
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), m[:, 1:].contiguous()


@torch.no_grad()
def heldout(m, d, dom, nseq=24, T=256):
    a = d.a[dom]
    n = len(a["ids"])
    st = (
        [i * T for i in range((n - 1) // T)]
        if dom == "prose"
        else [int(x) for x in a["starts"] if x + T + 1 <= n]
    )
    st = st[:: max(1, len(st) // nseq)][:nseq]
    tot = cnt = 0
    for i in range(0, len(st), 8):
        ids = torch.from_numpy(
            np.stack([a["ids"][s : s + T + 1] for s in st[i : i + 8]]).astype(np.int64)
        )
        mk = torch.from_numpy(
            np.stack([a["mask"][s : s + T + 1] for s in st[i : i + 8]]).astype(np.int64)
        )[:, 1:]
        k = int(mk.sum())
        tot += float(m.loss(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), mk)) * k
        cnt += k
    return tot / cnt


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", default="build/train/run")
    ap.add_argument("--tok", default="build/train/tok")
    ap.add_argument("--steps", type=int, default=4000)
    ap.add_argument("--mix", default="chat=4,prose=3,code=1", help="sequences per process and step")
    ap.add_argument("--T", type=int, default=256)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--set", nargs="*", default=[])
    ap.add_argument("--bench", type=int, default=0)
    ap.add_argument("--bias-rate", type=float, default=1e-3)
    ap.add_argument("--long-last", type=float, default=0.08)
    ap.add_argument(
        "--deadline",
        default="",
        help="HH:MM at which the schedule must end: the step count is refitted to the speed seen so far",
    )
    o = ap.parse_args()
    torch.set_num_threads(1)
    os.makedirs(o.out, exist_ok=True)
    c = dict(CFG)
    W = 2
    for kv in o.set:
        k, v = kv.split("=")
        c[k] = type(c[k])(float(v))
    m = Model(c)
    sh = lambda *s: torch.zeros(*s).share_memory_()
    n = m.flat.numel()
    mom, var = sh(n), sh(n)
    grads = [sh(n) for _ in range(W)]
    loads = sh(W, *m.load.shape)
    red = torch.zeros(W, 2, dtype=torch.float64).share_memory_()
    total = torch.tensor([float(o.steps)], dtype=torch.float64).share_memory_()
    step = 0
    sp = f"{o.out}/state.pt"
    bar = mp.Barrier(W)
    if os.path.exists(sp) and not o.bench:
        z = torch.load(sp)
        m.flat.copy_(z["flat"])
        m.bias.copy_(z["bias"])
        mom.copy_(z["mom"])
        var.copy_(z["var"])
        step = z["step"]
        total[0] = z.get("total", o.steps)
    m.refresh()
    rank = 0
    child = os.fork()
    if child == 0:
        rank = 1
    d = Data(o.tok, "train")
    hd = Data(o.tok, "heldout") if rank == 0 else None
    m.bind(grads[rank])
    mix = {k: int(v) for k, v in (x.split("=") for x in o.mix.split(","))}
    log = open(f"{o.out}/log.txt", "a")

    def say(*a):
        if rank == 0:
            s = " ".join(map(str, a))
            print(s, flush=True)
            log.write(s + "\n")
            log.flush()

    say("params", n, "step", step, json.dumps(c))
    ema = None
    tok = 0
    last = t0 = time.time()
    s0 = step
    tm = [0.0, 0.0]
    lo, hi = (0, n // 2) if rank == 0 else (n // 2, n)
    warm = 150
    k0 = c["first_k_dense_replace"]
    try:
        while step < (o.bench or total[0]):
            T, mx = o.T, mix
            tot = float(total[0])
            if step > tot * (1 - o.long_last):
                T, mx = 2 * o.T, {
                    k: max(1, v // 2) for k, v in mix.items()
                }  # the last part of training sees twice the context
            ta = time.time()
            r = np.random.default_rng((11, step, rank))
            ids, tgt, mask = d.batch(r, mx, T)
            loss = m.loss(ids, tgt, mask)
            loss.backward()
            step += 1
            tok += W * ids.numel()
            loads[rank] = m.load
            m.load.zero_()
            red[rank, 0] = float(loss)
            tb = time.time()
            bar.wait()
            red[rank, 1] = ops.sumsq2(P(grads[0][lo:]), P(grads[1][lo:]), L_(hi - lo))
            ld = loads.sum(0)
            bar.wait()
            gn = math.sqrt(float(red[:, 1].sum())) / W
            ls = float(red[:, 0].mean())
            pr = min(1.0, max(0, step - warm) / max(1, tot - warm))
            lr = o.lr * min(1, step / warm) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * pr)))
            b1, b2 = 0.9, 0.97
            gs = min(1.0, 1.0 / (gn + 1e-6)) / W if math.isfinite(gn) else 0.0
            for a, b, wd in ((lo, min(hi, m.ndecay), 0.05), (max(lo, m.ndecay), hi, 0.0)):
                if b > a:
                    ops.adamw2(
                        P(m.flat[a:]),
                        P(m.flat16[a:]),
                        P(grads[0][a:]),
                        P(grads[1][a:]),
                        P(mom[a:]),
                        P(var[a:]),
                        L_(b - a),
                        F_(lr),
                        F_(b1),
                        F_(b2),
                        F_(1e-9),
                        F_(wd),
                        F_(1 - b1**step),
                        F_(1 - b2**step),
                        F_(gs),
                    )
            if rank == 0:
                br = o.bias_rate * (1 if pr < 0.6 else max(0.05, (1 - pr) / 0.4))
                m.bias[k0:] += br * torch.sign(ld[k0:].mean(1, keepdim=True) - ld[k0:])
                viol = float((ld[k0:].max(1)[0] / ld[k0:].mean(1)).max())
                ema = ls if ema is None else 0.95 * ema + 0.05 * ls
                tm[0] += tb - ta
                tm[1] += time.time() - tb
                if (
                    step % 25 == 0
                    and step - s0 >= 50
                    and (o.deadline or os.path.exists(f"{o.out}/deadline"))
                ):
                    h_, m_ = (
                        open(f"{o.out}/deadline").read().strip()
                        if os.path.exists(f"{o.out}/deadline")
                        else o.deadline
                    ).split(":")
                    lt = time.localtime()
                    left = (int(h_) * 60 + int(m_)) * 60 - (
                        lt.tm_hour * 3600 + lt.tm_min * 60 + lt.tm_sec
                    )
                    want = step + max(0, left) * (step - s0) / (time.time() - t0)
                    total[0] = int(want if step < 100 else 0.7 * float(total[0]) + 0.3 * want)
                if step % 25 == 0 or o.bench:
                    say(
                        f"{time.strftime('%H:%M:%S')} step {step}/{int(total[0])} loss {ema:.4f} gn {gn:.2f} lr {lr:.2e} maxload {viol:.2f} tok/s {tok / (time.time() - t0):.0f} busy {tm[0] / sum(tm):.2f}"
                    )
            bar.wait()
            if rank == 0 and not o.bench:
                end = step >= total[0]
                if step % 250 == 0 or end:
                    say(
                        "  heldout "
                        + " ".join(
                            f"{k} {heldout(m, hd, k):.4f}" for k in ("chat", "prose", "code")
                        )
                    )
                    m.load.zero_()
                if time.time() - last > 150 or end:
                    torch.save(
                        dict(
                            flat=m.flat,
                            bias=m.bias,
                            mom=mom,
                            var=var,
                            step=step,
                            total=float(total[0]),
                            cfg=c,
                        ),
                        sp + ".tmp",
                    )
                    os.replace(sp + ".tmp", sp)
                    last = time.time()
    except BaseException:
        bar.abort()
        raise
    finally:
        if rank == 1:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
