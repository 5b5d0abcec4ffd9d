"""bash test/run_1p_prof.sh --data_path=/data

Profiles the training step of main.py: five steps with their times, then one under torch.profiler. Prints the operators
by their own time and writes a Chrome trace, OUTPUTS_DIR/X{scale}/output_{device}.prof. Takes the options of main.py.
"""

import os
import time

from torch.profiler import ProfilerActivity, profile

from common import cli
from dataset import open_batches, open_sampler
from device import open_device
from main import build, train_step
from options import check, training_parser

PLAIN_STEPS = 5  # before the profiled one: memory is allocated and kernels are chosen


def profile_step(options, device):
    """Print the table of operators and write the trace; returns its path."""
    model = build(options, device)
    folder = os.path.join(options.outputs_dir, f'X{options.scale}')
    os.makedirs(folder, exist_ok=True)
    trace = os.path.join(folder, f'output_{device.kind}.prof')
    with open_batches(open_sampler(options, device), range(PLAIN_STEPS + 1), options.workers, device) as batches:
        for step in range(1, PLAIN_STEPS + 1):
            start, waited = time.perf_counter(), batches.waited
            lr, hr = next(batches)
            train_step(model, lr, hr)
            device.synchronize()
            print(f'step={step} seconds={time.perf_counter() - start:.4f} data_wait={batches.waited - waited:.4f}')
        lr, hr = next(batches)
        with profile(activities=device.profiler_activities(ProfilerActivity)) as profiler:
            train_step(model, lr, hr)
            device.synchronize()
    print(profiler.key_averages().table(sort_by=device.profiler_order, row_limit=20, max_name_column_width=50))
    profiler.export_chrome_trace(trace)
    return trace


def main(argv=None):
    options = training_parser(__doc__).parse_args(argv)
    check(options)
    device = open_device(options.device, options.device_id)
    print(f'trace written to {profile_step(options, device)}')
    device.close()


if __name__ == '__main__':
    cli.run(main)
