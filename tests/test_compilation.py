"""The compilation cache of the tests: what it shares and what it must not."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests import compilation

FOLDER = Path(jax.config.jax_compilation_cache_dir)
CODE = """
import jax
import jax.numpy as jnp

def unusual_name_of_a_command(x):
    return jnp.cos(x)

jax.jit(unusual_name_of_a_command)(1.0)
assert jax.device_count() == 1
"""


def function(name):
    """A new function object with this name each time, of which JAX knows nothing yet."""

    def call(x):
        return jnp.sin(x) + 1

    call.__name__ = name
    return call


def files(name, folder=FOLDER):
    return list(folder.glob(f"jit_{name}-*-cache"))


def kept(name):
    return [key for key in compilation.programs if key.startswith(f"jit_{name}-")]


@pytest.fixture
def compiled(monkeypatch):
    """The names of the programs that XLA compiles during the test."""
    names = []

    def record(backend, module, *arguments, original=compilation.compiler.backend_compile_and_load):
        names.append(str(module.operation.attributes["sym_name"]).strip('"'))
        return original(backend, module, *arguments)

    monkeypatch.setattr(compilation.compiler, "backend_compile_and_load", record)
    return names


def test_a_program_for_one_device_is_compiled_once_and_read_from_the_folder(compiled):
    results = [jax.jit(function("unusual_single"))(0.5) for _ in range(2)]
    assert compiled.count("jit_unusual_single") == 1
    assert len(files("unusual_single")) == len(kept("unusual_single")) == 1
    compilation.programs.pop(*kept("unusual_single"))
    results.append(jax.jit(function("unusual_single"))(0.5))
    assert compiled.count("jit_unusual_single") == 1
    np.testing.assert_array_equal(results, np.full(3, results[0]))


def test_a_program_for_several_devices_stays_in_memory(compiled):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    x = jax.device_put(jnp.arange(16.0), NamedSharding(mesh, PartitionSpec("data")))
    for _ in range(2):
        np.testing.assert_allclose(
            jax.jit(function("unusual_sharded"))(x), np.sin(np.arange(16.0)) + 1, atol=1e-6
        )
    assert compiled.count("jit_unusual_sharded") == 1
    assert len(kept("unusual_sharded")) == 1
    assert not files("unusual_sharded")


def test_each_program_calls_back_its_own_function(compiled):
    def call_back(add):
        def unusual_callback(x):
            return jax.pure_callback(lambda v: np.asarray(v) + np.float32(add), x, x)

        return jax.jit(unusual_callback)

    assert [float(call_back(add)(jnp.float32(1))) for add in (1, 2)] == [2, 3]
    assert compiled.count("jit_unusual_callback") == 2
    assert not kept("unusual_callback")
    assert not files("unusual_callback")


def test_a_command_has_one_device_and_leaves_its_programs_to_the_next():
    environment = compilation.environment_for_commands()
    assert "device_count" not in environment["XLA_FLAGS"]
    command = [sys.executable, "-c", CODE]
    for _ in range(2):
        subprocess.run(command, env=environment, check=True, timeout=120)
        folder = Path(environment["JAX_COMPILATION_CACHE_DIR"])
        assert len(files("unusual_name_of_a_command", folder)) == 1


def test_programs_share_a_context_and_their_keys_are_found_once(monkeypatch):
    found, made = [], []
    for name, calls in (("find_key", found), ("make_context", made)):
        original = getattr(compilation, name)
        monkeypatch.setattr(
            compilation, name, lambda *a, o=original, c=calls, **k: c.append(a) or o(*a, **k)
        )
    for number in range(10):
        jax.jit(function(f"unusual_key_{number}"))(0.5)
    assert len(found) == 10
    assert len(made) <= 1


@pytest.mark.skipif(bool(os.environ.get("SPARSEJAX_TEST_OPTIMIZED")), reason="all are optimized")
def test_programs_of_users_and_of_tests_are_kept_apart(compiled):
    jax.jit(function("unusual_flags"))(0.5)
    with compilation.as_users_compile():
        jax.jit(function("unusual_flags"))(0.5)
    assert len(kept("unusual_flags")) == len(files("unusual_flags")) == 2
    jax.jit(function("unusual_flags"))(0.5)
    assert compiled.count("jit_unusual_flags") == 2
