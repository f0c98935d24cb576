"""Memory is flat in the number of rows: measured in a process of its own, whose peak nothing else raises."""

import json
import subprocess
import sys

MEASURE = """
import resource, sys
from pathlib import Path
from ft.data import template_for
from ft.lifecycle import prepare_data
from ft.planning import make_plan
from ft.testing import tiny_tokenizer
from ft_hookspecs import Run

folder, *names = sys.argv[1:]
for name in names:
    keys = {"model_name_or_path": folder, "dataset": f"{folder}/{name}", "cache_dir": f"{folder}/{name}.cache",
            "output_dir": f"{folder}/out", "val_size": 0.1}
    plan, plugins = make_plan(None, [f"{key}={value}" for key, value in keys.items()])
    run = Run(plan)
    run.tokenizer = tiny_tokenizer()
    run.template = template_for(plugins.hook, plan, run.tokenizer)
    prepare_data(run, plugins)
    assert len(run.train_dataset) + len(run.eval_datasets["eval"]) == sum(1 for _ in Path(folder, name).open())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_four_times_the_rows_take_no_more_memory(tmp_path):
    names = {"small.jsonl": 5_000, "large.jsonl": 20_000}
    for name, rows in names.items():
        with (tmp_path / name).open("w") as file:
            for row in range(rows):
                question = {"role": "user", "content": f"Which stone is number {row}?"}
                answer = {"role": "assistant", "content": f"Stone {row * 7919 % 104729}. " * 8}
                file.write(json.dumps({"messages": [question, answer]}) + "\n")
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path), *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    # 15,000 more rows are 5 MB of text, 13 MB of objects and 15 MB of tokens; one byte of each stays, for val_size.
    assert large - small < 12, (small, large)
