"""WeightWatcher on a model's directory, timed and held against ours: `python benches/weight_watcher.py DIR report.json`.

The report is that of `flashpoint inspect DIR/model.safetensors --measure full --format json`.
"""

import json
import logging
import sys
import time

import torch
import transformers
import weightwatcher

LONG_TAIL = 50


def main():
    torch.set_num_threads(2)
    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    model = transformers.AutoModel.from_pretrained(sys.argv[1])
    start = time.perf_counter()
    theirs = weightwatcher.WeightWatcher(model=model).analyze()
    print(f"weightwatcher {weightwatcher.__version__}: {len(theirs)} layers, {time.perf_counter() - start:.2f} s")
    report = json.load(open(sys.argv[2]))
    ours = {tensor["name"]: tensor["spectrum"]["value"] for tensor in report["checkpoints"][0]["tensors"] if "value" in tensor["spectrum"]}
    compared, alpha, distance, norm = 0, 0.0, 0.0, 0.0
    for _, row in theirs.iterrows():
        spectrum = ours[f"{row.longname}.weight"]
        fit = spectrum["weight_watcher"]["value"]
        if fit["num_pl_spikes"].get("value", 0) < LONG_TAIL:
            continue
        compared += 1
        alpha = max(alpha, abs(fit["alpha"]["value"] - row.alpha))
        distance = max(distance, abs(fit["D"]["value"] - row.D))
        norm = max(norm, abs(spectrum["spectral_norm"]["value"] ** 2 / row.spectral_norm - 1))
    print(f"{compared} layers with a tail of {LONG_TAIL} or more: alpha differs by {alpha:.1e}, D by {distance:.1e}, spectral_norm by {norm:.1e} of it")


if __name__ == "__main__":
    main()
