"""What the libraries below a run say by themselves."""

import subprocess
import sys

import pytest

IMPORT = "from ft.cli.output import quiet_libraries; quiet_libraries(); import bitsandbytes, peft"


@pytest.mark.slow
def test_libraries_that_are_merely_installed_say_nothing():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
