"""Runs a broker module written in Python, for the broker that started this process.

Started by the command with the broker's URI and the module's path. Needs the Python bindings of
Flux: `flux.brokermod`, and the functions for module loaders of the library below them.
"""

import errno
import importlib.util
import os
import sys
import traceback

import flux
from _flux._core import ffi, lib
from flux.brokermod import resolve_entry_point


def fail(text):
    print(f"flux-module-python-exec: {text}", file=sys.stderr)
    sys.exit(1)


def load(path):
    """Imports a file under its own name, with its directory in the search path."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise ImportError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run(handle, path, arguments):
    """Runs the module. Returns the error number to report, 0 for none."""
    try:
        resolve_entry_point(load(path))(handle, *arguments)
    except OSError as error:
        traceback.print_exc()
        return error.errno or errno.EINVAL
    except SystemExit as end:
        return 0 if not end.code else errno.EINVAL
    except BaseException:  # whatever the module raises, the broker is told
        traceback.print_exc()
        return errno.EINVAL
    return 0


def main():
    uri, path = sys.argv[1:3]
    handle = flux.Flux(uri)
    error = ffi.new("flux_error_t *")

    def check(result):
        if result < 0:
            fail(ffi.string(error.text).decode(errors="replace"))

    text = ffi.new("char **")
    check(lib.flux_module_initialize(handle.handle, text, error))
    arguments = []
    if text[0] != ffi.NULL:
        arguments = ffi.string(text[0]).decode().split()
    check(lib.flux_module_register_handlers(handle.handle, error))
    errnum = run(handle, path, arguments)
    check(lib.flux_module_finalize(handle.handle, errnum, error))


main()
