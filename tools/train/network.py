"""The network of ring-tiny as it is trained; layers.py has its parts, export.py names its tensors."""
import math, os, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import torch
from layers import BF, L_, P, Attn, Experts, Lin, Mlp, RMS, Rope, ops

F = torch.nn.functional

CFG = dict(
    vocab_size=1024,
    hidden_size=256,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    intermediate_size=512,
    moe_intermediate_size=128,
    num_experts=32,
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


class Model:
    """All parameters are views of one flat fp32 buffer (shared between the processes); p16 are views of its bf16 copy."""

    def __init__(self, c, seed=1):
        self.c = c
        g = torch.Generator().manual_seed(seed)
        H = c["hidden_size"]
        hd = c["head_dim"]
        nh = c["num_attention_heads"]
        kv = c["num_key_value_heads"]
        E = c["num_experts"]
        I = c["moe_intermediate_size"]
        D = c["intermediate_size"]
        S = I * c["num_shared_experts"]
        nl = c["num_hidden_layers"]
        shapes = {
            "emb": ((c["vocab_size"], H), 0.02),
            "norm": ((H,), 1.0),
            "head": ((c["vocab_size"], H), 0.02),
        }
        wi = 0.6 / math.sqrt(H)
        out = 0.04 / math.sqrt(2 * nl)
        for l in range(nl):
            p = f"{l}."
            shapes.update(
                {
                    p + "ln1": ((H,), 1.0),
                    p + "ln2": ((H,), 1.0),
                    p + "qkv": (((nh + 2 * kv) * hd, H), wi),
                    p + "qn": ((hd,), 1.0),
                    p + "kn": ((hd,), 1.0),
                    p + "o": ((H, nh * hd), out),
                }
            )
            if l < c["first_k_dense_replace"]:
                shapes.update({p + "gu": ((2 * D, H), wi), p + "d": ((H, D), out)})
            else:
                shapes.update(
                    {
                        p + "gate": ((E, H), 0.02),
                        p + "egu": ((E, 2 * I, H), wi),
                        p + "ed": ((E, H, I), out),
                        p + "sgu": ((2 * S, H), wi),
                        p + "sd": ((H, S), out),
                    }
                )
        order = sorted(shapes, key=lambda k: (len(shapes[k][0]) == 1, k))
        n = sum(math.prod(shapes[k][0]) for k in order)
        self.flat = torch.zeros(n).share_memory_()
        self.flat16 = torch.zeros(n, dtype=BF).share_memory_()
        self.lay = []
        self.ndecay = at = 0
        for k in order:
            sh, s = shapes[k]
            m = math.prod(sh)
            t = self.flat[at : at + m].view(sh)
            if len(sh) == 1:
                t.fill_(1.0)
            else:
                t.normal_(0, s, generator=g)
                self.ndecay = at + m
            self.lay.append((k, at, m, sh))
            at += m
        self.bias = torch.zeros(nl, E).share_memory_()
        self.load = torch.zeros(nl, E)
        self.rope = {}
        self.grad = None
        self.bind()

    def bind(self, grad=None):
        self.grad = grad
        self.p = {}
        self.p16 = {}
        for k, at, m, sh in self.lay:
            t = self.flat[at : at + m].view(sh)
            if grad is not None:
                t.requires_grad_(True)
                t.grad = grad[at : at + m].view(sh)
            self.p[k] = t
            self.p16[k] = self.flat16[at : at + m].view(sh)

    def refresh(self):
        ops.cast_dn(P(self.flat), P(self.flat16), L_(self.flat.numel()))

    def cs(self, T):
        if T not in self.rope:
            c = self.c
            rd = int(c["head_dim"] * c["partial_rotary_factor"])
            f = 1 / c["rope_theta"] ** (torch.arange(0, rd, 2).float() / rd)
            e = torch.outer(torch.arange(T).float(), f)
            self.rope[T] = (
                torch.cat((e, e), -1).cos().contiguous(),
                torch.cat((e, e), -1).sin().contiguous(),
            )
        return self.rope[T]

    def route(self, l, x):
        c = self.c
        E = c["num_experts"]
        G = c["n_group"]
        s = torch.sigmoid(x @ self.p[f"{l}.gate"].t())
        with torch.no_grad():
            ch = s + self.bias[l]
            gs = ch.view(-1, G, E // G).topk(2, -1)[0].sum(-1)
            gi = gs.topk(c["topk_group"], -1)[1]
            mask = (
                torch.zeros_like(gs)
                .scatter_(1, gi, 1.0)
                .unsqueeze(-1)
                .expand(-1, G, E // G)
                .reshape(-1, E)
            )
            idx = ch.masked_fill(mask == 0, -1e30).topk(c["num_experts_per_tok"], -1)[1]
            self.load[l] += torch.bincount(idx.reshape(-1), minlength=E)
        w = s.gather(1, idx)
        return idx, w / (w.sum(-1, keepdim=True) + 1e-20) * c["routed_scaling_factor"]

    def forward(self, ids):
        c, p, q16 = self.c, self.p, self.p16
        B, T = ids.shape
        nh, kv, hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        eps = c["rms_norm_eps"]
        cos, sin = self.cs(T)
        x = F.embedding(ids.reshape(-1), p["emb"])
        for l in range(c["num_hidden_layers"]):
            k_ = f"{l}."
            h = RMS.apply(x, p[k_ + "ln1"], eps)
            qkv = Lin.apply(h, p[k_ + "qkv"], q16[k_ + "qkv"]).view(B, T, nh + 2 * kv, hd)
            q = (
                Rope.apply(RMS.apply(qkv[:, :, :nh], p[k_ + "qn"], eps), cos, sin)
                .permute(0, 2, 1, 3)
                .reshape(B * kv, nh // kv * T, hd)
            )
            k = (
                Rope.apply(RMS.apply(qkv[:, :, nh : nh + kv], p[k_ + "kn"], eps), cos, sin)
                .permute(0, 2, 1, 3)
                .reshape(B * kv, T, hd)
            )
            v = qkv[:, :, nh + kv :].permute(0, 2, 1, 3).reshape(B * kv, T, hd)
            o = (
                Attn.apply(q, k, v, hd**-0.5)
                .view(B, nh, T, hd)
                .permute(0, 2, 1, 3)
                .reshape(B * T, nh * hd)
            )
            x = x + Lin.apply(o, p[k_ + "o"], q16[k_ + "o"])
            h = RMS.apply(x, p[k_ + "ln2"], eps)
            if l < c["first_k_dense_replace"]:
                x = x + Mlp.apply(h, p[k_ + "gu"], p[k_ + "d"], q16[k_ + "gu"], q16[k_ + "d"])
            else:
                idx, w = self.route(l, h)
                x = (
                    x
                    + Experts.apply(
                        h, idx, w, p[k_ + "egu"], p[k_ + "ed"], q16[k_ + "egu"], q16[k_ + "ed"]
                    )
                    + Mlp.apply(h, p[k_ + "sgu"], p[k_ + "sd"], q16[k_ + "sgu"], q16[k_ + "sd"])
                )
        return RMS.apply(x, p["norm"], eps)

    def loss(self, ids, tgt, mask):
        h = self.forward(ids)
        sel = mask.reshape(-1).nonzero().squeeze(1)
        n = len(sel)
        pad = -n % 64
        if pad:
            sel = torch.cat((sel, sel[:1].expand(pad)))
        return F.cross_entropy(
            Lin.apply(h.index_select(0, sel), self.p["head"], self.p16["head"])[:n],
            tgt.reshape(-1)[sel[:n]],
        )
