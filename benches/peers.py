"""The same statistics by PyTorch and numpy, for benches/statistics.rs: python3 benches/peers.py FILE.safetensors

Wall time over a warm mapping, median of several, with the threads each library takes by itself and with one.
"""

import json
import statistics
import sys
import time

ROUNDS = 3


def median_seconds(function):
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def data_of(path):
    """dtype name, offset and length of the one tensor in the file."""
    with open(path, "rb") as file:
        header_length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_length))
    (tensor,) = (value for key, value in header.items() if key != "__metadata__")
    begin, end = tensor["data_offsets"]
    return tensor["dtype"], 8 + header_length + begin, end - begin


def report(name, length, seconds):
    print(f"  {name:<44} {length / seconds / 1e9:7.2f} GB/s", flush=True)


def with_torch(path, dtype, offset, length):
    try:
        import torch
    except ImportError:
        print("  PYTORCH NOT MEASURED: it is not installed")
        return
    # A 256 MB part is enough for a rate, and float64 copies of more would not fit a small machine.
    part = min(length, 256_000_000)
    kind = {"F32": torch.float32, "BF16": torch.bfloat16}[dtype]
    storage = torch.UntypedStorage.from_file(path, shared=False, nbytes=offset + part)
    size = 4 if dtype == "F32" else 2
    x = torch.tensor([], dtype=kind).set_(storage, offset // size, (part // size,))

    def norms():
        torch.linalg.vector_norm(x), torch.linalg.vector_norm(x, 1), x.abs().max(), x.mean()
        torch.isnan(x).sum(), torch.isinf(x).sum(), (x == 0).sum()

    def moments():
        y = x.double()
        d = y - y.mean()
        d2 = d * d
        d2.mean(), (d2 * d).mean(), (d2 * d2).mean()

    def norm_double():
        torch.linalg.vector_norm(x, dtype=torch.float64)

    threads = torch.get_num_threads()
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        label = f"torch {torch.__version__.split('+')[0]}, {count} thread(s)"
        report(f"vector_norm only, {label}", part, median_seconds(lambda: torch.linalg.vector_norm(x)))
        report(f"vector_norm in float64, {label}", part, median_seconds(norm_double))
        report(f"norms and counts, {label}", part, median_seconds(norms))
        report(f"four moments in float64, {label}", part, median_seconds(moments))


def with_numpy(path, dtype, offset, length):
    try:
        import numpy
    except ImportError:
        print("  NUMPY NOT MEASURED: it is not installed")
        return
    if dtype != "F32":
        print("  numpy has no bf16")
        return
    part = min(length, 256_000_000)
    x = numpy.memmap(path, dtype="<f4", mode="r", offset=offset, shape=(part // 4,))

    def norms():
        numpy.linalg.norm(x), numpy.abs(x).sum(), numpy.abs(x).max(), x.mean()
        numpy.isnan(x).sum(), numpy.isinf(x).sum(), (x == 0).sum()

    def moments():
        y = x.astype(numpy.float64)
        d = y - y.mean()
        d2 = d * d
        d2.mean(), (d2 * d).mean(), (d2 * d2).mean()

    def binades():
        numpy.bincount(numpy.frexp(x)[1] + 150)

    label = f"numpy {numpy.__version__}"
    report(f"linalg.norm only, {label}", part, median_seconds(lambda: numpy.linalg.norm(x)))
    report(f"norms and counts, {label}", part, median_seconds(norms))
    report(f"four moments in float64, {label}", part, median_seconds(moments))
    report(f"elements per binade, {label}", part, median_seconds(binades))


def main():
    (path,) = sys.argv[1:]
    print(f"\n  the same by others, on the first 256 MB of {path.rsplit('/', 1)[-1]}")
    layout = data_of(path)
    with_torch(path, *layout)
    with_numpy(path, *layout)


main()
