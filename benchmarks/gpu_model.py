"""Predicted time of one exact U(D) on data-centre GPUs; nothing here runs on a device.

python benchmarks/gpu_model.py --sizes 64,256
"""

from __future__ import annotations

import argparse

from icm_fast.bench.gpu_model import GPUS, RATES, SHAPES, predict
from icm_fast.uniform_plan import uniform_plan


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="64,256")
    parser.add_argument("--demonstration", type=int, default=43, help="tokens (TruthfulQA)")
    parser.add_argument("--query", type=int, default=40)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    arguments = parser.parse_args()
    print(
        "| model | GPU | n | tokens | seconds | tokens/s | linear | attention "
        "| attention, top level | of peak | least tiles' share |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|"
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
        for shape in SHAPES.values():
            for name, gpu in GPUS.items():
                launches = list(predict(plan, shape, gpu, RATES[name]))
                seconds = sum(launch.seconds for launch in launches)
                top = max(launches, key=lambda launch: launch.attention_seconds)
                linear = sum(launch.linear_seconds for launch in launches)
                print(
                    f"| {shape.name} | {gpu.name} | {n} | {plan.total_tokens:,} | {seconds:.2f} | "
                    f"{plan.total_tokens / seconds:,.0f} | {linear:.2f} | {seconds - linear:.2f} | "
                    f"{top.bound} | {top.attention_share:.2f} | "
                    f"{min(launch.tile_share for launch in launches):.2f} |"
                )


if __name__ == "__main__":
    main()
