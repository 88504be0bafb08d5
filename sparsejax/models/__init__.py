"""The networks of the papers, and a decoder, as Flax NNX modules; needs the ``experiments`` extra.

All images are channels last (NHWC), all kernels [height, width, in, out] or [in, out].
"""

from sparsejax.models._decoder import Decoder
from sparsejax.models._decoder_config import DecoderConfig
from sparsejax.models._generate import generate
from sparsejax.models._lenet5 import LENET5_LAYERS, LeNet5
from sparsejax.models._lenet300 import LENET300_LAYERS, LeNet300
from sparsejax.models._purged import purged_lenet5, purged_lenet300
from sparsejax.models._resnet20 import ResNet20
from sparsejax.models._vgg16 import VGG16, VGG16_LAYERS
from sparsejax.models._vgg16_cifar import VGG16Cifar
from sparsejax.models._vgg16_weights import load_vgg16_weights

__all__ = [
    "LENET5_LAYERS",
    "LENET300_LAYERS",
    "VGG16",
    "VGG16_LAYERS",
    "Decoder",
    "DecoderConfig",
    "LeNet5",
    "LeNet300",
    "ResNet20",
    "VGG16Cifar",
    "generate",
    "load_vgg16_weights",
    "purged_lenet5",
    "purged_lenet300",
]
