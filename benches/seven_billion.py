"""A bf16 checkpoint of LLaMA-7B's shapes: `python benches/seven_billion.py FILE`. 13.5 GB.

The matrices of a kind have the same numbers in every layer: what is measured does not get quicker by that.
"""

import json
import sys

import numpy as np

WIDTH, INNER, LAYERS, VOCABULARY = 4096, 11008, 32, 32000
KINDS = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH, WIDTH),
    "self_attn.v_proj": (WIDTH, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}


def bf16(rng, shape):
    values = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def write(path, parts):
    """The safetensors file of these names, shapes and bytes."""
    header, at = {}, 0
    for name, shape, block in parts:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(block)]}
        at += len(block)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, block in parts:
            file.write(block)


def main():
    rng = np.random.default_rng(0)
    table = bf16(rng, (VOCABULARY, WIDTH))
    blocks = {kind: bf16(rng, shape) for kind, shape in KINDS.items()}
    gain = np.full(WIDTH, 0x3F80, dtype=np.uint16).tobytes()
    parts = [("model.embed_tokens.weight", (VOCABULARY, WIDTH), table)]
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        parts += [(f"{name}{kind}.weight", KINDS[kind], block) for kind, block in blocks.items()]
        parts += [(f"{name}{norm}.weight", (WIDTH,), gain) for norm in ("input_layernorm", "post_attention_layernorm")]
    parts += [("model.norm.weight", (WIDTH,), gain), ("lm_head.weight", (VOCABULARY, WIDTH), table)]
    write(sys.argv[1], parts)


if __name__ == "__main__":
    main()
