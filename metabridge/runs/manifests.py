"""Manifests: everything needed to repeat a run, and to see why a repetition differs."""

import importlib.metadata
import platform
from typing import Any

from metabridge.configs import RunConfig
from metabridge.episodes.metadatasets import MetaDataset
from metabridge.streams import SCHEME_VERSION

__all__ = ["make_manifest"]

_PACKAGES = ("numpy", "torch", "jax", "jaxlib", "flax", "optax", "h5py", "Pillow")


def make_manifest(run: RunConfig, meta_train: MetaDataset, meta_test: MetaDataset) -> dict[str, Any]:
    """Versions, configuration, seed and fingerprints of a run, as JSON-ready values.

    Equal `episodes`, `seed` and `stream_scheme` mean equal episodes; equal `run` on top of that, equal runs up to
    the arithmetic of the frameworks in `versions`.
    """
    from metabridge import __version__

    return {
        "metabridge": __version__,
        "stream_scheme": SCHEME_VERSION,
        "seed": run.seed,
        "run": run.to_dict(),
        "episodes": {
            "meta_train": {"fingerprint": meta_train.fingerprint, **meta_train.description},
            "meta_test": {"fingerprint": meta_test.fingerprint, **meta_test.description},
        },
        "versions": {"python": platform.python_version(), **_installed(_PACKAGES)},
        "machine": {"system": platform.platform(), "processor": platform.machine()},
    }


def _installed(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # a machine with one framework has no version of the other to report
    return found
