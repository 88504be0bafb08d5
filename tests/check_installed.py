"""Run the README's example on an installed package: ``python -I tests/check_installed.py``.

`make package` calls it in an environment that holds nothing but the wheel and what it requires.
"""

import importlib
import pathlib
import pkgutil
import re

import sparsejax

# What the extras bring; the rooms that need it are imported by themselves.
OPTIONAL = {
    "flatbuffers", "flax", "matplotlib", "onnx", "orbax", "safetensors", "tensorboardX", "tqdm",
}  # fmt: skip
ROOT = pathlib.Path(__file__).parents[1]


def main():
    installed = pathlib.Path(sparsejax.__file__).parent
    assert installed != ROOT / "sparsejax", "this is the checkout, not an installed package"
    assert (installed / "py.typed").exists()
    for module in pkgutil.walk_packages(sparsejax.__path__, "sparsejax."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(example[1], {})
    print(f"sparsejax {sparsejax.__version__} runs as installed")


if __name__ == "__main__":
    main()
