import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.graph.rules.brute_force import check


def test_units_and_constants_pass():
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P(None, None, "devices"))
    check(lambda h: 2 * lax.with_sharding_constraint(h, sharding), (3, 4))
