#!/usr/bin/env python3
"""BailingMoeV2 (Ring and Ling 2.0) in plain PyTorch: the independent reference behind every golden value.

It must share no code with the engine it judges. Where it rounds (elsewhere: one float operation, one rounding):
  weights   an e4m3 byte becomes its exact value, times its scale (block or row): one fp32 rounding;
            bf16 and fp32 widen exactly. Nothing is ever rounded down to bf16 or fp8, activations included.
  the rest  activations, KV cache, norms, softmax, router, logits in fp32. With dtype=torch.float64 the
            same graph runs in fp64 from the same fp32 weights: the difference is the noise that a correct
            fp32 implementation may show.
  rotation  inverse frequencies and angles in fp32, as the public modeling code computes them.
  experts   weight * output, summed in rising expert order, then the shared expert is added.
The public code runs in bf16 and rounds far more often: compare within a tolerance, and use `margin` to
see which router choices are near ties.

  reference.py DIR "text" [N]      continues a text greedily by up to N tokens
"""
import math, os, sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np, torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ckpt import Reader

F = torch.nn.functional


class Ring:
    def __init__(self, folder, dtype=torch.float32):
        self.r = Reader(folder)
        c = self.c = self.r.config
        self.dt = dtype
        g = lambda k, d=None: c.get(k) if c.get(k) is not None else d
        assert c["architectures"] == ["BailingMoeV2ForCausalLM"] and not g("norm_head", False)
        self.H = c["hidden_size"]
        self.L = c["num_hidden_layers"]
        self.nh = c["num_attention_heads"]
        self.kv = c["num_key_value_heads"]
        self.hd = g("head_dim", self.H // self.nh)
        self.E = c["num_experts"]
        self.K = c["num_experts_per_tok"]
        self.G = g("n_group", 1)
        self.KG = g("topk_group", 1)
        self.k0 = g("first_k_dense_replace", 0)
        self.eps = c["rms_norm_eps"]
        self.scale = g("routed_scaling_factor", 1.0)
        self.rd = g(
            "rotary_dim", int(self.hd * g("partial_rotary_factor", 0.5))
        )  # rotary_dim wins, then partial_rotary_factor, then 0.5
        W = lambda n: torch.from_numpy(np.ascontiguousarray(self.r.get(n))).to(dtype)
        opt = lambda n: W(n) if n in self.r else None
        self.emb = W("model.word_embeddings.weight")
        self.norm = W("model.norm.weight")
        self.head = self.emb if g("tie_word_embeddings", False) else W("lm_head.weight")
        self.lay = []
        for l in range(self.L):
            p = f"model.layers.{l}."
            d = dict(
                ln1=W(p + "input_layernorm.weight"),
                ln2=W(p + "post_attention_layernorm.weight"),
                qkv=W(p + "attention.query_key_value.weight"),
                qkvb=opt(p + "attention.query_key_value.bias"),
                qn=opt(p + "attention.query_layernorm.weight"),
                kn=opt(p + "attention.key_layernorm.weight"),
                o=W(p + "attention.dense.weight"),
                ob=opt(p + "attention.dense.bias"),
            )
            mlp = lambda q: tuple(W(p + q + x + "_proj.weight") for x in ("gate", "up", "down"))
            if l < self.k0:
                d["mlp"] = mlp("mlp.")
            else:
                d.update(
                    gate=W(p + "mlp.gate.weight"),
                    bias=opt(p + "mlp.gate.expert_bias"),
                    ex=[mlp(f"mlp.experts.{e}.") for e in range(self.E)],
                )
                if g("num_shared_experts", 0):
                    d["shared"] = mlp("mlp.shared_experts.")
            self.lay.append(d)
        self._rope()

    def _rope(self):
        c, d = self.c, self.rd
        f = 1.0 / (c["rope_theta"] ** (torch.arange(0, d, 2, dtype=torch.int64).float() / d))
        self.rope_mul = 1.0
        s = c.get("rope_scaling")
        if s and s.get("rope_type", s.get("type")) == "yarn":
            orig = s.get("original_max_position_embeddings") or c["max_position_embeddings"]
            fac = s["factor"]
            th = c["rope_theta"]
            corr = lambda b: d * math.log(orig / (b * 2 * math.pi)) / (2 * math.log(th))
            lo = max(math.floor(corr(s.get("beta_fast") or 32)), 0)
            hi = min(math.ceil(corr(s.get("beta_slow") or 1)), d - 1)
            hi = hi + 0.001 if lo == hi else hi
            ramp = ((torch.arange(d // 2).float() - lo) / (hi - lo)).clamp(0, 1)
            f = f * (1 - ramp) + f / fac * ramp
            self.rope_mul = s.get("attention_factor") or (
                0.1 * math.log(fac) + 1.0 if fac > 1 else 1.0
            )
        self.inv = f

    def rms(self, x, w):
        return w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))

    def rotate(self, x, pos):  # x [B,h,T,hd], pos [B,T]
        a = (pos.float()[..., None] * self.inv)[:, None]
        cos, sin = (torch.cos(a) * self.rope_mul).to(self.dt), (torch.sin(a) * self.rope_mul).to(
            self.dt
        )
        h = self.rd // 2
        u, v = x[..., :h], x[..., h : self.rd]
        return torch.cat((u * cos - v * sin, v * cos + u * sin, x[..., self.rd :]), -1)

    @staticmethod
    def swiglu(x, m):
        g, u, d = m
        return F.linear(F.silu(F.linear(x, g)) * F.linear(x, u), d)

    def route(self, d, x):
        """x [N,H] -> ids [N,K] (rising choice rank), weights [N,K], margin [N]: how far the choice is from flipping"""
        s = torch.sigmoid(F.linear(x, d["gate"]))
        ch = s + d["bias"] if d["bias"] is not None else s
        N = len(x)
        gm = torch.full((N,), math.inf, dtype=s.dtype)
        if self.G > 1:
            gs = ch.view(N, self.G, -1).topk(2, -1)[0].sum(-1)
            top = gs.topk(min(self.KG + 1, self.G), -1)
            if self.KG < self.G:
                gm = top[0][:, self.KG - 1] - top[0][:, self.KG]
            keep = torch.zeros_like(gs, dtype=torch.bool).scatter_(1, top[1][:, : self.KG], True)
            ch = ch.masked_fill(~keep.repeat_interleave(self.E // self.G, 1), -math.inf)
        v, i = ch.topk(min(self.K + 1, self.E), -1)
        margin = torch.minimum(gm, v[:, self.K - 1] - v[:, self.K]) if self.K < self.E else gm
        i = i[:, : self.K]
        w = s.gather(1, i)
        w = w / (w.sum(-1, keepdim=True) + 1e-20) if self.K > 1 else w
        return i, w * self.scale, margin

    @torch.no_grad()
    def forward(self, ids, cache=None, trace=None, pad=None, last_only=False, states=None):
        """ids [B,T] int64. cache: a list, filled on the first call and extended after. trace: list that receives (layer, ids, weights, margin), each [B,T,..].
        pad [B]: that many left positions of the row are padding (for batches of unequal prompts). states: list that receives
        (name, [B,T,H]) residual streams: embedding, then per layer after attention and after the MLP. Returns logits [B,T,V].
        """
        B, T = ids.shape
        past = cache[0][0].shape[2] if cache else 0
        n = past + T
        first = not cache
        kpos = torch.arange(n)[None, :] - (pad[:, None] if pad is not None else 0)
        qpos = kpos[:, past:].expand(B, T) if kpos.shape[0] == 1 else kpos[:, past:]
        ok = (torch.arange(n)[None, :] <= torch.arange(past, n)[:, None])[None]
        if pad is not None:
            ok = ok & (
                (kpos[:, None, :] >= 0)
                | (torch.arange(n)[None, None, :] == torch.arange(past, n)[None, :, None])
            )
        bias = torch.zeros(ok.shape, dtype=self.dt).masked_fill(~ok, -math.inf)[:, None]
        x = self.emb[ids]
        note = (lambda n, t: states.append((n, t))) if states is not None else (lambda n, t: None)
        note("embedding", x)
        for l, d in enumerate(self.lay):
            qkv = (
                F.linear(self.rms(x, d["ln1"]), d["qkv"], d["qkvb"])
                .view(B, T, self.nh + 2 * self.kv, self.hd)
                .transpose(1, 2)
            )
            q, k, v = qkv.split([self.nh, self.kv, self.kv], 1)
            if d["qn"] is not None:
                q, k = self.rms(q, d["qn"]), self.rms(k, d["kn"])
            q, k = self.rotate(q, qpos.clamp(min=0)), self.rotate(k, qpos.clamp(min=0))
            if cache is not None:
                if first:
                    cache.append((k, v))
                else:
                    k, v = torch.cat((cache[l][0], k), 2), torch.cat((cache[l][1], v), 2)
                    cache[l] = (k, v)
            r = self.nh // self.kv
            s = q @ k.repeat_interleave(r, 1).transpose(2, 3) / math.sqrt(self.hd) + bias
            o = (
                (torch.softmax(s, -1) @ v.repeat_interleave(r, 1))
                .transpose(1, 2)
                .reshape(B, T, self.nh * self.hd)
            )
            x = x + F.linear(o, d["o"], d["ob"])
            note(f"{l}.attention", x)
            h = self.rms(x, d["ln2"])
            if "mlp" in d:
                x = x + self.swiglu(h, d["mlp"])
                note(f"{l}.mlp", x)
                continue
            f = h.reshape(B * T, self.H)
            i, w, mg = self.route(d, f)
            y = torch.zeros_like(f)
            if trace is not None:
                trace.append((l, i.view(B, T, -1), w.view(B, T, -1), mg.view(B, T)))
            for e in i.unique().tolist():
                t, kk = (i == e).nonzero(as_tuple=True)
                y[t] += w[t, kk, None] * self.swiglu(f[t], d["ex"][e])
            if "shared" in d:
                y = y + self.swiglu(f, d["shared"])
            x = x + y.view(B, T, self.H)
            note(f"{l}.mlp", x)
        if last_only:
            x = x[:, -1:]
        return F.linear(self.rms(x, self.norm), self.head)

    def greedy(self, ids, n, stop=(), trace=None):
        """ids: list -> (tokens, margins): margin = logit gap between the best and the second token at that step"""
        cache, out, mar, cur = [], [], [], torch.tensor([ids])
        for _ in range(n):
            v, i = self.forward(cur, cache, trace, last_only=True)[0, -1].topk(2)
            out.append(int(i[0]))
            mar.append(float(v[0] - v[1]))
            if out[-1] in stop:
                break
            cur = torch.tensor([[out[-1]]])
        return out, mar

    def greedy_batch(self, prompts, n, stop=(), pad_id=0, sample=None):
        """many prompts at once (left padding); returns lists cut at a stop token. sample: (temperature, generator)"""
        T = max(map(len, prompts))
        pad = torch.tensor([T - len(p) for p in prompts])
        cur = torch.tensor([[pad_id] * (T - len(p)) + list(p) for p in prompts])
        cache, out, done = [], [[] for _ in prompts], [False] * len(prompts)
        for _ in range(n):
            lg = self.forward(cur, cache, pad=pad, last_only=True)[:, -1]
            nx = (
                torch.multinomial(
                    torch.softmax(lg.float() / sample[0], -1), 1, generator=sample[1]
                )[:, 0]
                if sample
                else lg.argmax(-1)
            )
            for b, t in enumerate(nx.tolist()):
                if not done[b]:
                    out[b].append(t)
                    done[b] = t in stop
            if all(done):
                break
            cur = nx[:, None]
        return out


if __name__ == "__main__":
    from tokenizer import Tokenizer

    d = sys.argv[1]
    m = Ring(d)
    tk = Tokenizer(f"{d}/tokenizer.json")
    ids = tk.encode(sys.argv[2])
    out, _ = m.greedy(
        ids,
        int(sys.argv[3]) if len(sys.argv) > 3 else 64,
        stop=(tk.added["<|role_end|>"], tk.added["<|endoftext|>"]),
    )
    print(tk.decode(out))
