"""Predicted time of one exact U(D) on data-centre GPUs; nothing here runs on a device.

    python -m benchmarks.gpu.predict --sizes 64,256

One row per CUDA attention kernel that a GPU can run. The top level is the first one below the root,
with two segments; the longest launch is the one with the most attention time, that of the queries.
"Gathers" is the rate at which its tiles read the L2 cache. "Between" is everything between the
products, by our kernels and by transformers' layers.
"""

from __future__ import annotations

import argparse
from itertools import product

from benchmarks.gpu.model import GPUS, KERNELS, SHAPES, predict
from icm_fast.plan.uniform import uniform_plan


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="64,256")
    parser.add_argument("--demonstration", type=int, default=43, help="tokens (TruthfulQA)")
    parser.add_argument("--query", type=int, default=40)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    arguments = parser.parse_args()
    print(
        "| model | GPU | kernel | n | tokens | seconds | tokens/s | linear | attention "
        "| between | by transformers | top level, of peak | longest launch | of peak "
        "| gathers TB/s | least tiles' share |\n"
        f"{'|---' * 16}|"
    )
    for n in map(int, arguments.sizes.split(",")):
        plan = uniform_plan(
            n,
            demonstration=arguments.demonstration,
            query=arguments.query,
            root=1,
            kv_budget_tokens=1 << 20,
            batch_tokens=arguments.batch_tokens,
        )
        for shape, (name, gpu) in product(SHAPES.values(), GPUS.items()):
            for kernel, details in KERNELS.items():
                if name not in details.rates:
                    continue
                launches = list(predict(plan, shape, gpu, details.rates[name], details.tile))
                seconds = sum(launch.seconds for launch in launches)
                top = launches[1]  # the root comes first, alone
                longest = max(launches, key=lambda launch: launch.attention_seconds)
                linear = sum(launch.linear_seconds for launch in launches)
                between = sum(launch.elementwise_seconds for launch in launches)
                eager = sum(launch.eager_seconds for launch in launches)
                least = min(launch.tile_share for launch in launches)
                gathers = shape.layers * longest.gathered / longest.attention_seconds / 1e12
                print(
                    f"| {shape.name} | {gpu.name} | {kernel} | {n} | {plan.total_tokens:,} "
                    f"| {seconds:.2f} | {plan.total_tokens / seconds:,.0f} | {linear:.2f} "
                    f"| {seconds - linear - between:.2f} | {between:.2f} | {eager:.2f} "
                    f"| {top.attention_share:.2f} | {longest.bound} "
                    f"| {longest.attention_share:.2f} | {gathers:.1f} | {least:.2f} |"
                )


if __name__ == "__main__":
    main()
