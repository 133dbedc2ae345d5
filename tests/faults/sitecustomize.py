"""Python imports this at start where its folder is on PYTHONPATH: a disk that fails one script.

FAULT reads `<errno's name> <call> <number>`, such as `ENOSPC fsync 2`: in a rule's script, the
second `os.fsync` and all that follow raise it, as on a disk that stays full. Calls are open (of a
temporary file), fsync and replace.
"""

import errno
import os
import sys
import tempfile

if "FAULT" in os.environ and any(".snakemake/scripts/" in word for word in sys.orig_argv):
    name, call, number = os.environ["FAULT"].split()
    module, attribute = {
        "open": (tempfile, "mkstemp"),
        "fsync": (os, "fsync"),
        "replace": (os, "replace"),
    }[call]
    real = getattr(module, attribute)
    left = int(number)

    def failing(*args, **kwargs):
        global left
        left -= 1
        if left > 0:
            return real(*args, **kwargs)
        with open(os.environ["FAULTS_RAISED"], "a", encoding="utf-8") as file:
            file.write(f"{os.environ['FAULT']}\n")
        code = getattr(errno, name)
        raise OSError(code, os.strerror(code), str(args[0] if args else kwargs["dir"]))

    setattr(module, attribute, failing)
