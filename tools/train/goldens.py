#!/usr/bin/env python3
"""Golden values from reference.py, one JSON file per prompt.

  goldens.py [--model DIR] [--out DIR] [--only NAME ...]

  ids             token ids of the prompt
  text, messages  where they come from (messages: what the chat template was given)
  top20           per position {ids, values}: the 20 largest logits, to 6 significant digits
  last_logits     name of a file with all fp32 logits of the last position (.npy, [V], little-endian)
  router          per MoE layer {layer, ids [T][K], weights [T][K], margin [T]}: ids by falling choice score;
                  weights after normalisation and routed_scaling_factor; margin: how far a choice score must
                  move to change the set (by group or by top-k, the nearer). Below 1e-5 a correct fp32
                  program may differ
  greedy          64 continuation tokens (an end token does not stop them), per step the gap between the best
                  logit and the second, and the text
  noise           max |fp32 - fp64| over the prompt's logits: what the order of summation can do

Also states.json (residual stream after every layer), weights.json (e4m3 table, samples and sums of tensors)
and index.json. raw-prose-long and raw-code-c need the corpus (corpus.py).
"""
import argparse, json, os, sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import jinja2, numpy as np, torch
from ckpt import E4M3
from reference import Ring
from tokenizer import Tokenizer, docs

sig = lambda x, n=6: float(f"{x:.{n}g}")


def golden(m, m64, ids, n_greedy, path, **info):
    """-> (what the head of this file describes, the least router margin); writes the logits beside path"""
    tr = []
    lg = m.forward(torch.tensor([ids]), trace=tr)[0]
    noise = float((lg - m64.forward(torch.tensor([ids]))[0]).abs().max()) if m64 else None
    k = min(20, lg.shape[1])
    v, i = lg.topk(k, -1)
    out, mar = m.greedy(ids, n_greedy)
    np.save(path + ".last_logits.npy", lg[-1].numpy().astype("<f4"))
    j = dict(
        info,
        ids=ids,
        top20=[{"ids": a, "values": [sig(x) for x in b]} for a, b in zip(i.tolist(), v.tolist())],
        last_logits=os.path.basename(path) + ".last_logits.npy",
        router=[
            {
                "layer": l,
                "ids": a[0].tolist(),
                "weights": [[sig(x) for x in r] for r in w[0].tolist()],
                "margin": [sig(x, 3) for x in g[0].tolist()],
            }
            for l, a, w, g in tr
        ],
        greedy={"ids": out, "margin": [sig(x, 5) for x in mar]},
        noise=noise,
    )
    return j, (min(float(g.min()) for *_, g in tr) if tr else None)


# chat: (name, messages, thinking on); raw: (name, text) or (name, (domain, start, length)) of held-out text
U = lambda t: {"role": "user", "content": t}
A = lambda t: {"role": "assistant", "content": t}
CHAT = [
    ("add", [U("37+48=?")], True),
    ("subtract", [U("What is 503 - 87?")], True),
    ("sort", [U("Sort the letters: q d z a m")], True),
    ("hello-off", [U("Hello!")], False),
    (
        "rounds",
        [
            U("12+9=?"),
            A("<think>\n2+9=11 write 1 carry 1\n1+0+1=2\n</think>\n21"),
            U("Reverse: k d p q"),
        ],
        True,
    ),
    ("unicode", [U("Na\u00efve caf\u00e9 \u6771\u4eac \U0001f389?")], True),
]
RAW = [
    ("one-token", "The"),
    ("prose-short", "ROMEO:\nBut soft, what light"),
    ("prose-long", ("prose", 2000, 400)),
    ("code-py", 'def count_items(items, value):\n    """Count how'),
    ("code-c", ("code", 3, 150)),
    ("mixed", "int main() {\n  return 7+8;\n}\n\nKING HENRY:\nO, "),
]


def heldout(domain, start, length):
    """a stretch of held-out text, somewhat more than `length` tokens of it"""
    if domain == "prose":
        return open("build/train/corpus/heldout.prose.txt").read()[start : start + 3 * length]
    some = list(docs("build/train/corpus/heldout.code.jsonl"))[start : start + 4]
    return "\n".join("".join(text for text, _ in document[:-1]) for document in some)


def prompts(folder, tk, only):
    """yields (name, where the text comes from, ids)"""
    wanted = lambda name: not only or name in only
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        json.load(open(f"{folder}/tokenizer_config.json"))["chat_template"]
    )
    for n, messages, think in CHAT:
        if wanted("chat-" + n):
            t = template.render(
                messages=messages, add_generation_prompt=True, enable_thinking=think
            )
            info = dict(domain="chat", messages=messages, enable_thinking=think, text=t)
            yield "chat-" + n, info, tk.encode(t)
    for n, source in RAW:
        if wanted("raw-" + n):
            domain = "code" if n.startswith("code") else "mixed" if n == "mixed" else "prose"
            if isinstance(source, tuple):
                t = tk.decode(tk.encode(heldout(*source))[: source[2]])
                ids = tk.encode(t)[: source[2]]
            else:
                ids = tk.encode(source)
            yield "raw-" + n, dict(domain=domain, text=tk.decode(ids)), ids


def write_weights(m, path):
    """the e4m3 table, and of every tensor outside the experts (and of expert 7) samples and sums"""
    chosen = [n for n in sorted(m.r.at) if not n.endswith(("_scale_inv", "_scale"))]
    weights = {}
    for n in chosen:
        if ".experts." in n and ".experts.7." not in n:
            continue
        w = m.r.get(n)
        file, dtype, shape = m.r.at[n][:3]
        weights[n] = dict(
            dtype=dtype,
            shape=shape,
            file=file,
            first=[sig(v, 9) for v in w.ravel()[:4]],
            last=[sig(v, 9) for v in w.ravel()[-4:]],
            sum=float(w.astype(np.float64).sum()),
            abs_sum=float(np.abs(w.astype(np.float64)).sum()),
        )
    table = [None if v != v else float(v) for v in E4M3]
    json.dump({"e4m3fn": table, "weights": weights}, open(path, "w"))


def write_states(m, ids, path):
    st = []
    m.forward(torch.tensor([ids]), states=st)
    what = (
        "residual stream of the last position: embedding, then after attention "
        "and after the MLP of every layer"
    )
    states = {n: [sig(v, 7) for v in t[0, -1].tolist()] for n, t in st}
    json.dump({"prompt": "chat-add", "ids": ids, "what": what, "states": states}, open(path, "w"))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", default="models/ring-tiny")
    ap.add_argument("--out", default="build/train/goldens")
    ap.add_argument("--only", nargs="*", default=[], help="names of prompts; others are left out")
    o = ap.parse_args()
    os.makedirs(o.out, exist_ok=True)
    m, m64 = Ring(o.model), Ring(o.model, torch.float64)
    tk = Tokenizer(f"{o.model}/tokenizer.json")
    model = os.path.basename(o.model.rstrip("/"))
    files = []
    for name, info, ids in prompts(o.model, tk, o.only):
        j, mm = golden(m, m64, ids, 64, f"{o.out}/{name}", name=name, model=model, **info)
        j["greedy"]["text"] = tk.decode(j["greedy"]["ids"])
        json.dump(j, open(f"{o.out}/{name}.json", "w"))
        files.append(name)
        print(
            f"{name} {len(ids)} tokens, noise {j['noise']:.1e}, least router margin {mm:.1e},",
            f"least greedy margin {min(j['greedy']['margin']):.1e}",
            repr(j["greedy"]["text"][:70]),
            flush=True,
        )
        if name == "chat-add":
            write_states(m, ids, f"{o.out}/states.json")
    write_weights(m, f"{o.out}/weights.json")
    hint = {
        "logits_abs": 2e-3,
        "router_margin_ignore_below": 1e-4,
        "greedy_margin_ignore_below": 1e-2,
    }
    index = {"prompts": files, "model": model, "tolerance_hint": hint}
    json.dump(index, open(f"{o.out}/index.json", "w"), indent=1)


if __name__ == "__main__":
    main()
