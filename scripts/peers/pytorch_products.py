#!/usr/bin/env python3
"""PyTorch's matrix products of the 9B's linear layers, beside `salamander bench --only linear`.

    scripts/peers/pytorch_products.py [TOKENS ...]      (default 4096 32768)

Forward y = x w', backward dx = dy w and dw = dy' x, in bf16 on one GPU: medians of 11 with caches flushed.
"""
import statistics
import sys

import torch

LAYERS = [("query", 4096, 4096), ("key", 4096, 256), ("up", 4096, 16384), ("down", 16384, 4096)]


def random(*shape):
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def seconds(run, flushed, repetitions=11):
    taken = []
    for repetition in range(repetitions + 3):
        flushed.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        if repetition >= 3:
            taken.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(taken)


def main():
    flushed = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    for tokens in [int(argument) for argument in sys.argv[1:]] or [4096, 32768]:
        for name, inputs, outputs in LAYERS:
            x, w, dy = random(tokens, inputs), random(outputs, inputs), random(tokens, outputs)
            y, dx, dw = (torch.empty_like(tensor) for tensor in (dy, x, w))

            def forward():
                torch.mm(x, w.T, out=y)

            def backward():
                torch.mm(dy, w, out=dx)
                torch.mm(dy.T, x, out=dw)

            operations = 2e-12 * tokens * inputs * outputs
            for what, run, products in (("forward", forward, 1), ("backward", backward, 2)):
                time = seconds(run, flushed)
                rate = products * operations / time
                print(f"{name:6} {what:9} [{tokens}, {inputs}, {outputs}]  {time * 1e3:8.4f} ms  {rate:6.1f} TFLOP/s")


if __name__ == "__main__":
    main()
