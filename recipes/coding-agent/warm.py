"""Run in the interpreter before the freeze: pytest is loaded, and has run once."""
import os
import subprocess
import sys
import tempfile

import pytest as _pytest

sys.dont_write_bytecode = True   # a file that is edited twice within a second would be taken for the one before


def _apart(work):
    """What `work` prints. It runs in a fork of this interpreter, which stays as it is; so a test-suite pays for no start of Python and
    no import of pytest, and finds none of another's modules."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if not child:
            code = 1
            try:
                for descriptor in (1, 2):
                    os.dup2(output.fileno(), descriptor)
                code = work()
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return status, output.read().decode(errors="replace")


def pytest(folder, *arguments):
    """Runs pytest in `folder`, and returns what it prints."""
    def work():
        os.chdir(folder)
        sys.path.insert(0, folder)
        reseed()
        return int(_pytest.main(["-p", "no:cacheprovider", *arguments]))

    return _apart(work)[1]


def sh(command):
    """Runs a shell command, and returns what it prints; its exit code is an error."""
    done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stdout}")
    return done.stdout


WARM = ["pytest('/srv/example')", "sh('git --version; rg --version')"]
if "3 passed" not in pytest("/srv/example"):
    raise RuntimeError("pytest does not work here")
