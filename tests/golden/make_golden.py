#!/usr/bin/env python3
"""Makes the golden folders: small random models and what their MoE blocks compute.

Needs torch, transformers, safetensors and numpy. Usage: make_golden.py [case ...]
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import cases_logits  # noqa: E402
import cases_sigmoid  # noqa: E402
import cases_softmax  # noqa: E402
import cases_special  # noqa: E402
from cases import TOKENS, VOCAB, Tiny, keep_feed_forward  # noqa: E402
from record_blocks import record_blocks, write_blocks  # noqa: E402
from saved_block import check_blocks  # noqa: E402

CASES = {
    **cases_softmax.CASES,
    **cases_logits.CASES,
    **cases_sigmoid.CASES,
    **cases_special.CASES,
}
SMALLEST_GAP = 1e-5
OUTPUT_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def save_released(case, folder):
    case.model().save_pretrained(folder, **case.save)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for step in case.finish:
        step(folder)


def record(case, name, folder):
    # Loading what was saved shows that the files alone define the expected results.
    model, loading = case.model_class().from_pretrained(
        folder,
        dtype=case.recorded_in,
        experts_implementation="eager",
        output_loading_info=True,
    )
    assert not any(loading.values()), f"{name}: {loading}"
    ids = torch.randint(VOCAB - 4, (TOKENS,), generator=torch.Generator().manual_seed(case.seed))
    write_blocks(record_blocks(model.eval(), ids.tolist(), case.watch), folder)


def make(name):
    case = CASES[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        folder.mkdir()
        save_released(case, folder)
        record(case, name, folder)
        # What a loader cannot read back is done last; the float64 check reads the result.
        for step in case.publish:
            step(folder)
        if isinstance(case, Tiny):
            keep_feed_forward(folder)
        tolerance = OUTPUT_TOLERANCES[case.recorded_in]
        error, gap, loads = check_blocks(folder, case.rules, case.names, case.block, tolerance)
        assert gap >= SMALLEST_GAP, f"{name}: scores too close ({gap}), choose another seed"
        size = sum(path.stat().st_size for path in folder.iterdir())
        shutil.rmtree(HERE / name, ignore_errors=True)
        shutil.copytree(folder, HERE / name)
    print(f"{name}: {size} bytes, relative error {error:.1e}, smallest gap {gap:.1e}")
    for layer, load in loads.items():
        print(f"  layer {layer}: slots of each expert {load.tolist()}")


def main():
    torch.set_num_threads(1)
    for name in sys.argv[1:] or CASES:
        make(name)


if __name__ == "__main__":
    main()
