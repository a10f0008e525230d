"""Counter-based random streams, and arithmetic with the same bits on every machine."""

from metabridge.streams.draws import bounded_integers, choose_without_replacement, normals, uniforms
from metabridge.streams.philox import SCHEME_VERSION, philox_words, stream_key

__all__ = [
    "SCHEME_VERSION",
    "bounded_integers",
    "choose_without_replacement",
    "normals",
    "philox_words",
    "stream_key",
    "uniforms",
]
