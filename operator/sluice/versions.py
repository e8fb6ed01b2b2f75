"""The one place where the versions of Kafka that Sluice runs are named.

``broker_image/`` builds an image for each; the CRD's rule for ``spec.version`` is generated from here. The version of
Kubernetes of the embedded test cluster is named in ``e2e/cluster/embedded/kubernetes/go.mod``.
"""

from typing import Final

KAFKA_VERSIONS: Final[tuple[str, ...]] = ("4.3.1", "4.4.0")
DEFAULT_KAFKA_VERSION: Final = KAFKA_VERSIONS[-1]
