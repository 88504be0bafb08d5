"""A compilation cache for a test session: compiling is most of what the tests take.

Tests trace the same functions again and again. `share_programs` keeps every program in memory by
JAX's cache key, and those for one device in a folder besides, where the session's other processes
find them. Programs for several simulated devices never go through the folder: on a
CPU they crash or hang when they are read from it (JAX 0.10.2).

Most programs of the tests are a single operation: XLA compiles it in 10 ms, and it is read from the
folder in 1 ms. JAX before 0.12 makes an MLIR context for each program, in another 4 ms, and finds
each key twice, in 1 ms; here fifty programs share a context, and a key is found once.

JAX offers no hooks for this, so private functions are replaced; tests/test_compilation.py fails
if a version of JAX no longer calls them.
"""

import atexit
import contextlib
import ctypes
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
from jax._src import compilation_cache, compiler
from jax._src.interpreters import mlir
from jax._src.lru_cache import LRUCache

from tests import flags

_VARIABLE = "SPARSEJAX_TEST_PROGRAMS"
_MAPS = Path("/proc/self/maps")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

_PROGRAMS_PER_CONTEXT = 50  # a context keeps the types and the constants of all its programs

compile_or_read = compiler.compile_or_get_cached
find_key = compiler._get_cache_key
make_context = mlir.make_ir_context
programs: dict[str, object] = {}
_optimized = False
_NO_KEY = (None, "")
_known_key: tuple[object, str] = _NO_KEY
_context = threading.local()


def share_programs() -> None:
    """Compile each program once in this process, and those for one device once in a session."""
    if _VARIABLE not in os.environ:  # the first process; pytest's workers inherit its environment
        os.environ[_VARIABLE] = tempfile.mkdtemp(prefix="sparsejax-tests-")
        atexit.register(shutil.rmtree, os.environ[_VARIABLE], ignore_errors=True)
    for option, value in _options("workers").items():
        jax.config.update(option, value)
    compilation_cache.get_file_cache = lambda path: (_Folder(path, max_size=-1), path)
    compiler.compile_or_get_cached = _compile_once
    compiler._get_cache_key = _find_key
    mlir.make_ir_context = _shared_context


def keep_memory() -> None:
    """Let glibc keep what is freed: an eighth of a training step is page faults otherwise."""
    with contextlib.suppress(AttributeError, OSError):
        for parameter, value in ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 1 << 30)):
            ctypes.CDLL(None).mallopt(parameter, value)


def environment_for_commands() -> dict[str, str]:
    """This environment for a process with one device; it shares programs with its like."""
    options = {k.upper(): str(v) for k, v in _options("commands").items()}
    return os.environ | options | {"XLA_FLAGS": flags.for_commands()}


def limit_programs() -> None:
    """Forget all programs when they take up half of the memory maps that a process may have."""
    if _MAPS.exists() and _MAPS.read_text().count("\n") > 30_000:
        programs.clear()
        jax.clear_caches()


@contextlib.contextmanager
def as_users_compile() -> Iterator[None]:
    """Compile with the usual flags of XLA; programs of both kinds are kept apart."""
    global _optimized
    jax.clear_caches()
    _optimized = True
    yield
    _optimized = False
    jax.clear_caches()


def _options(folder: str) -> dict[str, object]:
    return {
        "jax_compilation_cache_dir": str(Path(os.environ[_VARIABLE]) / folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


def _compile_once(backend, module, devices, options, callbacks, executable_devices, *rest):
    global _known_key
    load = compiler.backend_compile_and_load
    if _optimized:
        options.env_option_overrides = [*options.env_option_overrides, *flags.USUAL.items()]
    # A program holds on to the Python functions that it calls back.
    key = None if callbacks else find_key(options, backend, module, devices)
    if key is None:
        return load(backend, module, executable_devices, options, callbacks)
    if key not in programs:
        if devices.size > 1:
            programs[key] = load(backend, module, executable_devices, options, callbacks)
        else:
            _known_key = module, key
            programs[key] = compile_or_read(
                backend, module, devices, options, callbacks, executable_devices, *rest
            )
            _known_key = _NO_KEY
    return programs[key]


def _find_key(options, backend, computation, devices, *rest):
    """The key of a program, which `_compile_once` may already have found."""
    module, key = _known_key
    if module is computation and not rest:
        return key
    return find_key(options, backend, computation, devices, *rest)


def _shared_context():
    uses = getattr(_context, "uses", 0)
    if uses % _PROGRAMS_PER_CONTEXT == 0:
        _context.context = make_context()
    _context.uses = uses + 1
    return _context.context


class _Folder(LRUCache):
    """A folder of programs that processes write at once: none is seen half written."""

    def put(self, key: str, value: bytes) -> None:
        """Write a file of another name and rename it."""
        file, name = tempfile.mkstemp(dir=str(self.path))
        with os.fdopen(file, "wb") as out:
            out.write(value)
        os.replace(name, f"{self.path}/{key}-cache")
