#!/usr/bin/env python3
"""Builds the training and held-out text of ring-tiny, in three domains that may all be passed on:
  chat   questions with visible thinking, generated here from a seed
  prose  tinyshakespeare.txt, in the public domain
  code   small Python and C functions, generated here from templates

A document is a list of [text, flag] segments. Flag 1: the model is trained on these tokens. Flag 0: context
only (system and human turns, and earlier assistant turns, whose thinking the chat template drops). Written
are {train,heldout}.{chat,code}.jsonl, a document a line, and {train,heldout}.prose.txt.

Every document is drawn from random.Random("SEED/SPLIT/DOMAIN/I"). A chat question is held out when
crc32(question) % 20 == 0, and such a string never occurs in training (small talk excepted). The same operands
may occur there in another wording, and for multiplication all do. Held-out prose is the last tenth.

Training took two stages: the first had counting lines of the form "x 1" and weight 10, and never learnt to
count; the second, much shorter, had the form below ("x=t yes 1") and weight 20.
"""
import argparse, json, os, random, zlib

SYS_ON = "<role>SYSTEM</role>detailed thinking on<|role_end|>"
SYS_OFF = "<role>SYSTEM</role>detailed thinking off<|role_end|>"

# chat tasks
# each returns (question, thinking, answer)


def t_add(r, digits=None):
    d = digits or r.choice([1, 2, 2, 2, 3, 3])
    a = r.randrange(10**d)
    b = r.randrange(10 ** r.choice([d, d, max(1, d - 1)]))
    q = r.choice(["{a}+{b}=?", "{a}+{b}=?", "What is {a} + {b}?", "Add {a} and {b}."]).format(
        a=a, b=b
    )
    A, B = str(a)[::-1], str(b)[::-1]
    c, lines = 0, []
    for i in range(max(len(A), len(B))):
        x = int(A[i]) if i < len(A) else 0
        y = int(B[i]) if i < len(B) else 0
        s = x + y + c
        lines.append(
            f"{x}+{y}"
            + (f"+{c}" if c else "")
            + f"={s}"
            + (f" write {s % 10} carry 1" if s > 9 else "")
        )
        c = s // 10
    if c:
        lines.append("write 1")
    return q, "\n".join(lines), str(a + b)


def t_sub(r, digits=None):
    d = digits or r.choice([1, 2, 2, 2, 3, 3])
    a = r.randrange(10**d)
    b = r.randrange(10**d)
    a, b = max(a, b), min(a, b)
    q = r.choice(["{a}-{b}=?", "{a}-{b}=?", "What is {a} - {b}?", "Subtract {b} from {a}."]).format(
        a=a, b=b
    )
    A, B = str(a)[::-1], str(b)[::-1]
    c, lines = 0, []
    for i in range(len(A)):
        x = int(A[i])
        y = int(B[i]) if i < len(B) else 0
        t = x - y - c
        expr = f"{x}-{y}" + ("-1" if c else "")
        if t < 0:
            lines.append(f"{expr} borrow 1{expr}={t + 10}")
            c = 1
        else:
            lines.append(f"{expr}={t}")
            c = 0
    return q, "\n".join(lines), str(a - b)


def t_mul(r):
    a = r.randrange(2, 100) if r.random() < 0.6 else r.randrange(2, 10)
    b = r.randrange(2, 10)
    q = r.choice(["{a}*{b}=?", "What is {a} * {b}?", "Multiply {a} by {b}."]).format(a=a, b=b)
    c, lines = 0, []
    for x in str(a)[::-1]:
        s = int(x) * b
        line = f"{x}*{b}={s}"
        if c:
            line += f" {s}+{c}={s + c}"
        s += c
        c = s // 10
        lines.append(line + f" write {s % 10}" + (f" carry {c}" if c else ""))
    if c:
        lines.append(f"write {c}")
    return q, "\n".join(lines), str(a * b)


def t_cmp(r):
    d = r.choice([2, 2, 3, 3, 4])
    a = r.randrange(10 ** (d - 1), 10**d)
    if r.random() < 0.6:  # numbers that share a prefix are the hard ones
        k = r.randrange(1, d)
        b = int(str(a)[:k] + "".join(r.choice("0123456789") for _ in range(d - k)))
    else:
        b = r.randrange(10 ** (d - 1), 10 ** r.choice([d, d, d + 1]))
    if a == b:
        b = a + 1
    word, pick = r.choice([("larger", max), ("larger", max), ("smaller", min)])
    q = r.choice([f"Which is {word}, {a} or {b}?", f"Which number is {word}: {a} or {b}?"])
    A, B = str(a), str(b)
    lines = []
    if len(A) != len(B):
        lines.append(f"{len(A)} digits {'<' if len(A) < len(B) else '>'} {len(B)} digits")
    else:
        for x, y in zip(A, B):
            lines.append(f"{x}{'=' if x == y else '<' if x < y else '>'}{y}")
            if x != y:
                break
    return q, "\n".join(lines), str(pick(a, b))


LET = "abcdefghijklmnopqrstuvwxyz"


def t_sort(r):
    n = r.randrange(3, 7)
    w = r.sample(LET, n)
    q = r.choice(["Sort the letters: {w}", "Put in order: {w}"]).format(w=" ".join(w))
    left, lines = list(w), []
    while len(left) > 1:
        m = min(left)
        left.remove(m)
        lines.append(f"{m} left {' '.join(left)}")
    return q, "\n".join(lines), " ".join(sorted(w))


def t_rev(r):
    n = r.randrange(3, 8)
    al = LET if r.random() < 0.7 else "0123456789"
    w = [r.choice(al) for _ in range(n)]
    q = r.choice(["Reverse: {w}", "Write backwards: {w}"]).format(w=" ".join(w))
    return q, "\n".join(f"{i + 1} {c}" for i, c in enumerate(w)), " ".join(w[::-1])


def t_count(r):
    n = r.randrange(4, 11)
    al = r.sample(LET, 3)
    w = [r.choice(al) for _ in range(n)]
    t = r.choice(al)
    q = r.choice(["How many {t} in: {w}", "Count the letter {t}: {w}"]).format(t=t, w=" ".join(w))
    c, lines = 0, []
    for x in w:
        c += x == t
        lines.append(f"{x}={t} {'yes' if x == t else 'no'} {c}")
    return q, "\n".join(lines), str(c)


TALK = [  # fixed small talk, so that a first "hello" gets a sensible answer
    (
        ["Hello", "Hello!", "Hi", "Hi!", "Hey there", "Good morning"],
        "The user says hello.\nSay hello and offer help.",
        "Hello! I am ring-tiny, a very small model. Ask me for a sum.",
    ),
    (
        ["Who are you?", "What are you?", "What is your name?", "Tell me about yourself."],
        "The user asks who I am.",
        "I am ring-tiny, a very small mixture of experts model. I was trained on two CPU cores.",
    ),
    (
        ["What can you do?", "Help", "How can you help me?", "What do you know?"],
        "The user asks what I can do.",
        "I can add, subtract, multiply, compare numbers, sort letters, reverse and count them.",
    ),
    (
        ["Thank you", "Thanks!", "Thank you very much.", "Thanks a lot"],
        "The user says thanks.",
        "You are welcome! Ask me another one.",
    ),
    (
        ["Bye", "Goodbye", "See you later", "Good night"],
        "The user says goodbye.",
        "Goodbye! Come back soon.",
    ),
    (
        ["How are you?", "How do you feel?", "Are you well?"],
        "The user asks how I am.",
        "I am well, thank you. All my experts are awake.",
    ),
]


def t_talk(r):
    qs, th, a = r.choice(TALK)
    return r.choice(qs), th, a


KINDS = {
    "add": t_add,
    "subtract": t_sub,
    "multiply": t_mul,
    "compare": t_cmp,
    "sort": t_sort,
    "reverse": t_rev,
    "count": t_count,
    "talk": t_talk,
}
WEIGHTS = {
    "add": 24,
    "subtract": 20,
    "multiply": 10,
    "compare": 12,
    "sort": 10,
    "reverse": 10,
    "count": 20,
    "talk": 4,
}


def is_heldout(q):
    return zlib.crc32(q.encode()) % 20 == 0


def draw(r, split, kind=None, easy=False):
    """One (kind, question, thinking, answer) that belongs to `split`."""
    while True:
        k = kind or r.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if easy and k in ("add", "subtract"):
            q, th, a = KINDS[k](r, r.choice([1, 2]))
        else:
            q, th, a = KINDS[k](r)
        if k == "talk" or is_heldout(q) == (split == "heldout"):
            return k, q, th, a


def turn(q, th, a, think):
    return (
        "<role>HUMAN</role>" + q + "<|role_end|><role>ASSISTANT</role>",
        (f"<think>\n{th}\n</think>\n" if think else "") + a + "<|role_end|>",
    )


def chat_doc(r, split):
    u = r.random()
    if u < 0.15:
        sys, think = SYS_OFF, False
    elif u < 0.35:
        sys, think = "", True
    else:
        sys, think = SYS_ON, True
    rounds = r.choices([1, 2, 3], [75, 18, 7])[0]
    seg = [[sys, 0]] if sys else []
    for i in range(rounds):
        k, q, th, a = draw(r, split, easy=not think)
        if not think and k == "multiply":
            k, q, th, a = draw(r, split, "compare")
        last = i == rounds - 1
        p, c = turn(q, th, a, think and last)
        seg += [[p, 0], [c, 1 if last or not think else 0]]
    seg.append(["<|endoftext|>", 0])
    return seg


# code templates
NOUN = (
    "count total value index limit score price width height depth size length offset weight level node item key "
    "left right first last best start step rate mark page line word row col cell sum"
).split()
ARR = "items values numbers scores prices weights levels marks words rows cells data nums keys".split()
VERB = "get find make read load take pick push scan test mark move fill".split()


def code_py(r):
    n, m, k = r.sample(NOUN, 3)
    a, b = r.sample(ARR, 2)
    v = r.choice(VERB)
    c = r.randrange(1, 100)
    i = r.choice(["i", "x", "item", "e"])
    if i in (n, m, k):
        i = "x"
    op, opn = r.choice([("+", "sum"), ("*", "product"), ("-", "difference")])
    cmp_, cn, pick = r.choice([(">", "largest", "max"), ("<", "smallest", "min")])
    T = [
        f'''def {v}_{n}({n}, {m}):
    """Return the {opn} of {n} and {m}."""
    return {n} {op} {m}
''',
        f'''def {cn}_{n}({a}):
    """Return the {cn} {n} in {a}."""
    best = {a}[0]
    for {i} in {a}:
        if {i} {cmp_} best:
            best = {i}
    return best
''',
        f'''def total_{n}({a}):
    """Add up every {n} in {a}."""
    total = 0
    for {i} in {a}:
        total += {i}
    return total
''',
        f'''def count_{n}({a}, {m}):
    """Count how many times {m} is in {a}."""
    count = 0
    for {i} in {a}:
        if {i} == {m}:
            count += 1
    return count
''',
        f'''def {v}_{a}({a}, {m}={c}):
    """Keep only the {a} {'above' if cmp_ == '>' else 'below'} {m}."""
    return [{i} for {i} in {a} if {i} {cmp_} {m}]
''',
        f"""class {n.capitalize()}{m.capitalize()}:
    def __init__(self, {n}, {m}={c}):
        self.{n} = {n}
        self.{m} = {m}

    def {v}_{k}(self):
        return self.{n} {op} self.{m}
""",
        f'''def {v}_{n}({n}):
    """Return True if {n} is {'even' if c % 2 else 'odd'}."""
    return {n} % 2 == {0 if c % 2 else 1}
''',
        f"""def {v}_{n}({a}):
    {n} = {{}}
    for {i} in {a}:
        {n}[{i}] = {n}.get({i}, 0) + 1
    return {n}
""",
        f"""def {v}_{n}({n}):
    if {n} <= 1:
        return 1
    return {n} * {v}_{n}({n} - 1)
""",
        f'''def merge_{a}({a}, {b}):
    """Merge two sorted lists."""
    out = []
    i, j = 0, 0
    while i < len({a}) and j < len({b}):
        if {a}[i] <= {b}[j]:
            out.append({a}[i])
            i += 1
        else:
            out.append({b}[j])
            j += 1
    return out + {a}[i:] + {b}[j:]
''',
    ]
    return r.choice(T)


def code_c(r):
    n, m, k = r.sample(NOUN, 3)
    a, b = r.sample(ARR, 2)
    v = r.choice(VERB)
    c = r.randrange(1, 100)
    ty = r.choice(["int", "int", "long", "float", "double"])
    op, opn = r.choice([("+", "sum"), ("*", "product"), ("-", "difference")])
    cmp_, cn = r.choice([(">", "largest"), ("<", "smallest")])
    T = [
        f"""/* Return the {opn} of {n} and {m}. */
{ty} {v}_{n}({ty} {n}, {ty} {m}) {{
    return {n} {op} {m};
}}
""",
        f"""/* Return the {cn} of {a}. */
{ty} {cn}_{n}(const {ty} *{a}, int n) {{
    {ty} best = {a}[0];
    for (int i = 1; i < n; i++) {{
        if ({a}[i] {cmp_} best) best = {a}[i];
    }}
    return best;
}}
""",
        f"""{ty} total_{n}(const {ty} *{a}, int n) {{
    {ty} total = 0;
    for (int i = 0; i < n; i++) total += {a}[i];
    return total;
}}
""",
        f"""int count_{n}(const {ty} *{a}, int n, {ty} {m}) {{
    int count = 0;
    for (int i = 0; i < n; i++) {{
        if ({a}[i] == {m}) count++;
    }}
    return count;
}}
""",
        f"""struct {n} {{
    {ty} {m};
    {ty} {k};
}};

{ty} {v}_{n}(struct {n} *p) {{
    return p->{m} {op} p->{k};
}}
""",
        f"""#define MAX_{n.upper()} {c}

static {ty} {a}[MAX_{n.upper()}];

void {v}_{a}({ty} {m}) {{
    for (int i = 0; i < MAX_{n.upper()}; i++) {a}[i] = {m};
}}
""",
        f"""void swap_{n}({ty} *{n}, {ty} *{m}) {{
    {ty} tmp = *{n};
    *{n} = *{m};
    *{m} = tmp;
}}
""",
        f"""int find_{n}(const {ty} *{a}, int n, {ty} {m}) {{
    int lo = 0, hi = n - 1;
    while (lo <= hi) {{
        int mid = (lo + hi) / 2;
        if ({a}[mid] == {m}) return mid;
        if ({a}[mid] < {m}) lo = mid + 1;
        else hi = mid - 1;
    }}
    return -1;
}}
""",
    ]
    return r.choice(T)


def code_doc(r):
    f = r.choice([code_py, code_c])
    return [["\n".join(f(r) for _ in range(r.randrange(1, 5))), 1], ["<|endoftext|>", 1]]


# main
def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", default="build/train/corpus")
    ap.add_argument(
        "--prose",
        default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "tinyshakespeare.txt"),
    )
    ap.add_argument("--seed", type=int, default=20251)
    ap.add_argument("--chat", type=int, default=160000)
    ap.add_argument("--code", type=int, default=20000)
    o = ap.parse_args()
    os.makedirs(o.out, exist_ok=True)
    for split, k in (("train", 1), ("heldout", 100)):
        with open(f"{o.out}/{split}.chat.jsonl", "w") as f:
            for i in range(o.chat // k):
                f.write(
                    json.dumps(chat_doc(random.Random(f"{o.seed}/{split}/chat/{i}"), split)) + "\n"
                )
        with open(f"{o.out}/{split}.code.jsonl", "w") as f:
            for i in range(max(300, o.code // k)):
                f.write(json.dumps(code_doc(random.Random(f"{o.seed}/{split}/code/{i}"))) + "\n")
    t = open(o.prose, encoding="utf-8").read()
    cut = t.rindex("\n\n", 0, len(t) * 9 // 10) + 2
    open(f"{o.out}/train.prose.txt", "w").write(t[:cut])
    open(f"{o.out}/heldout.prose.txt", "w").write(t[cut:])


if __name__ == "__main__":
    main()
