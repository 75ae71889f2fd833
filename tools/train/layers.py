"""The layers of ring-tiny for training: forward and backward passes around bf16 matrix products.

The memory-bound loops are C (fastops.c, compiled here at first use and called through ctypes); residual
stream, norms and router stay in fp32. Experts drop no token: (token, expert) pairs are sorted by expert, each
expert's rows padded to a multiple of 32.
"""
import ctypes, os, subprocess

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("DNNL_PRIMITIVE_CACHE_CAPACITY", "8192")
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
BF = torch.bfloat16


def load_ops():
    so = "build/train/fastops.so"
    src = f"{HERE}/fastops.c"
    os.makedirs("build/train", exist_ok=True)
    if not os.path.exists(so) or os.path.getmtime(so) < os.path.getmtime(src):
        flags = "-O3 -march=native -mprefer-vector-width=512 -ffast-math -shared -fPIC".split()
        subprocess.check_call(["gcc", *flags, "-o", so, src, "-lm"])
    l = ctypes.CDLL(so)
    l.plan.restype = ctypes.c_int64
    l.sumsq2.restype = ctypes.c_double
    return l


ops = load_ops()
P = lambda t: ctypes.c_void_p(t.data_ptr()) if t is not None else None
L_ = ctypes.c_int64
F_ = ctypes.c_float


class RMS(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, eps):
        x = x.contiguous()
        D = x.shape[-1]
        n = x.numel() // D
        y = torch.empty_like(x)
        rs = torch.empty(n)
        ops.rms_fwd(P(x), P(w), P(y), P(rs), L_(n), D, F_(eps))
        ctx.save_for_backward(x, w, rs)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, rs = ctx.saved_tensors
        dy = dy.contiguous()
        D = x.shape[-1]
        dx = torch.empty_like(x)
        dw = torch.zeros_like(w)
        ops.rms_bwd(P(x), P(w), P(rs), P(dy), P(dx), P(dw), L_(x.numel() // D), D)
        return dx, dw, None


class Lin(torch.autograd.Function):
    """x fp32 [n,in], w fp32 parameter [out,in], w16 its bf16 copy"""

    @staticmethod
    def forward(ctx, x, w, w16):
        x = x.to(BF)
        ctx.save_for_backward(x, w16)
        return torch.mm(x, w16.t()).float()

    @staticmethod
    def backward(ctx, dy):
        x, w16 = ctx.saved_tensors
        dy = dy.to(BF)
        return torch.mm(dy, w16).float(), torch.mm(dy.t(), x).float(), None


class Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gu, d, gu16, d16):
        x = x.to(BF)
        h = torch.mm(x, gu16.t())
        I = h.shape[1] // 2
        a = torch.empty(len(x), I, dtype=BF)
        ops.swiglu_fwd(P(h), P(a), L_(len(x)), I)
        ctx.save_for_backward(x, h, a, gu16, d16)
        return torch.mm(a, d16.t()).float()

    @staticmethod
    def backward(ctx, dy):
        x, h, a, gu16, d16 = ctx.saved_tensors
        dy = dy.to(BF)
        da = torch.mm(dy, d16)
        dd = torch.mm(dy.t(), a).float()
        ops.swiglu_bwd(P(h), P(da), L_(len(x)), a.shape[1])
        return torch.mm(h, gu16).float(), torch.mm(h.t(), x).float(), dd, None, None


class Attn(torch.autograd.Function):
    """q [B*kv, g*T, hd], k and v [B*kv, T, hd], fp32 -> fp32; the g heads of a kv group are stacked along rows"""

    @staticmethod
    def forward(ctx, q, k, v, sc):
        q, k, v = q.to(BF), k.to(BF), v.to(BF)
        s = torch.bmm(q, k.transpose(1, 2))
        T = k.shape[1]
        ops.csoft_fwd(P(s), L_(s.numel() // T // T), T, F_(sc))
        ctx.sc = sc
        ctx.save_for_backward(q, k, v, s)
        return torch.bmm(s, v).float()

    @staticmethod
    def backward(ctx, do):
        q, k, v, p = ctx.saved_tensors
        do = do.to(BF).contiguous()
        T = k.shape[1]
        d = torch.bmm(do, v.transpose(1, 2)).contiguous()
        ops.csoft_bwd(P(p), P(d), L_(d.numel() // T // T), T, F_(ctx.sc))
        return (
            torch.bmm(d, k).float(),
            torch.bmm(d.transpose(1, 2), q).float(),
            torch.bmm(p.transpose(1, 2), do).float(),
            None,
        )


class Rope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x, cos, sin
    ):  # x [B,T,h,hd], overwritten (it is a fresh RMS output, whose backward does not need it)
        B, T, h, hd = x.shape
        ops.rope(P(x), P(cos), P(sin), L_(B), T, h, hd, cos.shape[1], F_(1))
        ctx.cs = (cos, sin)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx, d):
        cos, sin = ctx.cs
        d = d.contiguous().clone()
        B, T, h, hd = d.shape
        ops.rope(P(d), P(cos), P(sin), L_(B), T, h, hd, cos.shape[1], F_(-1))
        return d, None, None


class Experts(torch.autograd.Function):
    """x [T,H], idx [T,K] int64, w [T,K], Wgu [E,2I,H], Wd [E,H,I] -> [T,H]"""

    @staticmethod
    def forward(ctx, x, idx, w, Wgu, Wd, gu16, d16):
        T, H = x.shape
        K = idx.shape[1]
        E, I2, _ = Wgu.shape
        I = I2 // 2
        w = w.contiguous()
        x = x.contiguous()
        idx = idx.contiguous()
        off = torch.empty(E + 1, dtype=torch.int64)
        pos = torch.empty(T * K, dtype=torch.int64)
        N = ops.plan(P(idx), L_(T * K), E, 32, P(off), P(pos))
        o = off.tolist()
        xp = torch.zeros(N, H, dtype=BF)
        ops.scatter_rows(P(x), P(pos), P(xp), L_(T), K, H)
        h = torch.empty(N, I2, dtype=BF)
        a = torch.empty(N, I, dtype=BF)
        y = torch.empty(N, H, dtype=BF)
        out = torch.empty(T, H)
        for e in range(E):
            if o[e + 1] > o[e]:
                torch.mm(xp[o[e] : o[e + 1]], gu16[e].t(), out=h[o[e] : o[e + 1]])
        ops.swiglu_fwd(P(h), P(a), L_(N), I)
        for e in range(E):
            if o[e + 1] > o[e]:
                torch.mm(a[o[e] : o[e + 1]], d16[e].t(), out=y[o[e] : o[e + 1]])
        ops.combine(P(y), P(w), P(pos), P(out), L_(T), K, H)
        ctx.o = o
        ctx.save_for_backward(xp, h, a, y, w, pos, gu16, d16)
        return out

    @staticmethod
    def backward(ctx, do):
        xp, h, a, y, w, pos, gu16, d16 = ctx.saved_tensors
        o = ctx.o
        T, K = w.shape
        E, I2, H = gu16.shape
        I = I2 // 2
        N = o[-1]
        do = do.contiguous()
        dw = torch.empty_like(w)
        dy = torch.zeros(N, H, dtype=BF)
        ops.combine_bwd(P(y), P(w), P(pos), P(do), P(dy), P(dw), L_(T), K, H)
        da = torch.empty_like(a)
        dWd = torch.zeros_like(d16)
        dWgu = torch.zeros_like(gu16)
        for e in range(E):
            if o[e + 1] > o[e]:
                r = slice(o[e], o[e + 1])
                torch.mm(dy[r], d16[e], out=da[r])
                torch.mm(dy[r].t(), a[r], out=dWd[e])
        ops.swiglu_bwd(P(h), P(da), L_(N), I)
        dx = dy
        for e in range(E):
            if o[e + 1] > o[e]:
                r = slice(o[e], o[e + 1])
                torch.mm(h[r], gu16[e], out=dx[r])
                torch.mm(h[r].t(), xp[r], out=dWgu[e])
        out = torch.empty(T, H)
        ops.combine(P(dx), None, P(pos), P(out), L_(T), K, H)
        return out, None, dw, dWgu.float(), dWd.float(), None, None
