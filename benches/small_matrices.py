"""bf16 checkpoints of many small matrices, of random numbers: `python benches/small_matrices.py DIR`."""

import json
import sys
from pathlib import Path

import numpy as np
from seven_billion import bf16, write


def save(folder, rng, shapes, config=None):
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "model.safetensors", [(name, shape, bf16(rng, shape)) for name, shape in shapes.items()])
    if config:
        (folder / "config.json").write_text(json.dumps(config))


def gpt2(width, layers, heads):
    shapes = {"wte.weight": (50257, width), "wpe.weight": (1024, width)}
    for layer in range(layers):
        kinds = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width), "mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width)}
        shapes |= {f"h.{layer}.{kind}.weight": shape for kind, shape in kinds.items()}
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": width, "n_head": heads, "n_layer": layers, "n_positions": 1024, "vocab_size": 50257}
    return shapes, config


def main():
    rng, out = np.random.default_rng(1), Path(sys.argv[1])
    for side in (64, 128, 256, 512):
        save(out / f"m{side}", rng, {f"layers.{layer}.mlp.fc1.weight": (4 * side, side) for layer in range(200)})
    experts = {f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight": (768, 256) for layer in range(8) for expert in range(64)}
    save(out / "moe", rng, experts)
    save(out / "gpt2", rng, *gpt2(768, 12, 12))
    save(out / "gpt2m", rng, *gpt2(1024, 24, 16))


if __name__ == "__main__":
    main()
