"""Eight simulated devices for every test (set before JAX starts), and the real MNIST."""

import contextlib
import gc
import os

from tests import flags

os.environ["XLA_FLAGS"] = f"{flags.EIGHT_DEVICES} {flags.for_commands()}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest

from tests import compilation

compilation.share_programs()
compilation.keep_memory()
# What tracing leaves is millions of objects that live on; looking through them takes a tenth of the
# time at Python's usual threshold of 700 new ones.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def mnist():
    from experiments.data import load

    return load("mnist")


@pytest.fixture(scope="module")
def quick_collection():
    """``gc.collect()`` passes over what is there already: a look at all of it takes half a second.

    Modules that count bytes with `tests.reference.live_bytes` want it.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """A process may map only so many pieces of memory, and each compiled program takes some."""
    yield
    compilation.limit_programs()


@pytest.fixture(scope="module", autouse=True)
def usual_flags(request):
    """Modules with the mark ``optimized`` run what users run, down to the last bit."""
    marks = getattr(request.module, "pytestmark", ())
    with contextlib.ExitStack() as stack:
        if pytest.mark.optimized in (marks if isinstance(marks, list) else [marks]):
            stack.enter_context(compilation.as_users_compile())
        yield
