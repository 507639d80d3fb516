"""PyTorch's times for what credence_gpu_bench measures: same shapes, same protocol (20 runs after two, L2 overwritten, events)."""

import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

if not torch.cuda.is_available():
    print("no device: PyTorch finds no GPU")
    sys.exit(77)

RUNS, WARM_UP = 20, 2
scrub = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")


def line(name, shape, body, amount, unit):
    times = []
    for i in range(WARM_UP + RUNS):
        scrub.fill_(i)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        body()
        end.record()
        end.synchronize()
        if i >= WARM_UP:
            times.append(start.elapsed_time(end))
    times.sort()
    median = times[RUNS // 2]
    rate = amount / (median * 1e-3) * (1e-9 if unit == "GB/s" else 1e-12)
    print(
        f"{name:18} {shape:36} median {median:9.4f} ms  p10 {times[RUNS // 10]:9.4f}"
        f"  p90 {times[RUNS - 1 - RUNS // 10]:9.4f}  {rate:8.1f} {unit}"
    )


def main():
    print(torch.cuda.get_device_name(), torch.__version__)
    rows, hidden, intermediate, vocabulary, parameters = 8192, 4096, 14336, 128256, 41943040
    bf16 = {"dtype": torch.bfloat16, "device": "cuda"}

    x = torch.randn(rows, hidden, device="cuda")
    weight = torch.ones(hidden, device="cuda")
    norm = torch.compile(lambda: torch.nn.functional.rms_norm(x, (hidden,), weight, 1e-5).bfloat16())
    line("norm", "8192 x 4096", norm, rows * hidden * 6, "GB/s")

    p = torch.nn.Parameter(torch.randn(parameters, device="cuda"))
    p.grad = torch.randn_like(p)
    optimiser = torch.optim.AdamW([p], fused=True)
    line("adamw", "41.9 million", optimiser.step, parameters * 28, "GB/s")
    line("gradient_norm", "41.9 million", lambda: torch.linalg.vector_norm(p.grad), parameters * 4, "GB/s")
    del p, optimiser

    for columns, name in ((hidden, "o     8192 x 4096 x 4096"), (intermediate, "down  8192 x 4096 x 14336")):
        a, w = torch.randn(rows, columns, **bf16), torch.randn(hidden, columns, **bf16)
        lora_a, lora_b = torch.randn(16, columns, **bf16), torch.randn(hidden, 16, **bf16)
        flop = 2 * rows * hidden * columns
        line("product", name, lambda a=a, w=w: a @ w.T, flop, "TFLOP/s")
        adapted = lambda a=a, w=w, p=lora_a, q=lora_b: a @ w.T + (a @ p.T) @ q.T * 2  # noqa: E731
        line("product + r 16", name, adapted, flop, "TFLOP/s")

    h, head = torch.randn(2048, 1024, **bf16), torch.randn(vocabulary, 1024, **bf16) * 0.02
    targets = torch.zeros(2048, dtype=torch.long, device="cuda")
    loss = lambda: torch.nn.functional.cross_entropy((h @ head.T).float(), targets, reduction="none")  # noqa: E731
    line("token_logprobs", "2048 x 1024 x 128256", loss, 2 * 2048 * 1024 * vocabulary, "TFLOP/s")
    del h, head

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        attention(bf16)


def attention(bf16):
    """Flash attention of 32 heads over 8 kv heads: 8192 tokens in segments, 300 short ones padded to the longest; decoding."""
    heads, kv_heads = 32, 8
    sdpa = torch.nn.functional.scaled_dot_product_attention
    ragged = [1 + i * 37 % 53 for i in range(300)]
    batches = [(8192 // n, n, (8192 // n) * n * (n + 1) / 2, f"{8192 // n} x {n}") for n in (512, 2048, 8192)]
    batches.append((300, max(ragged), sum(n * (n + 1) / 2 for n in ragged), "300 of 1 to 53, padded"))
    for d in (64, 128):
        for count, length, pairs, what in batches:
            q = torch.randn(count, heads, length, d, **bf16, requires_grad=True)
            k = torch.randn(count, kv_heads, length, d, **bf16, requires_grad=True)
            v = torch.randn(count, kv_heads, length, d, **bf16, requires_grad=True)
            shape = f"{what}, heads of {d}"
            forward = lambda q=q, k=k, v=v: sdpa(q, k, v, is_causal=True, enable_gqa=True)  # noqa: E731
            with torch.no_grad():
                line("attention", shape, forward, 4 * heads * d * pairs, "TFLOP/s")
            out = forward()
            upstream = torch.randn_like(out)
            backward = lambda o=out, u=upstream, x=(q, k, v): torch.autograd.grad(o, x, u, retain_graph=True)  # noqa: E731
            line("attention_backward", shape, backward, 10 * heads * d * pairs, "TFLOP/s")
        for keys in (2048, 8192):
            for sequences in (1, 64):
                q = torch.randn(sequences, heads, 1, d, **bf16)
                k, v = (torch.randn(sequences, kv_heads, keys, d, **bf16) for _ in range(2))
                moved = 2 * sequences * (2 * heads * d + 2 * keys * kv_heads * d)
                one = lambda q=q, k=k, v=v: sdpa(q, k, v, enable_gqa=True)  # noqa: E731
                line("attention", f"{sequences} x {keys} keys, {d}", one, moved, "GB/s")


main()
