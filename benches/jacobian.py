"""The Lanczos of benches/jacobian.rs driven by torch.func: the same network, input, start length and number of pairs.

Products are in f32, bases and orthogonalisation in f64, as there. `linearize` and `vjp` run the forward pass once, not once a product.
"""

import sys
import time

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

folder, blocks, tokens, pairs, threads = sys.argv[1], *map(int, sys.argv[2:6])
torch.set_num_threads(threads)
weights = load_file(f"{folder}/model.safetensors")
width = weights["ln_f.weight"].numel()
heads = width // 64
mask = torch.full((tokens, tokens), float("-inf")).triu(1)


def block(name):
    w = {key[len(name) + 1 :]: value for key, value in weights.items() if key.startswith(name + ".")}

    def run(x):
        y = F.layer_norm(x, (width,), w["ln_1.weight"], w["ln_1.bias"], 1e-5)
        q, k, v = (y @ w["attn.c_attn.weight"] + w["attn.c_attn.bias"]).split(width, -1)
        q, k, v = (part.view(tokens, heads, 64).transpose(0, 1) for part in (q, k, v))
        p = torch.softmax(q @ k.transpose(1, 2) / 8 + mask, -1)
        y = (p @ v).transpose(0, 1).reshape(tokens, width)
        x = x + y @ w["attn.c_proj.weight"] + w["attn.c_proj.bias"]
        y = F.layer_norm(x, (width,), w["ln_2.weight"], w["ln_2.bias"], 1e-5)
        y = F.gelu(y @ w["mlp.c_fc.weight"] + w["mlp.c_fc.bias"], approximate="tanh")
        return x + y @ w["mlp.c_proj.weight"] + w["mlp.c_proj.bias"]

    return run


def sigma_1(run, x):
    _, jvp = torch.func.linearize(run, x)
    _, vjp = torch.func.vjp(run, x)
    n = x.numel()
    forward = lambda v: jvp(v.float().view_as(x)).double().flatten()
    back = lambda u: vjp(u.float().view_as(x))[0].double().flatten()
    right, left = torch.zeros(pairs, n, dtype=torch.float64), torch.zeros(pairs, n, dtype=torch.float64)
    alphas, betas = [], []
    v = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v /= v.norm()
    for step in range(pairs):
        right[step] = v
        u = forward(v)
        if step:
            u -= betas[-1] * left[step - 1]
        for _ in range(2):
            u -= left[:step].T @ (left[:step] @ u)
        alphas.append(u.norm())
        u /= alphas[-1]
        left[step] = u
        v = back(u) - alphas[-1] * v
        for _ in range(2):
            v -= right[: step + 1].T @ (right[: step + 1] @ v)
        betas.append(v.norm())
        v /= betas[-1]
    small = torch.diag(torch.stack(alphas)) + torch.diag(torch.stack(betas[:-1]), 1)
    return torch.linalg.svdvals(small)[0].item()


ids = torch.arange(tokens) * 7 % weights["wte.weight"].shape[0]
x = weights["wte.weight"][ids] + weights["wpe.weight"][:tokens]
runs = [block(f"h.{index}") for index in range(blocks)]


def whole(x):
    for run in runs:
        x = run(x)
    return x


total, state = 0.0, x
for index, run in enumerate(runs):
    start = time.perf_counter()
    value = sigma_1(run, state)
    seconds = time.perf_counter() - start
    total += seconds
    print(f"torch {torch.__version__} h.{index}: {seconds:.3f} s, sigma_1 {value:.6f}")
    state = run(state)
start = time.perf_counter()
value = sigma_1(whole, x)
seconds = time.perf_counter() - start
total += seconds
print(f"torch end to end: {seconds:.3f} s, sigma_1 {value:.6f}")
print(f"torch in all: {total:.3f} s")
