"""widen_check.py SMALL WIDE [tokens] - the proof: same router choices, logits equal up to summation order"""
import os, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import numpy as np, torch
from reference import Ring

n = int(sys.argv[3]) if len(sys.argv) > 3 else 256
D = [
    np.load(f"build/train/tok/heldout.{d}.npz")["ids"][:n].astype(np.int64)
    for d in ("chat", "prose", "code")
]
ids = torch.from_numpy(np.stack(D))
res = []
for d in sys.argv[1:3]:
    t = time.time()
    m = Ring(d)
    tr = []
    lg = torch.cat([m.forward(ids[i : i + 1], trace=tr) for i in range(3)])
    res.append((lg, tr))
    print(d, "expert bytes", 3 * m.H * m.c["moe_intermediate_size"], f"{time.time() - t:.1f} s")
    del m
(a, ta), (b, tb) = res
diff = sum(int((x[1].sort(-1)[0] != y[1].sort(-1)[0]).any(-1).sum()) for x, y in zip(ta, tb))
tot = sum(x[1].shape[1] for x in ta)
print(
    f"router sets that differ: {diff} of {tot}; max |weight diff| {max(float((x[2].sort(-1)[0] - y[2].sort(-1)[0]).abs().max()) for x, y in zip(ta, tb)):.2e}; max |logit diff| {float((a - b).abs().max()):.2e} (logits up to {float(a.abs().max()):.1f}); argmax differs at {int((a.argmax(-1) != b.argmax(-1)).sum())} of {a.shape[0] * a.shape[1]}"
)
